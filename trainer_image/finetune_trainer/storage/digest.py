"""SHA-256: the identity of content in S3 and on disk."""

import hashlib
from pathlib import Path


def sha256_of(data: bytes) -> str:
    """Return the digest of bytes, hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Return the digest of a file's content, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
