"""Each bad input ends in a phase, a reason and a sentence; none hangs, none leaves a pod at work."""

import pytest

from finetune_api.reasons import Phase, Reason
from quickstart.steps import kubectl

pytestmark = pytest.mark.timeout(1200)

DATASETS = "s3://datasets/bad"
GOOD_ROW = '{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"hello"}]}\n'
FILES = {
    "bad/broken.jsonl": GOOD_ROW + '{"messages": [\n',
}
NO_SPLIT = {"validation": 0, "test": 0, "seed": 42}


def data(name):
    return {"data": {"train": [{"uri": f"{DATASETS}/{name}"}], "test": None, "split": NO_SPLIT}}


def storage(**s3):
    return {"storage": {"s3": s3}}


# name -> (change of the spec, reason, what the message must hold)
CASES = {
    "missing-bucket": (
        {"data": {"train": [{"uri": "s3://no-such-bucket/train.jsonl"}], "test": None, "split": NO_SPLIT}},
        Reason.BUCKET_NOT_FOUND,
        ["no-such-bucket"],
    ),
    "wrong-credentials": (
        storage(credentialsSecretRef={"name": "wrong"}),
        Reason.STORAGE_ACCESS_DENIED,
        ["credentials"],
    ),
    "silent-endpoint": (
        storage(endpoint="http://silent.finetune-e2e.svc:8333") | {"backoffLimit": 0},
        None,
        ["http://silent.finetune-e2e.svc:8333"],
    ),
    "no-weights": ({"model": {"uri": "s3://models/no-weights/"}}, Reason.INVALID_MODEL, ["safetensors"]),
    "broken-json": (data("broken.jsonl"), Reason.INVALID_DATA, ["broken.jsonl:2"]),
    "too-large": (
        {"podTemplate": {"resources": {"limits": {"memory": "300Mi"}, "requests": {"memory": "300Mi"}}}},
        None,
        ["memory", "GiB"],
    ),
    "no-image": (
        {"podTemplate": {"image": "localhost/no-such-image:none"}, "preRunningDeadlineSeconds": 20},
        Reason.IMAGE_PULL_FAILED,
        ["localhost/no-such-image:none"],
    ),
    "small-node": (
        {
            "podTemplate": {"stageResources": {"requests": {"cpu": "400"}, "limits": {"cpu": "400"}}},
            "preRunningDeadlineSeconds": 20,
        },
        Reason.UNSCHEDULABLE,
        ["cpu"],
    ),
}


@pytest.fixture(scope="module")
def applied(cluster):
    """All bad jobs at once: they wait for pods, not for one another."""
    with cluster.s3() as client:
        for key, text in FILES.items():
            client.put_object(Bucket="datasets", Key=key, Body=text.encode())
        for key in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            client.copy_object(
                Bucket="models", Key=f"no-weights/{key}", CopySource=f"models/smollm2-135m-instruct/{key}"
            )
    kubectl("create", "service", "clusterip", "silent", "-n", cluster.namespace, "--tcp=8333:8333")
    wrong = "[default]\naws_access_key_id=nobody\naws_secret_access_key=nothing\n"
    kubectl("create", "secret", "generic", "wrong", "-n", cluster.namespace, f"--from-literal=credentials={wrong}")
    for name, (change, _, _) in CASES.items():
        cluster.apply(name, **change)
    yield
    kubectl("delete", "ftj", "-n", cluster.namespace, *CASES)


@pytest.mark.parametrize("name", CASES)
def test_ends_failed_with_reason_and_sentence(cluster, applied, name):
    _, reason, words = CASES[name]
    status = cluster.wait_end(name)
    assert status.phase is Phase.FAILED
    assert reason is None or status.reason == reason
    for word in words:
        assert word in status.message, status.message


def test_none_leaves_a_pod_at_work(cluster, applied):
    for name in CASES:
        cluster.wait_end(name)
        at_work = [pod for pod in cluster.pods(name) if pod["status"]["phase"] in ("Pending", "Running")]
        for pod in at_work:  # one that is being ended may take its grace
            kubectl(
                "wait", "-n", cluster.namespace, "--for=delete", f"pod/{pod['metadata']['name']}", "--timeout=60s"
            )


def test_nothing_was_written_to_the_output(cluster, applied):
    with cluster.s3() as client:
        for name in CASES:
            cluster.wait_end(name)
            assert (
                client.list_objects_v2(Bucket="models", Prefix=f"{name}/").get("KeyCount") == 0
                or name == "no-weights"
            )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"training": {"learningrate": 1e-4}}, ['unknown field "spec.training.learningrate"']),
        (
            {"training": {"epochs": 1, "maxSteps": 5}},
            ["exactly one of spec.training.epochs and spec.training.maxSteps"],
        ),
    ],
)
def test_apply_refuses_with_a_sentence(cluster, change, words):
    code, said = cluster.try_apply(cluster.manifest("refused", **change))
    assert code != 0
    for word in words:
        assert word in said
