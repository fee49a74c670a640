"""Two replicas and one Lease: the leader is cut off from the API server, or somebody edits the Lease.

One writer only, and the next one within 15 s.
"""

import contextlib
import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from finetune_loopback.job_controller import Namespace
from finetune_loopback.jobs import minimal_job
from finetune_loopback.kube_client import MERGE, KubeApi
from finetune_loopback.kube_fault_proxy import KubeFaultProxy, running_kube_fault_proxy
from finetune_loopback.kube_faults import Kind
from finetune_loopback.operator_process import ACCOUNT, OperatorProcess, grant_chart_rights, running_operator
from finetune_loopback.processes import until

TAKEOVER_SECONDS = 15
LOST = "the Lease is lost"
DONE = json.dumps({"reason": "Succeeded"})


class Site:
    """A namespace for the operator, one for its jobs, and a proxy before the API server."""

    def __init__(self, api: KubeApi, proxy: KubeFaultProxy, *, name: str, directory: Path) -> None:
        self.api, self.proxy, self.directory = api, proxy, directory
        self.home = api.namespace(f"{name}-operator")
        self.jobs = Namespace(api, api.namespace(name))
        grant_chart_rights(api, namespace=self.home, watch=(name,))

    def operator(
        self, name: str, *, wait: bool = True, by_proxy: bool = False
    ) -> contextlib.AbstractContextManager[OperatorProcess]:
        """Return the context of one more replica, behind the proxy if asked."""
        config = self.proxy.kubeconfig(f"{self.home}-{name}", token=self.api.token_for(self.home, ACCOUNT))
        more = {"KUBECONFIG": str(config)} if by_proxy else {}
        watch, place = (self.jobs.name,), self.directory / name
        return running_operator(self.api, place, namespace=self.home, watch=watch, wait=wait, POD_NAME=name, **more)

    @property
    def lease_path(self) -> str:
        """Path of the Lease."""
        return f"/apis/coordination.k8s.io/v1/namespaces/{self.home}/leases/finetune-operator"

    def holder(self) -> str:
        """Return the name of the replica that holds the Lease."""
        return str(self.api.request("GET", self.lease_path)["spec"].get("holderIdentity", "")).partition("_")[0]

    def edit_lease(self, **spec: object) -> None:
        """Edit the Lease, as somebody with kubectl would."""
        self.api.request("PATCH", self.lease_path, body={"spec": spec}, content_type=MERGE)

    def creations(self) -> Counter[str]:
        """Count what was created in the namespace of the jobs by any replica."""
        found: Counter[str] = Counter()
        for line in self.api.audit_log.read_text().splitlines():
            entry = json.loads(line)
            reference, user = entry["objectRef"], entry["user"]["username"]
            is_ours = user.endswith(f":{self.home}:{ACCOUNT}") and reference.get("namespace") == self.jobs.name
            if is_ours and entry["verb"] == "create" and entry["responseStatus"]["code"] == 201:
                found[f"{reference['resource']} {reference.get('name', '')}"] += 1
        return found


@pytest.fixture
def site(crd_installed: KubeApi, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    name = request.node.name.removeprefix("test_").replace("_", "-")[:40].strip("-")
    with running_kube_fault_proxy(crd_installed) as proxy:
        yield Site(crd_installed, proxy, name=name, directory=tmp_path)
    for log in sorted(tmp_path.glob("*/operator.log")):
        print(log, log.read_text()[-1500:], sep="\n")


@pytest.mark.slow
def test_a_leader_that_is_cut_off_ends_before_the_next_one_starts(site: Site) -> None:
    """Its connections stay open and silent. A write that was on its way reaches the API server long after."""
    with site.operator("one", by_proxy=True) as first, site.operator("two", wait=False) as second:
        site.jobs.submit(minimal_job("before"))
        site.jobs.await_pod("before-prepare")
        late = site.proxy.faults.inject(Kind.HOLD, "PATCH", "/late/status")
        site.jobs.submit(minimal_job("late"))
        assert late.reached.wait(10)
        began = time.monotonic()
        site.proxy.partition()
        site.jobs.submit(minimal_job("meanwhile"))
        assert first.process.wait(timeout=TAKEOVER_SECONDS) != 0
        ended = time.monotonic() - began
        until(second.is_ready, seconds=TAKEOVER_SECONDS)
        took = time.monotonic() - began
        print(f"the leader that was cut off ended after {ended:.1f} s, the next one led after {took:.1f} s")
        assert ended < took < TAKEOVER_SECONDS
        assert LOST in first.log_text()
        site.jobs.succeed("late-prepare", message=DONE)
        site.jobs.await_phase("late", "Starting")
        before = site.jobs.tune("late")["metadata"]["resourceVersion"]
        site.proxy.heal()
        late.release.set()
        until(lambda: last_patch(site, "late") == 409, seconds=10)
        assert site.jobs.tune("late")["metadata"]["resourceVersion"] == before
        site.jobs.await_pod("meanwhile-prepare")
    assert set(site.creations().values()) == {1}


def last_patch(site: Site, name: str) -> int:
    """Return the API server's answer to the last patch of a status."""
    codes = [0]
    for line in site.api.audit_log.read_text().splitlines():
        entry = json.loads(line)
        reference = entry["objectRef"]
        if (entry["verb"], reference.get("namespace"), reference.get("name")) == ("patch", site.jobs.name, name):
            codes.append(entry["responseStatus"]["code"])
    return codes[-1]


@pytest.mark.slow
def test_a_lease_that_somebody_takes_away_ends_the_leader_at_once(site: Site) -> None:
    with site.operator("one") as first, site.operator("two", wait=False) as second:
        assert site.holder() == "one"
        began = time.monotonic()
        site.edit_lease(holderIdentity="thief")
        assert first.process.wait(timeout=5) != 0
        print(f"the leader ended {time.monotonic() - began:.1f} s after the edit")
        assert LOST in first.log_text()
        until(second.is_ready, seconds=TAKEOVER_SECONDS)
        took = time.monotonic() - began
        print(f"the next one led {took:.1f} s after the edit")
        assert took < TAKEOVER_SECONDS
        site.jobs.submit(minimal_job("after"))
        site.jobs.await_pod("after-prepare")


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["emptied", "deleted"])
def test_a_lease_that_names_nobody_stays_the_leaders(site: Site, harm: str) -> None:
    with site.operator("one") as first, site.operator("two", wait=False) as second:
        for _ in range(2):
            if harm == "emptied":
                site.edit_lease(holderIdentity="")
            else:
                site.api.request("DELETE", site.lease_path)
            time.sleep(4)  # two renewals of the leader, four looks of the standby
            assert site.holder() == "one"
        assert first.is_ready()
        assert not second.is_ready()
        assert second.writes() == 0


@pytest.mark.slow
def code_of_end(operator: OperatorProcess, *, event: Callable[[int], None]) -> int:
    """Make an event each second, so that there is a line to tear, until the process ends; return its exit code."""
    for number in range(80):
        event(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return operator.process.wait(timeout=1)
    raise AssertionError("the operator did not end within 80 s")


def test_a_watch_that_ends_in_the_middle_of_a_line_ends_the_process_and_the_next_one_goes_on(site: Site) -> None:
    """kopf cannot read on; a process without a watch would look healthy and see nothing."""
    with site.operator("one", by_proxy=True) as first:
        site.jobs.submit(minimal_job("torn"))
        pod = site.jobs.await_pod("torn-prepare")
        site.proxy.faults.inject(Kind.WATCH_TORN, "GET", "/pods?", about="watch=true")
        site.proxy.cut_watches()
        assert code_of_end(first, event=lambda number: site.jobs.pod_status(pod, {"message": f"{number}"})) == 1
        assert "has ended; so does the process" in first.log_text()
    with site.operator("two"):
        site.jobs.succeed("torn-prepare", message=DONE)
        site.jobs.await_job("torn-a1")
