"""The chart, rendered by the real helm."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from finetune_loopback.kube_api import REPOSITORY, binaries
from finetune_loopback.kube_client import KubeApi

CHART = REPOSITORY / "charts/finetune-operator"
RELEASE = "finetune-operator"
NAMESPACE = "ml-platform"
KUBERNETES = "1.34.4"
IMAGES = {
    "image": {"repository": "registry.test/operator"},
    "trainer": {"image": {"repository": "registry.test/trainer"}},
}

Manifest = dict[str, Any]


class Loader(yaml.CSafeLoader):
    """Reads numbers as Kubernetes does: 1e-08 is one, though YAML 1.1 as PyYAML has it says text."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("0123456789")
)


class HelmError(Exception):
    """helm refused; the message is what it printed."""


def helm(*arguments: str | Path, values: Manifest | None = None) -> str:
    """Run helm, with values (if given) on its standard input; return what it prints. Raises HelmError."""
    command = [str(binaries("helm") / "helm"), *map(str, arguments)]
    command += [] if values is None else ["--values", "-"]
    result = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise HelmError(result.stdout + result.stderr)
    return result.stdout


def deploy(api: KubeApi, values: Manifest | None = None) -> str:
    """Install or upgrade the release on a real API server; return what helm tells the user."""
    place = ("--namespace", NAMESPACE, "--create-namespace", "--kubeconfig", api.admin)
    return helm("upgrade", "--install", RELEASE, CHART, *place, values={**IMAGES, **(values or {})})


def render_text(values: Manifest | None = None, *, release: str = RELEASE) -> str:
    """Return the chart's manifests as YAML text, with images set where `values` sets none."""
    place = ("--namespace", NAMESPACE, "--kube-version", KUBERNETES)
    return helm("template", release, CHART, *place, values={**IMAGES, **(values or {})})


def render(values: Manifest | None = None, *, release: str = RELEASE) -> list[Manifest]:
    """Return the chart's manifests."""
    return [document for document in yaml.load_all(render_text(values, release=release), Loader) if document]


def find(manifests: list[Manifest], kind: str, name: str | None = None) -> Manifest:
    """Return the one manifest of this kind, and of this name if given."""
    (found,) = (one for one in manifests if one["kind"] == kind and (name is None or one["metadata"]["name"] == name))
    return found
