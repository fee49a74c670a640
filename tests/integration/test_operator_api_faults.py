"""The API server answers badly, or not at all: each fault injected on purpose, each survived.

The operator runs in this process behind a proxy, so that its store can be compared with a fresh list afterwards. Each
fault hits the first call of every kind that a job's life makes; the life goes on, and nothing is made twice.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import aiohttp
import pytest

from finetune_api import API_VERSION, PLURAL
from finetune_loopback.job_controller import Namespace
from finetune_loopback.jobs import minimal_job
from finetune_loopback.kube_client import MERGE, KubeApi
from finetune_loopback.kube_fault_proxy import KubeFaultProxy, running_kube_fault_proxy
from finetune_loopback.kube_faults import Kind
from finetune_loopback.operator_process import ACCOUNT, grant_chart_rights
from finetune_loopback.operator_thread import OperatorThread, running_operator_thread
from finetune_operator import handlers, kube, relist

HOME, WATCHED = "api-faults-operator", "api-faults"
TWO_NODES = {"distributed": {"numNodes": 2, "device": "cpu"}, "training": {"globalBatchSize": 2}}
DONE = json.dumps({"reason": "Succeeded"})
CALL_SECONDS = 1.5
"""Stands for the client's time-out of 30 s, so that a call that hangs is soon over."""
MOST_AT_ONCE = 16
"""The operator's workers: so many requests may be under way when the first refusal comes."""
CALLS = (("PATCH", "/status"), ("POST", "/pods"), ("POST", "/jobs"), ("POST", "/events"))
"""What a life writes: the status, the pods of stages, the Job of training, and what is told."""


@pytest.fixture(scope="module")
def proxy(crd_installed: KubeApi) -> Iterator[KubeFaultProxy]:
    with running_kube_fault_proxy(crd_installed) as running:
        yield running


@pytest.fixture(scope="module")
def operator(
    crd_installed: KubeApi, proxy: KubeFaultProxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorThread]:
    """One replica for all tests of this file; its periodic comparison is far off and heals nothing here."""
    for name in (HOME, WATCHED):
        crd_installed.namespace(name)
    grant_chart_rights(crd_installed, namespace=HOME, watch=(WATCHED,))
    kubeconfig = proxy.kubeconfig(HOME, token=crd_installed.token_for(HOME, ACCOUNT))
    directory: Path = tmp_path_factory.mktemp("operator")
    short = aiohttp.ClientTimeout(total=CALL_SECONDS)
    with (
        patch.object(kube, "TIMEOUT", short),
        patch.object(handlers, "FIRST_LISTS_SECONDS", 0.0),
        patch.object(relist, "GATHER_SECONDS", 0.5),
        running_operator_thread(directory, kubeconfig=kubeconfig, namespace=HOME, watch=(WATCHED,)) as running,
    ):
        yield running


@pytest.fixture
def cluster(crd_installed: KubeApi, proxy: KubeFaultProxy, operator: OperatorThread) -> Iterator[Namespace]:
    yield Namespace(crd_installed, WATCHED)
    proxy.faults.clear()
    assert not operator.ended
    await_equal(operator)


def await_equal(operator: OperatorThread, *, seconds: float = 20.0) -> None:
    """Wait until the store is equal to a fresh list."""
    deadline = time.monotonic() + seconds
    while True:
        store, fresh = operator.store_and_fresh_list()
        if store == fresh:
            return
        different = {place for place in store.keys() | fresh.keys() if store.get(place) != fresh.get(place)}
        assert time.monotonic() < deadline, f"the store differs from a fresh list in {different}"
        time.sleep(0.1)


def live(cluster: Namespace, name: str) -> None:
    """Bring a job from its creation to its good end."""
    cluster.submit(minimal_job(name, **TWO_NODES))
    for child in (f"{name}-prepare", f"{name}-a1", f"{name}-export"):
        cluster.succeed(child, message=DONE)
    cluster.await_phase(name, "Succeeded")


def created(cluster: Namespace, name: str) -> Counter[str]:
    """Count the creations of the operator about a job that the API server took, by resource and name."""
    found: Counter[str] = Counter()
    for line in cluster.api.audit_log.read_text().splitlines():
        entry = json.loads(line)
        reference, user = entry["objectRef"], entry["user"]["username"]
        is_ours = user.endswith(f":{ACCOUNT}") and reference.get("namespace") == cluster.name
        if is_ours and entry["verb"] == "create" and entry["responseStatus"]["code"] == 201:
            what = f"{reference['resource']} {reference.get('name', '')}"
            if what.split(" ")[1].startswith(name) and reference["resource"] != "events":
                found[what] += 1
    return found


FAULTS = {
    "conflict": {"kind": Kind.REFUSE, "status": 409},
    "too-many-requests": {"kind": Kind.REFUSE, "status": 429, "retry_after": 1},
    "server-error": {"kind": Kind.REFUSE, "status": 500},
    "unavailable": {"kind": Kind.REFUSE, "status": 503},
    "reset": {"kind": Kind.RESET},
    "lost-reply": {"kind": Kind.LOSE_REPLY},
    "cut-reply": {"kind": Kind.CUT_REPLY},
    "hang": {"kind": Kind.HANG},
    "hang-after": {"kind": Kind.HANG_REPLY},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_life_goes_on_although_the_first_call_of_each_kind_fails(
    cluster: Namespace, proxy: KubeFaultProxy, operator: OperatorThread, fault: str
) -> None:
    before = operator.metric("finetune_operator_reconcile_failures_total", cause="bug")
    faults = [
        proxy.faults.inject(method=method, contains=path, about=fault, **FAULTS[fault]) for method, path in CALLS
    ]
    live(cluster, fault)
    assert all(one.reached.is_set() for one in faults)
    expected = {f"pods {fault}-prepare", f"jobs {fault}-a1", f"pods {fault}-export"}
    assert created(cluster, fault) == dict.fromkeys(expected, 1)
    assert operator.metric("finetune_operator_reconcile_failures_total", cause="bug") == before


def test_a_status_that_is_refused_is_written_later(cluster: Namespace, proxy: KubeFaultProxy) -> None:
    proxy.faults.inject(Kind.REFUSE, "PATCH", "/refused/status", status=422, times=2)
    live(cluster, "refused")


@pytest.mark.parametrize("path", ["/pods", "/jobs"])
def test_a_child_that_is_refused_for_good_fails_the_job_in_the_api_servers_words(
    cluster: Namespace, proxy: KubeFaultProxy, path: str
) -> None:
    name = f"unwanted-{path[1:]}"
    proxy.faults.inject(
        Kind.REFUSE, "POST", path, about=f'"{name}-{"a1" if path == "/jobs" else "prepare"}"', status=422
    )
    cluster.submit(minimal_job(name, **TWO_NODES))
    if path == "/jobs":
        cluster.succeed(f"{name}-prepare", message=DONE)
    status = cluster.await_phase(name, "Failed")
    assert status["reason"] == "CreationRefused"
    assert "injected 422" in status["message"]


def test_a_request_to_wait_is_obeyed_whatever_happens_to_the_job_meanwhile(
    cluster: Namespace, proxy: KubeFaultProxy
) -> None:
    refusal = proxy.faults.inject(Kind.REFUSE, "PATCH", "/patient/status", status=429, retry_after=3)
    cluster.submit(minimal_job("patient"))
    assert refusal.reached.wait(10)
    for number in range(8):  # each event calls for a look at the job
        edit = {"metadata": {"annotations": {"look": str(number)}}}
        path = f"/apis/{API_VERSION}/namespaces/{WATCHED}/{PLURAL}/patient"
        cluster.api.request("PATCH", path, body=edit, content_type=MERGE)
        time.sleep(0.2)
    cluster.await_phase("patient", "Preparing")
    first, second, *_ = proxy.faults.seen("PATCH", "/patient/status")
    print(f"asked again {second.at - first.at:.1f} s after a 429 with Retry-After: 3")
    assert 3.0 <= second.at - first.at < 3.0 * 1.5 + 1.0


def test_an_overloaded_api_server_is_left_alone(cluster: Namespace, proxy: KubeFaultProxy) -> None:
    """Thirty jobs want a status; the API server says for six seconds that it has too many requests."""
    proxy.faults.inject(Kind.REFUSE, "PATCH", "/status", about="crowd-", status=429, retry_after=2, times=10_000)
    names = [f"crowd-{number}" for number in range(30)]
    for name in names:
        cluster.submit(minimal_job(name))
    time.sleep(6.0)
    proxy.faults.clear()
    asked = len(proxy.faults.seen("PATCH", "/crowd-"))
    print(f"{asked} requests of 30 jobs in 6 s of 429 with Retry-After: 2")
    assert asked <= 4 * MOST_AT_ONCE
    for name in names:
        cluster.await_phase(name, "Preparing", seconds=10)


KINDS = (f"/{PLURAL}?", "/jobs?", "/pods?")
BROKEN_WATCHES = {"ends-at-once": Kind.WATCH_ENDS, "cut-mid-line": Kind.WATCH_CUT, "silent": Kind.WATCH_SILENT}


@pytest.mark.parametrize("fault", BROKEN_WATCHES)
def test_a_life_goes_on_although_watches_break(
    cluster: Namespace,
    proxy: KubeFaultProxy,
    operator: OperatorThread,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    monkeypatch.setattr(operator.replica.kopf_settings.watching, "inactivity_timeout", 2.0)  # for 70 s
    kinds = [proxy.faults.inject(BROKEN_WATCHES[fault], "GET", kind, about="watch=true", times=3) for kind in KINDS]
    proxy.cut_watches()
    live(cluster, f"watched-{fault}")
    assert all(one.reached.is_set() for one in kinds)


def test_what_is_deleted_while_a_watch_is_gone_is_missed_by_nobody(
    cluster: Namespace, proxy: KubeFaultProxy, operator: OperatorThread
) -> None:
    """The watches come back with 410 Gone; a FineTuneJob, a Job and a pod of a stage went in the gap."""
    for name in ("gap-tune", "gap-job", "gap-pod"):
        cluster.submit(minimal_job(name, **TWO_NODES))
        cluster.start(f"{name}-prepare")
    for name in ("gap-tune", "gap-job"):
        pod = cluster.pods()[f"{name}-prepare"]
        cluster.end_pod(pod, message=DONE)
        cluster.start(f"{name}-a1")
        cluster.await_phase(name, "Running")
    await_equal(operator)
    gone = [proxy.faults.inject(Kind.WATCH_GONE, "GET", kind, about="watch=true") for kind in KINDS]
    proxy.cut_watches()
    assert all(one.reached.wait(10) for one in gone)
    cluster.delete_tune("gap-tune")
    cluster.delete_job("gap-job-a1")
    cluster.collect()
    old = cluster.pods()["gap-pod-prepare"]
    cluster.remove_pod(old)
    before = operator.metric("finetune_operator_relists_total", outcome="done")
    for one in gone:
        one.release.set()
    await_equal(operator, seconds=10)
    cluster.await_phase("gap-job", "Restarting")
    cluster.await_gone(
        lambda: cluster.pods().get("gap-pod-prepare", old)["metadata"]["uid"] == old["metadata"]["uid"]
    )
    assert operator.metric("finetune_operator_relists_total", outcome="done") > before
    assert operator.metric("finetune_operator_relist_drift_total") >= 3
