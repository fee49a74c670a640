"""What runs while things break: the operator, an S3 server, and light jobs that all compute the same."""

import json
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tiny_model import write_tiny_model, write_tiny_tokenizer

from finetune_api import API_VERSION, KIND
from finetune_chaos.kube import Kube, Object
from quickstart.platform import install_operator
from quickstart.steps import kubectl
from quickstart.storage import Credentials, deploy_s3, make_namespace, s3_client, upload_folder

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

NAMESPACE = "finetune-chaos"
OPERATOR_SELECTOR = "app.kubernetes.io/name=finetune-operator"
SAFE_NODE = "cp"
"""Node of the control plane, which no fault kills: the S3 server keeps its data there."""
FORCE_DELETE_SECONDS = 15
ROWS = 256
STEPS = 600
NUM_NODES = 2
SCRATCH_MIB = 256


@dataclass(frozen=True)
class Workload:
    """The platform under test."""

    kube: Kube
    credentials: Credentials

    @contextmanager
    def s3(self) -> "Iterator[S3Client]":
        """Yield a client of the S3 server."""
        with s3_client(NAMESPACE, self.credentials) as client:
            yield client

    def submit(self, name: str, steps: int = STEPS) -> None:
        """Create a job."""
        self.kube.create("finetunejobs", job_manifest(name, steps))


def deploy() -> Workload:
    """Install the operator and an S3 server with the model and the rows of every job."""
    install_operator(f"forceDeleteAfterSeconds={FORCE_DELETE_SECONDS}")
    make_namespace(NAMESPACE)
    credentials = deploy_s3(NAMESPACE)
    _pin_s3()
    with tempfile.TemporaryDirectory() as folder, s3_client(NAMESPACE, credentials) as client:
        for bucket in ("models", "datasets", "runs"):
            client.create_bucket(Bucket=bucket)
        # What the libraries print would stand among the lines of the rounds.
        with redirect_stdout(sys.stderr):
            write_tiny_tokenizer(Path(folder))
            write_tiny_model(Path(folder))
        upload_folder(client, folder=Path(folder), bucket="models", prefix="tiny")
        client.put_object(Bucket="datasets", Key="rows.jsonl", Body=rows().encode())
    return Workload(Kube(NAMESPACE), credentials)


def _pin_s3() -> None:
    """Its data live as long as its pod, and a lost node is no loss of S3."""
    place = {"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": SAFE_NODE}}}}}
    kubectl("patch", "deployment", "s3", "-n", NAMESPACE, "--type=merge", "-p", json.dumps(place))
    kubectl("rollout", "status", "-n", NAMESPACE, "deployment/s3", "--timeout=300s")


def rows() -> str:
    """Return question and answer rows, the same at every call."""
    chance = random.Random(0)  # noqa: S311 - rows, not secrets
    words = ["password", "invoice", "settings", "language", "account", "button", "billing", "reset"]
    lines = []
    for number in range(ROWS):
        question = f"{number}: how do I find {' '.join(chance.choices(words, k=6))}?"
        turns = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": f"Open {' '.join(chance.choices(words, k=8))}."},
        ]
        lines.append(json.dumps({"messages": turns}))
    return "".join(f"{line}\n" for line in lines)


def job_manifest(name: str, steps: int = STEPS) -> Object:
    """Return a job of two pods that trains for some twenty seconds and commits every few."""
    spec: Object = {
        "model": {"uri": "s3://models/tiny/"},
        "method": {"type": "full"},
        "data": {
            "train": [{"uri": "s3://datasets/rows.jsonl"}],
            "split": {"validation": 0.1, "test": 0.1},
            "maxLength": 128,
            "packing": False,
        },
        "training": {"maxSteps": steps, "globalBatchSize": 8, "learningRate": 1e-3, "precision": "fp32"},
        "distributed": {"numNodes": NUM_NODES, "device": "cpu"},
        "evaluation": {"everySteps": 0, "baseline": False},
        "checkpoint": {"uri": f"s3://runs/{name}/", "everySteps": 50, "everyMinutes": 0},
        "output": {"uri": f"s3://models/{name}/"},
        "storage": {
            "s3": {"endpoint": f"http://s3.{NAMESPACE}.svc:8333", "credentialsSecretRef": {"name": "s3"}},
            "cache": {"sizeLimit": f"{SCRATCH_MIB}Mi"},
        },
        "podTemplate": {
            "resources": {"requests": {"cpu": "100m", "memory": "600Mi"}, "limits": {"memory": "3Gi"}},
            "stageResources": {"requests": {"cpu": "100m", "memory": "600Mi"}, "limits": {"memory": "3Gi"}},
        },
        "preRunningDeadlineSeconds": 600,
    }
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}
