"""The lists of a job (train, validation, test): their rows, and the format that all of them share."""

from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path

from finetune_api.spec import Data
from finetune_api.spec.job import ObjectiveType
from finetune_trainer.data.cache import SplitName
from finetune_trainer.prepare.columns import named, own_name
from finetune_trainer.prepare.formats import Format, detect
from finetune_trainer.prepare.problems import Problems, RowError, invalid_data
from finetune_trainer.prepare.readers import Row
from finetune_trainer.prepare.sources import find_files, read_rows
from finetune_trainer.storage import Store


class RowLists:
    """The rows of a job's lists. Files are found at once, so that a missing one is told before any row is read."""

    def __init__(self, store: Store, data: Data, scratch: Path) -> None:
        self._data = data
        self._name_of = partial(own_name, data.columns)
        # Held-out lists first: training rows are compared with them.
        self._files = {
            split: find_files(store, sources)
            for split, sources in (("test", data.test), ("validation", data.validation), ("train", data.train))
        }
        self._store = store
        self._scratch = scratch
        self._train = self._read("train")

    def format(self, objective: ObjectiveType) -> Format:
        """Return the format that is set, or that of the first training row that can be read."""
        if self._data.format != "auto":
            return self._data.format
        seen: list[Row] = []
        for row in self._train:
            seen.append(row)
            if not isinstance(row.columns, RowError):
                self._train = chain(seen, self._train)
                return self._detect(row, objective)
        problems = Problems(self._name_of)
        for row in seen:
            assert isinstance(row.columns, RowError)  # noqa: S101 - else it would have told the format
            problems.add(row.place, row.columns)
        problems.raise_if_any(len(seen))
        raise self._empty("train")

    def rows(self) -> Iterator[tuple[SplitName, Iterator[Row]]]:
        """Yield each list that is given with its rows. Raises StageFailure after one that holds none."""
        if self._data.test:
            yield "test", self._counted("test", self._read("test"))
        if self._data.validation:
            yield "validation", self._counted("validation", self._read("validation"))
        yield "train", self._counted("train", self._train)

    def _read(self, split: SplitName) -> Iterator[Row]:
        return named(read_rows(self._store, self._files[split], self._scratch / split), self._data.columns)

    def _counted(self, split: SplitName, rows: Iterator[Row]) -> Iterator[Row]:
        row = None
        for row in rows:
            yield row
        if row is None:
            raise self._empty(split)

    def _empty(self, split: SplitName) -> Exception:
        files = ", ".join(file.uri for file in self._files[split][:3])
        return invalid_data(f"the data set is empty: spec.data.{split} ({files}) holds no rows")

    def _detect(self, row: Row, objective: ObjectiveType) -> Format:
        assert not isinstance(row.columns, RowError)  # noqa: S101
        try:
            return detect(row.columns, objective, self._name_of)
        except RowError as error:
            raise invalid_data(f"{row.place}: {error.field}: {error.text}") from error
