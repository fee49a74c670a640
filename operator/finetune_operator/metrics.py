"""Metrics of the operator, served at /metrics; docs/observability.md explains each.

Labels hold closed sets only (phase, reason, verb, code, cause) beside the namespace: a step, a uid or a job's name
as a label would make series grow without bound.
"""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

PREFIX = "finetune_operator"
RECONCILE_BUCKETS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """All metrics of one operator process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.api_calls = self._counter("api_calls", "Calls to the API server.", ("verb", "kind", "code"))
        self.reconcile_seconds = Histogram(
            f"{PREFIX}_reconcile_seconds",
            "Seconds of one pass over one job, calls included.",
            registry=self.registry,
            buckets=RECONCILE_BUCKETS,
        )
        self.reconcile_failures = self._counter("reconcile_failures", "Passes that failed.", ("cause",))
        self.restarts = self._counter(
            "restarts", "New attempts by the reason of the one before.", ("namespace", "reason")
        )
        self.finished = self._counter("finished_jobs", "Jobs that ended.", ("namespace", "phase", "reason"))
        self.progress = self._counter("progress_samples", "Progress samples by verdict.", ("verdict",))
        self.token_reviews = self._counter("token_reviews", "Token reviews asked of the API server.", ("verdict",))
        self.relists = self._counter("relists", "Comparisons with the API server by outcome.", ("outcome",))
        self.drift = self._counter("relist_drift", "Jobs that a relist found changed before an event told.", ())

    def watch_state(
        self, *, jobs: Callable[[], Iterable[tuple[str, str]]], depth: Callable[[], int], age: Callable[[], float]
    ) -> None:
        """Add the gauges that are read at each scrape.

        `jobs` yields (namespace, phase) of every job, `depth` the keys in line, `age` the seconds of the oldest one.
        """
        self.registry.register(_State(jobs=jobs, depth=depth, age=age))

    def render(self) -> bytes:
        """Return the text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"{PREFIX}_{name}", text, labels, registry=self.registry)


class _State(Collector):
    """Gauges computed from the store and the queue when they are scraped, so that they cannot go stale."""

    def __init__(
        self, *, jobs: Callable[[], Iterable[tuple[str, str]]], depth: Callable[[], int], age: Callable[[], float]
    ) -> None:
        self._jobs, self._depth, self._age = jobs, depth, age

    def collect(self) -> Iterator[GaugeMetricFamily]:
        counts: dict[tuple[str, str], int] = {}
        for place in self._jobs():
            counts[place] = counts.get(place, 0) + 1
        jobs = GaugeMetricFamily(f"{PREFIX}_jobs", "FineTuneJobs by phase.", labels=("namespace", "phase"))
        for place, count in counts.items():
            jobs.add_metric(place, count)
        yield jobs
        yield GaugeMetricFamily(f"{PREFIX}_queue_depth", "Jobs that wait for a worker.", value=self._depth())
        yield GaugeMetricFamily(
            f"{PREFIX}_queue_oldest_seconds", "Age of the oldest job that waits or is worked on.", value=self._age()
        )
