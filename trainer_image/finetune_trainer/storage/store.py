"""`Store`: the operations on S3 that the stages use, each tried again for minutes and ended by a StageFailure."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from botocore.exceptions import ClientError

from finetune_api.reasons import Reason
from finetune_api.run import FileEntry
from finetune_api.spec import S3Storage
from finetune_api.uris import S3Location
from finetune_trainer.errors import StageFailure
from finetune_trainer.stage_input import read_pod
from finetune_trainer.storage import transfer
from finetune_trainer.storage.client import CONCURRENCY, Access
from finetune_trainer.storage.digest import sha256_of, sha256_of_file
from finetune_trainer.storage.faults import (
    BUCKET_MISSING,
    OBJECT_MISSING,
    CorruptObject,
    Target,
    error_code,
    failure,
)
from finetune_trainer.storage.retry import PATIENT, RetryBudget, RetryingClient
from finetune_trainer.storage.scratch import path_below, require_space

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")
R = TypeVar("R")
FILES_AT_ONCE = 4


class ObjectInfo(NamedTuple):
    """One object of a listing; the etag identifies a version but is no digest."""

    key: str
    size: int
    etag: str
    modified: datetime


ObjectInfos = list[ObjectInfo]
"""`list` is a method of `Store`."""


def open_s3(s3: S3Storage, budget: RetryBudget = PATIENT) -> "Store":
    """Return the store of this process. Nothing is sent yet; open it after fork or spawn."""
    pod = read_pod()
    access = Access(s3=s3, credentials_file=pod.credentials_file, ca_bundle_file=pod.ca_bundle_file)
    return Store(RetryingClient(access, budget))


class Store:
    """Objects in S3. Every method raises StageFailure when the server refuses or its retry budget is spent."""

    def __init__(self, client: RetryingClient) -> None:
        self._client = client
        self._parts = ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="s3-part")

    def stat(self, location: S3Location) -> ObjectInfo | None:
        """Return size and etag of an object, or None. Raises StageFailure when the bucket itself is missing."""

        def head(client: "S3Client") -> ObjectInfo | None:
            try:
                reply = client.head_object(Bucket=location.bucket, Key=location.key)
            except ClientError as error:
                if error_code(error) not in ("404", "NotFound", "NoSuchKey"):
                    raise
                self._require_bucket(client, location, error)
                return None
            return ObjectInfo(location.key, reply["ContentLength"], reply["ETag"], reply["LastModified"])

        return self._call("HeadObject", location, head)

    def exists(self, location: S3Location) -> bool:
        """Whether the object exists."""
        return self.stat(location) is not None

    def read(self, location: S3Location) -> bytes:
        """Return a small object."""
        return self._call("GetObject", location, lambda client: transfer.read_object(client, location))

    def read_if_there(self, location: S3Location) -> bytes | None:
        """Return a small object, None if there is none: one request, and nothing can happen between two."""
        try:
            return self.read(location)
        except StageFailure as error:
            if error.reason is not Reason.OBJECT_NOT_FOUND:
                raise
            return None

    def download(self, location: S3Location, path: Path, *, sha256: str | None = None) -> FileEntry:
        """Fetch an object into a file that appears whole or not at all; return its size and digest.

        Raises CorruptObject when a digest is given and the content differs, also when fetched a second time.
        """
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            entry = self._fetch_checked(location, partial, sha256)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return entry

    def download_all(
        self, entries: Iterable[FileEntry], *, bucket: str, directory: Path, strip_prefix: str
    ) -> list[Path]:
        """Fetch objects of one bucket, side by side; their paths are their keys without `strip_prefix`."""
        wanted = [(entry, path_below(directory, entry.key, strip_prefix)) for entry in entries]
        require_space(directory, sum(entry.size for entry, _ in wanted))

        def fetch(item: tuple[FileEntry, Path]) -> Path:
            entry, path = item
            self.download(S3Location(bucket, entry.key), path, sha256=entry.sha256)
            return path

        return _side_by_side(fetch, wanted)

    def upload(self, path: Path, location: S3Location, on_bytes: Callable[[int], None] = lambda _: None) -> FileEntry:
        """Send a file; return its size and digest. `on_bytes` is told, by threads, how many bytes went."""
        entry = FileEntry(key=location.key, size=path.stat().st_size, sha256=sha256_of_file(path))
        self._call("PutObject", location, lambda client: transfer.send_file(client, path, location, on_bytes))
        return entry

    def upload_all(
        self, directory: Path, prefix: S3Location, on_bytes: Callable[[int], None] = lambda _: None
    ) -> list[FileEntry]:
        """Send every file below a folder to the same place below `prefix`; return them sorted by key.

        `on_bytes` is told, by threads, how many bytes went.
        """

        def send(path: Path) -> FileEntry:
            return self.upload(path, prefix.child(path.relative_to(directory).as_posix()), on_bytes)

        return _side_by_side(send, sorted(path for path in directory.rglob("*") if path.is_file()))

    def put(self, location: S3Location, data: bytes) -> FileEntry:
        """Write a small object, whether or not it exists."""

        def write(client: "S3Client") -> None:
            client.put_object(Bucket=location.bucket, Key=location.key, Body=data)

        self._call("PutObject", location, write)
        return FileEntry(key=location.key, size=len(data), sha256=sha256_of(data))

    def put_new(self, location: S3Location, data: bytes, *, writer: str) -> bool:
        """Create an object unless it exists: the atomic publication.

        Returns whether the object that stands there is ours: these bytes, or JSON whose `writer` is this one.
        """
        return self._call(
            "PutObject", location, lambda client: transfer.put_if_absent(client, location, data, writer=writer)
        )

    def delete(self, locations: Iterable[S3Location]) -> None:
        """Delete objects; those that do not exist are no error."""

        def remove(location: S3Location) -> None:
            def request(client: "S3Client") -> None:
                client.delete_object(Bucket=location.bucket, Key=location.key)

            self._call("DeleteObject", location, request)

        _side_by_side(remove, locations)

    def abort_multipart(self, prefix: S3Location, *, older_than: timedelta) -> int:
        """Abort the unfinished multipart uploads below a folder that began before then; return how many."""
        folder = _folder(prefix)
        before = datetime.now(UTC) - older_than

        def unfinished(client: "S3Client") -> list[tuple[str, str]]:
            pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=folder.bucket, Prefix=folder.key)
            uploads = [upload for page in pages for upload in page.get("Uploads", [])]
            return [(upload["Key"], upload["UploadId"]) for upload in uploads if upload["Initiated"] < before]

        found = self._call("ListMultipartUploads", folder, unfinished)
        for key, upload_id in found:
            self._abort(S3Location(folder.bucket, key), upload_id)
        return len(found)

    def list(self, prefix: S3Location) -> ObjectInfos:
        """Return all objects below a folder (a trailing slash is added), without the folder markers of consoles."""
        folder = _folder(prefix)

        def pages(client: "S3Client") -> ObjectInfos:
            found = client.get_paginator("list_objects_v2").paginate(Bucket=folder.bucket, Prefix=folder.key)
            objects = [item for page in found for item in page.get("Contents", [])]
            return [
                ObjectInfo(item["Key"], item["Size"], item["ETag"], item["LastModified"])
                for item in objects
                if not (item["Key"].endswith("/") and item["Size"] == 0)
            ]

        return self._call("ListObjectsV2", folder, pages)

    def _abort(self, location: S3Location, upload_id: str) -> None:
        def request(client: "S3Client") -> None:
            try:
                client.abort_multipart_upload(Bucket=location.bucket, Key=location.key, UploadId=upload_id)
            except ClientError as error:
                if error_code(error) != "NoSuchUpload":
                    raise

        self._call("AbortMultipartUpload", location, request)

    def _fetch_checked(self, location: S3Location, partial: Path, sha256: str | None) -> FileEntry:
        found = ""
        for _ in range(2):
            size = self._fetch(location, partial)
            found = sha256_of_file(partial)
            if sha256 in (None, found):
                return FileEntry(key=location.key, size=size, sha256=found)
        raise CorruptObject(location.uri, found, str(sha256))

    def _fetch(self, location: S3Location, path: Path) -> int:
        info = self.stat(location)
        if info is None:
            raise failure(OBJECT_MISSING, self._target("GetObject", location), FileNotFoundError(location.uri))
        with path.open("wb") as file:
            file.truncate(info.size)

        def fetch(part: transfer.Part) -> None:
            self._call(
                "GetObject",
                location,
                lambda client: transfer.fetch_part(client, location, part, etag=info.etag, path=path),
            )

        for _ in self._parts.map(fetch, transfer.parts_of(info.size)):
            pass
        return info.size

    def _require_bucket(self, client: "S3Client", location: S3Location, error: ClientError) -> None:
        try:
            client.head_bucket(Bucket=location.bucket)
        except ClientError as missing:
            # A server that hides the bucket from us (403) still told that the object is not there.
            if error_code(missing) in ("404", "NoSuchBucket"):
                raise failure(BUCKET_MISSING, self._target("HeadObject", location), error) from missing

    def _call(self, operation: str, location: S3Location, work: Callable[["S3Client"], T]) -> T:
        return self._client.call(self._target(operation, location), work)

    def _target(self, operation: str, location: S3Location) -> Target:
        access = self._client.access
        return Target(operation, location.bucket, location.key, access.endpoint, access.credentials)


def _side_by_side(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    pool = ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="s3-file")
    try:
        return list(pool.map(work, items))
    finally:
        # After a failure, or SIGTERM, nobody waits for the others: they may still be trying for minutes.
        pool.shutdown(wait=False, cancel_futures=True)


def _folder(prefix: S3Location) -> S3Location:
    key = prefix.key if not prefix.key or prefix.key.endswith("/") else f"{prefix.key}/"
    return S3Location(prefix.bucket, key)
