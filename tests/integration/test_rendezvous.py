"""How the pods of an attempt find one another: through a real S3 server, and as real pods."""

import json
import re
import threading
import time
from contextlib import suppress
from datetime import timedelta

import pytest
from train_pods import TrainPod

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.run import Rendezvous, RunLayout
from finetune_api.spec import S3Storage
from finetune_loopback.s3_fault_proxy import Kind, running_fault_proxy
from finetune_trainer import rendezvous
from finetune_trainer.errors import StageFailure, StopRequested
from finetune_trainer.rendezvous import announced, find_address
from finetune_trainer.stage_input import read_pod
from finetune_trainer.storage import RetryBudget, open_s3

pytestmark = pytest.mark.timeout(300)
HOST, HOST6 = "10.1.2.3", "fd00::1:2"
OTHER_UID = "11111111-0000"


def pod(index=0, *, uid="00000000-0000", address=HOST):
    return read_pod({"FINETUNE_POD_UID": uid, "JOB_COMPLETION_INDEX": str(index), "FINETUNE_POD_IP": address})


@pytest.fixture
def job(s3_job):
    return told(s3_job)


def told(s3_job, *, nodes=2, attempt=1, **spec):
    job = s3_job.stage_input(distributed={"numNodes": nodes}, **spec)
    return job.model_copy(update={"attempt": attempt})


def put(s3_job, job, text):
    s3_job.store.put(RunLayout(job.spec.checkpoint.uri, job.run_id).rendezvous(job.attempt), text)


def records(s3_job):
    return [key for key in s3_job.keys("runs/") if "/rendezvous/" in key]


@pytest.mark.parametrize("address", [HOST, HOST6])
def test_pod_0_tells_its_address_to_the_others(s3_job, job, address):
    first = pod(address=address)
    with announced(job, first, s3_job.store):
        assert [find_address(job, one, s3_job.store) for one in (first, pod(1), pod(2))] == [address] * 3


@pytest.mark.parametrize("end", [StageFailure(1, Reason.CRASHED, "no"), StopRequested(), KeyError("bug")])
def test_the_address_is_gone_however_pod_0_ends(s3_job, job, end):
    with suppress(type(end)), announced(job, pod(), s3_job.store):
        assert [key.endswith("rendezvous/1.json") for key in records(s3_job)] == [True]
        raise end
    assert records(s3_job) == []


def test_another_pod_waits_until_it_is_told(s3_job, job):
    found = []
    waiting = threading.Thread(target=lambda: found.append(find_address(job, pod(1), s3_job.store)))
    waiting.start()
    time.sleep(1)
    assert not found
    with announced(job, pod(), s3_job.store):
        waiting.join(10)
    assert found == [HOST]


def test_the_address_of_another_attempt_is_none(s3_job, monkeypatch, capsys):
    monkeypatch.setattr(rendezvous, "SPARE_TIMEOUT", timedelta(0))
    monkeypatch.setattr(rendezvous, "QUIET_SECONDS", 0.5)
    second = told(s3_job, attempt=2)
    second = second.model_copy(update={"spec": second.spec.model_copy(update={"pre_running_deadline_seconds": 2})})
    with announced(told(s3_job), pod(), s3_job.store), pytest.raises(StageFailure) as failure:
        find_address(second, pod(1), s3_job.store)
    assert (failure.value.code, failure.value.reason) == (1, Reason.CRASHED)
    assert re.fullmatch(
        r"waited [2-9] s for the pod with index 0 to tell its address in s3://\S+/rendezvous/2\.json, in vain;"
        r" see the events and the log of that pod",
        failure.value.message,
    )
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["event"], line.get("index")) for line in lines if line["event"] == "waits-for-pod"] == [
        ("waits-for-pod", 0)
    ]


@pytest.mark.parametrize("text", [b"", b"{}", b'{"writer": "a1-x", "address": "bot-a1-0"}'])
def test_what_is_no_address_is_refused(s3_job, job, text):
    put(s3_job, job, text)
    with pytest.raises(StageFailure) as failure:
        find_address(job, pod(1), s3_job.store)
    assert failure.value.reason is Reason.STORAGE_FAILED
    assert "/rendezvous/1.json tells no address (" in failure.value.message


def test_a_single_pod_never_asks_the_store(s3_job):
    alone, nothing = told(s3_job, nodes=1), object()
    with announced(alone, pod(), nothing):
        assert find_address(alone, pod(), nothing) == "127.0.0.1"


def test_the_address_of_a_pod_that_came_later_stays(s3_job, job):
    later = Rendezvous(writer=pod(uid=OTHER_UID).writer(1), address="10.9.9.9")
    with announced(job, pod(), s3_job.store):
        put(s3_job, job, later.model_dump_json(by_alias=True).encode())
    assert find_address(job, pod(1), s3_job.store) == "10.9.9.9"


@pytest.mark.parametrize("fault", [{"kind": Kind.REFUSE, "status": 403, "code": "AccessDenied"}, {"kind": Kind.HOLD}])
def test_an_address_that_cannot_be_deleted_is_only_logged(s3_job, job, monkeypatch, capsys, fault):
    monkeypatch.setattr(rendezvous, "WITHDRAW_SECONDS", 2.0)
    with running_fault_proxy(s3_job.server.endpoint) as proxy:
        s3 = {"endpoint": proxy.endpoint, "credentialsSecretRef": {"name": "s3"}}
        store = open_s3(S3Storage.model_validate(s3), RetryBudget(seconds=20))
        injected = proxy.inject(method="DELETE", **fault)
        began = time.monotonic()
        with announced(job, pod(), store):
            pass
        assert injected.reached.is_set()
        injected.release.set()
    assert time.monotonic() - began < 10
    assert "rendezvous-left" in [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]


def test_stop_ends_a_pod_that_waits_for_another(make_job, tmp_path):
    job = make_job(training={"globalBatchSize": 2}, distributed={"device": "cpu", "numNodes": 2})
    lonely = TrainPod(job.input, tmp_path / "lonely", index=1)
    job.started.append(lonely)
    lonely.wait_for("waits-for-pod")
    lonely.stop()
    assert lonely.end(timeout=30) == ExitCode.STOPPED, lonely.text()
    assert lonely.last_word().reason is Reason.STOPPED
    assert "stopped on request" in lonely.last_word().message
