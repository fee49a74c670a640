"""The nodes of the namespaces cluster, their addresses, and every name derived from them."""

from dataclasses import dataclass

NAMESPACE_PREFIX = "ftc-"
BRIDGE = "ftcbr0"
BRIDGE_ADDRESS = "10.123.0.1"
NODE_SUBNET = "10.123.0.0/24"
POD_SUBNET = "10.244.0.0/16"
SERVICE_SUBNET = "10.96.0.0/16"
CGROUP_ROOT = "finetune-cluster"


@dataclass(frozen=True)
class Node:
    """One node: its Kubernetes name and its address on the bridge."""

    name: str
    address: str

    @property
    def netns(self) -> str:
        """Name of its network namespace on the host."""
        return NAMESPACE_PREFIX + self.name

    @property
    def veth(self) -> str:
        """Name of the host's end of its network cable (15 characters at most)."""
        return NAMESPACE_PREFIX + self.name

    @property
    def cgroup(self) -> str:
        """Its cgroup, relative to each hierarchy's mount point."""
        return f"{CGROUP_ROOT}/{self.name}"


CONTROL_PLANE = Node("cp", "10.123.0.2")
WORKER = Node("worker-1", "10.123.0.3")
NODES = (CONTROL_PLANE, WORKER)
