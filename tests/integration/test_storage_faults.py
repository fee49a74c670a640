"""The store against a real S3 server behind a proxy that injects faults: every one is survived or told."""

import json
import os
import secrets
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.run import FileEntry
from finetune_api.spec import S3Storage
from finetune_api.uris import S3Location
from finetune_loopback.mounts import lay_out_mounts
from finetune_loopback.s3_fault_proxy import Kind, S3FaultProxy, running_fault_proxy
from finetune_loopback.s3_server import S3Server
from finetune_trainer.errors import StageFailure
from finetune_trainer.storage import CorruptObject, RetryBudget, Store, open_s3, transfer
from finetune_trainer.storage.digest import sha256_of

MIB = 1024 * 1024
BUDGET = RetryBudget(seconds=30, first_contact=3)


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[S3FaultProxy]:
    with running_fault_proxy(s3_server.endpoint) as running:
        yield running


@pytest.fixture
def mounts(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = lay_out_mounts(tmp_path / "mounts", s3_server.credentials_file)
    monkeypatch.setenv("FINETUNE_MOUNTS", str(folder))
    return folder


def open_at(endpoint: str, budget: RetryBudget = BUDGET) -> Store:
    return open_s3(S3Storage.model_validate({"endpoint": endpoint, "credentialsSecretRef": {"name": "s3"}}), budget)


@pytest.fixture
def store(proxy: S3FaultProxy, mounts: Path) -> Store:
    return open_at(proxy.endpoint)


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server) -> str:
    return s3_server.make_bucket("storage")


@pytest.fixture
def folder(bucket: str) -> S3Location:
    return S3Location(bucket, f"{secrets.token_hex(4)}/run")


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 5 MiB, the least that S3 allows."""
    monkeypatch.setattr(transfer, "PART_BYTES", 5 * MIB)


def make_file(path: Path, size: int) -> Path:
    path.write_bytes(os.urandom(size))
    return path


@pytest.mark.parametrize("size", [0, 1, 5 * MIB, 5 * MIB + 1, 12 * MIB])
def test_a_file_comes_back_as_it_was(
    store: Store, folder: S3Location, tmp_path: Path, small_parts: None, size: int
) -> None:
    source = make_file(tmp_path / "source", size)
    sent = store.upload(source, folder.child("a b+ü.bin"))
    fetched = store.download(folder.child("a b+ü.bin"), tmp_path / "sub" / "target", sha256=sent.sha256)
    assert (
        fetched == sent == FileEntry(key=f"{folder.key}/a b+ü.bin", size=size, sha256=sha256_of(source.read_bytes()))
    )
    assert (tmp_path / "sub" / "target").read_bytes() == source.read_bytes()
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["target"]


def test_a_tree_comes_back_as_it_was(store: Store, folder: S3Location, tmp_path: Path) -> None:
    for name in ("x", "deep/y", "deep/er/z"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text(name)
    entries = store.upload_all(tmp_path / "tree", folder)
    assert [entry.key for entry in entries] == [f"{folder.key}/{name}" for name in ("deep/er/z", "deep/y", "x")]
    paths = store.download_all(entries, bucket=folder.bucket, directory=tmp_path / "back", strip_prefix=folder.key)
    assert [path.relative_to(tmp_path / "back").as_posix() for path in paths] == ["deep/er/z", "deep/y", "x"]
    assert [path.read_text() for path in paths] == ["deep/er/z", "deep/y", "x"]


def test_a_listing_is_of_the_folder_alone(store: Store, folder: S3Location) -> None:
    for key in ("/a", "/b/c", "2/d", "/marker/"):
        store.put(S3Location(folder.bucket, folder.key + key), b"" if key.endswith("/") else b"x")
    assert [info.key for info in store.list(folder)] == [f"{folder.key}/a", f"{folder.key}/b/c"]
    store.delete([folder.child("a"), folder.child("never-there")])
    assert [info.key for info in store.list(folder)] == [f"{folder.key}/b/c"]


def test_a_listing_of_many_pages_is_whole(
    store: Store, s3_server: S3Server, folder: S3Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"{folder.key}/{number:04d}" for number in range(25)]
    for key in keys:
        store.put(S3Location(folder.bucket, key), b"x")
    client = s3_server.client()
    monkeypatch.setattr(store._client, "_current", lambda: client)
    client.meta.events.register(
        "provide-client-params.s3.ListObjectsV2", lambda params, **_: params.update(MaxKeys=10) or params
    )
    assert [info.key for info in store.list(folder)] == keys


# (fault, method, part of the path, times): more than the client's own tries, so that the outer loop is needed.
UPLOAD_FAULTS = [
    (Kind.REFUSE, "PUT", "partNumber=2", 9),
    (Kind.RESET, "PUT", "partNumber=2", 9),
    (Kind.LOSE_REPLY, "PUT", "partNumber=1", 2),
    (Kind.LOSE_REPLY, "POST", "uploads", 1),
    (Kind.LOSE_REPLY, "POST", "uploadId", 1),
]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(("kind", "method", "contains", "times"), UPLOAD_FAULTS)
def test_an_upload_survives(
    store: Store,
    proxy: S3FaultProxy,
    folder: S3Location,
    tmp_path: Path,
    kind: Kind,
    method: str,
    contains: str,
    times: int,
) -> None:
    fault = proxy.inject(kind, method, contains, times=times, status=500, code="InternalError")
    source = make_file(tmp_path / "source", 11 * MIB)
    sent = store.upload(source, folder.child("big"))
    assert fault.times == 0
    assert store.download(folder.child("big"), tmp_path / "back", sha256=sent.sha256) == sent


# (fault, times, size in MiB)
DOWNLOAD_FAULTS = [
    (Kind.REFUSE, 9, 1),
    (Kind.RESET, 9, 11),
    (Kind.TRUNCATE, 2, 1),
    (Kind.TRUNCATE, 2, 11),
    (Kind.SHORTEN, 2, 11),
    (Kind.FLIP_BIT, 1, 1),
    (Kind.FLIP_BIT, 1, 11),
]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(("kind", "times", "size"), DOWNLOAD_FAULTS)
def test_a_download_survives(
    store: Store, proxy: S3FaultProxy, folder: S3Location, tmp_path: Path, kind: Kind, times: int, size: int
) -> None:
    sent = store.upload(make_file(tmp_path / "source", size * MIB), folder.child("big"))
    fault = proxy.inject(kind, "GET", "/big", times=times, status=500, code="InternalError")
    assert store.download(folder.child("big"), tmp_path / "back", sha256=sent.sha256) == sent
    assert fault.times == 0
    assert (tmp_path / "back").read_bytes() == (tmp_path / "source").read_bytes()


def test_an_interrupted_download_goes_on_where_it_was(
    store: Store, proxy: S3FaultProxy, folder: S3Location, tmp_path: Path, small_parts: None
) -> None:
    sent = store.upload(make_file(tmp_path / "source", 20 * MIB), folder.child("big"))
    before = proxy.count("GET", "/big")
    proxy.inject(Kind.TRUNCATE, "GET", "/big", times=1)
    store.download(folder.child("big"), tmp_path / "back", sha256=sent.sha256)
    assert proxy.count("GET", "/big") - before == 5  # four parts, one of them twice


@pytest.mark.parametrize("size", [MIB, 11 * MIB])
def test_altered_content_is_never_taken(
    store: Store, s3_server: S3Server, folder: S3Location, tmp_path: Path, small_parts: None, size: int
) -> None:
    sent = store.upload(make_file(tmp_path / "source", size), folder.child("big"))
    altered = bytearray((tmp_path / "source").read_bytes())
    altered[-1] ^= 1
    s3_server.client().put_object(Bucket=folder.bucket, Key=f"{folder.key}/big", Body=bytes(altered))
    with pytest.raises(CorruptObject, match=r"s3://storage-.*/big does not match its SHA-256"):
        store.download(folder.child("big"), tmp_path / "back", sha256=sent.sha256)
    assert not list(tmp_path.glob("*back*"))


def test_an_object_replaced_while_it_is_read_is_told(
    store: Store, proxy: S3FaultProxy, folder: S3Location, tmp_path: Path, small_parts: None
) -> None:
    store.upload(make_file(tmp_path / "source", 11 * MIB), folder.child("big"))
    held = proxy.inject(Kind.HOLD, "GET", "/big")

    def replace() -> None:
        held.reached.wait()
        store.put(folder.child("big"), b"other")
        held.release.set()

    thread = threading.Thread(target=replace)
    thread.start()
    with pytest.raises(StageFailure, match="was replaced while it was read"):
        store.download(folder.child("big"), tmp_path / "back")
    thread.join()


def body(writer: str) -> bytes:
    return json.dumps({"writer": writer}).encode()


def test_a_conditional_put_has_one_winner(store: Store, folder: S3Location) -> None:
    location = folder.child("commit")
    assert store.put_new(location, body("a"), writer="a")
    assert not store.put_new(location, body("b"), writer="b")
    assert store.put_new(location, body("a"), writer="a")
    assert store.read(location) == body("a")


@pytest.mark.parametrize("kind", [Kind.LOSE_REPLY, Kind.REFUSE, Kind.RESET])
def test_a_conditional_put_whose_reply_is_lost_is_settled(
    store: Store, proxy: S3FaultProxy, folder: S3Location, kind: Kind
) -> None:
    proxy.inject(kind, "PUT", "/commit", status=500, code="InternalError")
    assert store.put_new(folder.child("commit"), body("a"), writer="a")
    proxy.inject(kind, "PUT", "/commit", status=500, code="InternalError")
    assert not store.put_new(folder.child("commit"), body("b"), writer="b")


def test_a_conflict_reply_is_settled_by_reading_back(store: Store, proxy: S3FaultProxy, folder: S3Location) -> None:
    proxy.inject(Kind.REFUSE, "PUT", "/commit", status=409, code="ConditionalRequestConflict")
    assert store.put_new(folder.child("commit"), body("a"), writer="a")
    proxy.inject(Kind.REFUSE, "PUT", "/commit", status=409, code="ConditionalRequestConflict")
    assert not store.put_new(folder.child("commit"), body("b"), writer="b")


def test_of_many_racing_writers_one_wins(s3_server: S3Server, mounts: Path, folder: S3Location) -> None:
    stores = [open_at(s3_server.endpoint) for _ in range(6)]
    barrier = threading.Barrier(len(stores))
    won: list[int] = []

    def race(number: int) -> None:
        barrier.wait()
        if stores[number].put_new(folder.child("commit"), body(str(number)), writer=str(number)):
            won.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(len(stores))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert stores[0].read(folder.child("commit")) == body(str(won[0]))


@pytest.mark.parametrize(("status", "code"), [(400, "ExpiredToken"), (403, "InvalidAccessKeyId")])
def test_expired_credentials_are_read_anew(
    store: Store, proxy: S3FaultProxy, mounts: Path, folder: S3Location, status: int, code: str
) -> None:
    store.put(folder.child("x"), b"before")
    good = (mounts / "s3/credentials").read_text()
    (mounts / "s3/credentials").write_text("[default]\naws_access_key_id = old\naws_secret_access_key = old\n")
    stale = open_at(proxy.endpoint)
    refused = proxy.inject(Kind.HOLD, "GET", "/x")

    def rotate() -> None:
        refused.reached.wait()
        (mounts / "s3/credentials").write_text(good)
        refused.release.set()

    thread = threading.Thread(target=rotate)
    thread.start()
    assert stale.read(folder.child("x")) == b"before"
    thread.join()
    proxy.inject(Kind.REFUSE, "GET", "/x", status=status, code=code)
    assert stale.read(folder.child("x")) == b"before"


def test_an_unfinished_upload_is_aborted_when_old_enough(
    store: Store, s3_server: S3Server, folder: S3Location
) -> None:
    client = s3_server.client()
    client.create_multipart_upload(Bucket=folder.bucket, Key=f"{folder.key}/data/x")
    client.create_multipart_upload(Bucket=folder.bucket, Key=f"{folder.key}/other/x")
    assert store.abort_multipart(folder.child("data"), older_than=timedelta(hours=1)) == 0
    assert store.abort_multipart(folder.child("data"), older_than=timedelta(0)) == 1
    left = client.list_multipart_uploads(Bucket=folder.bucket, Prefix=folder.key)["Uploads"]
    assert [upload["Key"] for upload in left] == [f"{folder.key}/other/x"]


def test_a_missing_bucket_is_named(store: Store, proxy: S3FaultProxy, tmp_path: Path) -> None:
    nowhere = S3Location("no-such-bucket", "m/config.json")
    for act in (store.read, store.stat, store.list, lambda where: store.download(where, tmp_path / "x")):
        with pytest.raises(StageFailure) as caught:
            act(nowhere)
        assert (caught.value.code, caught.value.reason) == (ExitCode.INVALID, Reason.BUCKET_NOT_FOUND)
        assert f"bucket no-such-bucket does not exist at {proxy.endpoint}" in caught.value.message


def test_a_missing_object_is_named(store: Store, folder: S3Location, tmp_path: Path) -> None:
    assert store.stat(folder.child("x")) is None
    assert not store.exists(folder.child("x"))
    for act in (store.read, lambda where: store.download(where, tmp_path / "x")):
        with pytest.raises(StageFailure) as caught:
            act(folder.child("x"))
        assert (caught.value.code, caught.value.reason) == (ExitCode.INVALID, Reason.OBJECT_NOT_FOUND)
        assert f"{folder.uri}/x does not exist" in caught.value.message


@pytest.mark.parametrize("wrong", ["aws_access_key_id", "aws_secret_access_key"])
def test_wrong_credentials_name_the_secret_and_are_not_shown(
    proxy: S3FaultProxy, mounts: Path, folder: S3Location, wrong: str
) -> None:
    path = mounts / "s3/credentials"
    lines = [f"{wrong} = AKIAIOSFODNN7EXAMPLE" if wrong in line else line for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines))
    store = open_at(proxy.endpoint)
    for act in (store.read, store.stat, lambda where: store.put(where, b"x")):
        with pytest.raises(StageFailure) as caught:
            act(folder.child("x"))
        assert (caught.value.code, caught.value.reason) == (ExitCode.INVALID, Reason.STORAGE_ACCESS_DENIED)
        assert 'check key "credentials" of Secret s3' in caught.value.message
        assert folder.bucket in caught.value.message
        assert "AKIA" not in caught.value.message


def test_a_server_that_never_answered_is_told_soon(mounts: Path, folder: S3Location) -> None:
    store = open_at("http://127.0.0.1:9", RetryBudget(seconds=600, first_contact=2))
    with pytest.raises(StageFailure) as caught:
        store.read(folder)
    assert (caught.value.code, caught.value.reason) == (ExitCode.STORAGE, Reason.STORAGE_UNREACHABLE)
    assert "S3 endpoint http://127.0.0.1:9 does not answer" in caught.value.message
    assert "spec.storage.s3.endpoint" in caught.value.message


def test_a_server_that_keeps_failing_is_given_up_after_the_budget(
    proxy: S3FaultProxy, mounts: Path, folder: S3Location
) -> None:
    store = open_at(proxy.endpoint, RetryBudget(seconds=2, first_contact=2))
    store.put(folder.child("x"), b"x")
    proxy.inject(Kind.REFUSE, "GET", "/x", times=1000, status=500, code="InternalError")
    with pytest.raises(StageFailure) as caught:
        store.read(folder.child("x"))
    assert (caught.value.code, caught.value.reason) == (ExitCode.STORAGE, Reason.STORAGE_FAILED)
    assert "keeps failing at GetObject" in caught.value.message


def authority(folder: Path) -> Path:
    """Make a self-signed certificate for 127.0.0.1; return the file with key and certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "both.pem").write_bytes(secret + made.public_bytes(Encoding.PEM))
    return folder / "both.pem"


def test_a_server_is_trusted_by_the_given_authority_alone(
    proxy: S3FaultProxy, mounts: Path, folder: S3Location, tmp_path: Path
) -> None:
    both = authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    proxy.socket = context.wrap_socket(proxy.socket, server_side=True)
    endpoint = proxy.endpoint.replace("http://", "https://")
    spec = {"endpoint": endpoint, "credentialsSecretRef": {"name": "s3"}}
    with pytest.raises(StageFailure) as caught:
        open_s3(S3Storage.model_validate(spec), BUDGET).put(folder.child("x"), b"x")
    assert (caught.value.code, caught.value.reason) == (ExitCode.INVALID, Reason.STORAGE_UNREACHABLE)
    assert f"the certificate of {endpoint} is not trusted" in caught.value.message
    assert "spec.storage.s3.caBundleConfigMapRef" in caught.value.message
    (mounts / "ca").mkdir()
    (mounts / "ca" / "ca.crt").write_text("-----BEGIN CERT" + both.read_text().split("-----BEGIN CERT")[1])
    trusting = open_s3(S3Storage.model_validate({**spec, "caBundleConfigMapRef": {"name": "corp"}}), BUDGET)
    trusting.put(folder.child("x"), b"x")
    assert trusting.read(folder.child("x")) == b"x"
