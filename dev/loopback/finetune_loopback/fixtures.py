"""Fixtures of the real servers, started once per test session."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from finetune_api import GROUP, PLURAL
from finetune_loopback.kube_api import running_kube_api
from finetune_loopback.kube_client import KubeApi
from finetune_loopback.s3_server import S3Server, running_s3_server

ROOT = Path(__file__).resolve().parents[3]
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@pytest.fixture(scope="session")
def kube_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeApi]:
    """A kube-apiserver with etcd, RBAC and Pod Security on."""
    with running_kube_api(tmp_path_factory.mktemp("kube")) as api:
        yield api


@pytest.fixture(scope="session")
def crd_installed(kube_api: KubeApi) -> KubeApi:
    """The API server with FineTuneJob established."""
    kube_api.ensure(CRDS, yaml.safe_load((ROOT / "crds/finetunejobs.yaml").read_text()))
    for event in kube_api.watch(CRDS, fieldSelector=f"metadata.name={PLURAL}.{GROUP}"):
        conditions = event["object"].get("status", {}).get("conditions") or []
        if any(one["type"] == "Established" and one["status"] == "True" for one in conditions):
            return kube_api
    raise AssertionError("the CRD was not established within 30 s")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """SeaweedFS with authentication."""
    with running_s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server
