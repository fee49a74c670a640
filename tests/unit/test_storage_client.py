"""How the boto3 client is set up: everything explicit, nothing from the environment."""

from pathlib import Path
from typing import Any

import pytest

from finetune_api.reasons import Reason
from finetune_api.spec import S3Storage
from finetune_api.uris import S3Location
from finetune_trainer.errors import StageFailure
from finetune_trainer.storage import PATIENT, Store
from finetune_trainer.storage.client import MAX_CONNECTIONS, STEADY, Access, build_client
from finetune_trainer.storage.retry import RetryingClient

CREDENTIALS = "[default]\naws_access_key_id = filekey\naws_secret_access_key = filesecret\n"


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    (tmp_path / "credentials").write_text(CREDENTIALS)
    return tmp_path / "credentials"


def access(credentials: Path, **s3: Any) -> Access:
    s3 = {"endpoint": "http://s3.example:8333", "credentialsSecretRef": {"name": "s3"}, **s3}
    return Access(S3Storage.model_validate(s3), credentials, credentials.with_name("ca.crt"))


def url_of(client: Any) -> str:
    url: str = client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "key"})
    return url.split("?", maxsplit=1)[0]


def test_the_settings_are_those_of_the_design(credentials: Path) -> None:
    config = build_client(access(credentials), STEADY).meta.config
    assert config.retries == {"mode": "standard", "total_max_attempts": 8}
    assert (config.connect_timeout, config.read_timeout, config.tcp_keepalive) == (5, 60, True)
    assert config.max_pool_connections == MAX_CONNECTIONS
    assert config.signature_version == "s3v4"


ADDRESSES = [
    ({}, "http://s3.example:8333/bucket/key"),
    ({"addressingStyle": "virtual"}, "http://bucket.s3.example:8333/key"),
    ({"endpoint": "", "region": "eu-south-1"}, "https://bucket.s3.eu-south-1.amazonaws.com/key"),
    (
        {"endpoint": "", "region": "eu-south-1", "addressingStyle": "path"},
        "https://s3.eu-south-1.amazonaws.com/bucket/key",
    ),
]


@pytest.mark.parametrize(("s3", "url"), ADDRESSES)
def test_addressing(credentials: Path, s3: dict[str, str], url: str) -> None:
    assert url_of(build_client(access(credentials, **s3), STEADY)) == url


def test_the_mounted_file_wins_over_the_environment(credentials: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "environmentkey")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "environmentsecret")
    monkeypatch.setenv("AWS_PROFILE", "other")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://elsewhere")
    client: Any = build_client(access(credentials, endpoint="", region="eu-south-1"), STEADY)
    assert client._get_credentials().access_key == "filekey"
    assert url_of(client) == "https://bucket.s3.eu-south-1.amazonaws.com/key"


def test_without_a_secret_the_pods_identity_counts(credentials: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "identitykey")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "identitysecret")
    client: Any = build_client(access(credentials, credentialsSecretRef=None), STEADY)
    assert client._get_credentials().access_key == "identitykey"


def test_a_missing_credentials_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(StageFailure, match='key "credentials" of Secret s3 is not mounted') as caught:
        build_client(access(tmp_path / "absent"), STEADY)
    assert caught.value.reason is Reason.STORAGE_ACCESS_DENIED


def test_a_missing_ca_bundle_is_told(credentials: Path) -> None:
    with pytest.raises(StageFailure, match=r"the CA bundle \(key ca.crt of ConfigMap corp\) is not mounted"):
        build_client(access(credentials, caBundleConfigMapRef={"name": "corp"}), STEADY)


def test_the_ca_bundle_is_used(credentials: Path) -> None:
    bundle = credentials.with_name("ca.crt")
    bundle.write_text("not read before the first request")
    client: Any = build_client(access(credentials, caBundleConfigMapRef={"name": "corp"}), STEADY)
    assert client._endpoint.http_session._verify == str(bundle)


@pytest.mark.parametrize("text", ["", "[other]\naws_access_key_id = x\n", "no section\n"])
def test_a_file_without_default_credentials_is_told(credentials: Path, text: str) -> None:
    credentials.write_text(text)
    store = Store(RetryingClient(access(credentials), PATIENT))
    with pytest.raises(StageFailure, match='check key "credentials" of Secret s3') as caught:
        store.read(S3Location("bucket", "key"))
    assert caught.value.reason is Reason.STORAGE_ACCESS_DENIED
