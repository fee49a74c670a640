"""Our operator: its own process under its chart's rights, with its chart's defaults, over the whole cluster."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import yaml

from finetune_loopback.jobs import minimal_job
from finetune_loopback.operator_process import ACCOUNT, grant_chart_rights, running_operator
from operator_bench.contender import HOME, Contender, Setting, establish
from operator_bench.kinds import Object

CRD = Path("crds/finetunejobs.yaml")
PACKAGES = ("api", "operator")


def _body(name: str) -> Object:
    return minimal_job(name, distributed={"numNodes": 2, "device": "cpu"}, training={"globalBatchSize": 2})


def _install(setting: Setting) -> None:
    setting.api.namespace(HOME)
    establish(setting.api, yaml.safe_load((setting.source / CRD).read_text()))
    grant_chart_rights(setting.api, namespace=HOME, watch=(), source=setting.source)


@contextlib.contextmanager
def _start(setting: Setting) -> Iterator["Popen[bytes]"]:
    path = ":".join(str(setting.source / package) for package in PACKAGES)
    directory = setting.directory / "operator"
    with running_operator(
        setting.api, directory, namespace=HOME, watch=(), PYTHONPATH=path, JOB_NETWORK_POLICIES="true"
    ) as operator:
        yield operator.process


OURS = Contender(
    name="ours",
    kind_name="FineTuneJob",
    body=_body,
    install=_install,
    start=_start,
    is_writer=lambda user: user == f"system:serviceaccount:{HOME}:{ACCOUNT}",
)
