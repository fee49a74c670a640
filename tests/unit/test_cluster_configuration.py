"""Rendered configuration of nodes, and the rules that refuse a machine."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from finetune_cluster import cli, configuration, kind, kubectl, machine, namespaces, network
from finetune_cluster.cgroups import is_usable
from finetune_cluster.layout import Layout
from finetune_cluster.machine import Facts, refusal
from finetune_cluster.process import ClusterError
from finetune_cluster.topology import NODES, WORKER

GOOD = Facts(
    is_root=True,
    memory_gib=16,
    free_disk_gb=100,
    hierarchies=frozenset({"cpu,cpuacct", "cpuset", "memory", "pids", "devices", "freezer"}),
    has_foreign_cluster=False,
    builds_images=True,
    disk_type="ext2/ext3",
)


def _arguments(entries: list[dict[str, str]]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in entries}


def _document(documents: list[dict[str, Any]], kind_name: str) -> dict[str, Any]:
    return next(document for document in documents if document["kind"] == kind_name)


def test_lost_node_is_noticed_and_its_pods_evicted_within_half_a_minute() -> None:
    documents = configuration.init_documents("a.b", Path("/patches"))
    cluster = _document(documents, "ClusterConfiguration")
    manager = _arguments(cluster["controllerManager"]["extraArgs"])
    server = _arguments(cluster["apiServer"]["extraArgs"])
    grace = int(manager["node-monitor-grace-period"].removesuffix("s"))
    assert grace + int(server["default-unreachable-toleration-seconds"]) < 30
    # The kubelet renews its lease four times per duration and must survive a missed one.
    assert _document(documents, "KubeletConfiguration")["nodeLeaseDurationSeconds"] < grace


def test_join_names_node_address_and_cgroup() -> None:
    (join,) = configuration.join_documents(WORKER, "a.b")
    assert join["nodeRegistration"]["name"] == WORKER.name
    assert join["nodeRegistration"]["taints"] == []
    extra = _arguments(join["nodeRegistration"]["kubeletExtraArgs"])
    assert extra == {"node-ip": WORKER.address, "cgroup-root": "/finetune-cluster/worker-1"}


def test_control_plane_leaves_most_of_a_core_to_training() -> None:
    patches = configuration.patch_files()
    pods = [patch["spec"].get("template", patch)["spec"] for patch in patches.values()]
    cpus = [pod["containers"][0]["resources"]["requests"]["cpu"] for pod in pods]
    assert sum(int(cpu.removesuffix("m")) for cpu in cpus) <= 300


def test_rendered_documents_are_a_stream_of_json() -> None:
    documents = configuration.init_documents("a.b", Path("/patches"))
    assert [json.loads(text) for text in configuration.render(documents).split("---\n")] == documents


def test_containerd_file_is_filled_in() -> None:
    text = configuration.containerd_file(Path("/x/cni"))
    assert 'conf_dir = "/x/cni"' in text
    assert 'sandbox_image = "localhost/kubernetes/pause:' in text
    assert "{" not in text


def test_interface_names_fit_the_kernel() -> None:
    assert all(len(node.veth) <= 15 for node in NODES)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"is_root": False}, "needs root"),
        ({"has_foreign_cluster": True}, "another cluster"),
        ({"memory_gib": 7.9}, "needs 8 GiB of memory and the machine has 7.9 GiB"),
        ({"free_disk_gb": 39}, "need 40 GB of free disk and there are 39 GB"),
        ({"free_disk_gb": 39, "builds_images": False}, None),
        ({"hierarchies": frozenset({"cpu"})}, "version 1 control groups"),
        ({"disk_type": "overlayfs"}, "put it on ext4 or xfs"),
    ],
)
def test_refusals(change: dict[str, Any], words: str | None) -> None:
    sentence = refusal(dataclasses.replace(GOOD, **change))
    assert (sentence is None) if words is None else (sentence is not None and words in sentence)


@pytest.mark.parametrize(
    ("names", "expected"), [(set(), False), (set(GOOD.hierarchies), True), ({"cpu", "cpuset", "memory"}, False)]
)
def test_usable_control_groups(names: set[str], expected: bool) -> None:
    assert is_usable(names) is expected


@pytest.mark.parametrize(
    ("routes", "taken"),
    [
        (["default", "192.168.1.0/24"], None),
        (["192.168.1.0/24", "10.0.0.0/8"], "10.0.0.0/8"),
        (["10.244.3.0/24"], "10.244.3.0/24"),
        (["10.123.0.7"], "10.123.0.7"),
    ],
)
def test_overlapping_routes(routes: list[str], taken: str | None) -> None:
    assert network.clash(routes) == taken


def _node(name: str, ready: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": ready}]}}


@pytest.mark.parametrize(
    ("found", "available", "reason"),
    [
        ([_node("a", "True"), _node("b", "True")], 1, None),
        ([_node("a", "True"), _node("b", "Unknown")], 1, "not ready: b"),
        ([_node("a", "True")], 1, "not ready: b"),
        ([_node("a", "True"), _node("b", "True")], 0, "no CoreDNS replica is available"),
    ],
)
def test_readiness(found: list[dict[str, Any]], available: int, reason: str | None) -> None:
    assert kubectl.unready(found, ["a", "b"], available=available) == reason


def test_unknown_nodes_are_refused() -> None:
    with pytest.raises(ClusterError, match="No such node: x; the nodes are cp, worker-1"):
        namespaces.find_node("x")
    with pytest.raises(ClusterError, match="No such node: x; the nodes are none"):
        kind.container_of([], "x")


@pytest.mark.parametrize(("answers", "chosen"), [(True, kind), (False, namespaces)])
def test_kind_is_used_where_docker_answers(
    answers: bool,
    chosen: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    called: list[Layout] = []
    monkeypatch.setenv("FINETUNE_CLUSTER_STATE", str(tmp_path))
    monkeypatch.setattr(machine, "docker_answers", lambda: answers)
    monkeypatch.setattr(chosen, "up", called.append)
    assert cli.main(["up"]) == 0
    assert called == [Layout(tmp_path)]
    assert capsys.readouterr().out.endswith(f"export KUBECONFIG={tmp_path}/kubeconfig\n")


def test_errors_are_one_sentence_and_exit_code_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "docker_answers", lambda: False)
    assert cli.main(["exec", "nowhere", "--", "ls"]) == 1
    assert capsys.readouterr().err == "error: No such node: nowhere; the nodes are cp, worker-1.\n"
