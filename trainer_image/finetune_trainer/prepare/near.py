"""Near duplicates: rows that have most of their sequences of five words in common.

The likeness of two rows is the Jaccard index of their sets of five-word sequences (shingles), in lower case; a system
turn counts as one of them, and of a script that puts no spaces between words each letter is a word. It is estimated
from MinHash sketches of 128 numbers (https://en.wikipedia.org/wiki/MinHash), with a standard error of 0.035 at 0.8.
Rows are compared only where a band of their sketches agrees (locality-sensitive hashing, Leskovec, Rajaraman,
Ullman: Mining of Massive Datasets, chapter 3), with as many bands as fit the threshold best. Rows that are alike make
a group, and so do those that are alike to one of the group; the first of it stays.

A sketch takes 512 bytes of disk for each row while it is needed; in memory, 24 bytes.
"""

import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from finetune_trainer.prepare.conversation import Conversation, Turn
from finetune_trainer.prepare.formats import Completion, Document, Example, Labelled

NUMBERS = 128
"""Of a sketch."""
DEFAULT_THRESHOLD = 0.8
_WORDS = 5
_SCHEME, _SEED = "affine32", 1
_UNSPACED = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\ua9e0-\ua9ff\uaa60-\uaa7f"  # Thai, Lao, Myanmar, Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])"  # Chinese characters
)
"""Letters that are written without spaces."""
_PAIRS_AT_ONCE = 100_000
_MIX = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that multiplying by it loses nothing."""

Sketch = NDArray[np.uint32]
_BLANK = MinHash(num_perm=NUMBERS, seed=_SEED, hashfunc=zlib.crc32, scheme=_SCHEME)


def sketch(example: Example) -> Sketch:
    """Return the sketch of an example, uint32 [NUMBERS]."""
    words = _words(_text(example).lower())
    starts = range(max(1, len(words) - _WORDS + 1))
    made = _BLANK.copy()
    sequences = {" ".join(words[start : start + _WORDS]).encode() for start in starts}
    made.update_batch(sequences | _frame(example))
    return np.asarray(made.hashvalues, np.uint32)


def _words(text: str) -> list[str]:
    return (text if text.isascii() else _UNSPACED.sub(r" \1 ", text)).split()


def _text(example: Example) -> str:
    """Return the words of an example; a label is none, so that rows are alike whatever they are called."""
    if isinstance(example, Conversation):
        return "\n".join(_said(turn) for turn in example.turns if turn.role != "system")
    if isinstance(example, Completion):
        return f"{example.prompt}\n{example.completion}"
    return example.text if isinstance(example, Document) else _text(example.content)


def _said(turn: Turn) -> str:
    # Ids of calls are random, mostly.
    calls = [{name: call[name] for name in call if name != "id"} for call in turn.extra.get("tool_calls", [])]
    return f"{turn.content} {json.dumps(calls, ensure_ascii=False)}" if calls else turn.content


def _frame(example: Example) -> set[bytes]:
    """Return the system turn as a single sequence: most rows have a long one in common, which makes no two alike."""
    content = example.content if isinstance(example, Labelled) else example
    turns = content.turns if isinstance(content, Conversation) else ()
    return {b"system " + turn.content.lower().encode() for turn in turns if turn.role == "system"}


class Sketches:
    """The sketches of rows, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")

    def append(self, sketches: NDArray[np.uint32]) -> None:
        """Store the sketches of the next rows, [R, NUMBERS]."""
        self._file.write(sketches.astype("<u4", copy=False).tobytes())

    def read(self) -> NDArray[np.uint32]:
        """Return all of them, mapped: [rows, NUMBERS]. Nothing can be stored afterwards."""
        self._file.close()
        if not self._path.stat().st_size:
            return np.empty((0, NUMBERS), np.uint32)
        return np.memmap(self._path, "<u4", "r").reshape(-1, NUMBERS)


def group(parts: list[NDArray[np.uint32]], threshold: float, first: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each row the first one of its group; `first` has that for rows that are the same.

    The rows are those of the parts, one after the other.
    """
    rows = len(first)
    later, earlier = [np.arange(rows)], [first]
    for keys in _bands(parts, threshold):
        order = np.argsort(keys, kind="stable")
        is_begin = np.concatenate([[True], keys[order[1:]] != keys[order[:-1]]])
        leaders = order[np.maximum.accumulate(np.where(is_begin, np.arange(rows), 0))]
        pairs = np.flatnonzero(~is_begin)
        alike = _alike(parts, order[pairs], leaders[pairs], threshold)
        later.append(order[pairs][alike])
        earlier.append(leaders[pairs][alike])
    links = np.concatenate(later), np.concatenate(earlier)
    graph = coo_array((np.ones(len(links[0]), np.bool_), links), shape=(rows, rows))
    _, groups = connected_components(graph, directed=False)
    _, firsts = np.unique(groups, return_index=True)
    return np.asarray(firsts[groups], np.int64)


def _bands(parts: list[NDArray[np.uint32]], threshold: float) -> Iterator[NDArray[np.uint64]]:
    """Yield for each band a number for each row, the same where the rows agree in it."""
    # A pair too many costs a comparison, a pair too few leaves a duplicate.
    # Above 0.95 a single band would fit best, which finds no pair that differs at all.
    best = MinHashLSH(threshold=min(threshold, 0.95), num_perm=NUMBERS, weights=(0.1, 0.9))
    for start in range(0, best.b * best.r, best.r):
        yield np.concatenate([_mixed(part[:, start : start + best.r]) for part in parts])


def _mixed(columns: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Return one number for the numbers of each row."""
    mixed = np.zeros(len(columns), np.uint64)
    for column in columns.T:
        mixed ^= column
        mixed *= _MIX
        mixed ^= mixed >> np.uint64(29)
    return mixed


def _alike(
    parts: list[NDArray[np.uint32]], some: NDArray[np.int64], others: NDArray[np.int64], threshold: float
) -> NDArray[np.bool_]:
    found = np.zeros(len(some), np.bool_)
    for start in range(0, len(some), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        same = _rows(parts, some[part]) == _rows(parts, others[part])
        found[part] = same.mean(axis=1) >= threshold
    return found


def _rows(parts: list[NDArray[np.uint32]], rows: NDArray[np.int64]) -> NDArray[np.uint32]:
    chosen = np.empty((len(rows), NUMBERS), np.uint32)
    begin = 0
    for part in parts:
        inside = (rows >= begin) & (rows < begin + len(part))
        chosen[inside] = part[rows[inside] - begin]
        begin += len(part)
    return chosen
