"""Each alert rule fires when it should and not otherwise, by promtool: one minute between samples."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_loopback.helm import CHART
from finetune_loopback.kube_api import binaries

RULES = CHART / "rules/finetune-operator.yaml"
HEALTHY = {
    'finetune_operator_build_info{instance="a",namespace="ops"}': "1x1600",
    'finetune_operator_leader{instance="a",namespace="ops"}': "1x1600",
    'process_start_time_seconds{instance="a",namespace="ops"}': "100x1600",
    "finetune_operator_queue_oldest_seconds": "0x1600",
    "finetune_operator_queue_depth": "0x1600",
    'finetune_operator_reconcile_failures_total{cause="bug"}': "0x1600",
    "finetune_operator_relist_drift_total": "0x1600",
    'finetune_operator_api_calls_total{verb="get",kind="Pod",code="200"}': "0+60x1600",
    "finetune_operator_certificate_end_timestamp_seconds": f"{365 * 86400}x1600",
    'finetune_operator_job_heartbeat_age_seconds{namespace="ml",name="bot"}': "5x1600",
    'finetune_operator_job_checkpoint_age_seconds{namespace="ml",name="bot"}': "300x1600",
    'finetune_operator_job_checkpoint_interval_seconds{namespace="ml",name="bot"}': "600x1600",
}
"""A platform that is well: no alert may fire on it."""
BUILD, LEADER, START = list(HEALTHY)[:3]
OLDEST, DEPTH, BUGS, DRIFT, CALLS, END, HEARTBEAT, COMMITTED, INTERVAL = list(HEALTHY)[3:]
FAILED = 'finetune_operator_finished_jobs_total{namespace="ml",phase="Failed",reason="Crashed"}'
SUCCEEDED = 'finetune_operator_finished_jobs_total{namespace="ml",phase="Succeeded",reason="Succeeded"}'
RESTARTS = 'finetune_operator_restarts_total{namespace="ml",reason="Disrupted"}'
HUNG = 'finetune_operator_restarts_total{namespace="ml",reason="Hung"}'
GPUS = 'finetune_operator_gpu_seconds_total{namespace="ml"}'
WASTED = 'finetune_operator_wasted_gpu_seconds_total{namespace="ml"}'
REFUSED = 'finetune_operator_reconcile_failures_total{namespace="ops",cause="refused"}'
PASSES = 'finetune_operator_reconcile_seconds_count{namespace="ops"}'
UNAVAILABLE = 'finetune_operator_api_calls_total{verb="list",kind="Pod",code="503"}'
CONFLICT = 'finetune_operator_api_calls_total{verb="create",kind="Job",code="409"}'
BAD_TOKEN = 'finetune_operator_progress_samples_total{verdict="bad_token"}'
STALE = 'finetune_operator_progress_samples_total{verdict="stale_attempt"}'


@dataclass(frozen=True)
class Case:
    """Series over the healthy ones (None takes one away), the minute to look at, and the labels of the alert."""

    alert: str
    minute: int
    series: dict[str, str | None] = field(default_factory=dict)
    fires: dict[str, str] | None = None
    """Labels beside the severity; None: nothing may fire."""


OPS, ML, BOT = {"namespace": "ops"}, {"namespace": "ml"}, {"namespace": "ml", "name": "bot"}
CASES = (
    Case("FineTuneOperatorDown", 6, {BUILD: "_x20"}, {}),
    Case("FineTuneOperatorDown", 4, {BUILD: "_x20"}),
    Case("FineTuneOperatorDown", 20, {BUILD: "1x10 _x4 1x20"}),
    Case("FineTuneOperatorNoLeader", 5, {LEADER: "0x20", LEADER.replace('"a"', '"b"'): "0x20"}, OPS),
    Case("FineTuneOperatorNoLeader", 5, {LEADER: "0x20", LEADER.replace('"a"', '"b"'): "1x20"}),
    Case("FineTuneOperatorNoLeader", 4, {LEADER: "1x2 0 1x20"}),
    Case("FineTuneOperatorCrashing", 40, {START: "1x9 2x9 3x9 4x20"}, {"instance": "a", **OPS}),
    Case("FineTuneOperatorCrashing", 40, {START: "1x9 2x9 3x30"}),
    Case("FineTuneOperatorCrashing", 40, {START.replace('"a"', '"other"'): "1x9 2x9 3x9 4x20"}),
    Case("FineTuneOperatorQueueStuck", 8, {OLDEST: "0x5 70x9"}, {}),
    Case("FineTuneOperatorQueueStuck", 8, {OLDEST: "0x5 59x9"}),
    Case("FineTuneOperatorQueueStuck", 9, {OLDEST: "0x5 70 0x9"}),
    Case("FineTuneOperatorFallsBehind", 20, {DEPTH: "60x30"}, {}),
    Case("FineTuneOperatorFallsBehind", 20, {DEPTH: "60x10 0 60x30"}),
    Case("FineTuneOperatorFallsBehind", 20, {DEPTH: "40x30"}),
    Case("FineTuneOperatorBug", 8, {BUGS: "0x5 1x9"}, {"cause": "bug"}),
    Case("FineTuneOperatorBug", 8, {BUGS.replace("bug", "transient"): "0x5 1x9"}),
    Case("FineTuneOperatorBug", 30, {BUGS: "0x5 1x30"}),
    Case(
        "FineTuneOperatorReconcileFailures", 30, {REFUSED: "0+30x60", PASSES: "0+60x60"}, {"cause": "refused", **OPS}
    ),
    Case("FineTuneOperatorReconcileFailures", 30, {REFUSED: "0+30x60", PASSES: "0+6000x60"}),
    Case("FineTuneOperatorReconcileFailures", 30, {REFUSED: "0+1x60", PASSES: "0+2x60"}),
    Case("FineTuneOperatorReconcileFailures", 8, {REFUSED: "0+30x60", PASSES: "0+60x60"}),
    Case("FineTuneOperatorApiErrors", 20, {UNAVAILABLE: "0+10x30"}, {}),
    Case("FineTuneOperatorApiErrors", 20, {UNAVAILABLE.replace("503", "none"): "0+10x30"}, {}),
    Case("FineTuneOperatorApiErrors", 20, {UNAVAILABLE.replace("503", "429"): "0+10x30"}, {}),
    Case("FineTuneOperatorApiErrors", 20, {UNAVAILABLE: "0+2x30"}),
    Case("FineTuneOperatorApiErrors", 20, {CONFLICT: "0+60x30"}),
    Case("FineTuneOperatorApiErrors", 30, {UNAVAILABLE: "0+10x4 40x40"}),
    Case("FineTuneOperatorRelistDrift", 30, {DRIFT: "0x10 20x50"}, {}),
    Case("FineTuneOperatorRelistDrift", 30, {DRIFT: "0x10 5x50"}),
    Case("FineTuneOperatorRelistDrift", 90, {DRIFT: "0x10 20x90"}),
    Case("FineTuneOperatorCertificateExpires", 90, {END: f"{13 * 86400}x90"}, {}),
    Case("FineTuneOperatorCertificateExpires", 50, {END: f"{13 * 86400}x90"}),
    Case("FineTuneOperatorCertificateExpires", 90, {END: f"{15 * 86400}x90"}),
    Case("FineTuneProgressRefused", 25, {BAD_TOKEN: "0+6x40"}, {"verdict": "bad_token"}),
    Case("FineTuneProgressRefused", 25, {STALE: "0+60x40"}),
    Case("FineTuneProgressRefused", 25, {BAD_TOKEN.replace("bad_token", "accepted"): "0+600x40"}),
    Case("FineTuneProgressRefused", 25, {BAD_TOKEN: "0+1x40"}),
    Case("FineTuneJobsFailing", 50, {FAILED: "0x10 1x10 2x10 3x30"}, ML),
    Case("FineTuneJobsFailing", 40, {FAILED: "_x30 3x30"}, ML),
    Case("FineTuneJobsFailing", 40, {FAILED: "5x10 0 1 2 3x30"}, ML),
    Case("FineTuneJobsFailing", 50, {FAILED: "0x10 1x10 2x40"}),
    Case("FineTuneJobsFailing", 40, {FAILED: "_x30 2x30"}),
    Case("FineTuneJobsFailing", 40, {SUCCEEDED: "_x30 9x30"}),
    Case("FineTuneJobsFailing", 150, {FAILED: "5x200"}),
    Case("FineTuneRestartStorm", 50, {RESTARTS: "0x10 0+1x60"}, ML),
    Case("FineTuneRestartStorm", 40, {RESTARTS: "_x30 25x30"}, ML),
    Case("FineTuneRestartStorm", 40, {RESTARTS: "_x30 19x30"}),
    Case("FineTuneRestartStorm", 150, {RESTARTS: "25x200"}),
    Case("FineTuneJobHung", 20, {HUNG: "_x10 1x30"}, ML),
    Case("FineTuneJobHung", 20, {HUNG: "1x10 2x30"}, ML),
    Case("FineTuneJobHung", 150, {HUNG: "1x200"}),
    Case("FineTuneJobHung", 20, {RESTARTS: "_x10 1x30"}),
    Case("FineTuneJobSilent", 40, {HEARTBEAT: "0+60x60"}, BOT),
    Case("FineTuneJobSilent", 33, {HEARTBEAT: "0+60x60"}),
    Case("FineTuneJobSilent", 50, {HEARTBEAT: "0+60x40 5x20"}),
    Case("FineTuneJobCheckpointTooOld", 50, {COMMITTED: "0+60x99"}, BOT),
    Case("FineTuneJobCheckpointTooOld", 42, {COMMITTED: "0+60x99"}),
    Case("FineTuneJobCheckpointTooOld", 130, {COMMITTED: "0+60x200", INTERVAL: "3600x200"}),
    Case("FineTuneJobCheckpointTooOld", 130, {COMMITTED: "0+60x200", INTERVAL: None}, BOT),
    Case("FineTuneJobCheckpointTooOld", 110, {COMMITTED: "0+60x200", INTERVAL: None}),
    Case("FineTuneGpusWasted", 1500, {GPUS: "0+3600x1600", WASTED: "0+1000x1600"}, ML),
    Case("FineTuneGpusWasted", 1500, {GPUS: "0+3600x1600", WASTED: "0+500x1600"}),
    Case("FineTuneGpusWasted", 1500, {GPUS: "0+20x1600", WASTED: "0+10x1600"}),
)


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(binaries("promtool") / "promtool"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def firing(case: Case) -> list[dict[str, object]]:
    """What promtool shall find firing."""
    if case.fires is None:
        return []
    severity = next(rule["labels"]["severity"] for rule in rules() if rule["alert"] == case.alert)
    labels = {"alertname": case.alert, "alertstate": "firing", "severity": severity, **case.fires}
    words = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return [{"labels": f"ALERTS{{{words}}}", "value": 1}]


def unit_test(case: Case) -> dict[str, object]:
    series = {**HEALTHY, **case.series}
    asked = {"expr": 'ALERTS{alertstate="firing"}', "eval_time": f"{case.minute}m", "exp_samples": firing(case)}
    inputs = [{"series": name, "values": values} for name, values in series.items() if values is not None]
    test = {"interval": "1m", "input_series": inputs, "promql_expr_test": [asked]}
    return {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}


def run(case: Case, directory: Path) -> subprocess.CompletedProcess[str]:
    file = directory / "alerts.yaml"
    file.write_text(yaml.safe_dump(unit_test(case), width=10000))
    return promtool("test", "rules", file)


def test_promtool_takes_the_rules() -> None:
    result = promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{len(rules())} rules found" in result.stdout


@pytest.mark.parametrize("minute", [10, 100, 1500])
def test_no_alert_on_a_healthy_platform(minute: int, tmp_path: Path) -> None:
    result = run(Case("none", minute), tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case.alert}-{'fires' if case.fires is not None else 'quiet'}"
)
def test_alert(case: Case, tmp_path: Path) -> None:
    result = run(case, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


def test_each_alert_is_seen_firing_and_quiet() -> None:
    names = {rule["alert"] for rule in rules()}
    assert {case.alert for case in CASES if case.fires is not None} == names
    assert {case.alert for case in CASES if case.fires is None} == names


@pytest.mark.parametrize(
    ("values", "fires"), [("0x5 70x9", None), ("0x9", {}), ("0x5 70x9", {"namespace": "other"})], ids=str
)
def test_a_wrong_expectation_fails(values: str, fires: dict[str, str] | None, tmp_path: Path) -> None:
    result = run(Case("FineTuneOperatorQueueStuck", 8, {OLDEST: values}, fires), tmp_path)
    assert result.returncode != 0
    assert "FAILED" in result.stdout + result.stderr
