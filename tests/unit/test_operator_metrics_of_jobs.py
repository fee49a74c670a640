"""Series of single jobs: what they tell, how many there are, and when they vanish."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from finetune_loopback.kube_objects import raw_job
from finetune_operator.job_metrics import SERIES, JobMetrics
from finetune_operator.kinds import FINE_TUNE_JOB
from finetune_operator.store import Store

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


class Board:
    """A store with the metrics of its jobs."""

    def __init__(self, limit: int = 100) -> None:
        self.store, self.registry, self.version = Store(), CollectorRegistry(), 0
        self.registry.register(JobMetrics(self.store.jobs, limit=limit, clock=lambda: NOW))

    def put(
        self, name: str = "bot", *, created: float = 0, spec: dict[str, Any] | None = None, **status: Any
    ) -> None:
        self.version += 1
        job = raw_job(name, uid=f"uid-{name}", version=self.version, created=ago(1000 - created), **status)
        self.store.put(FINE_TUNE_JOB, {**job, "spec": spec or {}})

    def value(self, series: str, name: str = "bot") -> float | None:
        labels = {"namespace": "ns", "name": name}
        return self.registry.get_sample_value(f"finetune_operator_job_{series}", labels)

    @property
    def left_out(self) -> float | None:
        return self.registry.get_sample_value("finetune_operator_jobs_without_series")

    @property
    def shown(self) -> set[str]:
        samples = (sample for family in self.registry.collect() for sample in family.samples)
        return {sample.labels["name"] for sample in samples if "name" in sample.labels}


def progress(**told: Any) -> dict[str, Any]:
    return {"attempt": 1, "step": 40, "totalSteps": 100, "lastUpdateTime": ago(7), **told}


def test_a_running_job_tells_where_it_is() -> None:
    board = Board()
    told = progress(tokensPerSecond=1234.5, loss=0.81, evalLoss=0.9)
    board.put(phase="Running", attempt=1, phaseTime=ago(600), progress=told)
    found = {
        series: board.value(series) for series in ("tokens_per_second", "loss", "eval_loss", "step", "total_steps")
    }
    assert found == {"tokens_per_second": 1234.5, "loss": 0.81, "eval_loss": 0.9, "step": 40, "total_steps": 100}


def test_what_is_not_known_has_no_series() -> None:
    board = Board()
    board.put(phase="Running", attempt=1, phaseTime=ago(600))
    known = {series.name for series in SERIES if board.value(series.name) is not None}
    assert known == {"checkpoint_age_seconds", "heartbeat_age_seconds"}


@pytest.mark.parametrize(
    ("status", "age"),
    [
        ({"phaseTime": ago(600)}, 600),
        ({"phaseTime": ago(600), "lastCheckpoint": {"time": ago(120)}}, 120),
        ({"phaseTime": ago(600), "lastCheckpoint": {"time": ago(9000)}}, 600),
        ({"phaseTime": ago(600), "lastCheckpoint": {"time": ago(-30)}}, 0),
        ({"phaseTime": ago(600), "lastCheckpoint": {"time": "yesterday"}}, 600),
    ],
)
def test_checkpoint_age_counts_from_the_commit_or_from_the_start_of_the_attempt(
    status: dict[str, Any], age: float
) -> None:
    board = Board()
    board.put(phase="Running", attempt=1, **status)
    assert board.value("checkpoint_age_seconds") == age


@pytest.mark.parametrize(("minutes", "seconds"), [(10, 600), (0.5, 30), (0, None), (None, None)])
def test_checkpoint_interval_is_what_the_job_asks(minutes: float | None, seconds: float | None) -> None:
    board = Board()
    board.put(phase="Running", spec={"checkpoint": {"everyMinutes": minutes}})
    assert board.value("checkpoint_interval_seconds") == seconds


@pytest.mark.parametrize(
    ("told", "age"),
    [(progress(), 7), (progress(attempt=0), 600), (progress(lastUpdateTime=None), 600), (None, 600)],
    ids=["spoke", "attempt before spoke", "no time", "never spoke"],
)
def test_heartbeat_age_counts_from_the_last_word_of_this_attempt(told: dict[str, Any] | None, age: float) -> None:
    board = Board()
    board.put(phase="Running", attempt=1, phaseTime=ago(600), progress=told)
    assert board.value("heartbeat_age_seconds") == age


@pytest.mark.parametrize("phase", ["Succeeded", "Restarting", "Suspended"])
def test_series_vanish_when_a_job_no_longer_runs(phase: str) -> None:
    board = Board()
    board.put(phase="Running", phaseTime=ago(600), progress=progress())
    assert board.shown == {"bot"}
    board.put(phase=phase, phaseTime=ago(1), progress=progress())
    assert board.shown == set()


def test_the_jobs_that_began_first_keep_their_series() -> None:
    board = Board(limit=2)
    for created, name in enumerate(("c", "a", "b")):
        board.put(name, created=created, phase="Running", phaseTime=ago(600))
    assert (board.shown, board.left_out) == ({"c", "a"}, 1)
    board.put("c", created=0, phase="Succeeded", phaseTime=ago(1))
    assert (board.shown, board.left_out) == ({"a", "b"}, 0)


def test_no_series_at_all_when_the_limit_is_zero() -> None:
    board = Board(limit=0)
    board.put(phase="Running", phaseTime=ago(600))
    assert (board.shown, board.left_out) == (set(), 1)


def test_series_are_bounded_with_many_jobs() -> None:
    board = Board(limit=100)
    for number in range(2000):
        board.put(f"job-{number:04}", created=number / 10, phase="Running", phaseTime=ago(600), progress=progress())
    samples = [sample for family in board.registry.collect() for sample in family.samples]
    assert len(samples) <= 100 * len(SERIES) + 1
    assert board.left_out == 1900
