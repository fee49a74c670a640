"""Blocks: files cut into pieces of about a megabyte, which are encoded one by one or side by side.

Lines of JSON are only cut here and read by whoever gets the block, which is most of the work of reading. Rows of
other formats are read here, where one has to be read after the other anyway.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.prepare import readers
from finetune_trainer.prepare.compression import BROKEN, open_file
from finetune_trainer.prepare.readers import Row
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
    wanted: bool = True
    """False: only what is wrong with the rows is wanted, and not their tokens."""

    def rows(self) -> Iterator[Row]:
        """Yield the rows."""
        if isinstance(self.content, bytes):
            return readers.read_lines(io.BytesIO(self.content), self.file, self.first)
        return iter(self.content)


def cut(path: Path, name: str, source: Source) -> Iterator[Block]:
    """Yield the blocks of a file; none when it holds no rows."""
    if readers.READERS[readers.ending_of(path.name)] is readers.read_jsonl:
        yield from _cut_lines(path, name, source)
        return
    some: list[Row] = []
    size = 0
    for row in readers.read_file(path, name):
        some.append(row)
        size += _size(row.columns)
        if size >= BLOCK_BYTES or len(some) == _BLOCK_ROWS:
            yield Block(source, name, some)
            some, size = [], 0
    if some:
        yield Block(source, name, some)


def _size(value: Any) -> int:
    """Return about how many bytes a row takes: those of its texts."""
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 0


def _cut_lines(path: Path, name: str, source: Source) -> Iterator[Block]:
    first = number = 1
    lines: list[bytes] = []
    size = 0
    end: list[Row] = []
    with open_file(path) as file:
        while True:
            try:
                line = file.readline(readers.LONGEST_LINE)
            except BROKEN as error:
                end, line = [readers.broken_off(name, number, error)], b""
            lines.append(line)
            size += len(line)
            number += 1
            is_last = not line or len(line) == readers.LONGEST_LINE  # such a line is told by who reads the block
            if size >= BLOCK_BYTES or is_last:
                content = b"".join(lines)
                if content and not content.isspace():
                    yield Block(source, name, content, first)
                first, lines, size = number, [], 0
            if is_last:
                break
    if end:
        yield Block(source, name, end)
