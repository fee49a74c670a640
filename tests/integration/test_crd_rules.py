"""Every CEL rule of the CRD refuses what it should, with its exact sentence at the field it is about.

The cases are keyed by the rules found in the generated CRD: a rule without a case fails the test.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from finetune_api import GROUP, VERSION
from finetune_api.volumes import OWN_VOLUMES
from finetune_loopback.jobs import merge, minimal_job
from finetune_loopback.kube_client import ApiError, KubeApi

ROOT = Path(__file__).resolve().parents[2]
JOBS = f"/apis/{GROUP}/{VERSION}/namespaces/default/finetunejobs"
IMMUTABLE = "spec cannot change while the job runs"


class Case(NamedTuple):
    """One refused object: the rule's words that pick it, where the refusal stands, and the object."""

    words: str
    field: str
    job: dict[str, Any]


def pods(**template: Any) -> dict[str, Any]:
    return {"podTemplate": template}


def variable(name: str, **source: Any) -> dict[str, Any]:
    return minimal_job(**pods(env=[{"name": "NCCL_DEBUG", "value": "INFO"}, {"name": name, **source}]))


def volume(name: str = "data", **source: Any) -> dict[str, Any]:
    return minimal_job(**pods(volumes=[{"name": name, **source}]))


def mount(path: str, *, name: str = "data", **more: Any) -> dict[str, Any]:
    mounts = [{"name": name, "mountPath": path, **more}]
    return minimal_job(**pods(volumes=[{"name": "data", "emptyDir": {}}], volumeMounts=mounts))


def shm(size: str, limit: str | int) -> dict[str, Any]:
    return minimal_job(**pods(shmSize=size, resources={"limits": {"memory": limit}}))


def micro(size: int | str) -> dict[str, Any]:
    return {"microBatchSize": size}


CPU = {"distributed": {"device": "cpu"}}
GPU, MIG = "nvidia.com/gpu", "nvidia.com/mig-1g.5gb"
RESERVED = ("finetune-operator.io/job", "app.kubernetes.io/managed-by", "batch.kubernetes.io/job-name")
KEY = {"name": "s3", "key": "token"}
ENV, FROM = "spec.podTemplate.env[1]", "spec.podTemplate.env[1].valueFrom"
VOLUME, MOUNT = "spec.podTemplate.volumes[0]", "spec.podTemplate.volumeMounts[0]"
DORA = {"useDora": True}
EARLIER = {"uri": "s3://models/earlier/adapter/"}
BOTH = {"reductionFactor": 8, "bottleneckSize": 64}
MUON = {"type": "muon"}
ON_HOST = {"offloadOptimizer": "on"}
SAMPLED = {"samplePrompts": ["How are you?"]}
ASKED = {"rows": 3}
PATIENT = {"earlyStopping": {"patience": 2}}
NEVER = {"everySteps": 0, **PATIENT}
LISTED = [{"uri": "s3://datasets/other.jsonl"}]
UNKNOWN = {"name": "data", "mountPath": "/data"}
CLOSED = [
    "/var/lib/finetune",
    "/var/lib/finetune/model",
    "/var/lib",
    "/var",
    "/var/run/finetune/token",
    "/run/finetune/s3",
]
CLOSED += ["/run", "/proc", "/proc/sys", "/tmp", "/dev", "/dev/shm", "/dev/termination-log", "/sys"]
CASES = [
    Case("may have at most 45 characters", "<nil>", minimal_job("j" * 46)),
    Case("letters, digits and hyphens alone", "<nil>", minimal_job("llama-3.1")),
    Case("lora block or set", "spec.method", minimal_job(method={"type": "full", "lora": {"rank": 8}})),
    Case("set spec.method.type: qlora", "spec.method", minimal_job(method={"type": "lora", "quantization": {}})),
    Case("set spec.method.type: freeze", "spec.method", minimal_job(method={"type": "full", "freeze": {}})),
    Case("set spec.method.type: ia3", "spec.method", minimal_job(method={"type": "lora", "ia3": {}})),
    *(
        Case("must stand in targetModules", "spec.method.ia3", minimal_job(method={"type": "ia3", "ia3": scaled}))
        for scaled in ({"feedforwardModules": ["fc2"]}, {"targetModules": ["fc1"], "feedforwardModules": ["fc2"]})
    ),
    Case("set spec.method.type: prompt", "spec.method", minimal_job(method={"type": "lora", "prompt": {}})),
    Case("set spec.method.type: prefix", "spec.method", minimal_job(method={"type": "prompt", "prefix": {}})),
    *(
        Case(
            "belong together; set both", "spec.method.prompt", minimal_job(method={"type": "prompt", "prompt": block})
        )
        for block in ({"init": "text"}, {"initText": "Answer briefly."})
    ),
    Case("set spec.method.type: adapter", "spec.method", minimal_job(method={"type": "lora", "adapter": {}})),
    Case("not both; remove one", "spec.method.adapter", minimal_job(method={"type": "adapter", "adapter": BOTH})),
    Case("is a LoRA adapter", "spec.method", minimal_job(method={"type": "full", "initialAdapter": EARLIER})),
    *(
        Case("must be trained, by", "spec", minimal_job(model={"newTokens": ["<tool>"]}, method=method))
        for method in ({"type": "ia3"}, {"type": "lora", "initialAdapter": EARLIER})
    ),
    Case("single rows of", "spec", minimal_job(model={"newTokens": ["<tool>"]}, distributed={"zeroStage": 3})),
    Case("language models alone", "spec", minimal_job(method={"type": "prompt"}, objective="classification")),
    Case("not on 8", "spec.method", minimal_job(method={"type": "qlora", "quantization": {"bits": 8}, "lora": DORA})),
    *(
        Case("needs validation rows", "spec", minimal_job(data=data, evaluation=PATIENT))
        for data in ({"split": {"validation": 0}}, {"split": {"validation": 0}, "validation": []})
    ),
    Case("needs evaluations to look at", "spec.evaluation", minimal_job(evaluation=NEVER)),
    Case("is not sharded", "spec", minimal_job(method={"type": "qlora"}, distributed={"zeroStage": 3})),
    Case("reads whole weights", "spec", minimal_job(method={"lora": DORA}, distributed={"zeroStage": 3})),
    Case("asks the model for text", "spec", minimal_job(objective="classification", evaluation=SAMPLED)),
    Case("compiled into one", "spec", minimal_job(training={"compile": True}, distributed={"zeroStage": 3})),
    Case("makes whole matrices", "spec", minimal_job(training={"optimizer": MUON}, distributed={"zeroStage": 2})),
    Case("where the weights are", "spec", minimal_job(distributed={"zeroStage": 0, "offloadOptimizer": "on"})),
    *(
        Case("are a GPU's", "spec", minimal_job(training={"optimizer": {"type": kind}}, distributed=ON_HOST))
        for kind in ("adamw8bit", "pagedAdamw8bit", "pagedAdamw32bit", "muon")
    ),
    Case("set split.validation: 0", "spec.data", minimal_job(data={"validation": LISTED, "split": {"seed": 1}})),
    Case("set split.validation: 0", "spec.data", minimal_job(data={"validation": LISTED, "split": {"test": 0}})),
    Case("set split.test: 0", "spec.data", minimal_job(data={"test": LISTED, "split": {"validation": 0}})),
    Case("set deduplicate: near", "spec.data", minimal_job(data={"nearThreshold": 0.9})),
    Case("set deduplicate: near", "spec.data", minimal_job(data={"deduplicate": "exact", "nearThreshold": 0.9})),
    Case("exactly one of spec.training.epochs", "spec.training", minimal_job(training={"epochs": None})),
    Case("exactly one of spec.training.epochs", "spec.training", minimal_job(training={"maxSteps": 10})),
    Case("microBatchSize must be auto", "spec.training.microBatchSize", minimal_job(training=micro(0))),
    Case("microBatchSize must be auto", "spec.training.microBatchSize", minimal_job(training=micro("4"))),
    Case("zeroStage must be auto", "spec.distributed.zeroStage", minimal_job(distributed={"zeroStage": 4})),
    Case("zeroStage must be auto", "spec.distributed.zeroStage", minimal_job(distributed={"zeroStage": "off"})),
    Case("must start with http://", "spec.storage.s3", minimal_job(storage={"s3": {"endpoint": "minio:9000"}})),
    *(
        Case("choose other label keys", "spec.podTemplate", minimal_job(**pods(labels={key: "x"})))
        for key in RESERVED
    ),
    Case("pods use no GPU", "spec.podTemplate", minimal_job(**pods(stageResources={"limits": {GPU: 1}}))),
    Case("pods use no GPU", "spec.podTemplate", minimal_job(**pods(stageResources={"requests": {"amd.com/gpu": 1}}))),
    *(
        Case("spec.output.merge merges", "spec", minimal_job(method={"type": method}, output={"merge": True}))
        for method in ("full", "freeze", "prompt", "prefix", "adapter")
    ),
    Case("cpu takes no GPU", "spec", minimal_job(**CPU, **pods(resources={"limits": {GPU: 1}}))),
    Case("cpu takes no GPU", "spec", minimal_job(**CPU, **pods(resources={"requests": {MIG: 1}}))),
    Case("one process per GPU", "spec", minimal_job(**pods(resources={"limits": {GPU: 8}}))),
    Case("one process per GPU", "spec", minimal_job(**pods(resources={"limits": {GPU: "2"}}))),
    Case("which spec.objective: pretrain trains on", "spec", minimal_job(data={"format": "text"})),
    Case(
        "set spec.data.format: text or auto", "spec", minimal_job(objective="pretrain", data={"format": "messages"})
    ),
    Case("label is for spec.objective", "spec", minimal_job(data={"format": "label"})),
    Case("trains on rows with labels", "spec", minimal_job(objective="classification", data={"format": "messages"})),
    Case("spec.data.labels belongs to", "spec", minimal_job(data={"labels": ["a", "b"]})),
    Case("spec.data.labels names one", "spec.data", minimal_job(objective="classification", data={"labels": ["a"]})),
    Case("spec.training.classWeights belongs", "spec", minimal_job(training={"classWeights": "balanced"})),
    Case("are scores of labels", "spec", minimal_job(evaluation={"bestMetric": "f1"})),
    Case("running text asks nothing", "spec", minimal_job(objective="pretrain", evaluation={"predictions": ASKED})),
    Case("spec.data.lossOn belongs", "spec", minimal_job(objective="pretrain", data={"lossOn": "all"})),
    Case(
        "asks what stands before the last answer",
        "spec",
        minimal_job(data={"lossOn": "all"}, evaluation={"predictions": ASKED}),
    ),
    Case(
        "truncation: keepAnswer belongs",
        "spec",
        minimal_job(objective="classification", data={"truncation": "keepAnswer"}),
    ),
    Case("is never left out but becomes", "spec", minimal_job(objective="pretrain", data={"truncation": "end"})),
    Case("takes the same share", "spec", minimal_job(distributed={"numNodes": 3, "processesPerNode": 2})),
    *(
        Case("may not set FINETUNE_", ENV, variable(name, value="x"))
        for name in ("FINETUNE_JOB", "FINETUNE_X", "HOME")
    ),
    *(Case("may not set FINETUNE_", ENV, variable(name, value="x")) for name in ("RANK", "MASTER_PORT")),
    Case("may not set AWS_ACCESS_KEY_ID", ENV, variable("AWS_SECRET_ACCESS_KEY", value="x")),
    Case("exclude each other; remove one", ENV, variable("A", value="x", valueFrom={"configMapKeyRef": KEY})),
    Case("secretKeyRef is refused", FROM, variable("A", valueFrom={"secretKeyRef": KEY})),
    Case("exactly one of configMapKeyRef", FROM, variable("A", valueFrom={})),
    *(Case("operator has volumes of these names", VOLUME, volume(name, emptyDir={})) for name in OWN_VOLUMES),
    Case("exactly one of emptyDir", VOLUME, volume()),
    Case("exactly one of emptyDir", VOLUME, volume(emptyDir={}, secret={"secretName": "s"})),
    *(Case("operator's mounts are there", MOUNT, mount(path)) for path in CLOSED),
    *(Case("may not lead upwards", MOUNT, mount("/data", subPath=path)) for path in ("..", "a/../b", "../x", "a/..")),
    Case("does not hold; add the volume", "spec.podTemplate", mount("/data", name="datas")),
    Case("does not hold; add the volume", "spec.podTemplate", minimal_job(**pods(volumeMounts=[UNKNOWN]))),
    Case("named without CAP_", "spec.podTemplate", minimal_job(**pods(capabilities=["IPC_LOCK", "CAP_SYS_PTRACE"]))),
    *(Case("counts as the", "spec.podTemplate", shm("4Gi", limit)) for limit in ("3Gi", "3500M", 4_000_000_000)),
]

ACCEPTED = {
    "validation list without split": minimal_job(data={"validation": LISTED}),
    "validation list with the share set to 0": minimal_job(data={"validation": LISTED, "split": {"validation": 0}}),
    "early stopping by the split": minimal_job(evaluation=PATIENT),
    "early stopping by a part of the split": minimal_job(data={"split": {"test": 0}}, evaluation=PATIENT),
    "early stopping by a list": minimal_job(
        data={"validation": LISTED, "split": {"validation": 0}}, evaluation=PATIENT
    ),
    "no validation rows": minimal_job(data={"split": {"validation": 0}}),
    "running text": minimal_job(objective="pretrain", data={"format": "text"}),
    "running text by its first row": minimal_job(objective="pretrain"),
    "labels": minimal_job(
        objective="classification",
        data={"format": "label", "labels": ["a", "b"]},
        training={"classWeights": "balanced"},
        evaluation={"predictions": ASKED, "bestMetric": "f1"},
    ),
    "lora block": minimal_job(method={"lora": {"rank": 8}}),
    "ia3 block": minimal_job(
        method={"type": "ia3", "ia3": {"targetModules": ["fc1", "fc2"], "feedforwardModules": ["fc2"]}}
    ),
    "ia3 block without names": minimal_job(method={"type": "ia3", "ia3": {}}),
    "steps instead of epochs": minimal_job(training={"epochs": None, "maxSteps": 10}),
    "part of an epoch": minimal_job(training={"epochs": 0.5}),
    "whole learning rate": minimal_job(training={"learningRate": 1}),
    "tiny learning rate": minimal_job(training={"learningRate": 2e-9}),
    "micro batch": minimal_job(training={"microBatchSize": 4}),
    "ZeRO stage 0": minimal_job(distributed={"zeroStage": 0}),
    "GPU limit as text": minimal_job(**pods(resources={"limits": {GPU: "1"}})),
    "GPU limit as number": minimal_job(**pods(resources={"limits": {GPU: 1}})),
    "quantities": minimal_job(**pods(resources={"requests": {"cpu": "1.5", "memory": "3Gi", "hugepages-2Mi": 0}})),
    "empty endpoint": minimal_job(storage={"s3": {"endpoint": ""}}),
    "any affinity": minimal_job(**pods(affinity={"podAntiAffinity": {"future": [1, "two"]}})),
    "longest name": minimal_job("j" * 45),
    "variables": minimal_job(
        **pods(
            env=[
                {"name": "NCCL_IB_HCA", "value": "mlx5_0:1"},
                {"name": "AWS_REGION", "value": ""},
                {"name": "PROXY", "valueFrom": {"configMapKeyRef": {**KEY, "optional": True}}},
                {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
                {"name": "TEAM", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['example.com/team']"}}},
                {
                    "name": "MEMORY",
                    "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}},
                },
            ]
        )
    ),
    "volumes": minimal_job(
        **pods(
            volumes=[
                {"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
                {"name": "claim", "persistentVolumeClaim": {"claimName": "c.1", "readOnly": True}},
                {
                    "name": "config",
                    "configMap": {"name": "c", "items": [{"key": "a.xml", "path": "x/a.xml", "mode": 292}]},
                },
                {"name": "token", "secret": {"secretName": "s", "defaultMode": 288}},
                {
                    "name": "disk",
                    "ephemeral": {"volumeClaimTemplate": {"spec": {"resources": {"requests": {"storage": "1Ti"}}}}},
                },
                {"name": "driver", "csi": {"driver": "secrets-store.csi.k8s.io", "volumeAttributes": {"a": "b"}}},
                {"name": "infiniband", "hostPath": {"path": "/dev/infiniband", "type": "Directory"}},
            ],
            volumeMounts=[
                {"name": "infiniband", "mountPath": "/dev/infiniband"},
                {"name": "scratch", "mountPath": "/tmp/.cache/scratch"},
                {"name": "claim", "mountPath": "/data", "subPath": "a..b/c", "readOnly": True},
                {"name": "config", "mountPath": "/variables"},
            ],
        )
    ),
    "shared memory": shm("4Gi", "4096Mi"),
    "shared memory without a limit": minimal_job(**pods(shmSize="64Gi")),
    "spread": minimal_job(
        **pods(
            topologySpreadConstraints=[
                {"topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"},
                {"topologyKey": "topology.kubernetes.io/zone", "maxSkew": 2, "minDomains": 2},
            ]
        )
    ),
    "digit first": minimal_job("8b-model"),
    "optimizer on the host": minimal_job(distributed={**ON_HOST, "zeroStage": 1}),
    "no stage 0 for one on the device": minimal_job(distributed={"zeroStage": 0, "offloadOptimizer": "off"}),
    "no names": minimal_job(
        **pods(serviceAccountName="", schedulerName="", priorityClassName="", runtimeClassName="")
    ),
    "admin's fields": minimal_job(**pods(hostNetwork=True, privileged=True, capabilities=["IPC_LOCK"])),
}


def rule_messages(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from (rule["message"] for rule in schema.get("x-kubernetes-validations", []))
        for node in schema.values():
            yield from rule_messages(node)


def all_rules() -> list[str]:
    crd = yaml.safe_load((ROOT / "crds/finetunejobs.yaml").read_text())
    return list(rule_messages(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]))


@pytest.mark.parametrize("message", all_rules())
def test_rule_has_a_case(message: str) -> None:
    assert [case for case in CASES if case.words in message] or message.startswith(IMMUTABLE)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.field}: {case.words}")
def test_refused_with_the_sentence(crd_installed: KubeApi, case: Case) -> None:
    (message,) = (rule for rule in all_rules() if case.words in rule)

    with pytest.raises(ApiError) as refusal:
        crd_installed.request("POST", JOBS, body=case.job, dryRun="All", fieldValidation="Strict")

    assert refusal.value.code == 422
    assert [(cause["field"], message) for cause in refusal.value.status["details"]["causes"]] == [
        (case.field, message)
    ]
    assert refusal.value.status["details"]["causes"][0]["message"].endswith(message)


def test_a_base_has_4_or_8_bits(crd_installed: KubeApi) -> None:
    job = minimal_job(method={"type": "qlora", "quantization": {"bits": 6}})
    with pytest.raises(ApiError, match=r"spec.method.quantization.bits in body should be a multiple of 4"):
        crd_installed.request("POST", JOBS, body=job, dryRun="All")


@pytest.mark.parametrize("job", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_accepted(crd_installed: KubeApi, job: dict[str, Any]) -> None:
    crd_installed.request("POST", JOBS, body=job, dryRun="All", fieldValidation="Strict")


@pytest.mark.parametrize(
    "template",
    [
        {"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]},
        {"volumes": [{"name": "a", "emptyDir": {}}, {"name": "a", "emptyDir": {}}]},
        {"volumes": [{"name": "a", "emptyDir": {}}], "volumeMounts": [{"name": "a", "mountPath": "/a"}] * 2},
        {"topologySpreadConstraints": [{"topologyKey": "zone"}, {"topologyKey": "zone", "maxSkew": 2}]},
    ],
    ids=lambda template: list(template)[-1],
)
def test_an_entry_of_a_list_stands_there_once(crd_installed: KubeApi, template: dict[str, Any]) -> None:
    with pytest.raises(ApiError, match="Duplicate value"):
        crd_installed.request("POST", JOBS, body=minimal_job(**pods(**template)), dryRun="All")


def test_the_largest_pod_template_stays_within_the_cost_of_rules(crd_installed: KubeApi) -> None:
    name = "v" * 61
    volumes = [{"name": f"{name}{n:02}", "emptyDir": {}} for n in range(32)]
    mounts = [{"name": f"{name}31", "mountPath": f"/{'m' * 500}{n:02}"} for n in range(32)]
    env = [{"name": f"{'E' * 126}{n:02}", "value": "x" * 1000} for n in range(64)]
    job = minimal_job(**pods(volumes=volumes, volumeMounts=mounts, env=env))

    crd_installed.request("POST", JOBS, body=job, dryRun="All", fieldValidation="Strict")


def test_merge_patch_of_the_builder() -> None:
    assert merge({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"c": None, "e": 4}}) == {"a": 1, "b": {"d": 3, "e": 4}}
