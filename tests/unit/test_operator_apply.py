"""Carrying out a plan: the order of writes, what is written at all, and what each refusal leads to."""

import copy
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from finetune_api.reasons import Phase, Reason
from finetune_api.status import FineTuneJobStatus, Restarts
from finetune_loopback.kube_objects import raw_child_job, raw_job, raw_pod
from finetune_operator.apply import Applied, Writer
from finetune_operator.errors import ApiError, ConflictError, NotFoundError, RefusedError, TransientError
from finetune_operator.kinds import FINE_TUNE_JOB, JOB, Kind
from finetune_operator.metrics import Metrics
from finetune_operator.model import Delete, Event, FineTuneJob, Observed, Plan, PodSettings
from finetune_operator.refusals import RefusalBook
from finetune_operator.store import Store
from finetune_operator.workqueue import Key

KEY = Key("ns", "tune")
SETTINGS = PodSettings(trainer_image="t", progress_url="https://p", progress_ca="ca")
RUNNING = FineTuneJobStatus(phase=Phase.RUNNING, reason=Reason.RUNNING, attempt=1)
EVENT = Event(type="Normal", reason=Reason.RUNNING, message="it runs")


class ApiServer:
    """Holds objects by kind and name, notes every call, and refuses what it is told to refuse."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.calls: list[str] = []
        self.errors: dict[str, ApiError] = {}
        self.applied: dict[str, Any] = {}

    def _note(self, verb: str, kind: Kind, name: str) -> None:
        kind_name = "Status" if kind is FINE_TUNE_JOB else kind.kind
        call = f"{verb} {kind_name}" if kind_name in ("Status", "Event") else f"{verb} {kind_name} {name}"
        self.calls.append(call)
        if call in self.errors:
            raise self.errors[call]

    async def apply(self, kind: Kind, manifest: dict[str, Any], *, subresource: str) -> dict[str, Any]:
        assert subresource == "status"
        self._note("apply", kind, manifest["metadata"]["name"])
        self.applied = manifest
        return raw_job(version=99, **manifest["status"])

    async def create(self, kind: Kind, manifest: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        name = manifest["metadata"]["name"]
        self._note("try" if dry_run else "create", kind, name)
        if dry_run:
            return manifest
        if (kind.kind, name) in self.objects:
            raise ConflictError(f"{name} already exists", status=409)
        self.objects[(kind.kind, name)] = manifest
        return manifest

    async def get(self, kind: Kind, *, namespace: str, name: str) -> dict[str, Any]:
        self._note("get", kind, name)
        if (kind.kind, name) not in self.objects:
            raise NotFoundError("not found", status=404)
        return self.objects[(kind.kind, name)]

    async def delete(
        self, kind: Kind, *, namespace: str, name: str, uid: str, policy: str, force: bool = False
    ) -> None:
        self._note("force" if force else f"delete {policy}", kind, name)


class Desk:
    """A writer over an API server and a store that holds one job."""

    def __init__(self) -> None:
        self.api, self.store, self.refusals, self.metrics = ApiServer(), Store(), RefusalBook(), Metrics()
        self.store.put(FINE_TUNE_JOB, raw_job())
        self.writer = Writer(
            self.api, store=self.store, refusals=self.refusals, metrics=self.metrics, identity="test"
        )
        told = FineTuneJobStatus(phase_time=datetime(2026, 11, 23, tzinfo=UTC))
        job = FineTuneJob(name="tune", namespace="ns", uid="u1", generation=1, spec={}, status=told, version=1)
        self.observed = Observed(job=job, settings=SETTINGS)

    async def apply(self, **plan: Any) -> Applied:
        return await self.writer.apply(self.observed, Plan(**{"status": RUNNING, **plan}))

    def holds(self, status: FineTuneJobStatus) -> None:
        """Let the job have that status already."""
        self.observed = replace(self.observed, job=replace(self.observed.job, status=status))


@pytest.fixture
def desk() -> Desk:
    return Desk()


def pod() -> dict[str, Any]:
    return raw_pod(raw_child_job())


def policy(name: str = "tune") -> dict[str, Any]:
    child = copy.deepcopy(raw_child_job())
    child |= {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
    child["metadata"]["name"] = name
    return child


async def test_the_order_is_status_deletes_children_events(desk: Desk) -> None:
    applied = await desk.apply(
        deletes=(Delete(kind="Job", name="tune-a1", uid="j"),),
        children=(policy(), raw_child_job(attempt=2)),
        events=(EVENT,),
    )
    assert desk.api.calls == [
        "apply Status",
        "delete Foreground Job tune-a1",
        "create NetworkPolicy tune",
        "create Job tune-a2",
        "create Event",
    ]
    assert applied == Applied(status=True, look_again=True)


async def test_the_first_child_of_a_new_job_is_created_before_anything_is_told(desk: Desk) -> None:
    desk.holds(FineTuneJobStatus())
    applied = await desk.apply(children=(policy(), raw_pod(raw_child_job(stage="prepare"))), events=(EVENT,))
    assert [call.rpartition(" ")[0] for call in desk.api.calls] == ["create NetworkPolicy", "create Pod"]
    assert applied == Applied(look_again=True)
    desk.api.calls.clear()
    assert await desk.apply(events=(EVENT,)) == Applied(status=True)
    assert desk.api.calls == ["apply Status", "create Event"]


async def test_a_new_job_whose_first_child_is_refused_is_told_so_first_the_next_time(desk: Desk) -> None:
    desk.holds(FineTuneJobStatus())
    desk.api.errors["create Job tune-a1"] = RefusedError("exceeded quota", status=403)
    assert await desk.apply(children=(raw_child_job(),)) == Applied(look_again=True)
    desk.observed = replace(desk.observed, refused=desk.refusals.of(KEY, uid="u1"))
    await desk.apply(children=(raw_child_job(),))
    assert desk.api.calls == ["create Job tune-a1", "apply Status", "create Job tune-a1"]


async def test_a_new_job_whose_first_child_cannot_be_created_now_has_a_status(desk: Desk) -> None:
    desk.holds(FineTuneJobStatus())
    desk.api.errors["create Job tune-a1"] = TransientError("overloaded", status=503)
    with pytest.raises(TransientError):
        await desk.apply(children=(raw_child_job(),))
    assert desk.api.calls == ["create Job tune-a1", "apply Status", "create Job tune-a1"]


async def test_replies_are_in_the_store_before_the_watch_tells(desk: Desk) -> None:
    await desk.apply(children=(raw_child_job(),))
    entry = desk.store.job(KEY)
    assert entry is not None
    assert entry.version == 99
    assert desk.store.get(JOB, namespace="ns", name="tune-a1") is not None


async def test_a_status_that_says_the_same_is_not_written_and_no_event_told(desk: Desk) -> None:
    desk.holds(RUNNING)
    assert await desk.apply(events=(EVENT,)) == Applied()
    assert desk.api.calls == []


async def test_a_job_that_is_gone_gets_no_children(desk: Desk) -> None:
    desk.api.errors["apply Status"] = NotFoundError("gone", status=404)
    assert await desk.apply(children=(raw_child_job(),), events=(EVENT,)) == Applied()
    assert desk.api.calls == ["apply Status"]


async def test_a_status_is_written_over_the_version_it_was_decided_on(desk: Desk) -> None:
    """Or the reply would bring a user's edit along, and its event, which calls for a look, would count as known."""
    await desk.apply()
    assert desk.api.applied["metadata"]["resourceVersion"] == "1"
    desk.api.errors["apply Status"] = ConflictError("the object has been modified", status=409)
    desk.api.calls.clear()
    with pytest.raises(TransientError):
        await desk.apply(children=(raw_child_job(),), events=(EVENT,))
    assert desk.api.calls == ["apply Status"]


async def test_a_status_that_cannot_be_written_now_holds_everything_back(desk: Desk) -> None:
    desk.api.errors["apply Status"] = TransientError("overloaded", status=503)
    with pytest.raises(TransientError):
        await desk.apply(children=(raw_child_job(),))
    assert desk.api.calls == ["apply Status"]


async def test_a_refused_child_is_noted_once_and_holds_back_the_next(desk: Desk) -> None:
    desk.api.errors["create NetworkPolicy tune"] = RefusedError("exceeded quota", status=403)
    children = (policy(), raw_child_job())
    assert (await desk.apply(children=children)).look_again is True
    assert (await desk.apply(children=children)).look_again is False
    assert "create Job tune-a1" not in desk.api.calls
    (refused,) = desk.refusals.of(KEY, uid="u1")
    assert (refused.kind, refused.name) == ("NetworkPolicy", "tune")
    assert (refused.code, refused.message) == (403, "exceeded quota")
    assert desk.refusals.of(KEY, uid="another") == ()


async def test_a_child_that_is_created_after_all_clears_its_refusal(desk: Desk) -> None:
    desk.api.errors["create Job tune-a1"] = RefusedError("exceeded quota", status=403)
    await desk.apply(children=(raw_child_job(),))
    desk.api.errors.clear()
    assert (await desk.apply(children=(raw_child_job(),))).look_again is True
    assert desk.refusals.of(KEY, uid="u1") == ()


async def test_a_child_of_ours_that_is_there_already_is_taken_in(desk: Desk) -> None:
    desk.api.objects[("Job", "tune-a1")] = raw_child_job()
    assert (await desk.apply(children=(raw_child_job(),))).look_again is True
    assert desk.store.get(JOB, namespace="ns", name="tune-a1") is not None


def owned_by(**changes: Any) -> dict[str, Any]:
    found = raw_child_job()
    found["metadata"]["ownerReferences"][0] |= changes
    return found


@pytest.mark.parametrize(
    ("found", "waits"),
    [
        (owned_by(uid="an earlier tune"), True),
        ({**owned_by(), "metadata": {**owned_by()["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}}, True),
        (owned_by(uid="x", name="other"), False),
        (owned_by(uid="x", kind="CronJob"), False),
        ({**owned_by(), "metadata": {"name": "tune-a1"}}, False),
    ],
)
async def test_an_object_of_that_name_that_is_not_ours(desk: Desk, found: dict[str, Any], waits: bool) -> None:
    desk.api.objects[("Job", "tune-a1")] = found
    if waits:
        with pytest.raises(TransientError):
            await desk.apply(children=(raw_child_job(),))
        assert desk.refusals.of(KEY, uid="u1") == ()
        return
    await desk.apply(children=(raw_child_job(),))
    (refused,) = desk.refusals.of(KEY, uid="u1")
    assert "Job tune-a1 exists and does not belong to this FineTuneJob" in refused.message


@pytest.mark.parametrize("error", [RefusedError("no", status=403), TransientError("later", status=503)])
async def test_an_event_that_cannot_be_told_stops_nothing(desk: Desk, error: ApiError) -> None:
    desk.api.errors["create Event"] = error
    assert (await desk.apply(events=(EVENT,))).status is True


async def test_the_same_event_meets_itself(desk: Desk) -> None:
    await desk.apply(events=(EVENT,))
    await desk.apply(events=(EVENT,))
    names = [name for kind, name in desk.api.objects if kind == "Event"]
    assert len(names) == 1
    await desk.apply(status=RUNNING.model_copy(update={"attempt": 2}), events=(EVENT,))
    assert len([name for kind, name in desk.api.objects if kind == "Event"]) == 2
    event = desk.api.objects[("Event", names[0])]
    assert (event["regarding"]["uid"], event["reason"], event["note"]) == ("u1", "Running", "it runs")


async def test_restarts_and_ends_are_counted_by_their_causes(desk: Desk) -> None:
    restarting = RUNNING.model_copy(update={"phase": Phase.RESTARTING, "restarts": Restarts(total=1)})
    desk.holds(RUNNING)
    await desk.apply(status=restarting, events=(Event(type="Warning", reason=Reason.CRASHED, message="boom"),))
    failed = restarting.model_copy(update={"phase": Phase.FAILED, "reason": Reason.DIVERGED})
    desk.holds(restarting)
    await desk.apply(status=failed, events=(Event(type="Warning", reason=Reason.DIVERGED, message="NaN"),))
    read = desk.metrics.registry.get_sample_value
    assert read("finetune_operator_restarts_total", {"namespace": "ns", "reason": "Crashed"}) == 1
    labels = {"namespace": "ns", "phase": "Failed", "reason": "Diverged"}
    assert read("finetune_operator_finished_jobs_total", labels) == 1


@pytest.mark.parametrize(
    ("delete", "call"),
    [
        (Delete(kind="Job", name="tune-a1", uid="j"), "delete Foreground Job tune-a1"),
        (Delete(kind="Pod", name="tune-prepare", uid="p"), "delete Background Pod tune-prepare"),
        (Delete(kind="Pod", name="tune-a1-0", uid="p", force=True), "force Pod tune-a1-0"),
        (Delete(kind="FineTuneJob", name="tune", uid="u1"), "delete Background Status"),
    ],
)
async def test_a_job_goes_after_its_pods_and_a_lost_pod_at_once(desk: Desk, delete: Delete, call: str) -> None:
    desk.holds(RUNNING)
    await desk.apply(deletes=(delete,))
    told = ["create Event"] if delete.force else []
    assert desk.api.calls == [call, *told]


async def test_nothing_else_is_deleted(desk: Desk) -> None:
    with pytest.raises(KeyError):
        await desk.apply(deletes=(Delete(kind="Secret", name="s3", uid="x"),))  # type: ignore[arg-type]


async def test_pods_that_are_missing_are_tried_and_the_refusal_is_kept_until_they_would_be_taken(desk: Desk) -> None:
    desk.holds(RUNNING)
    probe = pod()
    desk.api.errors["try Pod tune-a1-0-abcde"] = RefusedError("exceeded quota: gpus", status=403)
    assert (await desk.apply(probes=(probe,))).look_again is True
    assert (await desk.apply(probes=(probe,))).look_again is False
    (refused,) = desk.refusals.of(KEY, uid="u1")
    assert (refused.kind, refused.message) == ("Pod", "exceeded quota: gpus")
    desk.api.errors.clear()
    await desk.apply(probes=(probe,))
    assert desk.refusals.of(KEY, uid="u1") == ()
    assert ("Pod", "tune-a1-0-abcde") not in desk.api.objects


async def test_a_conflict_over_a_child_that_is_not_there_is_tried_again_and_no_refusal(desk: Desk) -> None:
    """A quota whose count changed at that moment answers a creation so."""
    error = ConflictError("resourcequotas: the object has been modified", status=409)
    desk.api.errors["create NetworkPolicy tune"] = error
    with pytest.raises(TransientError):
        await desk.apply(children=(policy(),))
    assert desk.refusals.of(KEY, uid="u1") == ()


async def test_lines_about_a_job_bear_its_keys_and_the_attempt_that_begins(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="finetune_operator.apply")
    desk = Desk()
    await desk.apply(events=(EVENT,))
    (fields,) = [record.fields for record in caplog.records if record.message == "phase changed"]
    assert fields == {
        "namespace": "ns",
        "job": "tune",
        "uid": "u1",
        "attempt": 1,
        "phase": "Running",
        "reason": "Running",
    }
