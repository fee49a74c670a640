"""Blocks: files cut into pieces of about a megabyte, which are read and encoded one by one or side by side.

Lines of JSON are only cut here and read by whoever gets the block, which is most of the work of reading. Rows of
other formats are read here, where one after the other has to be read anyway.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from finetune_trainer.prepare import readers
from finetune_trainer.prepare.readers import READERS, Row
from finetune_trainer.prepare.sources import Source

BLOCK_BYTES = 1024 * 1024
_BLOCK_ROWS = 512


@dataclass(frozen=True)
class Block:
    """Some rows of a file, at least one."""

    source: Source
    file: str
    """Its name in places."""
    content: bytes | list[Row]
    """Whole lines of JSON, or rows that have been read."""
    first: int = 1
    """Number of the first line."""
    encode: bool = True
    """Whether the rows are wanted, or only what is wrong with them."""

    def rows(self) -> Iterator[Row]:
        """Yield the rows."""
        if isinstance(self.content, bytes):
            return readers.read_lines(io.BytesIO(self.content), self.file, self.first)
        return iter(self.content)


def cut(path: Path, name: str, source: Source) -> Iterator[Block]:
    """Yield the blocks of a file; none when it holds no rows."""
    read = READERS[path.suffix]
    if read is readers.read_jsonl:
        yield from _cut_lines(path, name, source)
        return
    rows = read(path, name)
    while some := list(islice(rows, _BLOCK_ROWS)):
        yield Block(source, name, some)


def _cut_lines(path: Path, name: str, source: Source) -> Iterator[Block]:
    number = 1
    with path.open("rb") as file:
        while content := file.read(BLOCK_BYTES):
            rest = b"" if content.endswith(b"\n") else file.readline(readers.LONGEST_LINE)
            content += rest
            if not content.isspace():
                yield Block(source, name, content, number)
            if len(rest) == readers.LONGEST_LINE:  # what is read of the block says so
                return
            number += content.count(b"\n")
