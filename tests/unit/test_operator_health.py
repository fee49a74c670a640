"""What the probes and the metrics tell."""

import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import Counter, Histogram

from finetune_operator.health import Health, probe_application
from finetune_operator.metrics import Metrics


def health(
    *,
    age: float = 0,
    relists: int = 0,
    lease: bool = True,
    alive: bool = True,
    primed: bool = True,
    knows_leader: bool = False,
) -> Health:
    return Health(
        oldest_age=lambda: age,
        failed_relists=lambda: relists,
        holds_lease=lambda: lease,
        stands_by=lambda: knows_leader,
        workers_alive=alive,
        primed=primed,
    )


@pytest.mark.parametrize(
    ("facts", "alive", "ready"),
    [
        (health(), 200, 200),
        (health(age=119), 200, 200),
        (health(age=121), 500, 200),
        (health(relists=1), 200, 200),
        (health(relists=2), 500, 200),
        (health(alive=False), 500, 200),
        (health(lease=False), 200, 503),
        (health(primed=False), 200, 503),
        (health(lease=False, primed=False, knows_leader=True), 200, 200),
        (health(primed=False, knows_leader=True), 200, 503),
    ],
)
async def test_probes(facts: Health, alive: int, ready: int) -> None:
    async with TestClient(TestServer(probe_application(facts, Metrics()))) as client:
        assert (await client.get("/healthz")).status == alive
        assert (await client.get("/readyz")).status == ready


async def test_metrics_show_jobs_and_queue_as_they_are_when_scraped() -> None:
    metrics, jobs = Metrics(), [("a", "Running"), ("a", "Running"), ("b", "Failed")]
    metrics.watch_state(jobs=lambda: jobs, depth=lambda: 3, age=lambda: 1.5)
    async with TestClient(TestServer(probe_application(health(), metrics))) as client:
        text = await (await client.get("/metrics")).text()
        assert 'finetune_operator_jobs{namespace="a",phase="Running"} 2.0' in text
        assert 'finetune_operator_jobs{namespace="b",phase="Failed"} 1.0' in text
        assert "finetune_operator_queue_depth 3.0" in text
        assert "finetune_operator_queue_oldest_seconds 1.5" in text
        jobs.clear()
        text = await (await client.get("/metrics")).text()
        assert 'phase="Running"' not in text


def test_no_metric_has_a_label_that_a_user_fills_but_the_namespace() -> None:
    counters = [value for value in vars(Metrics()).values() if isinstance(value, Counter | Histogram)]
    labels = {label for counter in counters for label in counter._labelnames}
    assert len(counters) >= 15
    assert labels == {"verb", "kind", "code", "cause", "namespace", "reason", "phase", "verdict", "outcome"}
