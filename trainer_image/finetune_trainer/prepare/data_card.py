"""The data card: what the prepared rows are and what was left out, for people (Markdown) and for programs (JSON)."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.cache import SPLITS, SplitName, TokenCache
from finetune_trainer.data.places import Places
from finetune_trainer.prepare.build import CacheBuilder
from finetune_trainer.prepare.lists import RowLists

CARD_JSON, CARD_TEXT = "data-card.json", "data-card.md"
PERCENTILES = (1, 10, 50, 90, 99)
_KINDS = 20


def write_card(result: Path, spec: FineTuneJobSpec, builder: CacheBuilder, *, lists: RowLists, digest: str) -> None:
    """Write the card beside the prepared rows, below the folder `result`."""
    card = describe(result / "cache", spec, builder, lists=lists, digest=digest)
    (result / CARD_JSON).write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (result / CARD_TEXT).write_text(as_text(card), encoding="utf-8")


def describe(
    cache: Path, spec: FineTuneJobSpec, builder: CacheBuilder, *, lists: RowLists, digest: str
) -> dict[str, Any]:
    """Return the card."""
    counts, selection, problems = builder.counts, builder.selection, builder.problems
    used = _used(cache)
    return {
        "format": builder.form,
        "objective": spec.objective,
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
        "sources": [
            {
                "uri": source.uri,
                "list": source.part_of,
                "weight": source.weight,
                "rowsRead": counts.of_source.get(source.number, 0),
                "rowsUsed": _sum(used[file.location.uri] for file in lists.files if file.source == source),
                "files": [
                    {"uri": file.location.uri, "bytes": file.info.size, "etag": file.info.etag}
                    for file in lists.files
                    if file.source == source
                ],
            }
            for source in lists.sources
        ],
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
    return _Zero(found)


class _Zero(dict[str, "Counter[SplitName]"]):
    """Files without rows have none."""

    def __missing__(self, key: str) -> "Counter[SplitName]":
        return Counter()


def _sum(counts: Iterable["Counter[SplitName]"]) -> dict[SplitName, int]:
    total: Counter[SplitName] = Counter()
    for count in counts:
        total.update(count)
    return {split: total[split] for split in SPLITS if total[split]}


def as_text(card: dict[str, Any]) -> str:
    """Return a card as Markdown."""
    left_out, duplicates, personal = card["leftOut"], card["duplicates"], card["personalData"]
    parts = [
        f"# Data card\n\nFormat `{card['format']}`, objective `{card['objective']}`. {card['rowsRead']:,} rows were"
        f" read. SHA-256 of the prepared rows: `{card['digest']}`.\n",
        "## Splits\n",
        _table(
            [
                "split",
                "rows",
                "tokens",
                "supervised",
                "shortest",
                *(f"{share} %" for share in PERCENTILES),
                "longest",
            ],
            [_split_line(name, split) for name, split in card["splits"].items()],
        ),
        "Lengths of rows are in tokens, at the share of the rows that is shorter.\n",
        "## Left out\n",
        _table(
            ["cause", "rows"],
            [
                ["wrong", left_out["invalid"]],
                *([f"- {kind}", rows] for kind, rows in left_out["invalidKinds"].items()),
                ["too long", sum(left_out["tooLong"].values())],
                ["personal data", left_out["personalData"]],
                ["stands in validation or test too", left_out["inValidationOrTest"]],
                ["weight of the source", left_out["byWeight"]],
            ],
        ),
        f"Rows that repeat an earlier one (`deduplicate: {duplicates['action']}`): {duplicates['training']:,} of"
        f" training, {duplicates['validationAndTest']:,} of validation and test. Shortened: {card['truncated']:,}."
        f" Documents cut into several rows: {card['cutDocuments']:,}. General rows to replay: {card['replayed']:,}.\n",
        "## Personal data\n",
        f"Action `{personal['action']}`; rows with some: {personal['rows']:,}.\n",
        _table(["kind", "places"], [[kind, places] for kind, places in sorted(personal["places"].items())]),
        "## Sources\n",
        _table(
            ["source", "list", "weight", "read", *(f"used in {split}" for split in SPLITS)],
            [
                [
                    f"`{source['uri']}`",
                    source["list"],
                    source["weight"],
                    source["rowsRead"],
                    *(source["rowsUsed"].get(split, 0) for split in SPLITS),
                ]
                for source in card["sources"]
            ],
        ),
    ]
    if card["labels"]:
        lines = [[label["label"], *(label.get(split, 0) for split in SPLITS)] for label in card["labels"]]
        parts += ["## Labels\n", _table(["label", *SPLITS], lines)]
    return "\n".join(part for part in parts if part)


def _split_line(name: str, split: dict[str, Any]) -> list[Any]:
    lengths = split.get("lengths", {})
    points = [lengths.get(f"p{share}", "") for share in PERCENTILES]
    share = f"{split['supervisedShare']:.1%}" if lengths else ""
    return [
        name,
        split["rows"],
        split["tokens"],
        share,
        lengths.get("shortest", ""),
        *points,
        lengths.get("longest", ""),
    ]


def _table(head: list[str], lines: list[list[Any]]) -> str:
    if not lines:
        return ""
    rows = [
        [f"{cell:,}" if isinstance(cell, int) else str(cell).replace("|", "\\|") for cell in line] for line in lines
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]) + "\n"
