"""The data card: what the prepared rows are and what was left out, for people (Markdown) and for programs (JSON)."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.cache import SPLITS, SplitName, TokenCache
from finetune_trainer.data.places import Places
from finetune_trainer.prepare.build import CacheBuilder
from finetune_trainer.prepare.data_card_text import PERCENTILES, Card, as_text
from finetune_trainer.prepare.lists import RowLists
from finetune_trainer.prepare.sources import Source

CARD_JSON, CARD_TEXT = "data-card.json", "data-card.md"
_KINDS = 20


def write_card(result: Path, spec: FineTuneJobSpec, builder: CacheBuilder, *, lists: RowLists, digest: str) -> None:
    """Write the card beside the prepared rows, below the folder `result`."""
    _write(result, describe(result / "cache", spec, builder, lists=lists, digest=digest))


def list_warnings(result: Path, warnings: Sequence[str]) -> None:
    """Write a run's warnings into the card, instead of those of the run that it was copied from."""
    card = json.loads((result / CARD_JSON).read_text(encoding="utf-8"))
    _write(result, {**card, "warnings": list(warnings)})


def _write(result: Path, card: Card) -> None:
    (result / CARD_JSON).write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (result / CARD_TEXT).write_text(as_text(card), encoding="utf-8")


def describe(cache: Path, spec: FineTuneJobSpec, builder: CacheBuilder, *, lists: RowLists, digest: str) -> Card:
    """Return the card, as yet without warnings."""
    counts, selection, problems = builder.counts, builder.selection, builder.problems
    used = _used(cache)
    return {
        "format": builder.form,
        "objective": spec.objective,
        "warnings": [],
        "rowsRead": counts.read,
        "splits": {split: _split(TokenCache.open(cache, split)) for split in SPLITS},
        "leftOut": {
            "invalid": problems.total,
            "invalidKinds": dict(problems.kinds.most_common(_KINDS)),
            "tooLong": counts.too_long,
            "personalData": builder.pii.dropped,
            "inValidationOrTest": selection.leaked,
            "byWeight": counts.unsampled,
        },
        "duplicates": {
            "action": spec.data.deduplicate,
            "training": selection.duplicates,
            "validationAndTest": selection.held_out_repeats,
        },
        "truncated": counts.truncated,
        "cutDocuments": counts.cut,
        "longestRowTokens": counts.longest,
        "replayed": len(selection.rows["replay"]),
        "personalData": {
            "action": spec.data.pii.action,
            "rows": builder.pii.rows,
            "places": dict(builder.pii.places),
        },
        "labels": [label.to_wire() for label in builder.labels.report()] if builder.labels else [],
        "sources": [_source(source, lists, builder, used) for source in lists.sources],
        "settings": spec.data.to_wire(),
        "digest": digest,
    }


def _split(cache: TokenCache) -> dict[str, Any]:
    tokens, supervised = len(cache.input_ids), int(cache.supervised_counts.sum())
    found = {"rows": len(cache), "tokens": tokens, "supervisedTokens": supervised}
    if not len(cache):
        return found
    points = np.percentile(cache.lengths, PERCENTILES, method="lower")
    lengths = {f"p{share}": int(point) for share, point in zip(PERCENTILES, points, strict=True)}
    extremes = {"shortest": int(cache.lengths.min()), "longest": int(cache.lengths.max())}
    return {**found, "supervisedShare": round(supervised / tokens, 4), "lengths": {**extremes, **lengths}}


def _used(cache: Path) -> dict[str, Counter[SplitName]]:
    """Return how many rows of the cache come from each file."""
    found: dict[str, Counter[SplitName]] = {}
    for split in SPLITS:
        places = Places.open(cache, split)
        rows = np.bincount(places.rows[:, 0], minlength=len(places.sources))
        for source, count in zip(places.sources, rows.tolist(), strict=True):
            uri = source[: source.rindex(":")]
            found.setdefault(uri, Counter())[split] += count
    return found


def _source(
    source: Source, lists: RowLists, builder: CacheBuilder, used: dict[str, "Counter[SplitName]"]
) -> dict[str, Any]:
    files = [file for file in lists.files if file.source == source]
    rows: Counter[SplitName] = Counter()
    for file in files:
        rows.update(used.get(file.location.uri, Counter()))
    return {
        "uri": source.uri,
        "list": source.part_of,
        "weight": source.weight,
        "rowsRead": builder.counts.of_source.get(source.number, 0),
        "rowsUsed": {split: rows[split] for split in SPLITS if rows[split]},
        "files": [
            {"uri": file.location.uri, "bytes": file.info.size, "etag": file.info.etag.strip('"')} for file in files
        ],
    }
