"""What an S3 error means: whether to try again, how the stage ends if not, and what the user must mend.

`classify` is a pure table over the error; `failure` turns the result into the sentence. Which errors no client
repairs by itself was measured against real servers: expired credentials, resets beyond a few tries and short or
altered bodies among them.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from botocore import exceptions as boto
from s3transfer.exceptions import RetriesExceededError
from urllib3.exceptions import HTTPError

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageFailure, describe


class Action(Enum):
    """What to do about an error."""

    FAIL = "fail"
    RETRY = "retry"
    REFRESH = "refresh"
    """Build the client anew from the credentials file, then try again."""


@dataclass(frozen=True)
class Fault:
    """A class of errors; `sentence` may use {bucket}, {uri}, {operation}, {endpoint}, {credentials}, {detail}."""

    action: Action
    code: ExitCode
    reason: Reason
    sentence: str


@dataclass(frozen=True)
class Target:
    """What was asked of which server, for the sentence."""

    operation: str
    bucket: str
    key: str
    endpoint: str
    credentials: str
    """Where the credentials come from, e.g. `key "credentials" of Secret s3`."""

    @property
    def uri(self) -> str:
        """The object as `s3://bucket/key`."""
        return f"s3://{self.bucket}/{self.key}"


class CorruptObject(StageFailure):
    """Content that does not match its digest, twice in a row."""

    def __init__(self, uri: str, found: str, expected: str) -> None:
        message = (
            f"{uri} does not match its SHA-256 (expected {expected}, found {found}); the object was altered in the"
            " bucket: restore it, or delete the job and create it anew"
        )
        super().__init__(ExitCode.STORAGE, Reason.STORAGE_FAILED, message)

    def __reduce__(self) -> tuple[Any, ...]:
        return StageFailure, (self.code, self.reason, self.message)


class BrokenTransfer(Exception):  # noqa: N818 - an event, not a mistake
    """A body shorter than announced, an upload of the wrong size, or a write whose outcome is open: try again."""


BUCKET_MISSING = Fault(
    Action.FAIL,
    ExitCode.INVALID,
    Reason.BUCKET_NOT_FOUND,
    "bucket {bucket} does not exist at {endpoint} (needed for {uri}); create it or correct the URI in the spec",
)
OBJECT_MISSING = Fault(
    Action.FAIL,
    ExitCode.INVALID,
    Reason.OBJECT_NOT_FOUND,
    "{uri} does not exist at {endpoint}; put it there or correct the URI in the spec",
)
OBJECT_CHANGED = Fault(
    Action.FAIL,
    ExitCode.STORAGE,
    Reason.STORAGE_FAILED,
    "{uri} was replaced while it was read; leave the objects of a running job unchanged",
)
DENIED = Fault(
    Action.FAIL,
    ExitCode.INVALID,
    Reason.STORAGE_ACCESS_DENIED,
    "{endpoint} refused {operation} on {uri} ({detail}); check {credentials} and its rights on bucket {bucket}",
)
NO_CREDENTIALS = Fault(
    Action.FAIL,
    ExitCode.INVALID,
    Reason.STORAGE_ACCESS_DENIED,
    "no S3 credentials for {uri} ({detail}); check {credentials}",
)
STALE_CREDENTIALS = Fault(
    Action.REFRESH,
    ExitCode.STORAGE,
    Reason.STORAGE_ACCESS_DENIED,
    "the S3 credentials have expired ({detail} at {operation} on {uri}); renew {credentials}",
)
UNKNOWN_KEY = Fault(Action.REFRESH, DENIED.code, DENIED.reason, DENIED.sentence)
"""A key the server does not know: perhaps one that was just rotated, so it is read anew once."""
CLOCK_SKEW = Fault(
    Action.RETRY,
    ExitCode.STORAGE,
    Reason.STORAGE_FAILED,
    "{endpoint} refuses requests because the clocks of node and server differ ({detail}); set the node's clock",
)
UNTRUSTED = Fault(
    Action.FAIL,
    ExitCode.INVALID,
    Reason.STORAGE_UNREACHABLE,
    "the certificate of {endpoint} is not trusted ({detail}); name the authority that signed it in"
    " spec.storage.s3.caBundleConfigMapRef",
)
UNREACHABLE = Fault(
    Action.RETRY,
    ExitCode.STORAGE,
    Reason.STORAGE_UNREACHABLE,
    "S3 endpoint {endpoint} does not answer ({operation} on {uri}: {detail}); check spec.storage.s3.endpoint and that"
    " the pods' network reaches it",
)
SERVER_ERROR = Fault(
    Action.RETRY,
    ExitCode.STORAGE,
    Reason.STORAGE_FAILED,
    "{endpoint} keeps failing at {operation} on {uri} ({detail}); check the S3 server",
)
WRONG_REGION = Fault(
    Action.FAIL,
    ExitCode.INVALID,
    Reason.INVALID_SPEC,
    "{endpoint} does not serve bucket {bucket} this way ({detail}); correct spec.storage.s3.region or"
    " spec.storage.s3.addressingStyle",
)
REFUSED = Fault(
    Action.FAIL,
    ExitCode.STORAGE,
    Reason.STORAGE_FAILED,
    "{endpoint} refused {operation} on {uri} ({detail})",
)

_BY_CODE = {
    "NoSuchBucket": BUCKET_MISSING,
    "NoSuchKey": OBJECT_MISSING,
    "NotFound": OBJECT_MISSING,
    "404": OBJECT_MISSING,
    "PreconditionFailed": OBJECT_CHANGED,
    "412": OBJECT_CHANGED,
    "AccessDenied": DENIED,
    # A HEAD reply has no body: also an unknown key looks like this.
    "403": UNKNOWN_KEY,
    "AllAccessDisabled": DENIED,
    "AccountProblem": DENIED,
    "SignatureDoesNotMatch": UNKNOWN_KEY,
    "InvalidAccessKeyId": UNKNOWN_KEY,
    "ExpiredToken": STALE_CREDENTIALS,
    "ExpiredTokenException": STALE_CREDENTIALS,
    "InvalidToken": STALE_CREDENTIALS,
    "TokenRefreshRequired": STALE_CREDENTIALS,
    "RequestExpired": STALE_CREDENTIALS,
    # A HEAD reply has no body: an expired token looks like this.
    "400": STALE_CREDENTIALS,
    "RequestTimeTooSkewed": CLOCK_SKEW,
    "PermanentRedirect": WRONG_REGION,
    "AuthorizationHeaderMalformed": WRONG_REGION,
    "InvalidRegion": WRONG_REGION,
    "IllegalLocationConstraintException": WRONG_REGION,
    "InvalidBucketName": WRONG_REGION,
    "RequestTimeout": SERVER_ERROR,
    "SlowDown": SERVER_ERROR,
    "BadDigest": SERVER_ERROR,
    "NoSuchUpload": SERVER_ERROR,
    "ConditionalRequestConflict": SERVER_ERROR,
    "OperationAborted": SERVER_ERROR,
}
_RETRIED_STATUS = {408, 409, 419, 425, 429, 440}


_BY_TYPE: tuple[tuple[tuple[type[BaseException], ...], Fault], ...] = (
    (
        (boto.NoCredentialsError, boto.PartialCredentialsError, boto.ProfileNotFound, boto.ConfigParseError),
        NO_CREDENTIALS,
    ),
    ((boto.ConnectionError, boto.HTTPClientError, HTTPError, ConnectionError, TimeoutError), UNREACHABLE),
    ((boto.CredentialRetrievalError, boto.MetadataRetrievalError), STALE_CREDENTIALS),
    ((boto.ParamValidationError, boto.InvalidEndpointConfigurationError), REFUSED),
    ((boto.BotoCoreError, RetriesExceededError, BrokenTransfer), SERVER_ERROR),
)
"""The first match counts."""


def classify(error: BaseException) -> Fault | None:
    """Return the class of an error, or None for one that has nothing to do with S3."""
    if isinstance(error, boto.ClientError):
        return _by_reply(error)
    if isinstance(error, boto.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return UNTRUSTED
    return next((fault for types, fault in _BY_TYPE if isinstance(error, types)), None)


def _by_reply(error: boto.ClientError) -> Fault:
    code, status = error_code(error), _status(error)
    if code in _BY_CODE:
        return _BY_CODE[code]
    if status >= 500 or status in _RETRIED_STATUS:
        return SERVER_ERROR
    if status in (301, 307, 308):
        return WRONG_REGION
    return DENIED if status in (401, 403) else REFUSED


def error_code(error: boto.ClientError) -> str:
    """Return the server's code of an error reply, e.g. `NoSuchKey`; for HEAD requests the status as text."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: boto.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def failure(fault: Fault, target: Target, error: BaseException) -> StageFailure:
    """Return the failure that names bucket, object and mend; never a credential."""
    # The server's own text may quote the key id, so of a reply only its code is shown.
    detail = error_code(error) if isinstance(error, boto.ClientError) else describe(error)[:300]
    message = fault.sentence.format(
        bucket=target.bucket,
        uri=target.uri,
        operation=target.operation,
        endpoint=target.endpoint,
        credentials=target.credentials,
        detail=detail,
    )
    return StageFailure(fault.code, fault.reason, message)
