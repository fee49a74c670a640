"""The quickstart from beginning to end: every step printed with its seconds, the result as one JSON line."""

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from finetune_api.uris import parse_s3
from finetune_cli.watch import Screen, stream_status
from quickstart.model import build_model
from quickstart.platform import install_operator
from quickstart.scores import Answer, accuracy, is_right, parse_answers, pick_samples
from quickstart.steps import BUILD, ROOT, StepError, Steps, kubectl, run
from quickstart.storage import Credentials, deploy_s3, make_namespace, s3_client, upload_folder

NAMESPACE = "finetune-quickstart"
JOB = "support-bot"
EXAMPLE = ROOT / "examples" / "support-bot.yaml"
RESULT = BUILD / "quickstart.json"
BUCKETS = ("models", "datasets", "runs")


def main() -> int:
    """Run the quickstart. Returns 0 when the job succeeded."""
    start = time.monotonic()
    steps = Steps()
    build(steps)
    credentials = set_up(steps)
    phases = follow(steps)
    answers = fetch_answers(credentials)
    summary = summarize(answers, phases=phases, total=time.monotonic() - start)
    show(answers, steps=steps, phases=phases)
    RESULT.write_text(json.dumps(summary) + "\n")
    print(json.dumps(summary))
    return 0


def build(steps: Steps) -> None:
    """Stand up the cluster and build what is stale."""
    with steps.step("cluster", "Kubernetes cluster with two nodes (built from source once, then cached)"):
        run(sys.executable, "dev/cluster", "up")
    with steps.step("images", "Images of operator, trainer and S3 server"):
        run(sys.executable, "dev/cluster", "images")
    with steps.step("model", "Base model SmolLM2-135M-Instruct as safetensors"):
        build_model()


def set_up(steps: Steps) -> Credentials:
    """Install the operator and an S3 server, and upload model and data."""
    with steps.step("operator", "Operator, from its Helm chart"):
        install_operator()
    with steps.step("s3", f"S3 server in the namespace {NAMESPACE}"):
        make_namespace(NAMESPACE)
        credentials = deploy_s3(NAMESPACE)
    with steps.step("upload", "Model and data into S3"), s3_client(NAMESPACE, credentials) as client:
        for bucket in BUCKETS:
            client.create_bucket(Bucket=bucket)
        upload_folder(client, folder=build_model(), bucket="models", prefix="smollm2-135m-instruct")
        upload_folder(client, folder=ROOT / "examples" / "support", bucket="datasets", prefix="support")
    return credentials


def follow(steps: Steps) -> dict[str, float]:
    """Apply the job, show it live until it ends, and return the seconds spent in each phase.

    Raises StepError when the job fails.
    """
    with steps.step(
        "job", f"kubectl apply -f examples/support-bot.yaml   (watch it: kubectl get ftj -n {NAMESPACE} -w)"
    ):
        kubectl("apply", "-n", NAMESPACE, "-f", str(EXAMPLE))
        phases: dict[str, float] = {}
        screen, since = Screen(sys.stdout), time.monotonic()
        for status in stream_status(name=JOB, namespace=NAMESPACE, timeout=3600):
            screen.show(status)
            if status.phase.is_terminal:
                break
            now = time.monotonic()
            phases[status.phase] = phases.get(status.phase, 0.0) + now - since
            since = now
    if status.phase != "Succeeded":
        raise StepError(f"the job ended {status.phase}: {status.reason}: {status.message}")
    print(kubectl("get", "ftj", "-n", NAMESPACE, "-o", "wide"))
    return phases


def read_job() -> dict[str, Any]:
    """Return the FineTuneJob as the API server has it."""
    job: dict[str, Any] = json.loads(kubectl("get", "ftj", JOB, "-n", NAMESPACE, "-o", "json"))
    return job


def fetch_answers(credentials: Credentials) -> list[Answer]:
    """Read both models' answers from S3."""
    bucket, key = parse_s3(read_job()["status"]["output"]["predictionsUri"])
    with s3_client(NAMESPACE, credentials) as client:
        return parse_answers(client.get_object(Bucket=bucket, Key=key)["Body"].read().decode())


def summarize(answers: Sequence[Answer], *, phases: dict[str, float], total: float) -> dict[str, float]:
    """Return the figures of the closing JSON line."""
    status = read_job()["status"]
    return {
        "base_accuracy": round(accuracy(answers, "base"), 4),
        "tuned_accuracy": round(accuracy(answers, "tuned"), 4),
        "base_loss": status["evaluation"]["base"]["loss"],
        "tuned_loss": status["evaluation"]["tuned"]["loss"],
        "train_seconds": round(phases.get("Running", 0.0)),
        "total_seconds": round(total),
        "nodes": status["nodes"],
    }


def show(answers: Sequence[Answer], *, steps: Steps, phases: dict[str, float]) -> None:
    """Print scores, sample answers, where the result lies, seconds, and how to look further."""
    show_scores(answers)
    show_samples(answers)
    output = read_job()["status"]["output"]
    print(f"\nThe result:\n  adapter       {output['adapterUri']}\n  merged model  {output.get('mergedUri', '-')}")
    print("\nSeconds per step:   " + "  ".join(f"{name} {value:.0f}" for name, value in steps.seconds.items()))
    print("Seconds per phase:  " + "  ".join(f"{name} {value:.0f}" for name, value in phases.items()))
    print("\nLook further:")
    for line in (
        f"export KUBECONFIG={os.environ['KUBECONFIG']}",
        f"kubectl get ftj -n {NAMESPACE} -o wide",
        f"kubectl describe ftj {JOB} -n {NAMESPACE}",
        f"kubectl get pods -n {NAMESPACE} -o wide",
        f"kubectl logs -n {NAMESPACE} -l finetune-operator.io/job={JOB},finetune-operator.io/stage=train",
    ):
        print(f"  {line}")
    print()


def show_scores(answers: Sequence[Answer]) -> None:
    """Print base against tuned."""
    scores = read_job()["status"]["evaluation"]
    print(f"\n{len(answers)} test questions          {'base':>10}{'tuned':>10}")
    for title, key in (("loss", "loss"), ("token accuracy", "tokenAccuracy")):
        print(f"  {title:<26}{scores['base'][key]:>10.3f}{scores['tuned'][key]:>10.3f}")
    print(f"  {'right answers':<26}{accuracy(answers, 'base'):>10.1%}{accuracy(answers, 'tuned'):>10.1%}")


def show_samples(answers: Sequence[Answer]) -> None:
    """Print five answers of both models side by side."""
    for answer in pick_samples(answers):
        mark = "right" if is_right(answer.tuned, answer.keywords) else "wrong"
        print(
            f"\n  Q      {answer.question}\n  base   {_line(answer.base)}\n  tuned  {_line(answer.tuned)}   [{mark}]"
        )


def _line(text: str, width: int = 160) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"
