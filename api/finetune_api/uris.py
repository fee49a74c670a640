"""`s3://bucket/key` URIs."""

import re
from typing import Annotated, NamedTuple

from pydantic import Field

S3_PATTERN = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?$"

S3Uri = Annotated[str, Field(pattern=S3_PATTERN, max_length=1024)]
"""An object or a prefix: `s3://bucket/key` or `s3://bucket/prefix/`."""


class S3Location(NamedTuple):
    """Bucket and key of an S3 URI; the key has no leading slash and may be empty."""

    bucket: str
    key: str

    @property
    def uri(self) -> str:
        """The location as `s3://bucket/key`."""
        return f"s3://{self.bucket}/{self.key}"

    def child(self, name: str) -> "S3Location":
        """Return the location `name` below this prefix."""
        prefix = self.key.rstrip("/")
        return S3Location(self.bucket, f"{prefix}/{name}" if prefix else name)


def parse_s3(uri: str) -> S3Location:
    """Split an S3 URI. Raises ValueError with the expected form when it is not one."""
    if not re.fullmatch(S3_PATTERN, uri):
        raise ValueError(f"{uri!r} is not an S3 URI; write s3://bucket/key")
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return S3Location(bucket, key)
