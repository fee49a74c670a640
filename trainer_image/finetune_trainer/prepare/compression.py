"""Compressed files as streams: what is read never lies in memory whole, and one that was cut off is told."""

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

_CHUNK_BYTES = 4096
"""That are decompressed at once: at the highest ratio of Zstandard they become a hundred megabytes."""
BROKEN = (gzip.BadGzipFile, zlib.error, zstandard.ZstdError, EOFError)
"""What reading a broken archive raises."""


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading, decompressing by the ending of its name. Reading raises one of BROKEN."""
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.suffix == ".zst":
        return io.BufferedReader(_Stream(path))
    return path.open("rb")


class _Stream(io.RawIOBase):
    """The content of a Zstandard file of one or several frames (RFC 8878)."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._parts = _decompressed(self._file)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            part = next(self._parts, None)
            if part is None:
                return 0
            self._rest = memoryview(part)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _decompressed(file: BinaryIO) -> Iterator[bytes]:
    decoder = None
    while data := file.read(_CHUNK_BYTES):
        while data:
            decoder = decoder or zstandard.ZstdDecompressor().decompressobj()
            yield decoder.decompress(data)
            data = decoder.unused_data if decoder.eof else b""
            decoder = None if decoder.eof else decoder
    if decoder is not None:
        raise EOFError("the file was cut off")
