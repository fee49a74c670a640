"""The store under events, lists and replies in every order."""

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_loopback.kube_objects import raw_child_job, raw_job, raw_pod
from finetune_operator.kinds import FINE_TUNE_JOB, JOB, POD, Kind
from finetune_operator.records import RawJob
from finetune_operator.store import Place, Store
from finetune_operator.workqueue import Key

KEY = Key("ns", "tune")
COMPLETE = {"type": "Complete", "status": "True"}


def new_store(*objects: dict[str, Any]) -> Store:
    store = Store()
    kinds = {"FineTuneJob": FINE_TUNE_JOB, "Job": JOB, "Pod": POD}
    for raw in objects:
        store.put(kinds[raw["kind"]], raw)
    return store


def phase_of(store: Store) -> str | None:
    entry = store.job(KEY)
    return entry.record.phase if entry and isinstance(entry.record, RawJob) else None


def child_names(store: Store) -> list[str]:
    return sorted(child.name for child in store.children(KEY))


def test_a_change_names_the_owner_and_a_repetition_nobody() -> None:
    store, child = new_store(raw_job()), raw_child_job(version=5)
    assert store.put(JOB, child) == KEY
    assert store.put(JOB, child) is None
    assert store.put(JOB, raw_child_job(version=6)) == KEY


@pytest.mark.parametrize("order", list(itertools.permutations([3, 5, 9])))
def test_the_newest_version_wins_in_any_order(order: tuple[int, ...]) -> None:
    store = new_store(*(raw_job(version=version, phase=f"v{version}") for version in order))
    assert phase_of(store) == "v9"


def test_a_reply_to_our_own_write_makes_the_later_event_no_news() -> None:
    store = new_store(raw_job(version=1))
    assert store.put(FINE_TUNE_JOB, raw_job(version=2, phase="Preparing")) == KEY
    assert store.put(FINE_TUNE_JOB, raw_job(version=2, phase="Preparing")) is None


def test_a_new_uid_replaces_and_late_news_of_the_old_one_does_not_come_back() -> None:
    store = new_store(raw_job(uid="old", version=5, phase="Running"), raw_job(uid="new", version=9))
    assert store.put(FINE_TUNE_JOB, raw_job(uid="old", version=7, phase="Failed")) is None
    assert store.remove(FINE_TUNE_JOB, raw_job(uid="old", version=8)) is None
    entry = store.job(KEY)
    assert entry is not None
    assert entry.uid == "new"


def relist(store: Store, kind: Kind, items: list[dict[str, Any]], *, version: int, namespace: str | None) -> set[Key]:
    seen, changed = store.put_all(kind, items)
    return changed | store.drop_unseen(kind, seen=seen, version=version, namespace=namespace)


def test_what_was_deleted_does_not_come_back_by_a_list_that_began_before() -> None:
    store = new_store(raw_job(version=5))
    store.begin_relist()
    assert store.remove(FINE_TUNE_JOB, raw_job(version=6)) == KEY
    assert relist(store, FINE_TUNE_JOB, [raw_job(version=5)], version=5, namespace=None) == set()
    assert store.job(KEY) is None


def test_the_memory_of_deleted_objects_ends_after_two_relists() -> None:
    store = new_store(raw_job(version=5))
    store.remove(FINE_TUNE_JOB, raw_job(version=6))
    store.begin_relist()
    assert store.put(FINE_TUNE_JOB, raw_job(version=5)) is None
    store.begin_relist()
    assert store.put(FINE_TUNE_JOB, raw_job(version=7)) == KEY


def test_a_relist_drops_what_vanished_and_names_its_owner() -> None:
    child = raw_child_job(version=4)
    store = new_store(raw_job(), child, raw_pod(child, version=5))
    assert relist(store, JOB, [], version=10, namespace=None) == {KEY}
    assert relist(store, JOB, [], version=11, namespace=None) == set()
    assert child_names(store) == ["tune-a1-0-abcde"]


def test_a_relist_keeps_what_was_created_after_the_list_was_made() -> None:
    store = new_store(raw_job(), raw_child_job(version=12))
    assert relist(store, JOB, [], version=10, namespace=None) == set()
    assert child_names(store) == ["tune-a1"]


@pytest.mark.parametrize(("namespace", "left"), [(None, []), ("ns", []), ("other", ["tune-a1"])])
def test_a_relist_of_one_namespace_leaves_the_others_alone(namespace: str | None, left: list[str]) -> None:
    store = new_store(raw_job(), raw_child_job(version=2))
    relist(store, JOB, [], version=10, namespace=namespace)
    assert child_names(store) == left


def test_a_list_in_parts_keeps_what_any_part_names() -> None:
    store = new_store(raw_job("a"), raw_job("b", uid="u2"), raw_job("c", uid="u3"))
    seen = set[Place]().union(*(store.put_all(FINE_TUNE_JOB, [raw_job(name)])[0] for name in ("a", "b")))
    assert store.drop_unseen(FINE_TUNE_JOB, seen=seen, version=99, namespace=None) == {Key("ns", "c")}


def test_a_job_is_new_until_anything_was_done_for_it() -> None:
    assert not Store().is_new(KEY)
    assert new_store(raw_job(version=1)).is_new(KEY)
    assert not new_store(raw_job(version=1, phase="Preparing")).is_new(KEY)
    assert not new_store(raw_job(version=1), raw_child_job(version=2)).is_new(KEY)


def test_children_of_no_job_are_kept_until_their_job_is_listed() -> None:
    store = new_store(raw_child_job())
    assert store.job(KEY) is None
    store.put(FINE_TUNE_JOB, raw_job())
    assert child_names(store) == ["tune-a1"]


def test_an_object_without_our_labels_is_not_taken_in() -> None:
    stranger = raw_child_job()
    del stranger["metadata"]["labels"]["finetune-operator.io/stage"]
    assert new_store().put(JOB, stranger) is None
    stranger["metadata"]["labels"]["finetune-operator.io/stage"] = "dance"
    assert new_store().put(JOB, stranger) is None


def test_a_finished_job_costs_no_child_records_but_what_still_runs_stays_in_view() -> None:
    done, live = raw_child_job(attempt=1, conditions=(COMPLETE,)), raw_child_job(attempt=2, uid="j2")
    ended_pod, running_pod = raw_pod(done, phase="Succeeded"), raw_pod(live, uid="p2")
    store = new_store(raw_job(), done, live, ended_pod, running_pod)
    assert len(child_names(store)) == 4
    store.put(FINE_TUNE_JOB, raw_job(version=2, phase="Failed"))
    assert child_names(store) == ["tune-a2", "tune-a2-0-abcde"]
    assert store.put(POD, raw_pod(live, uid="p2", version=2, phase="Failed")) == KEY
    assert child_names(store) == ["tune-a2"]
    assert store.put(POD, raw_pod(live, uid="p2", version=3, phase="Failed")) is None


def test_lookup_by_name_follows_removal() -> None:
    child = raw_child_job()
    pod = raw_pod(child)
    store = new_store(raw_job(), child, pod)
    assert store.get(POD, namespace="ns", name="tune-a1-0-abcde") is not None
    assert store.remove(POD, pod) == KEY
    assert store.get(POD, namespace="ns", name="tune-a1-0-abcde") is None
    assert store.remove(POD, pod) is None


Change = tuple[str, int]


@settings(max_examples=150, deadline=None)
@given(
    history=st.lists(st.sampled_from(["change", "delete"]), min_size=1, max_size=12),
    data=st.data(),
)
def test_the_store_ends_where_the_api_server_is_whatever_order_the_news_takes(
    history: list[str], data: st.DataObject
) -> None:
    """Events keep their order; replies and one list (of any moment) fall anywhere between; a relist ends it."""
    states: list[dict[str, Any] | None] = [raw_job(uid="u0", version=1, phase="v1")]
    number = 0
    for version, step in enumerate(history, start=2):
        if step == "delete":
            states.append(None)
            continue
        number += states[-1] is None
        states.append(raw_job(uid=f"u{number}", version=version, phase=f"v{version}"))
    store, seen = Store(), states[0]
    for version, state in enumerate(states, start=1):
        if state is not None:
            store.put(FINE_TUNE_JOB, state)
        elif seen is not None:
            store.remove(FINE_TUNE_JOB, seen)
        seen = state
        reply = data.draw(st.integers(0, version - 1))
        if states[reply] is not None and data.draw(st.booleans()):
            store.put(FINE_TUNE_JOB, states[reply] or {})
    now, version = states[-1], len(states)
    store.begin_relist()
    relist(store, FINE_TUNE_JOB, [now] if now else [], version=version, namespace=None)
    assert phase_of(store) == (f"v{now['metadata']['resourceVersion']}" if now else None)
