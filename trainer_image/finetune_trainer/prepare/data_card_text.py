"""The data card as Markdown."""

from collections.abc import Iterable
from typing import Any

from finetune_trainer.data.cache import SPLITS

PERCENTILES = (1, 10, 50, 90, 99)

Card = dict[str, Any]


def as_text(card: Card) -> str:
    """Return a card as Markdown."""
    parts = [
        f"# Data card\n\nFormat `{card['format']}`, objective `{card['objective']}`, {card['rowsRead']:,} rows read."
        f" SHA-256 of the prepared rows: `{card['digest']}`.\n",
        _warnings(card),
        "## Splits\n",
        _splits(card),
        "Lengths are in tokens; p90 is the length that 90 % of the rows do not exceed.\n",
        "## Left out\n",
        _left_out(card),
        _kept(card),
        "## Personal data\n",
        _personal_data(card),
        "## Sources\n",
        _sources(card),
        _labels(card),
    ]
    return "\n".join(part for part in parts if part)


def _warnings(card: Card) -> str:
    if not card["warnings"]:
        return ""
    return "## Warnings\n\n" + "".join(f"- {warning}\n" for warning in card["warnings"])


def _splits(card: Card) -> str:
    points = [f"p{share}" for share in PERCENTILES]
    columns = ["shortest", *points, "longest"]
    rows = []
    for name, split in card["splits"].items():
        lengths = split.get("lengths", {})
        share = f"{split['supervisedShare']:.1%}" if lengths else ""
        rows.append([name, split["rows"], split["tokens"], share, *(lengths.get(column, "") for column in columns)])
    return _table(["split", "rows", "tokens", "supervised", *columns], rows)


def _left_out(card: Card) -> str:
    left_out = card["leftOut"]
    causes = {
        "wrong": left_out["invalid"],
        **{f"- {kind}": rows for kind, rows in left_out["invalidKinds"].items()},
        "too long": sum(left_out["tooLong"].values()),
        "personal data": left_out["personalData"],
        "stands in validation or test too": left_out["inValidationOrTest"],
        "weight of the source": left_out["byWeight"],
    }
    return _table(["cause", "rows"], causes.items())


def _kept(card: Card) -> str:
    duplicates = card["duplicates"]
    return (
        f"Rows that repeat an earlier one (`deduplicate: {duplicates['action']}`): {duplicates['training']:,} of"
        f" training, {duplicates['validationAndTest']:,} of validation and test. Shortened: {card['truncated']:,}."
        f" Documents cut into several rows: {card['cutDocuments']:,}. General rows: {card['replayed']:,}.\n"
    )


def _personal_data(card: Card) -> str:
    found = card["personalData"]
    table = _table(["kind", "places"], sorted(found["places"].items())) if found["places"] else ""
    return f"Action `{found['action']}`; rows with some: {found['rows']:,}.\n\n{table}"


def _sources(card: Card) -> str:
    rows = [
        [f"`{source['uri']}`", source["list"], f"{source['weight']:g}", source["rowsRead"]]
        + [source["rowsUsed"].get(split, 0) for split in SPLITS]
        for source in card["sources"]
    ]
    return _table(["source", "list", "weight", "read", *(f"used in {split}" for split in SPLITS)], rows)


def _labels(card: Card) -> str:
    if not card["labels"]:
        return ""
    rows = [[label["label"], *(label.get(split, 0) for split in SPLITS)] for label in card["labels"]]
    return "## Labels\n\n" + _table(["label", *SPLITS], rows)


def _table(head: list[str], rows: Iterable[Iterable[Any]]) -> str:
    lines = [head, ["---"] * len(head), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|").replace("\n", " ")
