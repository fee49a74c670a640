"""Every metric that the operator serves is explained."""

from pathlib import Path

from finetune_operator.metrics import Metrics

PAGE = Path(__file__).resolve().parents[2] / "docs" / "observability.md"


def test_every_metric_is_explained():
    metrics = Metrics()
    metrics.watch_state(jobs=list, depth=lambda: 0, age=lambda: 0.0)
    page = PAGE.read_text()
    families = list(metrics.registry.collect())
    assert len(families) >= 12
    for family in families:
        suffix = "_total" if family.type == "counter" else ""
        assert f"`{family.name}{suffix}`" in page, family.name
