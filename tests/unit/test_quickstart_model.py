"""The base model of the quickstart is written once, however many callers want it at a time."""

from pathlib import Path

import pytest

from quickstart import model


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where the model goes; nothing is there yet."""
    found = tmp_path / "models" / "small"
    monkeypatch.setattr(model, "MODEL_DIR", found)
    return found


def test_a_caller_that_comes_second_takes_what_the_first_wrote(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def write(target: Path) -> None:
        target.mkdir()
        written.append(target)
        if len(written) == 1:  # another caller does all of it meanwhile
            model.build_model()
        (target / "model.safetensors").write_text(str(len(written)))

    monkeypatch.setattr(model, "_write", write)
    assert model.build_model() == folder
    assert len(written) == 2
    assert model.build_model() == folder
    assert len(written) == 2
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_model_that_could_not_be_written_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(target: Path) -> None:
        target.mkdir()
        raise OSError("disk full")

    monkeypatch.setattr(model, "_write", fail)
    with pytest.raises(OSError, match="disk full"):
        model.build_model()
    assert list(folder.parent.iterdir()) == []
