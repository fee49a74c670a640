"""Series of single jobs, for those that run now and for at most so many of them.

A job's name is a label here, so the number of series is bounded by a limit, and a series ends with its job. The jobs
that began first keep their place: series must not come and go when one more job starts. A gauge tells how many jobs
are left out.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from finetune_api.reasons import Phase
from finetune_operator.metrics import PREFIX
from finetune_operator.records import Entry, RawJob
from finetune_operator.workqueue import Key

LABELS = ("namespace", "name")


class _Series(NamedTuple):
    name: str
    text: str
    read: Callable[["_Job", datetime], float | None]


class JobMetrics(Collector):
    """Gauges of the jobs that run, computed from the store when they are scraped."""

    def __init__(
        self,
        jobs: Callable[[], Iterable[Entry]],
        *,
        limit: int,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._jobs = jobs
        self._limit = limit
        self._clock = clock

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield one family per series, empty ones too, and the number of jobs left out."""
        running, now = sorted(_running(self._jobs()), key=_age_order), self._clock()
        shown = [_opened(entry, record) for entry, record in running[: self._limit]]
        for series in SERIES:
            family = GaugeMetricFamily(f"{PREFIX}_job_{series.name}", series.text, labels=LABELS)
            for job in shown:
                value = series.read(job, now)
                if value is not None:
                    family.add_metric((job.namespace, job.name), value)
            yield family
        yield GaugeMetricFamily(
            f"{PREFIX}_jobs_without_series", "Running jobs beyond the limit.", value=len(running) - len(shown)
        )


class _Job(NamedTuple):
    namespace: str
    name: str
    spec: Mapping[str, Any]
    status: Mapping[str, Any]


def _running(entries: Iterable[Entry]) -> Iterator[tuple[Entry, RawJob]]:
    for entry in entries:
        record = entry.record
        if isinstance(record, RawJob) and record.phase == Phase.RUNNING.value:
            yield entry, record


def _age_order(running: tuple[Entry, RawJob]) -> tuple[str, Key]:
    entry, _ = running
    return entry.created, entry.key


def _opened(entry: Entry, record: RawJob) -> _Job:
    return _Job(entry.key.namespace, entry.key.name, record.spec, record.status)


def _progress(name: str) -> Callable[[_Job, datetime], float | None]:
    return lambda job, _: _number(_part(job.status, "progress").get(name))


def _checkpoint_age(job: _Job, now: datetime) -> float | None:
    """Return the seconds of training that a failure now would cost."""
    committed = _time(_part(job.status, "lastCheckpoint").get("time"))
    return _age(now, committed, _time(job.status.get("phaseTime")))


def _checkpoint_interval(job: _Job, _: datetime) -> float | None:
    minutes = _number(_part(job.spec, "checkpoint").get("everyMinutes"))
    return minutes * 60 if minutes else None


def _heartbeat_age(job: _Job, now: datetime) -> float | None:
    """Return the seconds since the attempt last spoke, or since it runs when it has not."""
    progress = _part(job.status, "progress")
    spoke = progress.get("lastUpdateTime") if progress.get("attempt") == job.status.get("attempt") else None
    return _age(now, _time(spoke), _time(job.status.get("phaseTime")))


SERIES = (
    _Series("tokens_per_second", "Tokens that a job trains on per second.", _progress("tokensPerSecond")),
    _Series("loss", "Training loss of a job.", _progress("loss")),
    _Series("eval_loss", "Newest validation loss of a job.", _progress("evalLoss")),
    _Series("step", "Optimizer steps that a job has done.", _progress("step")),
    _Series("total_steps", "Optimizer steps of a job's whole run.", _progress("totalSteps")),
    _Series("checkpoint_age_seconds", "Seconds of training since a job's newest commit.", _checkpoint_age),
    _Series("checkpoint_interval_seconds", "Seconds between two commits as a job asks.", _checkpoint_interval),
    _Series("heartbeat_age_seconds", "Seconds since a job's training last spoke.", _heartbeat_age),
)


def _part(whole: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = whole.get(name)
    return part if isinstance(part, Mapping) else {}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _age(now: datetime, *moments: datetime | None) -> float | None:
    """Return the seconds since the newest of the moments that are known."""
    newest = max((moment for moment in moments if moment), default=None)
    return None if newest is None else max(0.0, (now - newest).total_seconds())
