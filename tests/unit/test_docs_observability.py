"""Every metric that the operator serves is explained, and none that it does not serve."""

import re
from pathlib import Path

from prometheus_client import CollectorRegistry

from finetune_operator.job_metrics import JobMetrics
from finetune_operator.metrics import Metrics

PAGE = Path(__file__).resolve().parents[2] / "docs" / "observability.md"


def served() -> CollectorRegistry:
    metrics = Metrics()
    metrics.watch_state(jobs=list, depth=lambda: 0, age=lambda: 0.0)
    metrics.watch_replica(leads=lambda: True, certificate_end=lambda: None)
    metrics.registry.register(JobMetrics(list, limit=1))
    return metrics.registry


def test_every_metric_is_explained_and_no_other() -> None:
    rows = [line.split("|")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    explained = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}
    families = list(served().collect())
    assert len(families) >= 30
    names = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    assert names == explained
