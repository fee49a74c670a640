"""What the chart brings for Prometheus and Grafana: switches, labels, and queries over metrics that exist."""

import json
import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from finetune_loopback.helm import CHART, NAMESPACE, RELEASE, HelmError, Manifest, find, render
from finetune_loopback.kube_api import REPOSITORY, binaries
from finetune_operator.job_metrics import JobMetrics
from finetune_operator.metrics import Metrics
from finetune_operator.settings import Settings

RULES = CHART / "rules/finetune-operator.yaml"
KINDS = {"serviceMonitor": "ServiceMonitor", "alerts": "PrometheusRule", "dashboard": "ConfigMap"}
WORD = re.compile(r"\b(?:finetune_operator|process)_[a-z_]+")


def metrics() -> Metrics:
    """All metrics, as a replica wires them."""
    metrics = Metrics()
    metrics.watch_state(jobs=list, depth=lambda: 0, age=lambda: 0.0)
    metrics.watch_replica(leads=lambda: True, certificate_end=lambda: None)
    metrics.registry.register(JobMetrics(list, limit=1))
    return metrics


def served() -> set[str]:
    """Names of all series that the operator serves."""
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}
    return {family.name + ending for family in metrics().registry.collect() for ending in endings[family.type]}


def alerts() -> list[Manifest]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> Manifest:
    manifest = find(render({"dashboard": {"enabled": True}}), "ConfigMap")
    return dict(json.loads(manifest["data"]["finetune-operator.json"]))


def queries() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())]


def operator_settings(values: dict[str, Any]) -> Settings:
    (container,) = find(render(values), "Deployment")["spec"]["template"]["spec"]["containers"]
    env = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    return Settings.from_environment({**env, "OPERATOR_NAMESPACE": NAMESPACE})


def test_nothing_of_it_unless_asked() -> None:
    assert not set(KINDS.values()) & {manifest["kind"] for manifest in render()}


@pytest.mark.parametrize(("block", "kind"), KINDS.items())
def test_each_switch_adds_one_object_with_the_users_labels(block: str, kind: str) -> None:
    values = {block: {"enabled": True, "labels": {"release": "prometheus", "app.kubernetes.io/name": "mine"}}}
    added = {(one["kind"], one["metadata"]["name"]) for one in render(values)} - {
        (one["kind"], one["metadata"]["name"]) for one in render()
    }
    manifest = find(render(values), kind)
    assert added == {(kind, manifest["metadata"]["name"])}
    assert manifest["metadata"]["namespace"] == NAMESPACE
    assert manifest["metadata"]["labels"]["release"] == "prometheus"
    assert manifest["metadata"]["labels"]["app.kubernetes.io/name"] == "finetune-operator"


def test_monitor_selects_the_metrics_port_of_the_service_and_keeps_the_namespace_of_the_jobs() -> None:
    manifests = render({"serviceMonitor": {"enabled": True, "interval": "15s"}})
    spec, service = find(manifests, "ServiceMonitor")["spec"], find(manifests, "Service")
    (endpoint,) = spec["endpoints"]
    assert spec["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert endpoint == {"port": "metrics", "interval": "15s", "honorLabels": True}
    assert "metrics" in {port["name"] for port in service["spec"]["ports"]}


def test_rules_are_those_of_the_file_with_the_users_runbook() -> None:
    plain = find(render({"alerts": {"enabled": True}}), "PrometheusRule")
    assert plain["spec"] == yaml.safe_load(RULES.read_text())
    moved = find(render({"alerts": {"enabled": True, "runbook": "https://wiki.example.com/ops"}}), "PrometheusRule")
    links = {rule["annotations"]["runbook_url"] for group in moved["spec"]["groups"] for rule in group["rules"]}
    assert len(links) == len(alerts())
    assert all(link.startswith("https://wiki.example.com/ops#") for link in links)


def test_dashboard_is_found_by_grafana_and_may_bear_another_value() -> None:
    labels = find(render({"dashboard": {"enabled": True}}), "ConfigMap")["metadata"]["labels"]
    assert labels["grafana_dashboard"] == "1"
    values = {"dashboard": {"enabled": True, "labels": {"grafana_dashboard": "ml"}, "annotations": {"folder": "ML"}}}
    metadata = find(render(values), "ConfigMap")["metadata"]
    assert (metadata["labels"]["grafana_dashboard"], metadata["annotations"]) == ("ml", {"folder": "ML"})


def test_names_hold_the_release() -> None:
    values = {block: {"enabled": True} for block in KINDS}
    names = {one["metadata"]["name"] for one in render(values, release="prod") if one["kind"] in KINDS.values()}
    assert names == {f"prod-{RELEASE}", f"prod-{RELEASE}-dashboard"}


def test_dashboard_is_made_from_its_table() -> None:
    command = [sys.executable, str(REPOSITORY / "dev/generate_dashboard.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_names_and_texts_of_the_metrics_are_as_prometheus_wants_them() -> None:
    command = [str(binaries("promtool") / "promtool"), "check", "metrics"]
    result = subprocess.run(command, input=metrics().render(), capture_output=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


def test_every_metric_in_rules_and_dashboard_is_served() -> None:
    expressions = [*queries(), *(rule["expr"] for rule in alerts())]
    variables = [one["query"]["query"] for one in dashboard()["templating"]["list"] if isinstance(one["query"], dict)]
    named = {name for text in (*expressions, *variables) for name in WORD.findall(text)}
    assert all(WORD.search(text) for text in expressions)
    assert named <= served(), named - served()


def test_every_metric_of_the_operator_is_on_the_dashboard() -> None:
    shown = {name for text in queries() for name in WORD.findall(text)}
    own = {name for name in served() if name.startswith("finetune_operator_")}
    assert {name for name in own - shown if not name.endswith(("_bucket", "_count", "_sum"))} == set()


def test_panels_lie_side_by_side_within_the_grid() -> None:
    taken: set[tuple[int, int]] = set()
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 30
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_every_alert_says_what_it_means_and_where_to_read_on() -> None:
    runbook = (REPOSITORY / "docs/operations.md").read_text()
    anchors = {line.removeprefix("### ").lower() for line in runbook.splitlines() if line.startswith("### ")}
    for rule in alerts():
        notes = rule["annotations"]
        assert notes.keys() == {"summary", "description", "runbook_url"}, rule["alert"]
        assert rule["labels"].keys() == {"severity"}
        assert rule["labels"]["severity"] in ("critical", "warning")
        page, _, anchor = notes["runbook_url"].partition("#")
        assert page == "docs/operations.md"
        assert anchor == rule["alert"].lower()
        assert anchor in anchors, f"docs/operations.md has no section {rule['alert']}"


def test_prices_and_the_limit_of_series_reach_the_operator() -> None:
    prices = {"currency": "EUR", "gpuHour": {"nvidia.com/gpu": 2.5}}
    settings = operator_settings({"prices": prices, "metrics": {"jobLimit": 7}})
    assert (settings.prices.currency, settings.prices.gpu_hour) == ("EUR", {"nvidia.com/gpu": 2.5})
    assert settings.metrics_job_limit == 7
    assert operator_settings({}).prices.gpu_hour == {}


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"prices": {"currency": "euro"}}, "currency"),
        ({"prices": {"gpuHour": {"nvidia.com/gpu": -1}}}, "gpuHour"),
        ({"metrics": {"jobLimit": 10001}}, "jobLimit"),
        ({"serviceMonitor": {"interval": "often"}}, "interval"),
        ({"alerts": {"runbook": "page#anchor"}}, "runbook"),
        ({"dashboard": {"enable": True}}, "enable"),
    ],
)
def test_schema_refuses(values: dict[str, Any], word: str) -> None:
    with pytest.raises(HelmError, match=word):
        render(values)
