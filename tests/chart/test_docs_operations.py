"""What docs/operations.md and docs/observability.md tell to do can be done: values, manifests, commands."""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from finetune_api import GROUP, PLURAL, VERSION
from finetune_loopback.helm import CHART, IMAGES, Loader, helm, render
from finetune_loopback.jobs import minimal_job
from finetune_loopback.kube_api import REPOSITORY, binaries, running_kube_api
from finetune_loopback.kube_client import KubeApi

PAGES = ("operations.md", "observability.md")
NAME = "finetune-operator"
ENDLESS = re.compile(r"kubectl delete namespace")
"""Needs the namespace controller, which the test's cluster lacks."""


def blocks(language: str, *, page: str = "operations.md", under: str = "") -> list[str]:
    """Return the code blocks of a language, all of them or those under a heading."""
    text = (REPOSITORY / "docs" / page).read_text()
    if under:
        text = re.split(r"^## ", text.split(f"## {under}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def yaml_blocks() -> list[dict[str, object]]:
    return [yaml.load(block, Loader) for page in PAGES for block in blocks("yaml", page=page)]  # noqa: S506


def commands(block: str) -> list[list[str]]:
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if not ENDLESS.match(line)]


def run(command: list[str], api: KubeApi, values: Path) -> str:
    """Run a command of the page on the test's cluster with the test's values."""
    folder = binaries(command[0])
    environment = {**os.environ, "KUBECONFIG": str(api.admin), "PATH": f"{folder}:{os.environ['PATH']}"}
    here = {"values.yaml": str(values), f"charts/{NAME}": str(CHART)}
    full = [here.get(word, word) for word in command]
    result = subprocess.run(full, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, f"{shlex.join(command)}: {result.stdout}{result.stderr}"
    return result.stdout


@pytest.mark.parametrize(
    "block", [one for one in yaml_blocks() if "kind" not in one], ids=lambda block: next(iter(block))
)
def test_values_on_the_pages_are_taken(block: dict[str, object]) -> None:
    assert render(block)


@pytest.fixture
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeApi]:
    """A cluster of the test's own: it removes what the other tests of the chart share."""
    with running_kube_api(tmp_path_factory.mktemp("cluster")) as api:
        yield api


@pytest.fixture
def values(tmp_path: Path) -> Path:
    """The page's values.yaml."""
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(IMAGES))
    return file


def install(api: KubeApi, **values: object) -> None:
    place = ("--namespace", NAME, "--create-namespace", "--kubeconfig", api.admin)
    helm("upgrade", "--install", NAME, CHART, *place, values={**IMAGES, **values})


@pytest.mark.parametrize("block", [one for one in yaml_blocks() if "kind" in one], ids=lambda block: block["kind"])
def test_manifests_on_the_pages_are_taken(chart_api: KubeApi, block: dict[str, object]) -> None:
    path = f"/apis/{block['apiVersion']}/{str(block['kind']).lower()}s"
    chart_api.request("POST", path, body=block, dryRun="All", fieldValidation="Strict")


def test_every_link_within_the_page_leads_somewhere() -> None:
    page = (REPOSITORY / "docs/operations.md").read_text()
    headings = re.findall(r"^#+ (.+)$", page, flags=re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= anchors
    for target in re.findall(r"\]\(([^)#]+\.md)", page):
        assert (REPOSITORY / "docs" / target).is_file(), target


def test_uninstall_leaves_nothing_behind(api: KubeApi, values: Path) -> None:
    install(api)
    api.namespace("ml")
    api.request("POST", f"/apis/{GROUP}/{VERSION}/namespaces/ml/{PLURAL}", body=minimal_job())
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NAME}}
    api.request("POST", f"/apis/coordination.k8s.io/v1/namespaces/{NAME}/leases", body=lease)
    removal, proof = (commands(block) for block in blocks("sh", under="Uninstall"))
    whole, children = proof
    assert f"finetunejobs.{GROUP}" in run([*whole, "-o", "name"], api, values)

    for command in removal:
        run(command, api, values)

    assert [run(command, api, values) for command in (whole, children)] == ["", ""]
    kinds = "deployments,services,secrets,leases,networkpolicies,roles,rolebindings"
    assert run(["kubectl", "get", kinds, "--namespace", NAME, "-o", "name"], api, values) == ""


def test_upgrade_and_the_way_back(api: KubeApi, values: Path) -> None:
    install(api, workers=3)
    (forward, _), (history, back) = (commands(blocks("sh", under=title)[0]) for title in ("Upgrade", "Roll back"))

    run(forward, api, values)
    assert "Upgrade complete" in run(history, api, values)
    assert workers(api) == "16"
    run([word for word in back if word != "--wait"], api, values)  # for a Deployment that no controller looks after
    assert workers(api) == "3"


def workers(api: KubeApi) -> str:
    deployment = api.request("GET", f"/apis/apps/v1/namespaces/{NAME}/deployments/{NAME}")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return next(one["value"] for one in container["env"] if one["name"] == "WORKERS")
