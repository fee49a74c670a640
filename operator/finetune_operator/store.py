"""What the operator knows of the cluster: slim records by key, fed from four sides.

Watch events, replies to our own writes and full lists all arrive in any order, so each put is guarded: of one object
the higher resourceVersion wins, an object that was deleted never comes back (its uid is remembered over two relists),
and a list removes only what is older than itself. Each change answers with the key of the FineTuneJob it touches, for
the work queue. What has ended under a job that has ended is dropped: a finished job costs one record.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from finetune_operator.kinds import FINE_TUNE_JOB, JOB, POD, Kind
from finetune_operator.records import Entry, RawJob, entry_of, has_ended, is_finished
from finetune_operator.workqueue import Key

KINDS = (FINE_TUNE_JOB, JOB, POD)
"""In the order in which they are listed: a pod in view must never lack its Job because the Job was listed later."""
Place = tuple[str, str]
"""Namespace and name of an object."""


class Store:
    """Records of FineTuneJobs, Jobs and Pods."""

    def __init__(self) -> None:
        self._entries: dict[Kind, dict[Place, Entry]] = {kind: {} for kind in KINDS}
        self._children: dict[Key, dict[tuple[Kind, str], Entry]] = {}
        self._gone: set[str] = set()
        self._gone_before: set[str] = set()

    def job(self, key: Key) -> Entry | None:
        """Return the FineTuneJob."""
        return self._entries[FINE_TUNE_JOB].get(key)

    def jobs(self) -> Iterator[Entry]:
        """Yield every FineTuneJob."""
        yield from list(self._entries[FINE_TUNE_JOB].values())

    def is_new(self, key: Key) -> bool:
        """Whether the job is there and nothing was ever done for it."""
        entry = self.job(key)
        if entry is None or not isinstance(entry.record, RawJob):
            return False
        return not entry.record.status_text and key not in self._children

    def has_business(self, key: Key) -> bool:
        """Whether a pass may find something to do: not for an ended job that stays for ever and has no child."""
        entry = self.job(key)
        if entry is None or not has_ended(entry.record) or key in self._children:
            return True
        return isinstance(entry.record, RawJob) and entry.record.expires

    def children(self, key: Key) -> list[Entry]:
        """Return the Jobs and Pods that bear the job's label."""
        return list(self._children.get(key, {}).values())

    def get(self, kind: Kind, *, namespace: str, name: str) -> Entry | None:
        """Return one object."""
        return self._entries[kind].get((namespace, name))

    def entries(self) -> dict[tuple[str, str, str], Entry]:
        """Return every object by kind, namespace and name: two stores that know the same give the same."""
        return {
            (kind.kind, *place): entry for kind, entries in self._entries.items() for place, entry in entries.items()
        }

    def put(self, kind: Kind, raw: Mapping[str, Any]) -> Key | None:
        """Take an object in if it is news; return the key it concerns, None if it is not news."""
        entry = entry_of(kind, raw)
        if entry is None or self._is_stale(kind, entry):
            return None
        if self._is_spent(kind, entry):
            return self._drop(kind, entry.key.namespace, entry.name)
        self._entries[kind][(entry.key.namespace, entry.name)] = entry
        if kind is FINE_TUNE_JOB:
            self._drop_spent_children(entry)
        else:
            self._children.setdefault(entry.key, {})[(kind, entry.name)] = entry
        return entry.key

    def remove(self, kind: Kind, raw: Mapping[str, Any]) -> Key | None:
        """Forget a deleted object; return the key it concerns, None if it was not known."""
        meta = raw["metadata"]
        self._gone.add(str(meta["uid"]))
        known = self._entries[kind].get((meta["namespace"], meta["name"]))
        if known is None or known.uid != meta["uid"]:
            return None
        return self._drop(kind, meta["namespace"], meta["name"])

    def forget(self) -> None:
        """Forget everything: lists are about to be read from nothing."""
        for entries in self._entries.values():
            entries.clear()
        self._children.clear()
        self._gone, self._gone_before = set(), set()

    def begin_relist(self) -> None:
        """Tell that lists are about to be read: uids deleted before the last relist began may be forgotten."""
        self._gone_before, self._gone = self._gone, set()

    def put_all(self, kind: Kind, items: Iterable[Mapping[str, Any]]) -> tuple[set[Place], set[Key]]:
        """Take a part of a list in; return the places it names and the keys that differ."""
        seen: set[Place] = set()
        changed: set[Key] = set()
        for raw in items:
            seen.add((raw["metadata"]["namespace"], raw["metadata"]["name"]))
            changed |= _as_set(self.put(kind, raw))
        return seen, changed

    def drop_unseen(self, kind: Kind, *, seen: set[Place], version: int, namespace: str | None) -> set[Key]:
        """Forget what a whole list of a namespace (None: of all) at `version` lacks; return the keys that differ."""
        changed: set[Key] = set()
        for place, entry in list(self._entries[kind].items()):
            if place not in seen and namespace in (None, place[0]) and entry.version <= version:
                self._gone.add(entry.uid)
                changed |= _as_set(self._drop(kind, *place))
        return changed

    def _is_stale(self, kind: Kind, entry: Entry) -> bool:
        if entry.uid in self._gone or entry.uid in self._gone_before:
            return True
        known = self._entries[kind].get((entry.key.namespace, entry.name))
        if known is None:
            return False
        return entry.version <= known.version if entry.uid == known.uid else entry.version < known.version

    def _is_spent(self, kind: Kind, entry: Entry) -> bool:
        if kind is FINE_TUNE_JOB:
            return False
        owner = self.job(entry.key)
        return owner is not None and has_ended(owner.record) and is_finished(entry.record)

    def _drop_spent_children(self, job: Entry) -> None:
        if not has_ended(job.record):
            return
        for (kind, name), child in list(self._children.get(job.key, {}).items()):
            if is_finished(child.record):
                self._drop(kind, child.key.namespace, name)

    def _drop(self, kind: Kind, namespace: str, name: str) -> Key | None:
        entry = self._entries[kind].pop((namespace, name), None)
        if entry is None:
            return None
        siblings = self._children.get(entry.key, {})
        siblings.pop((kind, name), None)
        if not siblings:
            self._children.pop(entry.key, None)
        return entry.key


def _as_set(key: Key | None) -> set[Key]:
    return set() if key is None else {key}
