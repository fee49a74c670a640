"""Configuration files of a node, rendered from its record: kubeadm, kubelet, kube-proxy, containerd and CNI.

kubeadm reads several YAML documents; JSON is YAML, so the standard library writes them.
"""

import json
from pathlib import Path
from typing import Any

from .layout import SOURCES
from .tools import COREDNS_VERSION, ETCD_VERSION, KUBERNETES_VERSION, PAUSE_VERSION
from .topology import BRIDGE_ADDRESS, CONTROL_PLANE, POD_SUBNET, SERVICE_SUBNET, Node

REGISTRY = "localhost/kubernetes"
PAUSE_IMAGE = f"{REGISTRY}/pause:{PAUSE_VERSION}"
ETCD_TAG = f"{ETCD_VERSION}-0"
PLUGIN_FOLDER = "/var/lib/kubelet/volumeplugins"
# A lost node is noticed after 16 s and its pods are evicted 10 s later; the defaults are 50 s and 5 min.
NODE_GRACE = "16s"
EVICTION_SECONDS = "10"
LEASE_SECONDS = 12
# kubeadm's defaults ask for 0.85 of a core, which on two cores would leave too little for the training pods.
CPU_REQUESTS = {
    "kube-apiserver": "100m",
    "etcd": "100m",
    "kube-controller-manager": "50m",
    "kube-scheduler": "25m",
}

Document = dict[str, Any]


def init_documents(token: str, patches: Path) -> list[Document]:
    """Documents of ``kubeadm init`` for the control plane; ``patches`` is the folder of ``patch_files``."""
    return [
        {
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "InitConfiguration",
            "bootstrapTokens": [{"token": token, "ttl": "0s"}],
            "localAPIEndpoint": {"advertiseAddress": CONTROL_PLANE.address, "bindPort": 6443},
            "nodeRegistration": _registration(CONTROL_PLANE),
            "patches": {"directory": str(patches)},
        },
        _cluster(),
        _kubelet(),
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            # Counters of the whole machine, which are not the cluster's to set.
            "conntrack": {"maxPerCore": 0, "min": 0},
        },
    ]


def join_documents(node: Node, token: str) -> list[Document]:
    """Documents of ``kubeadm join`` for a worker, over the bridge that only this machine's nodes share."""
    bootstrap = {
        "token": token,
        "apiServerEndpoint": f"{CONTROL_PLANE.address}:6443",
        "unsafeSkipCAVerification": True,
    }
    return [
        {
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "JoinConfiguration",
            "nodeRegistration": _registration(node),
            "discovery": {"bootstrapToken": bootstrap},
        }
    ]


def _registration(node: Node) -> Document:
    return {
        "name": node.name,
        "criSocket": "unix:///run/containerd/containerd.sock",
        "taints": [],
        "imagePullPolicy": "Never",
        "kubeletExtraArgs": _arguments({"node-ip": node.address, "cgroup-root": f"/{node.cgroup}"}),
    }


def _cluster() -> Document:
    return {
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "ClusterConfiguration",
        "kubernetesVersion": KUBERNETES_VERSION,
        "imageRepository": REGISTRY,
        "networking": {"podSubnet": POD_SUBNET, "serviceSubnet": SERVICE_SUBNET},
        "etcd": {"local": {"imageTag": ETCD_TAG, "extraArgs": _arguments({"unsafe-no-fsync": "true"})}},
        "dns": {"imageTag": COREDNS_VERSION},
        "apiServer": {
            "extraArgs": _arguments(
                {
                    "default-not-ready-toleration-seconds": EVICTION_SECONDS,
                    "default-unreachable-toleration-seconds": EVICTION_SECONDS,
                }
            )
        },
        "controllerManager": {
            "extraArgs": _arguments(
                {
                    "node-monitor-grace-period": NODE_GRACE,
                    "node-monitor-period": "2s",
                    "leader-elect": "false",
                    "flex-volume-plugin-dir": PLUGIN_FOLDER,
                }
            )
        },
        "scheduler": {"extraArgs": _arguments({"leader-elect": "false"})},
    }


def _kubelet() -> Document:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "cgroupDriver": "cgroupfs",
        "failSwapOn": False,
        "failCgroupV1": False,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "nodeLeaseDurationSeconds": LEASE_SECONDS,
        "nodeStatusUpdateFrequency": "4s",
        "volumePluginDir": PLUGIN_FOLDER,
    }


def _arguments(values: dict[str, str]) -> list[Document]:
    return [{"name": name, "value": value} for name, value in values.items()]


def patch_files() -> dict[str, Document]:
    """kubeadm's patches by file name: small CPU requests, and one CoreDNS in place of two."""
    files: dict[str, Document] = {
        f"{name}+strategic.json": {"spec": {"containers": [_with_cpu(name, cpu)]}}
        for name, cpu in CPU_REQUESTS.items()
    }
    pod = {"spec": {"containers": [_with_cpu("coredns", "25m")]}}
    files["corednsdeployment+strategic.json"] = {"spec": {"replicas": 1, "template": pod}}
    return files


def _with_cpu(name: str, cpu: str) -> Document:
    return {"name": name, "resources": {"requests": {"cpu": cpu}}}


def network_list(pod_range: str) -> Document:
    """CNI configuration of a node whose pods take addresses from ``pod_range``."""
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": pod_range}]], "routes": [{"dst": "0.0.0.0/0"}]},
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "bridge", "plugins": [bridge, portmap]}


def containerd_file(cni_folder: Path) -> str:
    """containerd's configuration of a node."""
    template = (SOURCES / "containerd.toml").read_text()
    return template.replace("{sandbox_image}", PAUSE_IMAGE).replace("{cni_folder}", str(cni_folder))


def resolver_file() -> str:
    """resolv.conf of nodes and CoreDNS: the bridge, where nothing answers, so that outside names fail at once."""
    return f"nameserver {BRIDGE_ADDRESS}\n"


def render(documents: list[Document]) -> str:
    """Several documents as one YAML stream."""
    return "---\n".join(json.dumps(document, indent=1) + "\n" for document in documents)
