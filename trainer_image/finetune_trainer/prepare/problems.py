"""What is wrong with a row, said as `file:line: field: problem`, and the verdict over a whole data set.

Wrong rows may be allowed; a file that cannot be read to its end never is, since nobody knows how many rows it held.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_trainer import log
from finetune_trainer.errors import StageFailure

LISTED_IN_LOG = 20
_LISTED_IN_MESSAGE = 3
_KINDS = 20
_MESSAGE_CHARACTERS = 1100
_LISTED_COLUMNS = 10
_NAME = re.compile(r"[A-Za-z_]{1,40}|[A-Za-z_]{1,38}[0-9]{1,2}")
"""Names that may stand in a message, of columns, roles and labels. Others may be values, and personal data with them:
of a CSV file without a header line its first row stands there."""


class RowError(Exception):
    """A field of a row is wrong."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(field, text)
        self.field = field
        self.text = text


class FileError(RowError):
    """A file cannot be read from here on."""


@dataclass(frozen=True)
class Place:
    """Where a row stands: a line of a text file, or a row of a Parquet file (both from 1)."""

    file: str
    number: int
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.unit}{self.number}"


@dataclass
class Problems:
    """All that is wrong with the rows: the first ones in words, the rest in number."""

    name_of: Callable[[str], str] = str
    """From the name of a field to the one that the rows have for it."""
    total: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    """How many of each kind: field and problem without what differs from row to row."""
    broken_files: list[str] = field(default_factory=list)
    """All of them, in words."""
    first_rows: list[str] = field(default_factory=list)

    @property
    def first(self) -> list[str]:
        """What is told in words: files that break off before all others."""
        return self.broken_files + self.first_rows

    def add(self, place: Place, error: RowError) -> None:
        """Note one invalid row."""
        name = self.name_of(error.field)
        self.total += 1
        self.kinds[_kind(name, error.text)] += 1
        is_file = isinstance(error, FileError)
        # A file that breaks off fails the job whatever is allowed, so it is named however many rows were before it.
        if is_file or len(self.first) < LISTED_IN_LOG:
            text = f"{place}: {name}: {error.text}" if name else f"{place}: {error.text}"
            (self.broken_files if is_file else self.first_rows).append(text)
            log.error("invalid-row", problem=text)

    def exceed(self, allowed: int) -> bool:
        """Whether more is wrong than is allowed."""
        return bool(self.broken_files) or self.total > allowed

    def raise_if_any(self, rows: int, *, allowed: int = 0) -> None:
        """Raise StageFailure with the first problems and the total when there are more than are allowed."""
        if self.total:
            log.warning("invalid-rows", rows=self.total, allowed=allowed, kinds=dict(self.kinds.most_common(_KINDS)))
        if self.exceed(allowed):
            raise self.failure(rows, allowed=allowed)

    def failure(self, rows: int, *, allowed: int = 0) -> StageFailure:
        """Return the failure of so many rows, with the first problems and the total."""
        shown = self.first[:_LISTED_IN_MESSAGE]
        while len(shown) > 1 and sum(map(len, shown)) > _MESSAGE_CHARACTERS:
            shown.pop()
        verb = "rows is" if self.total == 1 else "rows are"
        more = "" if self.total == len(shown) else f"; the log lists {len(self.first)} of them and counts the kinds"
        if allowed:
            kind = ", but no file that cannot be read to its end" if self.broken_files else ""
            more += f"; spec.data.maxInvalidRows allows {allowed}{kind}"
        return invalid_data(f"{self.total} of {rows} {verb} invalid: {'; '.join(shown)}{more}")


def is_name(value: object) -> bool:
    """Tell whether a value of a row is a plain, short word, which a message may repeat."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def called(column: str, number: int) -> str:
    """Return how a message calls the column with a number, from 1."""
    return repr(column) if is_name(column) else str(number)


def listed(columns: Iterable[str]) -> str:
    """Return how a message lists columns."""
    every = list(columns)
    names = [repr(column) for column in every if is_name(column)][:_LISTED_COLUMNS]
    more = len(every) - len(names)
    if names:
        return ", ".join(names) + (f" and {more} more" if more else "")
    like = "name looks like a value" if more == 1 else "names look like values"
    return f"{more} whose {like} (a CSV file begins with a line of names)" if more else "none"


def _kind(name: str, text: str) -> str:
    """Return the field and the problem with numbers and quoted values left out."""
    name = re.sub(r"\[\d+\]", "[]", name)
    text = re.sub(r""""[^"]*"|'[^']*'|\d+""", "…", text.split(";", maxsplit=1)[0])
    return f"{name}: {text}" if name else text


def invalid_data(message: str) -> StageFailure:
    """Return the failure of a data set that cannot be trained on."""
    return StageFailure(ExitCode.INVALID, Reason.INVALID_DATA, message)
