"""What must lie in S3: the result and the last checkpoint, whole and with the digests that are promised."""

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from finetune_api.run import MANIFEST, Commit, FileEntry, OutputManifest
from finetune_api.status import CheckpointRef, FineTuneJobStatus, OutputResult
from finetune_api.uris import parse_s3

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def missing_results(client: "S3Client", status: FineTuneJobStatus) -> list[str]:
    """Return what a job that succeeded promises in its status and S3 does not hold."""
    if status.output is None or status.last_checkpoint is None:
        return ["Succeeded without status.output or status.lastCheckpoint"]
    return [
        *_wrong_output(client, status.output),
        *wrong_checkpoint(client, status.last_checkpoint),
    ]


def model_digests(client: "S3Client", status: FineTuneJobStatus) -> dict[str, str]:
    """Return the digests of the result's weights by their name: equal when two runs computed the same bit by bit."""
    if status.output is None:
        return {}
    bucket, key = parse_s3(f"{status.output.uri.rstrip('/')}/{MANIFEST}")
    manifest = OutputManifest.model_validate_json(_read(client, bucket, key))
    weights = [entry for entry in manifest.files if entry.key.endswith(".safetensors")]
    return {entry.key.split("/", 1)[1]: entry.sha256 for entry in weights}


def _wrong_output(client: "S3Client", output: OutputResult) -> list[str]:
    bucket, key = parse_s3(f"{output.uri.rstrip('/')}/{MANIFEST}")
    try:
        content = _read(client, bucket, key)
    except ClientError as error:
        return [f"the result's manifest s3://{bucket}/{key}: {error}"]
    digest = hashlib.sha256(content).hexdigest()
    found = [] if digest == output.digest else [f"the manifest's digest is {digest}, the status says {output.digest}"]
    manifest = OutputManifest.model_validate_json(content)
    if not any(entry.key.endswith(".safetensors") for entry in manifest.files):
        found.append("the result holds no weights")
    return found + _wrong_files(client, bucket, manifest.files)


def wrong_checkpoint(client: "S3Client", checkpoint: CheckpointRef) -> list[str]:
    """Return how a committed checkpoint differs from what it promises."""
    bucket, key = parse_s3(checkpoint.uri)
    try:
        commit = Commit.model_validate_json(_read(client, bucket, key))
    except ClientError as error:
        return [f"lastCheckpoint {checkpoint.uri}: {error}"]
    found = [] if commit.step == checkpoint.step else [f"{checkpoint.uri} is of step {commit.step}"]
    return found + _wrong_files(client, bucket, commit.files)


def _wrong_files(client: "S3Client", bucket: str, files: Iterable[FileEntry]) -> list[str]:
    found = []
    for entry in files:
        try:
            content = _read(client, bucket, entry.key)
        except ClientError as error:
            found.append(f"s3://{bucket}/{entry.key}: {error}")
            continue
        if (len(content), hashlib.sha256(content).hexdigest()) != (entry.size, entry.sha256):
            found.append(f"s3://{bucket}/{entry.key} is not what its manifest says")
    return found


def _read(client: "S3Client", bucket: str, key: str) -> bytes:
    return client.get_object(Bucket=bucket, Key=key)["Body"].read()
