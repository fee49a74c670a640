"""What is made of a block: its rows are read, checked, assigned to a split, cleared of personal data and encoded.

A block is worked on by itself, so that it does not matter which process does it: what depends on other rows
(duplicates, the numbers of labels) is decided by who gets the results (`build.py`).
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from finetune_api.spec import Data
from finetune_trainer.data.cache import SplitName
from finetune_trainer.prepare.blocks import Block
from finetune_trainer.prepare.columns import as_read, named
from finetune_trainer.prepare.conversation import Conversation
from finetune_trainer.prepare.encode import Encoded, build_encoder, cut, cut_off
from finetune_trainer.prepare.encoded_block import EncodedBlock, EncodedRows
from finetune_trainer.prepare.formats import (
    Example,
    Format,
    Labelled,
    canonical,
    comparable,
    other_columns,
    parse,
    to_columns,
)
from finetune_trainer.prepare.labels import require_listed
from finetune_trainer.prepare.pii.policy import Privacy
from finetune_trainer.prepare.problems import Place, RowError
from finetune_trainer.prepare.sampling import copies_of, place_of
from finetune_trainer.prepare.sources import Source
from finetune_trainer.prepare.split import assign, shares_of


@dataclass(frozen=True)
class Rules:
    """What decides over a row, the same for all rows of a job."""

    tokenizer: Path
    """Folder of the tokenizer with the chat template."""
    form: Format
    data: Data
    row_limit: int
    """Tokens."""


@dataclass(frozen=True)
class _Checked:
    place: Place
    split: SplitName
    example: Example
    columns: dict[str, Any]
    digest: bytes
    sample: int
    copies: int


class BlockEncoder:
    """Encodes blocks."""

    def __init__(self, rules: Rules) -> None:
        tokenizer = AutoTokenizer.from_pretrained(rules.tokenizer, local_files_only=True, trust_remote_code=False)
        self._rules = rules
        self._form: Format = rules.form
        self._data = rules.data
        self._has_labels = rules.form == "label"
        self._shares = shares_of(rules.data)
        self._encoder = build_encoder(tokenizer, rules.form, rules.data.loss_on)

    def encode(self, block: Block) -> EncodedBlock:
        """Encode the rows of a block. Raises StageFailure when no row could be."""
        made = EncodedBlock(replace(block, content=b""))
        checked = list(self._check(block, made))
        if block.wanted:
            encoded = self._encoder.encode([row.example for row in checked])
            kept: defaultdict[SplitName, list[tuple[_Checked, list[Encoded]]]] = defaultdict(list)
            for row, one in zip(checked, encoded, strict=True):
                if pieces := self._pieces(row, one, made):
                    kept[row.split].append((row, pieces))
            made.rows = {split: self._pack(rows, block.source) for split, rows in kept.items()}
        made.problems.sort(key=lambda problem: problem[0].number)
        return made

    def _check(self, block: Block, made: EncodedBlock) -> Iterator[_Checked]:
        privacy = Privacy(self._data.pii)
        made.pii = privacy.counts
        for found in named(block.rows(), self._data.columns):
            row = as_read(found, self._form)
            made.read += 1
            try:
                if isinstance(row.columns, RowError):
                    raise row.columns
                example = parse(row.columns, self._form)
                if isinstance(example, Labelled):
                    require_listed(example.label, self._data.labels)
                # By the row as it was read: where it goes does not depend on what is done about personal data.
                normal = canonical(example)
                split, sample, copies = self._fate(normal, block.source)
                if not copies:
                    made.unsampled += 1
                    continue
                cleared = self._cleared(row.columns, example, privacy)
            except RowError as error:
                made.problems.append((row.place, error))
                continue
            if cleared is None:
                continue
            columns, kept = cleared
            # Rows that are the same once they are masked are the same to the model.
            same = comparable(kept)
            digest = sha256(normal if same is example else canonical(same)).digest()[:16]
            yield _Checked(row.place, split, kept, columns, digest, sample, copies)

    def _cleared(
        self, columns: dict[str, Any], example: Example, privacy: Privacy
    ) -> tuple[dict[str, Any], Example] | None:
        """Return columns and example of a row as they may be used; None: not at all.

        The example's own columns are looked at as they were understood: calls of tools may be written as JSON text,
        in which a line break is a letter. A label is a name that the user gave to a class, and stays.
        """
        read = {**to_columns(example), **other_columns(columns, self._form)}
        label = {"label": read.pop("label")} if self._has_labels else {}
        cleared = privacy.apply(read)
        if cleared is None:
            return None
        return (columns, example) if cleared is read else (cleared, parse({**cleared, **label}, self._form))

    def _fate(self, row: bytes, source: Source) -> tuple[SplitName, int, int]:
        """Return the split of a row, its place in a sample, and how often an epoch reads it."""
        seed = self._shares.seed
        if source.part_of == "replay":
            return "train", place_of(row, seed), 1
        if source.part_of != "train":
            return source.part_of, 0, 1
        split = assign(row, self._shares)
        if split != "train" or source.weight == 1:
            return split, 0, 1
        return split, 0, copies_of(place_of(row, seed), source.weight)

    def _pieces(self, row: _Checked, encoded: Encoded | RowError, made: EncodedBlock) -> list[Encoded]:
        """Return the rows of the cache that a row becomes; none when it is wrong or too long."""
        if isinstance(encoded, RowError):
            made.problems.append((row.place, encoded))
            return []
        if not (self._has_labels or encoded.teaches):
            made.problems.append((row.place, RowError("messages", "the chat template leaves no token of the answer")))
            return []
        made.longest = max(made.longest, len(encoded.input_ids))
        pieces = self._fit(row.example, encoded, made)
        if not pieces:
            made.too_long[row.split] += 1
        elif not encoded.ends:
            made.endless += 1
        return pieces

    def _fit(self, example: Example, encoded: Encoded, made: EncodedBlock) -> list[Encoded]:
        limit = self._rules.row_limit
        if len(encoded.input_ids) <= limit:
            return [encoded]
        if self._form == "text":
            made.cut += 1
            return cut(encoded, limit)
        shorter = None
        if self._data.truncation == "keepAnswer":
            shorter = self._encoder.shorten(example, limit)
        elif self._data.truncation == "end":
            shorter = cut_off(encoded, limit)
        if shorter is None or not (self._has_labels or shorter.teaches):
            return []
        made.truncated += 1
        return [shorter]

    def _pack(self, rows: list[tuple[_Checked, list[Encoded]]], source: Source) -> EncodedRows:
        checked = [row for row, _ in rows]
        pieces = [piece for _, pieces in rows for piece in pieces]
        place = checked[0].place
        lengths = np.asarray([len(piece.input_ids) for piece in pieces], np.int64)
        supervised = np.frombuffer(bytearray().join(piece.supervised for piece in pieces), np.uint8)
        supervised[np.cumsum(lengths) - lengths] = 0  # nothing predicts the first token of a row
        samples = [row.sample for row in checked] if source.part_of == "replay" else []
        return EncodedRows(
            source=source,
            file=place.file,
            unit=place.unit,
            lines=np.asarray([row.place.number for row in checked], np.int64),
            digests=np.frombuffer(b"".join(row.digest for row in checked), "<u8").reshape(-1, 2),
            copies=np.asarray([row.copies for row in checked], np.uint8),
            samples=np.asarray(samples, np.uint64),
            sketches=self._sketches(checked),
            pieces=np.asarray([len(pieces) for _, pieces in rows], np.int32),
            labels=[row.example.label for row in checked if isinstance(row.example, Labelled)],
            test_rows=[self._test_row(row, pieces[-1]) for row, pieces in rows if row.split == "test"],
            lengths=lengths,
            input_ids=np.frombuffer(b"".join(piece.input_ids for piece in pieces), np.uint32),
            supervised=supervised,
        )

    def _sketches(self, rows: list[_Checked]) -> Any:
        if self._data.deduplicate != "near":
            return np.empty((0, 0), np.uint32)
        from finetune_trainer.prepare.near import sketch

        return np.stack([sketch(row.example) for row in rows])

    def _test_row(self, row: _Checked, encoded: Encoded) -> str:
        """Return the line of a test row, up to the last answer of which there are tokens: that one is asked for."""
        example = row.example
        if isinstance(example, Conversation):
            example = example.without_answers(encoded.answers_lost)
        columns = {**other_columns(row.columns, self._form), **to_columns(example)}
        return json.dumps(_without_nan(columns), ensure_ascii=False, default=str)


def _without_nan(value: Any) -> Any:
    """Return a value as JSON can hold it: tables have gaps that are no numbers."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
