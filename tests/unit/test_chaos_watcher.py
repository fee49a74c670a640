"""The watcher's store: what a change means, after a lost connection too."""

import json
import time
from pathlib import Path

import pytest

from finetune_chaos.kube import Kube, KubeError
from finetune_chaos.watcher import Watcher


def pod(name, attempt, phase="Running"):
    labels = {
        "finetune-operator.io/job": "j",
        "finetune-operator.io/stage": "train",
        "finetune-operator.io/attempt": str(attempt),
    }
    metadata = {"name": name, "uid": name, "labels": labels, "resourceVersion": "1"}
    return {"kind": "Pod", "metadata": metadata, "spec": {}, "status": {"phase": phase}}


class FakeKube:
    """Answers lists and watches in turn; a watch that is an exception is raised. The last answer stays."""

    def __init__(self, pages, watches):
        self.pages, self.watches = pages, watches

    def list_page(self, kind):
        items = (self.pages.pop(0) if len(self.pages) > 1 else self.pages[0]) if kind == "pods" else []
        return {"items": items, "metadata": {"resourceVersion": "1"}}

    def watch(self, kind, version, seconds):
        events = self.watches.pop(0) if kind == "pods" and self.watches else []
        if isinstance(events, Exception):
            raise events
        yield from events
        time.sleep(0.02)  # as a watch that hears nothing


def test_two_live_attempts_are_reported_even_when_they_are_gone_soon():
    events = [{"type": "ADDED", "object": pod("b", 2)}, {"type": "DELETED", "object": pod("b", 2)}]
    with Watcher(FakeKube([[pod("a", 1)]], [events])) as watcher:
        assert watcher.wait_until(lambda: bool(watcher.violations("j")), 5)
        assert watcher.wait_until(lambda: len(watcher.pods("j")) == 1, 5)
    assert ["train 1, train 2" in text for text in watcher.violations("j")] == [True]


def test_a_list_after_an_outage_is_one_state_and_not_many():
    pages = [[pod("a", 1)], [pod("a", 1, phase="Failed"), pod("b", 2)]]
    with Watcher(FakeKube(pages, [KubeError(410, "gone")])) as watcher:
        assert watcher.wait_until(lambda: len(watcher.pods("j")) == 2, 5)
    assert watcher.violations("j") == []


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = {"server": "http://127.0.0.1:1"}
    context = {"cluster": "c", "user": "u"}
    document = {
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": context}],
        "current-context": "c",
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(document))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))


def test_a_server_that_is_away_is_asked_until_patience_ends(kubeconfig: None) -> None:
    with pytest.raises(Exception, match="refused"):
        Kube("n", patience=0.6).items("pods")
