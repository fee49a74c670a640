"""Metrics of the operator, served at /metrics; docs/observability.md explains each.

Labels hold closed sets only (phase, reason, verb, code, cause) beside the namespace: a step, a uid or a job's name
as a label would make series grow without bound. The series of single jobs are in `job_metrics`, behind a limit.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client import generate_latest as generate
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

import finetune_operator

PREFIX = "finetune_operator"
CALL_BUCKETS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
HOUR = 3600
PHASE_BUCKETS = (1, 5, 15, 30, 60, 300, 900, HOUR, 4 * HOUR, 12 * HOUR, 24 * HOUR, 72 * HOUR, 168 * HOUR)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series beside each counter, which no rule reads


class Metrics:
    """All metrics of one operator process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.api_calls = self._counter("api_calls", "Calls to the API server.", ("verb", "kind", "code"))
        self.api_call_seconds = self._histogram(
            "api_call_seconds", "Seconds of one call to the API server.", ("verb",)
        )
        self.reconcile_seconds = self._histogram("reconcile_seconds", "Seconds of one pass over one job, with calls.")
        self.reconcile_failures = self._counter("reconcile_failures", "Passes that failed.", ("cause",))
        self.phase_seconds = self._histogram(
            "phase_seconds", "Seconds that a job spent in a phase it left.", ("phase",), buckets=PHASE_BUCKETS
        )
        self.restarts = self._counter(
            "restarts", "New attempts by the reason of the one before.", ("namespace", "reason")
        )
        self.finished = self._counter("finished_jobs", "Jobs that ended.", ("namespace", "phase", "reason"))
        self.node_seconds = self._counter("node_seconds", "Seconds of training pods on nodes.", ("namespace",))
        self.gpu_seconds = self._counter("gpu_seconds", "The same, times the GPUs of a pod.", ("namespace",))
        self.wasted_node_seconds = self._counter("wasted_node_seconds", "Those whose work was lost.", ("namespace",))
        self.wasted_gpu_seconds = self._counter("wasted_gpu_seconds", "Those whose work was lost.", ("namespace",))
        self.progress = self._counter("progress_samples", "Progress samples by verdict.", ("verdict",))
        self.token_reviews = self._counter("token_reviews", "Token reviews asked of the API server.", ("verdict",))
        self.relists = self._counter("relists", "Comparisons with the API server by outcome.", ("outcome",))
        self.drift = self._counter("relist_drift", "Jobs that a relist found changed before an event told.", ())
        for cause in ("transient", "refused", "bug"):  # a rise from nothing is no rise to Prometheus
            self.reconcile_failures.labels(cause)

    def watch_state(
        self, *, jobs: Callable[[], Iterable[tuple[str, str]]], depth: Callable[[], int], age: Callable[[], float]
    ) -> None:
        """Add the gauges that are read at each scrape.

        `jobs` yields (namespace, phase) of every job, `depth` the keys in line, `age` the seconds of the oldest one.
        """
        self.registry.register(_State(jobs=jobs, depth=depth, age=age))

    def watch_replica(self, *, leads: Callable[[], bool], certificate_end: Callable[[], datetime | None]) -> None:
        """Add what tells of this replica: its version, whether it leads, until when its certificate is valid."""
        self.registry.register(_Replica(leads=leads, certificate_end=certificate_end))

    def render(self) -> bytes:
        """Return the text that Prometheus scrapes."""
        return generate(self.registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"{PREFIX}_{name}", text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, labels: tuple[str, ...] = (), *, buckets: tuple[float, ...] = CALL_BUCKETS
    ) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", text, labels, registry=self.registry, buckets=buckets)


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


class _Replica(Collector):
    """What is true of one replica when it is asked."""

    def __init__(self, *, leads: Callable[[], bool], certificate_end: Callable[[], datetime | None]) -> None:
        self._leads, self._certificate_end = leads, certificate_end

    def collect(self) -> Iterator[GaugeMetricFamily]:
        build = GaugeMetricFamily(f"{PREFIX}_build_info", "Version of this replica; always 1.", labels=("version",))
        build.add_metric((finetune_operator.__version__,), 1)
        yield build
        yield GaugeMetricFamily(f"{PREFIX}_leader", "1 where this replica holds the Lease.", value=self._leads())
        end = GaugeMetricFamily(
            f"{PREFIX}_certificate_end_timestamp_seconds", "When the certificate ends.", labels=()
        )
        moment = self._certificate_end()
        if moment:
            end.add_metric((), moment.timestamp())
        yield end
