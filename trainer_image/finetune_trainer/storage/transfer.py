"""Moves the bytes of one object: single requests, to be tried again by the caller.

Downloads are cut into parts that are fetched side by side and tried again one by one, so that an interrupted
download goes on where it was. A small object is fetched without a range, because only then can the server's own
checksum be verified by the client.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from boto3.s3.transfer import ProgressCallbackInvoker, TransferConfig
from botocore.exceptions import ClientError
from s3transfer.manager import TransferManager

from finetune_api.uris import S3Location
from finetune_trainer.storage.client import CONCURRENCY
from finetune_trainer.storage.faults import BrokenTransfer, error_code

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PART_BYTES = 32 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_MAX_PARTS = 10_000


class Part(NamedTuple):
    """A range of an object: offset and length in bytes; `ranged` is false when it is the whole object."""

    start: int
    length: int
    ranged: bool


def parts_of(size: int) -> Iterator[Part]:
    """Yield the parts of an object of `size` bytes, in order; none for an empty one."""
    for start in range(0, size, PART_BYTES):
        yield Part(start, min(PART_BYTES, size - start), size > PART_BYTES)


def fetch_part(client: "S3Client", location: S3Location, part: Part, *, etag: str, path: Path) -> None:
    """Write one part at its offset. Raises BrokenTransfer when the body is shorter or longer than announced."""
    arguments: dict[str, Any] = {"Bucket": location.bucket, "Key": location.key, "IfMatch": etag}
    if part.ranged:
        arguments["Range"] = f"bytes={part.start}-{part.start + part.length - 1}"
    body = client.get_object(**arguments)["Body"]
    # Opened for each part: a shared descriptor could be closed, and given to another file, under a slow part.
    with contextlib.closing(body), path.open("r+b") as file:
        file.seek(part.start)
        shutil.copyfileobj(body, file, _CHUNK_BYTES)
        written = file.tell() - part.start
    if written != part.length:
        raise BrokenTransfer(f"{written} of {part.length} bytes arrived")


def read_object(client: "S3Client", location: S3Location) -> bytes:
    """Return a whole small object. Raises BrokenTransfer when the body is not as long as announced."""
    reply = client.get_object(Bucket=location.bucket, Key=location.key)
    data = reply["Body"].read()
    if len(data) != reply["ContentLength"]:
        raise BrokenTransfer(f"{len(data)} of {reply['ContentLength']} bytes arrived")
    return data


def send_file(
    client: "S3Client", path: Path, location: S3Location, on_bytes: Callable[[int], None] = lambda _: None
) -> None:
    """Upload a file, in parts when it is large. Raises BrokenTransfer when the server holds another size.

    `on_bytes` is called, by threads, with the bytes sent since its last call; what is sent again counts back first.
    """
    size = path.stat().st_size
    part = max(PART_BYTES, -(-size // _MAX_PARTS))
    config = TransferConfig(
        multipart_threshold=part,
        multipart_chunksize=part,
        max_concurrency=CONCURRENCY,
        preferred_transfer_client="classic",
    )
    with TransferManager(client, config=config) as manager:
        sent = [ProgressCallbackInvoker(on_bytes)]
        manager.upload(str(path), location.bucket, location.key, subscribers=sent).result()
    stored = client.head_object(Bucket=location.bucket, Key=location.key)["ContentLength"]
    if stored != size:
        raise BrokenTransfer(f"the server holds {stored} bytes of {size}")


def put_if_absent(client: "S3Client", location: S3Location, data: bytes, *, writer: str) -> bool:
    """Create an object unless it exists; return whether the object that stands there is ours.

    A reply that was lost makes the repeated request fail although the first one won, therefore a refusal is
    settled by reading the object back: it is ours if it has these bytes or names this writer.
    """
    try:
        client.put_object(Bucket=location.bucket, Key=location.key, Body=data, IfNoneMatch="*")
    except ClientError as error:
        if error_code(error) not in ("PreconditionFailed", "412", "ConditionalRequestConflict", "409"):
            raise
        return _is_ours(client, location, data, writer)
    return True


def _is_ours(client: "S3Client", location: S3Location, data: bytes, writer: str) -> bool:
    try:
        found = read_object(client, location)
    except ClientError as error:
        if error_code(error) == "NoSuchKey":
            raise BrokenTransfer("the conditional write was refused, yet there is no object") from error
        raise
    return found == data or writer_of(found) == writer


def writer_of(data: bytes) -> str | None:
    """Return the field `writer` of a JSON object, or None."""
    try:
        record = json.loads(data)
    except ValueError:
        return None
    return record.get("writer") if isinstance(record, dict) else None
