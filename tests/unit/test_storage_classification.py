"""What each S3 error means, and what the user is told."""

import pytest
from botocore import exceptions as boto
from s3transfer.exceptions import RetriesExceededError
from urllib3.exceptions import ProtocolError

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_trainer.storage.faults import Action, BrokenTransfer, Target, classify, failure

TARGET = Target("PutObject", "models", "m/config.json", "http://s3:8333", 'key "credentials" of Secret s3')


def reply(code: str, status: int) -> boto.ClientError:
    response = {
        "Error": {"Code": code, "Message": "The key AKIAIOSFODNN7EXAMPLE is wrong"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return boto.ClientError(response, "PutObject")  # type: ignore[arg-type]


INVALID, STORAGE = ExitCode.INVALID, ExitCode.STORAGE

REPLIES = [
    ("NoSuchBucket", 404, Action.FAIL, INVALID, Reason.BUCKET_NOT_FOUND),
    ("NoSuchKey", 404, Action.FAIL, INVALID, Reason.OBJECT_NOT_FOUND),
    ("404", 404, Action.FAIL, INVALID, Reason.OBJECT_NOT_FOUND),
    ("AccessDenied", 403, Action.FAIL, INVALID, Reason.STORAGE_ACCESS_DENIED),
    ("SomethingNew", 403, Action.FAIL, INVALID, Reason.STORAGE_ACCESS_DENIED),
    ("SomethingNew", 401, Action.FAIL, INVALID, Reason.STORAGE_ACCESS_DENIED),
    ("403", 403, Action.REFRESH, INVALID, Reason.STORAGE_ACCESS_DENIED),
    ("InvalidAccessKeyId", 403, Action.REFRESH, INVALID, Reason.STORAGE_ACCESS_DENIED),
    ("SignatureDoesNotMatch", 403, Action.REFRESH, INVALID, Reason.STORAGE_ACCESS_DENIED),
    ("ExpiredToken", 400, Action.REFRESH, STORAGE, Reason.STORAGE_ACCESS_DENIED),
    ("InvalidToken", 400, Action.REFRESH, STORAGE, Reason.STORAGE_ACCESS_DENIED),
    ("400", 400, Action.REFRESH, STORAGE, Reason.STORAGE_ACCESS_DENIED),
    ("RequestTimeTooSkewed", 403, Action.RETRY, STORAGE, Reason.STORAGE_FAILED),
    ("SlowDown", 503, Action.RETRY, STORAGE, Reason.STORAGE_FAILED),
    ("InternalError", 500, Action.RETRY, STORAGE, Reason.STORAGE_FAILED),
    ("503", 503, Action.RETRY, STORAGE, Reason.STORAGE_FAILED),
    ("TooManyRequests", 429, Action.RETRY, STORAGE, Reason.STORAGE_FAILED),
    ("BadDigest", 400, Action.RETRY, STORAGE, Reason.STORAGE_FAILED),
    ("NoSuchUpload", 404, Action.RETRY, STORAGE, Reason.STORAGE_FAILED),
    ("RequestTimeout", 400, Action.RETRY, STORAGE, Reason.STORAGE_FAILED),
    ("PermanentRedirect", 301, Action.FAIL, INVALID, Reason.INVALID_SPEC),
    ("301", 301, Action.FAIL, INVALID, Reason.INVALID_SPEC),
    ("AuthorizationHeaderMalformed", 400, Action.FAIL, INVALID, Reason.INVALID_SPEC),
    ("PreconditionFailed", 412, Action.FAIL, STORAGE, Reason.STORAGE_FAILED),
    ("MalformedXML", 400, Action.FAIL, STORAGE, Reason.STORAGE_FAILED),
]


@pytest.mark.parametrize(("code", "status", "action", "exit_code", "reason"), REPLIES)
def test_a_reply_is_classified(code: str, status: int, action: Action, exit_code: ExitCode, reason: Reason) -> None:
    fault = classify(reply(code, status))
    assert fault is not None
    assert (fault.action, fault.code, fault.reason) == (action, exit_code, reason)


ERRORS = [
    (boto.EndpointConnectionError(endpoint_url="http://s3"), Action.RETRY, Reason.STORAGE_UNREACHABLE),
    (boto.ConnectTimeoutError(endpoint_url="http://s3"), Action.RETRY, Reason.STORAGE_UNREACHABLE),
    (boto.ReadTimeoutError(endpoint_url="http://s3"), Action.RETRY, Reason.STORAGE_UNREACHABLE),
    (boto.ConnectionClosedError(endpoint_url="http://s3"), Action.RETRY, Reason.STORAGE_UNREACHABLE),
    (boto.SSLError(endpoint_url="https://s3", error="EOF occurred"), Action.RETRY, Reason.STORAGE_UNREACHABLE),
    (
        boto.SSLError(endpoint_url="https://s3", error="[SSL: CERTIFICATE_VERIFY_FAILED]"),
        Action.FAIL,
        Reason.STORAGE_UNREACHABLE,
    ),
    (ConnectionResetError("reset"), Action.RETRY, Reason.STORAGE_UNREACHABLE),
    (ProtocolError("broken"), Action.RETRY, Reason.STORAGE_UNREACHABLE),
    (boto.NoCredentialsError(), Action.FAIL, Reason.STORAGE_ACCESS_DENIED),
    (boto.PartialCredentialsError(provider="x", cred_var="y"), Action.FAIL, Reason.STORAGE_ACCESS_DENIED),
    (boto.ConfigParseError(path="credentials", error="x"), Action.FAIL, Reason.STORAGE_ACCESS_DENIED),
    (boto.CredentialRetrievalError(provider="x", error_msg="y"), Action.REFRESH, Reason.STORAGE_ACCESS_DENIED),
    (boto.IncompleteReadError(actual_bytes=1, expected_bytes=2), Action.RETRY, Reason.STORAGE_FAILED),
    (boto.ResponseStreamingError(error="x"), Action.RETRY, Reason.STORAGE_UNREACHABLE),
    (boto.FlexibleChecksumError(error_msg="x"), Action.RETRY, Reason.STORAGE_FAILED),
    (RetriesExceededError(TimeoutError()), Action.RETRY, Reason.STORAGE_FAILED),
    (BrokenTransfer("short"), Action.RETRY, Reason.STORAGE_FAILED),
    (boto.ParamValidationError(report="x"), Action.FAIL, Reason.STORAGE_FAILED),
]


@pytest.mark.parametrize(("error", "action", "reason"), ERRORS)
def test_an_error_without_reply_is_classified(error: Exception, action: Action, reason: Reason) -> None:
    fault = classify(error)
    assert fault is not None
    assert (fault.action, fault.reason) == (action, reason)


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), OSError(28, "No space left on device")])
def test_what_is_no_storage_error_is_left_alone(error: Exception) -> None:
    assert classify(error) is None


SENTENCES = [
    (
        reply("NoSuchBucket", 404),
        "bucket models does not exist at http://s3:8333 (needed for s3://models/m/config.json);"
        " create it or correct the URI in the spec",
    ),
    (
        reply("NoSuchKey", 404),
        "s3://models/m/config.json does not exist at http://s3:8333; put it there or correct the URI in the spec",
    ),
    (
        reply("InvalidAccessKeyId", 403),
        "http://s3:8333 refused PutObject on s3://models/m/config.json (InvalidAccessKeyId);"
        ' check key "credentials" of Secret s3 and its rights on bucket models',
    ),
    (
        boto.NoCredentialsError(),
        "no S3 credentials for s3://models/m/config.json (NoCredentialsError: Unable to locate credentials);"
        ' check key "credentials" of Secret s3',
    ),
    (
        reply("SlowDown", 503),
        "http://s3:8333 keeps failing at PutObject on s3://models/m/config.json (SlowDown); check the S3 server",
    ),
]


@pytest.mark.parametrize(("error", "sentence"), SENTENCES)
def test_the_sentence_names_place_and_mend(error: Exception, sentence: str) -> None:
    fault = classify(error)
    assert fault is not None
    assert failure(fault, TARGET, error).message == sentence


@pytest.mark.parametrize(("code", "status"), [(row[0], row[1]) for row in REPLIES])
def test_no_sentence_quotes_the_server(code: str, status: int) -> None:
    error = reply(code, status)
    fault = classify(error)
    assert fault is not None
    assert "AKIA" not in failure(fault, TARGET, error).message
