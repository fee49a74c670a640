"""The scale benchmark's arithmetic: whose requests count, quantiles, medians, and which runs count."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench_harness.errors import BenchError
from bench_harness.tables import BEGIN, END, with_tables
from operator_bench.audit import between, by_kind, by_user, is_controller, read_requests, short_name
from operator_bench.campaign import counted, result_line
from operator_bench.figures import FIGURES, MORE_FIGURES, figures_of, quantile, summarize
from operator_bench.floor import FLOOR, next_job, plain_job
from operator_bench.kinds import KINDS
from operator_bench.observer import Sightings
from operator_bench.ours import OURS
from operator_bench.profile import top_functions
from operator_bench.report import read_results, tables
from operator_bench.run import Readings, Window

OPERATOR = "system:serviceaccount:bench-system:finetune-operator"
JOB_CONTROLLER = "system:serviceaccount:kube-system:job-controller"


def entry(number: int, user: str, verb: str, resource: str, **more: Any) -> dict[str, Any]:
    """Return a line of the audit log; `number` is its second and its id."""
    reference = {"resource": resource, "namespace": more.get("namespace", "bench")}
    if "subresource" in more:
        reference["subresource"] = more["subresource"]
    return {
        "auditID": str(more.get("identity", number)),
        "user": {"username": user},
        "verb": verb,
        "objectRef": reference,
        "responseStatus": {"code": more.get("code", 200)},
        "requestReceivedTimestamp": f"1970-01-01T00:00:{number:02}.500000Z",
    }


@pytest.fixture
def log(tmp_path: Path) -> Path:
    entries = [
        entry(1, OPERATOR, "create", "jobs"),
        entry(2, OPERATOR, "patch", "finetunejobs", subresource="status"),
        entry(3, OPERATOR, "create", "events"),
        entry(4, OPERATOR, "update", "leases"),
        entry(5, OPERATOR, "watch", "pods", identity="w"),
        entry(5, OPERATOR, "watch", "pods", identity="w"),
        entry(6, JOB_CONTROLLER, "create", "pods"),
        entry(7, OPERATOR, "patch", "finetunejobs", subresource="status", code=409),
        entry(20, OPERATOR, "list", "jobs"),
        entry(21, OPERATOR, "update", "leases"),
        entry(41, OPERATOR, "create", "jobs", namespace="bench-after"),
        entry(42, OPERATOR, "patch", "finetunejobs", subresource="status"),
    ]
    path = tmp_path / "audit.log"
    lines = [json.dumps(one) for one in entries]
    path.write_text("\n".join([*lines, '{"auditID": "half writ']))
    return path


def test_requests_are_read_once_each(log: Path) -> None:
    requests = read_requests(log)
    assert len(requests) == 11
    assert [one.verb for one in between(requests, 5, 6)] == ["watch"]
    assert [one.resource for one in requests if one.is_lease] == ["leases", "leases"]


def test_writes_are_told_by_user_and_kind(log: Path) -> None:
    load = between(read_requests(log), 0, 10)
    assert by_user(load, jobs=2) == {"finetune-operator": 1.5, "job-controller": 0.5}
    kinds = by_kind(load, is_writer=OURS.is_writer, jobs=1)
    assert kinds == {"patch finetunejobs/status": 2, "create jobs": 1, "create events": 1, "update leases": 1}


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("system:kube-controller-manager", True),
        (JOB_CONTROLLER, True),
        ("system:kube-scheduler", False),
        (OPERATOR, False),
        ("kwok", False),
    ],
)
def test_every_controller_of_the_controller_manager_is_one(user: str, expected: bool) -> None:
    assert is_controller(user) is expected


def test_names_lose_their_namespace() -> None:
    assert (short_name(OPERATOR), short_name("kwok")) == ("finetune-operator", "kwok")


def test_quantiles_are_values_that_occurred() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert (quantile(values, 0.5), quantile(values, 0.99), quantile([3.0], 0.99)) == (50, 99, 3)


def readings_of(log: Path) -> Readings:
    seen = Sightings({"a": 101.5, "b": 103.0}, {"a": 108.0, "b": 107.0}, [], pods=8)
    return Readings(
        log,
        sent={"a": 101.0, "b": 101.5},
        created_at=102.0,
        seen=seen,
        load=Window(0, 10),
        idle=Window(15, 45),
        restart=Window(41, 50),
        cpu={"etcd": 2.0, "kube-controller-manager": 1.0},
        contender_cpu=4.0,
        idle_cpu=0.3,
        ready_after=1.5,
        first_pod_after=2.5,
        others=0.05,
    )


def test_figures_of_a_run(log: Path) -> None:
    figures = figures_of(OURS, readings_of(log))
    assert (figures["p50_first_pod_s"], figures["p99_first_pod_s"], figures["all_done_s"]) == (0.5, 1.5, 7.0)
    assert (figures["writes_per_job"], figures["events_per_job"]) == (1.5, 0.5)
    assert figures["refused_writes_per_job"] == 0.5
    assert (figures["cpu_s"], figures["all_cpu_s"], figures["idle_cpu_percent"]) == (4, 7, 1)
    assert (figures["idle_requests_per_min"], figures["idle_lease_requests_per_min"]) == (6, 2)
    assert figures["restart_writes"] == 1  # the new job's own writes are no cost of the restart
    assert (figures["others_cpu_percent"], figures["pods_per_job"]) == (5, 4)


def test_the_floors_processor_time_is_not_counted_twice(log: Path) -> None:
    assert figures_of(FLOOR, readings_of(log))["all_cpu_s"] == 3


def run_of(who: str, repeat: int, value: float, *, others: float = 1.0, commit: str = "") -> dict[str, Any]:
    figures = dict.fromkeys((*FIGURES, *MORE_FIGURES), value)
    told = {"writes_by_user": {}, "writes": {}, "cpu_by_program": {}}
    key = {"contender": who, "repeat": repeat, **({"commit": commit} if commit else {})}
    return {**key, **figures, "others_cpu_percent": others, **told}


def test_median_and_spread() -> None:
    summary = summarize([run_of("floor", repeat, value) for repeat, value in enumerate((3.0, 1.0, 10.0), start=1)])
    assert (summary["all_done_s"], summary["spread"]["all_done_s"], summary["runs"]) == (3.0, [1.0, 10.0], 3)


def test_the_calm_run_of_a_repeat_counts_and_only_the_newest_commit() -> None:
    runs = [
        run_of("ours", 1, 9.0, commit="old"),
        run_of("ours", 1, 5.0, others=50, commit="new"),
        run_of("ours", 1, 2.0, commit="new"),
        run_of("floor", 1, 1.0, others=30),
        run_of("floor", 1, 1.5, others=20),
    ]
    document = {"jobs": 5, "limits": "raised", "machine": {}, "runs": runs, "failed": [{"contender": "floor"}]}
    assert [run["all_done_s"] for run in counted(document, "ours")] == [2.0]
    line = result_line(document)
    assert (line["ours"]["commit"], line["ours"]["calm"]) == ("new", True)
    assert (line["floor"]["all_done_s"], line["floor"]["calm"]) == (1.5, False)
    assert (line["ours"]["failed"], line["floor"]["failed"]) == (0, 1)


def test_three_jobs_follow_one_another() -> None:
    first = plain_job("j", pods=1, stage=1)
    second = next_job(first)
    third = next_job(second) if second else None
    assert second is not None
    assert third is not None
    assert [one["spec"]["completions"] for one in (first, second, third)] == [1, 2, 1]
    assert next_job(third) is None
    assert [KINDS["ThreeJobs"].job_of(one) for one in (first, second, third)] == [None, None, "j"]


@pytest.mark.parametrize(
    ("kind", "status", "outcome"),
    [
        ("FineTuneJob", {"phase": "Succeeded"}, "Succeeded"),
        ("FineTuneJob", {"phase": "Exporting"}, None),
        ("PyTorchJob", {"conditions": [{"type": "Succeeded", "status": "True"}]}, "Succeeded"),
        ("PyTorchJob", {"conditions": [{"type": "Running", "status": "True"}]}, None),
        ("Job", {"conditions": [{"type": "Failed", "status": "True"}]}, "Failed"),
        ("Job", {"conditions": [{"type": "Complete", "status": "False"}]}, None),
        ("Job", {}, None),
    ],
)
def test_outcomes(kind: str, status: dict[str, Any], outcome: str | None) -> None:
    assert KINDS[kind].outcome({"status": status}) == outcome


def test_profiles_name_functions(tmp_path: Path) -> None:
    path = tmp_path / "profile"
    path.write_text("run (a.py:1);work (b.py:2) 3\nrun (a.py:9) 1\n")
    lines = top_functions(path).splitlines()
    assert lines[1:4] == ["-- itself", " 75.0%  work (b.py)", " 25.0%  run (a.py)"]
    assert "100.0%  run (a.py)" in lines


def test_tables_go_between_their_marks(tmp_path: Path) -> None:
    document = {
        "jobs": 5,
        "limits": "raised",
        "machine": {"cores": 2, "cpu": "a CPU"},
        "failed": [],
        "runs": [run_of("ours", 1, 2.0), run_of("ours", 2, 4.0)],
    }
    (tmp_path / "raised-5.json").write_text(json.dumps(document))
    made = tables(read_results(tmp_path))
    assert "**5 jobs**, 2 cores of a CPU" in made
    assert "| `all_done_s` | 3 (2 to 4) |" in made
    assert with_tables(f"a\n{BEGIN}\nold\n{END}\nb", made) == f"a\n{BEGIN}\n{made}\n{END}\nb"
    with pytest.raises(BenchError, match="lacks the lines"):
        with_tables("nothing", made)


def test_the_readme_shows_the_figures_of_the_runs() -> None:
    folder = Path(__file__).parents[2] / "benchmarks/operator"
    text = (folder / "README.md").read_text()
    assert with_tables(text, tables(read_results(folder / "results"))) == text
