"""An API server of the chart's own, because a release and the other tests both bring the CRD."""

from collections.abc import Iterator

import pytest

from finetune_loopback.helm import deploy
from finetune_loopback.kube_api import running_kube_api
from finetune_loopback.kube_client import KubeApi


@pytest.fixture(scope="session")
def chart_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeApi]:
    """An empty API server."""
    with running_kube_api(tmp_path_factory.mktemp("chart")) as api:
        yield api


@pytest.fixture
def release(chart_api: KubeApi) -> KubeApi:
    """The API server with the release in its default form, and two namespaces."""
    for namespace in ("team-a", "team-b"):
        chart_api.namespace(namespace)
    deploy(chart_api)
    return chart_api
