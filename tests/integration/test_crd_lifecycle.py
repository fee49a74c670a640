"""What the API server does with a FineTuneJob by itself: defaults, strict fields, immutability, columns."""

import secrets
from typing import Any

import pytest

from finetune_api import GROUP, VERSION
from finetune_api.crd import MUTABLE
from finetune_api.reasons import Phase, Reason
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import CheckpointRef, FineTuneJobStatus, Progress, Restarts
from finetune_loopback.jobs import minimal_job
from finetune_loopback.kube_client import APPLY, MERGE, ApiError, KubeApi

NOON = "2026-01-01T12:00:00Z"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
IMMUTABLE = (
    "spec cannot change while the job runs or after its end (only backoffLimit, preRunningDeadlineSeconds,"
    " activeDeadlineSeconds, ttlSecondsAfterFinished, suspend can); set spec.suspend: true and wait for phase"
    " Suspended, or delete the job and create it anew"
)
CHANGES: dict[str, Any] = {
    "model": {"uri": "s3://models/other/"},
    "method": {"type": "full"},
    "data": {"maxLength": 64},
    "training": {"epochs": 2},
    "distributed": {"numNodes": 2},
    "evaluation": {"baseline": False},
    "checkpoint": {"uri": "s3://runs/other/"},
    "output": {"uri": "s3://models/other/"},
    "storage": {"cache": {"sizeLimit": "1Gi"}},
    "tracking": {"tensorboard": True},
    "podTemplate": {"image": "other"},
}


def jobs(namespace: str) -> str:
    return f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/finetunejobs"


def apply_status(api: KubeApi, path: str, status: FineTuneJobStatus) -> dict[str, Any]:
    """Write the status as the operator does: server-side apply on the subresource."""
    name = path.rpartition("/")[2]
    body = {**minimal_job(name), "status": status.to_wire()}
    del body["spec"]
    manager = {"fieldManager": "finetune-operator", "force": "true", "fieldValidation": "Strict"}
    return api.request("PATCH", f"{path}/status", body=body, content_type=APPLY, **manager)


@pytest.fixture
def job(crd_installed: KubeApi) -> str:
    """Path of a job that was just created, in a namespace of its own."""
    namespace = crd_installed.namespace(f"crd-{secrets.token_hex(4)}")
    crd_installed.request("POST", jobs(namespace), body=minimal_job())
    return f"{jobs(namespace)}/job"


def test_defaults_of_the_server_are_those_of_the_models(crd_installed: KubeApi) -> None:
    asked = minimal_job(data={"split": {"seed": 7}}, method={"lora": {"rank": 4}})

    stored = crd_installed.request("POST", jobs("default"), body=asked, dryRun="All")

    assert FineTuneJobSpec.model_validate(stored["spec"]) == FineTuneJobSpec.model_validate(asked["spec"])
    assert stored["spec"]["method"] == {
        "type": "lora",
        "lora": {
            "rank": 4,
            "alpha": 32,
            "dropout": 0,
            "targetModules": ["all-linear"],
            "useRslora": False,
            "useDora": False,
            "loraPlusRatio": 1,
        },
    }
    assert stored["spec"]["training"]["globalBatchSize"] == 64
    assert stored["spec"]["training"]["optimizer"]["betas"] == [0.9, 0.999]
    assert stored["spec"]["evaluation"]["predictions"] == {"rows": 0, "maxNewTokens": 128}


def test_split_has_no_default_so_that_a_given_list_wins(crd_installed: KubeApi) -> None:
    stored = crd_installed.request("POST", jobs("default"), body=minimal_job(), dryRun="All")

    assert "split" not in stored["spec"]["data"]
    assert "status" not in stored


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"training": {"learningrate": 1}}, "spec.training.learningrate"),
        ({"suspended": True}, "spec.suspended"),
        ({"podTemplate": {"envFrom": []}}, "spec.podTemplate.envFrom"),
        ({"data": {"train": [{"uri": "s3://datasets/a", "wight": 1}]}}, "spec.data.train[0].wight"),
    ],
)
def test_unknown_field_is_refused_by_name(crd_installed: KubeApi, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ApiError, match=f'unknown field "{field}"'.replace("[", r"\[")):
        crd_installed.request("POST", jobs("default"), body=minimal_job(**changes), fieldValidation="Strict")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": {"uri": "http://x"}}, "spec.model.uri in body should match '^s3://"),
        ({"training": {"epochs": 0}}, "spec.training.epochs in body should be greater than 0"),
        ({"training": {"scheduler": "step"}}, 'supported values: "linear", "cosine", "constant", "wsd"'),
        ({"objective": "dpo"}, 'supported values: "sft"'),
        ({"model": {"uri": None}}, "spec.model.uri: Required value"),
        ({"podTemplate": {"resources": {"limits": {"memory": "3 GB"}}}}, "should match '^[0-9]+"),
        ({"data": {"train": []}}, "spec.data.train in body should have at least 1 items"),
    ],
)
def test_bound_is_held(crd_installed: KubeApi, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ApiError) as refusal:
        crd_installed.request("POST", jobs("default"), body=minimal_job(**changes))

    assert sentence in refusal.value.message


@pytest.mark.parametrize("block", CHANGES)
def test_pending_job_may_be_edited(crd_installed: KubeApi, job: str, block: str) -> None:
    apply_status(crd_installed, job, FineTuneJobStatus(phase=Phase.PENDING))

    patch = {"spec": {block: CHANGES[block]}}
    assert crd_installed.request("PATCH", job, body=patch, content_type=MERGE)["metadata"]["generation"] == 2


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.PENDING])
def test_job_that_left_pending_is_immutable(crd_installed: KubeApi, job: str, phase: Phase) -> None:
    apply_status(crd_installed, job, FineTuneJobStatus(phase=phase))

    for block, change in CHANGES.items():
        with pytest.raises(ApiError) as refusal:
            crd_installed.request("PATCH", job, body={"spec": {block: change}}, content_type=MERGE)
        assert refusal.value.message.endswith(IMMUTABLE), block


@pytest.mark.parametrize("block", CHANGES)
def test_a_suspended_job_may_be_edited_also_together_with_its_resumption(
    crd_installed: KubeApi, job: str, block: str
) -> None:
    crd_installed.request("PATCH", job, body={"spec": {"suspend": True}}, content_type=MERGE)
    apply_status(crd_installed, job, FineTuneJobStatus(phase=Phase.SUSPENDED))

    patch = {"spec": {block: CHANGES[block], "suspend": False}}
    assert crd_installed.request("PATCH", job, body=patch, content_type=MERGE)["metadata"]["generation"] == 3


def test_a_job_that_is_told_to_suspend_is_not_edited_before_it_is(crd_installed: KubeApi, job: str) -> None:
    apply_status(crd_installed, job, FineTuneJobStatus(phase=Phase.RUNNING))
    crd_installed.request("PATCH", job, body={"spec": {"suspend": True}}, content_type=MERGE)

    with pytest.raises(ApiError) as refusal:
        crd_installed.request("PATCH", job, body={"spec": {"model": CHANGES["model"]}}, content_type=MERGE)
    assert refusal.value.message.endswith(IMMUTABLE)


def test_every_block_is_covered_by_immutability() -> None:
    fixed = {info.alias or name for name, info in FineTuneJobSpec.model_fields.items()}

    assert fixed - {*MUTABLE, "objective"} == set(CHANGES)


def test_limits_and_metadata_may_change_while_it_runs(crd_installed: KubeApi, job: str) -> None:
    apply_status(crd_installed, job, FineTuneJobStatus(phase=Phase.RUNNING))
    changes = {
        "backoffLimit": 9,
        "preRunningDeadlineSeconds": 60,
        "activeDeadlineSeconds": 7200,
        "ttlSecondsAfterFinished": 60,
        "suspend": True,
    }

    patch = {"metadata": {"labels": {"team": "support"}}, "spec": changes}
    stored = crd_installed.request("PATCH", job, body=patch, content_type=MERGE)

    assert set(changes) == set(MUTABLE)
    assert {name: stored["spec"][name] for name in changes} == changes


def test_status_is_kept_whole_and_printed(crd_installed: KubeApi, job: str) -> None:
    status = FineTuneJobStatus(
        phase=Phase.RUNNING,
        reason=Reason.RUNNING,
        nodes=2,
        restarts=Restarts(total=1, counted=0),
        progress=Progress(step=120, total_steps=540, percent=22, loss=1.25, eta="1h05m", tokens_per_second=900),
        last_checkpoint=CheckpointRef.model_validate(
            {"uri": "s3://runs/c", "step": 100, "time": NOON, "sizeBytes": 2**40}
        ),
    )

    stored = apply_status(crd_installed, job, status)
    assert FineTuneJobStatus.model_validate(stored["status"]) == status

    table = crd_installed.request("GET", job, accept=TABLE)
    names = [column["name"].upper() for column in table["columnDefinitions"]]
    row = dict(zip(names, table["rows"][0]["cells"], strict=True))
    del row["AGE"]
    assert row == {
        "NAME": "job",
        "PHASE": "Running",
        "PROGRESS": "22%",
        "STEP": "120/540",
        "LOSS": 1.25,
        "ETA": "1h05m",
        "NODES": 2,
        "RESTARTS": 1,
        "METHOD": "lora",
        "MODEL": "s3://models/base/",
        "TOK/S": 900,
        "CHECKPOINT": 100,
        "REASON": "Running",
    }
    wide = {column["name"].upper() for column in table["columnDefinitions"] if column["priority"] == 1}
    assert wide == {"METHOD", "MODEL", "TOK/S", "CHECKPOINT", "REASON"}


def test_conditions_are_one_by_type(crd_installed: KubeApi, job: str) -> None:
    condition = {
        "type": "Valid",
        "status": "True",
        "reason": "Accepted",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    status = FineTuneJobStatus.model_validate({"conditions": [condition, condition]})

    with pytest.raises(ApiError, match="duplicate entries for key"):
        apply_status(crd_installed, job, status)


def test_discovery_names(crd_installed: KubeApi) -> None:
    resources = crd_installed.request("GET", f"/apis/{GROUP}/{VERSION}")["resources"]
    job_resource = next(resource for resource in resources if resource["name"] == "finetunejobs")

    assert job_resource["shortNames"] == ["ftj"]
    assert job_resource["categories"] == ["finetune"]
    assert {resource["name"] for resource in resources} == {"finetunejobs", "finetunejobs/status"}
