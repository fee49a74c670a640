"""What the figures were measured on and with."""

import re
from typing import Any

from finetune_cluster.tools import ETCD_VERSION, KUBERNETES_VERSION, TOOLS

from bench_harness.machine import describe_hardware, first_match

OPERATOR = ("operator", "api", "crds", "charts")
"""What makes the operator: a commit that touches nothing of it leaves its runs valid."""
UPSTREAM = {"kwok": "sigs.k8s.io/kwok", "training-operator": "github.com/kubeflow/training-operator"}


def describe_machine() -> dict[str, Any]:
    """Return processor, memory, kernel and the versions of every program that takes part."""
    return {
        **describe_hardware(),
        "kubernetes": KUBERNETES_VERSION,
        "etcd": ETCD_VERSION,
        **{name: pinned_version(name) for name in UPSTREAM},
    }


def pinned_version(tool: str) -> str:
    """Return the version of an upstream project that a tool's go.mod pins."""
    return first_match(TOOLS[tool].folder / "go.mod", rf"\s{re.escape(UPSTREAM[tool])} (v\S+)")
