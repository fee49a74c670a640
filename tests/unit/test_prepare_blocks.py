"""Blocks: cut anywhere, they hold the rows that reading the file gives."""

import gzip
import json

import pytest
import zstandard

from finetune_trainer.prepare import blocks, readers
from finetune_trainer.prepare.blocks import cut
from finetune_trainer.prepare.problems import RowError
from finetune_trainer.prepare.readers import read_file
from finetune_trainer.prepare.sources import Source

SOURCE = Source(0, "train", "s3://d/f")
LINES = b"".join(json.dumps({"n": number, "text": "x" * (number % 37)}).encode() + b"\n" for number in range(500))
AWKWARD = b'\xef\xbb\xbf{"a": 1}\n\n  \n' + b"\n" * 40 + b'{"a": \n{"a": "\xc3\xa8"}\r\n[1]\n{"a": 3}'


def rows(found):
    """Return rows as something that can be compared."""
    return [
        (row.place, row.columns if isinstance(row.columns, dict) else (row.columns.field, row.columns.text))
        for row in found
    ]


@pytest.mark.parametrize("size", [1, 30, 400, 10**6])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("f.jsonl", LINES),
        ("f.jsonl", AWKWARD),
        ("f.json", b""),
        ("f.jsonl", b"\n \n\n"),
        ("f.jsonl.gz", gzip.compress(LINES)),
        ("f.jsonl.zst", zstandard.compress(LINES)[:-9]),
        ("f.jsonl.gz", b"no archive\n"),
        ("f.csv", b'a,b\n1,"two\nlines"\n\n3\n5,6\n'),
    ],
)
def test_blocks_hold_the_rows_of_the_file(tmp_path, monkeypatch, size, name, content):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
    monkeypatch.setattr(blocks, "_BLOCK_ROWS", max(1, size // 100))
    path = tmp_path / name
    path.write_bytes(content)
    found = list(cut(path, "s3://d/f", SOURCE))
    assert rows(row for block in found for row in block.rows()) == rows(read_file(path, "s3://d/f"))
    assert all(list(block.rows()) for block in found)
    assert all(block.source is SOURCE for block in found)


def test_a_line_without_end_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "LONGEST_LINE", 100)
    path = tmp_path / "f.jsonl"
    path.write_bytes(b'{"a": 1}\n' + b"x" * 100_000)
    [block] = cut(path, "f", SOURCE)
    assert len(block.content) < 200
    *_, last = block.rows()
    assert isinstance(last.columns, RowError)
    assert "the line is longer than 100 bytes" in last.columns.text
