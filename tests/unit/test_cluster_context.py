"""Staged build contexts: what a Dockerfile takes, and a key of content alone."""

import os
from pathlib import Path

import pytest
from finetune_cluster.context import FIXED_TIME, copied_sources, staged
from finetune_cluster.layout import REPOSITORY
from finetune_cluster.process import ClusterError


@pytest.mark.parametrize(
    ("dockerfile", "expected"),
    [
        ("FROM x\nRUN cp a b\n", []),
        ("COPY a /b\n", ["a"]),
        ("copy --chown=1:1 a b /c/\n", ["a", "b"]),
        ("COPY --from=build /opt /opt\nADD data /data\n", ["data"]),
        ("COPY a \\\n  # why\n  b \\\n  /c\n", ["a", "b"]),
        ("# COPY a b\nRUN echo \\\n  COPY x y\n", []),
    ],
)
def test_copied_sources(dockerfile: str, expected: list[str]) -> None:
    assert copied_sources(dockerfile) == expected


@pytest.mark.parametrize(
    "step",
    ["COPY *.txt /a", 'COPY ["a", "b"]', "COPY $X /a", "COPY <<EOF /a", "ADD https://example.org/a /a", "COPY a"],
)
def test_unreadable_forms_are_refused_with_their_line(step: str) -> None:
    with pytest.raises(ClusterError, match=r"Dockerfile line 2: .* must name plain files"):
        copied_sources(f"FROM x\n{step}\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "code" / "__pycache__").mkdir(parents=True)
    (root / "code" / "a.py").write_text("1")
    (root / "code" / "__pycache__" / "a.pyc").write_text("x")
    (root / "secret").write_text("no")
    (root / "Dockerfile").write_text("FROM x\nCOPY code /app\n")
    return root


def _key(root: Path, target: Path) -> str:
    with staged(root, root / "Dockerfile", target) as context:
        return context.key


def test_staging_takes_what_is_copied_and_nothing_else(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "staged"
    with staged(root, root / "Dockerfile", target) as context:
        files = [path for path in context.folder.rglob("*") if path.is_file()]
        assert [str(path.relative_to(context.folder)) for path in files] == ["code/a.py"]
        assert {path.stat().st_mtime for path in context.folder.rglob("*")} == {FIXED_TIME}
        assert context.dockerfile.read_text() == (root / "Dockerfile").read_text()
    assert not target.exists()


def test_key_follows_content_and_not_times(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "staged"
    key = _key(root, target)
    os.utime(root / "code" / "a.py", (1, 1))
    (root / "secret").write_text("other")
    assert _key(root, target) == key
    (root / "code" / "a.py").chmod(0o755)
    assert _key(root, target) != key
    (root / "code" / "a.py").chmod(0o644)
    (root / "code" / "a.py").write_text("2")
    assert _key(root, target) != key


@pytest.mark.parametrize("source", ["missing", "../outside"])
def test_source_outside_the_repository_is_refused(root: Path, tmp_path: Path, source: str) -> None:
    (root / "Dockerfile").write_text(f"FROM x\nCOPY {source} /a\n")
    with pytest.raises(ClusterError, match=f"Dockerfile copies {source}, which is not in"):
        _key(root, tmp_path / "staged")


@pytest.mark.parametrize(
    "dockerfile", ["operator/Dockerfile", "trainer_image/Dockerfile", "dev/cluster/images/s3.Dockerfile"]
)
def test_the_projects_dockerfiles_can_be_read_and_name_existing_files(dockerfile: str) -> None:
    for source in copied_sources((REPOSITORY / dockerfile).read_text()):
        assert (REPOSITORY / source).exists()
