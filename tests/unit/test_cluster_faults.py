"""Finding the processes and the network link of a pod on its node."""

import pytest
from finetune_cluster.faults import Process, parse_processes, peer_of
from finetune_cluster.process import ClusterError

UID = "6b0a8e9e-51d2-4525-883d-82c154440628"
LISTING = (
    f"812\t/usr/local/bin/python -m finetune_trainer train-worker \t4:memory:/x/kubepods/burstable/pod{UID}/c1 \n"
    "99\t/var/lib/bin/kubelet --config=/var/lib/kubelet/config.yaml \t4:memory:/x/init \n"
    "7\t\t4:memory:/ \n"
    "8\tgone \n"
)
POD_LINK = "2: eth0@if9: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc noqueue state UP\n"
NODE_LINKS = (
    "1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue state UNKNOWN\n"
    "5: eth0@if6: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc noqueue state UP\n"
    "9: veth3fa2@if2: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc noqueue master cni0 state UP\n"
)


def test_processes_have_their_program_and_pod() -> None:
    worker, kubelet = parse_processes(LISTING)
    assert (worker.pid, worker.program, kubelet.program) == (812, "python", "kubelet")
    assert worker.is_in_pod(UID)
    assert not kubelet.is_in_pod(UID)


def test_pod_is_found_under_the_systemd_driver_too() -> None:
    process = Process(1, "pause", f"0::/kubelet.slice/kubelet-pod{UID.replace('-', '_')}.slice/cri-x.scope ")
    assert process.is_in_pod(UID)
    assert not process.is_in_pod(UID.replace("6", "7"))


def test_the_nodes_end_of_a_pods_link_is_found_by_its_index() -> None:
    assert peer_of(POD_LINK, NODE_LINKS) == "veth3fa2"


def test_a_link_without_its_other_end_is_an_error() -> None:
    with pytest.raises(ClusterError, match="not on the node"):
        peer_of(POD_LINK.replace("if9", "if42"), NODE_LINKS)
