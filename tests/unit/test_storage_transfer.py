"""The pure parts of moving bytes, and the scratch space."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.errors import StageFailure
from finetune_trainer.storage import scratch
from finetune_trainer.storage.digest import sha256_of, sha256_of_file
from finetune_trainer.storage.scratch import NoSpaceError, path_below, require_space
from finetune_trainer.storage.transfer import PART_BYTES, parts_of, writer_of


@given(size=st.integers(0, 10 * PART_BYTES))
def test_parts_cover_an_object_once_and_in_order(size: int) -> None:
    parts = list(parts_of(size))
    ends = [0, *(part.start + part.length for part in parts)]
    assert [part.start for part in parts] == ends[:-1]
    assert ends[-1] == size
    assert all(0 < part.length <= PART_BYTES for part in parts)


@pytest.mark.parametrize(("size", "ranged"), [(1, False), (PART_BYTES, False), (PART_BYTES + 1, True)])
def test_only_what_has_several_parts_is_fetched_by_range(size: int, ranged: bool) -> None:
    assert {part.ranged for part in parts_of(size)} == {ranged}


@pytest.mark.parametrize(
    ("data", "writer"),
    [
        (b'{"writer": "a1-x"}', "a1-x"),
        (b"{}", None),
        (b"[]", None),
        (b"not json", None),
        (b"\xff", None),
        (b"", None),
    ],
)
def test_the_writer_of_an_object(data: bytes, writer: str | None) -> None:
    assert writer_of(data) == writer


def test_digests_of_bytes_and_files_agree(tmp_path: Path) -> None:
    data = os.urandom(100_000)
    (tmp_path / "file").write_bytes(data)
    assert sha256_of_file(tmp_path / "file") == sha256_of(data)


PATHS = [
    ("run/data/x/y", "run/data", "x/y"),
    ("run/data/x/y", "run/data/", "x/y"),
    ("run/data/x", "", "run/data/x"),
    ("/x", "", "x"),
]


@pytest.mark.parametrize(("key", "prefix", "path"), PATHS)
def test_a_key_becomes_a_path(key: str, prefix: str, path: str) -> None:
    assert path_below(Path("work"), key, prefix) == Path("work") / path


@pytest.mark.parametrize("key", ["../x", "a/../../x", "run/../x"])
def test_a_key_cannot_lead_out_of_its_folder(key: str) -> None:
    with pytest.raises(StageFailure, match="leads out of its folder"):
        path_below(Path("work"), key, "run")


def test_a_lack_of_space_is_told_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "disk_usage", lambda path: SimpleNamespace(free=10))
    require_space(tmp_path / "new", 10)
    with pytest.raises(NoSpaceError, match="11 bytes are needed and 10 are free") as caught:
        require_space(tmp_path / "new", 11)
    assert (caught.value.errno, caught.value.needed) == (errno.ENOSPC, 11)
