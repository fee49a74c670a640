"""The operator itself fails: killed, restarted, frozen, doubled. No child twice, never two writers, no job lost."""

import contextlib
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_loopback.job_controller import Namespace
from finetune_loopback.jobs import minimal_job
from finetune_loopback.kube_client import KubeApi
from finetune_loopback.operator_process import OperatorProcess, grant_chart_rights, running_operator
from finetune_loopback.processes import until

TAKEOVER_SECONDS = 15
CLEAN_END_SECONDS = 25
TWO_NODES = {"distributed": {"numNodes": 2, "device": "cpu"}, "training": {"globalBatchSize": 2}}
DONE = json.dumps({"reason": "Succeeded"})


class Site:
    """A namespace of its own for the operator and one for its jobs."""

    def __init__(self, api: KubeApi, name: str, directory: Path) -> None:
        self.api = api
        self.home = api.namespace(f"{name}-operator")
        self.jobs = Namespace(api, api.namespace(name))
        self.directory = directory
        grant_chart_rights(api, namespace=self.home, watch=(name,))

    def operator(
        self, name: str, *, wait: bool = True, **variables: str
    ) -> contextlib.AbstractContextManager[OperatorProcess]:
        """Return the context of one more replica."""
        directory, watch = self.directory / name, (self.jobs.name,)
        return running_operator(self.api, directory, namespace=self.home, watch=watch, wait=wait, **variables)

    def writers(self) -> list[str]:
        """Return the field managers' audit trail: operator writes about anything but Leases."""
        lines = (json.loads(line) for line in self.api.audit_log.read_text().splitlines())
        user = f"system:serviceaccount:{self.home}:finetune-operator"
        return [
            f"{line['verb']} {line['objectRef']['resource']} {line['objectRef'].get('name', '')}"
            for line in lines
            if line["user"]["username"] == user and line["objectRef"]["resource"] not in ("leases", "tokenreviews")
        ]

    def created(self) -> list[str]:
        """Return the creations of Jobs and stages' pods."""
        return [write for write in self.writers() if write.startswith(("create jobs", "create pods"))]


@pytest.fixture
def site(crd_installed: KubeApi, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    name = request.node.name.removeprefix("test_").replace("_", "-")[:40].strip("-")
    made = Site(crd_installed, name, tmp_path)
    yield made
    for log in sorted(tmp_path.glob("*/operator.log")):
        print(log, log.read_text()[-1500:], sep="\n")


def bring_to_running(cluster: Namespace, name: str) -> None:
    cluster.submit(minimal_job(name, **TWO_NODES))
    cluster.succeed(f"{name}-prepare", message=DONE)
    cluster.start(f"{name}-a1")
    cluster.await_phase(name, "Running")


def test_a_killed_operator_goes_on_where_it_was_and_creates_nothing_twice(site: Site) -> None:
    cluster = site.jobs
    with site.operator("one") as first:
        for number in range(5):
            cluster.submit(minimal_job(f"tune-{number}", **TWO_NODES))
        cluster.await_pod("tune-4-prepare")
        for number in range(3):
            cluster.succeed(f"tune-{number}-prepare", message=DONE)
        first.kill()
    cluster.succeed("tune-3-prepare", message=DONE)
    with site.operator("two"):
        for number in range(4):
            cluster.start(f"tune-{number}-a1")
        for number in range(4):
            cluster.await_phase(f"tune-{number}", "Running")
        cluster.await_phase("tune-4", "Preparing")
    assert set(cluster.jobs()) == {f"tune-{number}-a1" for number in range(4)}
    assert {f"tune-{number}-prepare" for number in range(5)} <= set(cluster.pods())
    assert len(site.created()) == 5 + 4


def test_a_restart_with_nothing_to_do_writes_nothing(site: Site) -> None:
    cluster = site.jobs
    with site.operator("one") as first:
        bring_to_running(cluster, "running")
        cluster.submit(minimal_job("preparing"))
        cluster.start("preparing-prepare")
        cluster.submit(minimal_job("failed"))
        (pod,) = cluster.start("failed-prepare")
        cluster.end_pod(pod, code=64, message=json.dumps({"reason": "InvalidData", "message": "no rows"}))
        cluster.fail("failed-prepare")
        cluster.await_phase("failed", "Failed")
        until(lambda: first.metric("finetune_operator_queue_depth") == 0, seconds=10)
        time.sleep(1.5)  # what is left to write after the last phase, e.g. a condition
        assert first.stop()[0] == 0
    before = site.writers()
    with site.operator("two", RELIST_SECONDS="2") as second:
        until(lambda: second.metric("finetune_operator_relists_total", outcome="done") >= 2, seconds=30)
        assert second.metric("finetune_operator_reconcile_seconds_count") >= 2
        assert second.writes() == 0
        assert second.metric("finetune_operator_relist_drift_total") == 0
    assert site.writers() == before


def test_sigterm_ends_cleanly_and_gives_the_lease_back(site: Site) -> None:
    with site.operator("one") as first:
        bring_to_running(site.jobs, "tune")
        code, seconds = first.stop()
        assert code == 0
        assert seconds < CLEAN_END_SECONDS
        print(f"clean end after {seconds:.1f} s")
        assert '"code": 0' in first.log_text()
    lease = site.api.request("GET", f"/apis/coordination.k8s.io/v1/namespaces/{site.home}/leases/finetune-operator")
    assert lease["spec"].get("holderIdentity", "") == ""
    began = time.monotonic()
    with site.operator("two"):
        print(f"the next replica was ready after {time.monotonic() - began:.1f} s")


def test_a_standby_neither_watches_nor_writes_and_takes_over_in_time(site: Site) -> None:
    cluster = site.jobs
    with site.operator("one") as first, site.operator("two", wait=False) as second:
        bring_to_running(cluster, "before")
        assert (second.probe("/healthz"), second.probe("/readyz")) == (200, 503)
        assert second.metric("finetune_operator_api_calls_total", kind="FineTuneJob") == 0
        assert second.writes() == 0
        first.kill()
        took = until(second.is_ready, seconds=2 * TAKEOVER_SECONDS)
        print(f"takeover after a kill: {took:.1f} s")
        assert took < TAKEOVER_SECONDS
        cluster.submit(minimal_job("after"))
        cluster.await_pod("after-prepare")
    assert len(site.created()) == 3


def test_a_frozen_leader_that_wakes_up_writes_nothing_and_ends(site: Site) -> None:
    cluster = site.jobs
    with site.operator("one") as first, site.operator("two", wait=False) as second:
        bring_to_running(cluster, "tune")
        first.process.send_signal(signal.SIGSTOP)
        until(second.is_ready, seconds=2 * TAKEOVER_SECONDS)
        for number in range(10):
            cluster.submit(minimal_job(f"meanwhile-{number}"))
        for number in range(10):
            cluster.await_pod(f"meanwhile-{number}-prepare")
        first.process.send_signal(signal.SIGCONT)
        assert first.process.wait(timeout=20) != 0
        assert "the Lease is lost" in first.log_text()
    created = site.created()
    assert len(created) == len(set(created)) == 12


def test_what_changed_while_no_watch_was_open_is_found_by_the_lists(site: Site) -> None:
    """Deleted Jobs, finished Jobs and new FineTuneJobs of the time without an operator."""
    cluster = site.jobs
    with site.operator("one") as first:
        bring_to_running(cluster, "finished")
        bring_to_running(cluster, "vanished")
        first.kill()
    for pod in cluster.pods().values():
        if pod["metadata"]["labels"].get("batch.kubernetes.io/job-name") == "finished-a1":
            cluster.end_pod(pod, message=DONE)
    cluster.complete("finished-a1")
    cluster.delete_job("vanished-a1")
    cluster.collect()
    cluster.submit(minimal_job("new"))
    with site.operator("two"):
        cluster.await_phase("finished", "Exporting")
        cluster.await_job("vanished-a2")
        cluster.await_pod("new-prepare")


def test_without_a_list_of_namespaces_the_whole_cluster_is_served(crd_installed: KubeApi, tmp_path: Path) -> None:
    home = crd_installed.namespace("everywhere-operator")
    grant_chart_rights(crd_installed, namespace=home, watch=())
    with running_operator(crd_installed, tmp_path, namespace=home, watch=()) as process:
        late = Namespace(crd_installed, crd_installed.namespace("made-after-the-start"))
        bring_to_running(late, "tune")
        assert process.metric("finetune_operator_api_calls_total", code="403") == 0


def test_missing_rights_are_named_and_the_process_lives(crd_installed: KubeApi, tmp_path: Path) -> None:
    home, watched = crd_installed.namespace("no-rights-operator"), crd_installed.namespace("no-rights")
    with running_operator(crd_installed, tmp_path, namespace=home, watch=(watched,), wait=False) as process:
        until(lambda: "cannot get resource" in process.log_text(), seconds=20)
        assert process.probe("/readyz") == 503
        assert process.stop()[0] == 0


def test_wrong_settings_end_the_process_with_a_sentence(crd_installed: KubeApi, tmp_path: Path) -> None:
    home = crd_installed.namespace("wrong-settings")
    with (
        pytest.raises(Exception, match="environment variable WORKERS is 'many'; it must be a number"),
        running_operator(crd_installed, tmp_path, namespace=home, watch=(home,), WORKERS="many"),
    ):
        raise AssertionError("it started")
