"""What a user can meet is explained: every reason, phase and exit code."""

from pathlib import Path

import pytest

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Phase, Reason

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("word", [*Reason, *Phase])
def test_every_reason_and_phase_is_explained(word):
    assert f"`{word}`" in (DOCS / "troubleshooting.md").read_text()


@pytest.mark.parametrize("code", [int(code) for code in ExitCode])
def test_every_exit_code_is_explained(code):
    assert f"| {code}" in (DOCS / "checkpoints.md").read_text()
