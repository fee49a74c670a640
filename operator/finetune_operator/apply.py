"""The only writer: carries a Plan out, in the order status, deletes, children, events.

A job for which nothing was done yet is the exception: its first child is created in a pass of its own, and told of in
the next one, which comes behind the first passes of all other new jobs. When a thousand come at once, no first pod
waits for somebody's status. Nothing depends on the order there: that child has one name, whoever creates it.

The status goes by server-side apply to /status, whole, under one field manager, and only when it says something else
than before. It is written over the version it was decided on and no other: the reply then holds no edit of a user
that was not looked at, and a write that the network kept until another replica leads changes nothing.

A child is created once and never changed, so it goes by a plain create: an apply would merge into whatever bears the
name, a user's own Job for one, while a create that meets the name is told so (409) and looks whose it is. Names
are deterministic, so a stale view costs one refused request and never a second child. Replies go into the store at
once; the watch repeats them later, without effect.
"""

import contextlib
import hashlib
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import finetune_api
from finetune_api.reasons import Reason
from finetune_api.status import FineTuneJobStatus
from finetune_operator.errors import ApiError, ConflictError, NotFoundError, RefusedError, TransientError
from finetune_operator.kinds import EVENT, FINE_TUNE_JOB, JOB, POD, Kind, kind_of
from finetune_operator.kube import Kube
from finetune_operator.log import job_fields
from finetune_operator.metrics import Metrics
from finetune_operator.model import Delete, Event, FineTuneJob, Observed, Plan, RefusedWrite
from finetune_operator.refusals import RefusalBook
from finetune_operator.status_metrics import count_status
from finetune_operator.store import Store
from finetune_operator.workqueue import Key

NOTE_LIMIT = 1024
"""Characters that the API server takes as an Event's note."""

DELETABLE = {kind.kind: kind for kind in (JOB, POD, FINE_TUNE_JOB)}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Applied:
    """What a pass changed."""

    status: bool = False
    look_again: bool = False
    """Whether a child was created or a new refusal is to be shown: look at the job once more."""


class Writer:
    """Carries plans out."""

    def __init__(self, kube: Kube, *, store: Store, refusals: RefusalBook, metrics: Metrics, identity: str) -> None:
        self._kube = kube
        self._store = store
        self._refusals = refusals
        self._metrics = metrics
        self._identity = identity

    async def apply(self, observed: Observed, plan: Plan) -> Applied:
        """Carry the plan out.

        Raises TransientError when the API server cannot take it now; what was done until then stays done, and the
        next pass plans the rest again.
        """
        job = observed.job
        if job.status.phase_time is None and plan.children and not observed.refused:
            with contextlib.suppress(TransientError):  # what does not work is told first, and then tried again
                return Applied(look_again=await self._create_all(job, plan.children))
        try:
            wrote_status = await self._write_status(job, plan.status)
        except NotFoundError:
            return Applied()  # deleted: its own event is on the way
        for delete in plan.deletes:
            await self._delete(job, delete)
            if delete.force:  # told by itself: the status may have nothing new to say
                await self._tell(job, plan.status, _node_lost(delete))
        look_again = await self._create_all(job, plan.children) or await self._probe_all(job, plan.probes)
        if wrote_status:
            self._count(job, plan)
            for event in plan.events:
                await self._tell(job, plan.status, event)
        return Applied(status=wrote_status, look_again=look_again)

    async def _write_status(self, job: FineTuneJob, status: FineTuneJobStatus) -> bool:
        if status.to_wire() == job.status.to_wire():
            return False
        meta = {"namespace": job.namespace, "name": job.name, "uid": job.uid}
        meta |= {"resourceVersion": str(job.version)} if job.version else {}
        body = {"apiVersion": finetune_api.API_VERSION, "kind": finetune_api.KIND, "metadata": meta}
        reply = await self._kube.apply(FINE_TUNE_JOB, {**body, "status": status.to_wire()}, subresource="status")
        self._store.put(FINE_TUNE_JOB, reply)
        return True

    async def _delete(self, job: FineTuneJob, delete: Delete) -> None:
        """Delete a Job after its pods: while it is in view, a pod of its may live unseen."""
        kind = DELETABLE[delete.kind]
        policy = "Foreground" if kind is JOB else "Background"
        where = {"namespace": job.namespace, "name": delete.name, "uid": delete.uid}
        await self._kube.delete(kind, **where, policy=policy, force=delete.force)
        logger.info("deleted", extra=_fields(job, kind=delete.kind, child=delete.name, force=delete.force))

    async def _create_all(self, job: FineTuneJob, children: tuple[dict[str, Any], ...]) -> bool:
        """Create the children in order, up to the first that is refused: a later one may need an earlier one.

        Return whether the job is to be looked at once more.
        """
        key, created = Key(job.namespace, job.name), False
        for child in children:
            name = child["metadata"]["name"]
            try:
                await self._create(job, child)
            except RefusedError as error:
                logger.warning(
                    "child refused", extra=_fields(job, child=name, code=error.status, error=error.message)
                )
                return self._refusals.note(key, uid=job.uid, refused=_refused(child, error))
            self._refusals.clear(key, name=name)
            created |= kind_of(child) in (JOB, POD)  # what they need changes nothing in view
        return created

    async def _probe_all(self, job: FineTuneJob, probes: tuple[dict[str, Any], ...]) -> bool:
        """Ask whether pods would be taken; return whether the answer is to be shown and was not known."""
        key, is_new = Key(job.namespace, job.name), False
        for probe in probes:
            try:
                await self._kube.create(POD, probe, dry_run=True)
            except RefusedError as error:
                is_new |= self._refusals.note(key, uid=job.uid, refused=_refused(probe, error))
            else:
                self._refusals.clear(key, name=probe["metadata"]["name"])
        return is_new

    async def _create(self, job: FineTuneJob, child: dict[str, Any]) -> None:
        reply = await self._create_or_find(job, child)
        if kind_of(child) in (JOB, POD):
            self._store.put(kind_of(child), reply)

    async def _create_or_find(self, job: FineTuneJob, child: dict[str, Any]) -> dict[str, Any]:
        kind, name = kind_of(child), child["metadata"]["name"]
        try:
            reply = await self._kube.create(kind, child)
        except ConflictError as conflict:
            found = await self._find(kind, job, name=name, conflict=conflict)
            _check_owner(job, found)
            return found
        logger.info("child created", extra=_fields(job, child=name, kind=kind.kind))
        return reply

    async def _find(self, kind: Kind, job: FineTuneJob, *, name: str, conflict: ConflictError) -> dict[str, Any]:
        """Return the object that a creation met. A conflict without one is a quota's, whose count just changed."""
        try:
            return await self._kube.get(kind, namespace=job.namespace, name=name)
        except NotFoundError:
            raise conflict from None

    async def _tell(self, job: FineTuneJob, status: FineTuneJobStatus, event: Event) -> None:
        try:
            await self._kube.create(EVENT, _event(job, status, event, identity=self._identity))
        except ConflictError:
            return  # told before the operator was restarted
        except ApiError as error:
            logger.warning("event not recorded", extra=_fields(job, reason=event.reason, error=error.message))

    def _count(self, job: FineTuneJob, plan: Plan) -> None:
        status = plan.status
        reason = plan.events[0].reason if plan.events else str(status.reason)
        count_status(self._metrics, namespace=job.namespace, old=job.status, new=status, reason=reason)
        if status.phase is not job.status.phase:
            told = {"phase": status.phase.value, "reason": reason, "attempt": status.attempt}
            logger.info("phase changed", extra=_fields(job, **told))


def _check_owner(job: FineTuneJob, found: dict[str, Any]) -> None:
    """Raise unless the object found under a child's name is the job's own.

    TransientError for what is on its way out (an earlier job of the same name), RefusedError for somebody else's.
    """
    meta = found["metadata"]
    owners = [one for one in meta.get("ownerReferences") or () if one.get("controller")]
    what = f"{found['kind']} {meta['name']}"
    if meta.get("deletionTimestamp"):
        raise TransientError(f"{what} is still being deleted", status=409)
    if any(one["uid"] == job.uid for one in owners):
        return
    if any(one["kind"] == finetune_api.KIND and one["name"] == job.name for one in owners):
        raise TransientError(f"{what} of an earlier FineTuneJob of this name is still there", status=409)
    raise RefusedError(
        f"{what} exists and does not belong to this FineTuneJob; delete it or give the FineTuneJob another name",
        status=409,
    )


def _refused(child: dict[str, Any], error: RefusedError) -> RefusedWrite:
    name = child["metadata"]["name"]
    return RefusedWrite(kind=child["kind"], name=name, code=error.status, message=error.message)


def _node_lost(delete: Delete) -> Event:
    text = f"pod {delete.name} was removed by force: its node did not end it long after its grace period"
    return Event(type="Warning", reason=Reason.NODE_LOST, message=text)


def _event(job: FineTuneJob, status: FineTuneJobStatus, event: Event, *, identity: str) -> dict[str, Any]:
    """Build the Event; its name follows from what it says, so that a repetition meets itself."""
    seed = f"{job.uid} {status.phase} {status.attempt} {status.restarts.total} {event.reason} {event.message}"
    digest = hashlib.sha256(seed.encode()).hexdigest()[:16]
    about = {"apiVersion": finetune_api.API_VERSION, "kind": finetune_api.KIND, "uid": job.uid}
    return {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.kind,
        "metadata": {"namespace": job.namespace, "name": f"{job.name}.{digest}"},
        "eventTime": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "reportingController": finetune_api.GROUP + "/operator",
        "reportingInstance": identity[:128],
        "action": "Reconcile",
        "type": event.type,
        "reason": event.reason,
        "note": event.message[:NOTE_LIMIT],
        "regarding": {**about, "namespace": job.namespace, "name": job.name},
    }


def _fields(job: FineTuneJob, **more: Any) -> dict[str, Any]:
    return job_fields(job.namespace, job.name, **{"uid": job.uid, "attempt": job.status.attempt, **more})
