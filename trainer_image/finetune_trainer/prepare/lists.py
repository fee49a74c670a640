"""The lists of a job (test, validation, train, replay): their rows, and the format that all of them share."""

from collections.abc import Iterator
from functools import partial
from itertools import chain, count
from pathlib import Path

from finetune_api.spec import Data
from finetune_api.spec.job import ObjectiveType
from finetune_trainer.prepare.blocks import Block, cut
from finetune_trainer.prepare.columns import as_read, named, own_name
from finetune_trainer.prepare.formats import Format, detect
from finetune_trainer.prepare.problems import Problems, RowError, invalid_data
from finetune_trainer.prepare.readers import Row
from finetune_trainer.prepare.sources import LISTS, ListName, Source, SourceFile, fetch, find_files
from finetune_trainer.storage import Store


class RowLists:
    """The rows of a job's lists. Files are found at once, so that a missing one is told before any row is read."""

    def __init__(self, store: Store, data: Data, scratch: Path) -> None:
        self._data = data
        self._name_of = partial(own_name, data.columns)
        self._store = store
        self._scratch = scratch
        self.sources = _sources(data)
        self.files = [file for source in self.sources for file in find_files(store, source)]
        given = [name for name in LISTS if self._files_of(name)]
        self._blocks: dict[ListName, Iterator[Block]] = {name: self._cut(name) for name in given}

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.info.size for file in self.files)

    def format(self, objective: ObjectiveType) -> Format:
        """Return the format that is set, or that of the first training row that can be read."""
        if self._data.format != "auto":
            return self._data.format
        seen: list[Block] = []
        for block in self._blocks["train"]:
            seen.append(block)
            for row in named(block.rows(), self._data.columns):
                found = self._detect(row, objective)
                if not isinstance(found, RowError):
                    self._blocks["train"] = chain(seen, self._blocks["train"])
                    return found
        raise self._unreadable(seen, objective)

    def blocks(self) -> Iterator[Block]:
        """Yield the rows of each list that is given, in order. Raises StageFailure after one that holds none."""
        for blocks in self._blocks.values():
            yield from blocks

    def _cut(self, name: ListName) -> Iterator[Block]:
        is_empty = True
        for file, path in fetch(self._store, self._files_of(name), self._scratch / name):
            for block in cut(path, file.location.uri, file.source):
                is_empty = False
                yield block
        if is_empty:
            raise self._empty(name)

    def _files_of(self, name: ListName) -> list[SourceFile]:
        return [file for file in self.files if file.source.part_of == name]

    def _empty(self, name: ListName) -> Exception:
        files = ", ".join(file.location.uri for file in self._files_of(name)[:3])
        field = "replay.sources" if name == "replay" else name
        return invalid_data(f"the data set is empty: spec.data.{field} ({files}) holds no rows")

    def _detect(self, row: Row, objective: ObjectiveType) -> Format | RowError:
        """Return the format of a row, or why it cannot be read. Raises StageFailure when it is of none."""
        if isinstance(row.columns, RowError):
            return row.columns
        try:
            form = detect(row.columns, objective, self._name_of)
        except RowError as error:
            raise invalid_data(f"{row.place}: {error.field}: {error.text}") from error
        columns = as_read(row, form).columns
        return columns if isinstance(columns, RowError) else form

    def _unreadable(self, blocks: list[Block], objective: ObjectiveType) -> Exception:
        """Return the failure of a list in which there is no row that can be read."""
        problems = Problems(self._name_of)
        for row in named(chain.from_iterable(block.rows() for block in blocks), self._data.columns):
            found = self._detect(row, objective)
            assert isinstance(found, RowError)  # noqa: S101 - else it would have told the format
            problems.add(row.place, found)
        return problems.failure(problems.total)


def _sources(data: Data) -> list[Source]:
    """Return the sources of all lists, in the order they are read."""
    numbers = count()
    replay = data.replay.sources if data.replay else []
    held_out: list[tuple[ListName, str]] = [("test", source.uri) for source in data.test]
    held_out += [("validation", source.uri) for source in data.validation]
    return [
        *(Source(next(numbers), name, uri) for name, uri in held_out),
        *(Source(next(numbers), "train", source.uri, source.weight) for source in data.train),
        *(Source(next(numbers), "replay", source.uri) for source in replay),
    ]
