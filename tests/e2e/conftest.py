"""The product on a real cluster: the same steps as the quickstart, in a namespace of the tests' own."""

import copy
import json
import os
import subprocess
import sys
from contextlib import contextmanager

import pytest
import yaml

from finetune_cli.watch import stream_status
from quickstart.model import build_model
from quickstart.platform import install_operator
from quickstart.steps import ROOT, kubectl, run
from quickstart.storage import deploy_s3, make_namespace, s3_client, upload_folder

NAMESPACE = "finetune-e2e"
SYSTEM_NAMESPACE = "finetune-operator"
TIMEOUT = 600
STEPS = 24


def deep_merge(base, change):
    """Return `base` with `change` laid over it; None removes a key."""
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    merged = {key: value for key, value in base.items() if key not in change}
    return merged | {key: deep_merge(base.get(key, {}), value) for key, value in change.items() if value is not None}


class Cluster:
    """What a test does with the cluster: apply jobs, wait for states, look at pods."""

    namespace = NAMESPACE
    system_namespace = SYSTEM_NAMESPACE
    steps = STEPS

    def __init__(self, base, credentials):
        self.base = base
        self.credentials = credentials

    def manifest(self, name, **spec):
        job = copy.deepcopy(self.base)
        job["metadata"] = {"name": name, "namespace": NAMESPACE}
        job["spec"] = deep_merge(job["spec"], spec)
        job["spec"]["output"]["uri"] = f"s3://models/{name}/"
        return job

    def apply(self, name, **spec):
        kubectl("apply", "-f", "-", text=json.dumps(self.manifest(name, **spec)))

    def try_apply(self, manifest):
        """Apply and return (exit code, everything printed)."""
        done = subprocess.run(
            ["kubectl", "apply", "-f", "-"], input=json.dumps(manifest), text=True, capture_output=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    def get(self, kind, name=None, selector=None, namespace=NAMESPACE):
        words = [kind, *([name] if name else []), *(["-l", selector] if selector else [])]
        return json.loads(kubectl("get", *words, "-n", namespace, "-o", "json"))

    def pods(self, name, stage=None):
        selector = f"finetune-operator.io/job={name}" + (f",finetune-operator.io/stage={stage}" if stage else "")
        return self.get("pods", selector=selector)["items"]

    def wait(self, name, predicate, timeout=TIMEOUT):
        """Return the first status for which `predicate` holds; a job that ends before that fails the test."""
        status = None
        for status in stream_status(name=name, namespace=NAMESPACE, timeout=timeout):
            if predicate(status):
                return status
            if status.phase.is_terminal:
                break
        raise AssertionError(f"{name} never got there; last status: {status}")

    def wait_end(self, name, timeout=TIMEOUT):
        return self.wait(name, lambda status: status.phase.is_terminal, timeout)

    def log(self, pod):
        """Return the JSON lines that a pod printed."""
        lines = kubectl("logs", "-n", NAMESPACE, pod).splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    @contextmanager
    def s3(self):
        with s3_client(NAMESPACE, self.credentials) as client:
            yield client


@pytest.fixture(scope="session")
def platform():
    """The operator installed from its chart on a running cluster, with the images built from this checkout."""
    if "KUBECONFIG" not in os.environ:
        pytest.fail("KUBECONFIG is not set; run `make test-e2e`")
    run(sys.executable, "dev/cluster", "up")
    run(sys.executable, "dev/cluster", "images")
    install_operator()


@pytest.fixture(scope="session")
def cluster(platform):
    """A namespace with an S3 server that holds the quickstart's model and data."""
    make_namespace(NAMESPACE)
    credentials = deploy_s3(NAMESPACE)
    with s3_client(NAMESPACE, credentials) as client:
        for bucket in ("models", "datasets", "runs"):
            client.create_bucket(Bucket=bucket)
        upload_folder(client, folder=build_model(), bucket="models", prefix="smollm2-135m-instruct")
        upload_folder(client, folder=ROOT / "examples" / "support", bucket="datasets", prefix="support")
    base = yaml.safe_load((ROOT / "examples" / "support-bot.yaml").read_text())
    short = {
        "storage": {"s3": {"endpoint": f"http://s3.{NAMESPACE}.svc:8333"}},
        "training": {"epochs": None, "maxSteps": STEPS, "globalBatchSize": 2},
        "data": {"maxLength": 128},
        "evaluation": {"everySteps": 0, "baseline": False, "predictions": {"rows": 0}},
        "checkpoint": {"everySteps": 4, "everyMinutes": 0},
        "output": {"merge": False},
        "podTemplate": {"stageResources": {"requests": {"cpu": "100m", "memory": "1Gi"}}},
    }
    base["spec"] = deep_merge(base["spec"], short)
    yield Cluster(base, credentials)
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=false")
