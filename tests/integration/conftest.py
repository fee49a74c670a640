"""Fixtures of the tests that run the stages for real."""

import pytest
from train_jobs import make_job

__all__ = ["examined_here", "make_job"]


@pytest.fixture
def examined_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results are examined in this process: a fresh one only adds its start, and is tried with the export stage."""
    from finetune_trainer.export import examine, fresh

    monkeypatch.setattr(examine, "in_fresh_process", lambda request, _: fresh.Examiner(request).examine())
