"""What explains a violation, kept below build/chaos before the job is deleted."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from finetune_chaos.deck import Round
from finetune_chaos.view import JOB_LABEL
from finetune_chaos.watcher import Watcher
from finetune_chaos.workload import NAMESPACE, OPERATOR_SELECTOR
from quickstart.platform import NAMESPACE as OPERATOR_NAMESPACE
from quickstart.steps import BUILD, StepError, kubectl

EVIDENCE = BUILD / "chaos"


def keep_evidence(watcher: Watcher, one: Round, violations: Sequence[str]) -> Path:
    """Write the job's history, objects and logs, the operator's log and the Events, and return their folder."""
    folder = EVIDENCE / f"seed-{one.seed}-round-{one.number}-{one.fault.name}"
    folder.mkdir(parents=True, exist_ok=True)
    entries = watcher.history(one.job)
    story = [f"{datetime.fromtimestamp(moment, UTC):%H:%M:%S.%f} {text}" for moment, text in entries]
    (folder / "history.txt").write_text("\n".join([*story, "", *violations, ""]))
    selector = f"{JOB_LABEL}={one.job}"
    asked = {
        "job.yaml": ("get", "ftj", one.job, "-n", NAMESPACE, "-o", "yaml"),
        "children.yaml": ("get", "pods,jobs,networkpolicies", "-n", NAMESPACE, "-l", selector, "-o", "yaml"),
        "logs.jsonl": ("logs", "-n", NAMESPACE, "-l", selector, "--prefix", "--tail=400", "--max-log-requests=20"),
        "operator.jsonl": ("logs", "-n", OPERATOR_NAMESPACE, "-l", OPERATOR_SELECTOR, "--tail=-1", "--since=20m"),
        "events.txt": ("get", "events", "-n", NAMESPACE, "--sort-by=.lastTimestamp"),
    }
    for name, command in asked.items():
        (folder / name).write_text(_ask(command))
    return folder


def _ask(command: Sequence[str]) -> str:
    try:
        return kubectl(*command)
    except StepError as error:
        return f"{error}\n"
