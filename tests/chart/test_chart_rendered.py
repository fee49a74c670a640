"""The chart's manifests over its values: security, wiring, switches."""

import json
from typing import Any

import pytest
import yaml

from finetune_loopback.helm import CHART, IMAGES, NAMESPACE, RELEASE, HelmError, find, helm, render
from finetune_loopback.kube_api import REPOSITORY

DIGEST = "sha256:" + "0a" * 32


def pod_specs(values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    manifests = render(values)
    return [find(manifests, "Deployment")["spec"]["template"]["spec"], find(manifests, "Pod")["spec"]]


def operator_env(values: dict[str, Any] | None = None) -> dict[str, str]:
    (container,) = find(render(values), "Deployment")["spec"]["template"]["spec"]["containers"]
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


def test_lint() -> None:
    helm("lint", CHART, "--strict", values=IMAGES)


@pytest.mark.parametrize("pod", pod_specs(), ids=["operator", "test"])
def test_pod_meets_restricted(pod: dict[str, Any]) -> None:
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] == 65532
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert "hostNetwork" not in pod
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert container["resources"]["limits"].keys() == {"memory"}
    assert pod["enableServiceLinks"] is False


def test_token_is_mounted_where_it_is_needed() -> None:
    manifests = render()

    assert find(manifests, "ServiceAccount")["automountServiceAccountToken"] is False
    assert find(manifests, "Deployment")["spec"]["template"]["spec"]["automountServiceAccountToken"] is True
    assert find(manifests, "Pod")["spec"]["automountServiceAccountToken"] is False


def test_one_replica_is_replaced_before_the_next_starts() -> None:
    spec = find(render(), "Deployment")["spec"]

    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_probes_ask_the_probe_port() -> None:
    (container,) = find(render(), "Deployment")["spec"]["template"]["spec"]["containers"]

    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "metrics"}
    assert container["startupProbe"]["httpGet"] == {"path": "/healthz", "port": "metrics"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {"progress": 8443, "metrics": 8080}


def test_service_selects_the_operator_alone() -> None:
    manifests = render()
    service = find(manifests, "Service")
    labels = find(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    test_labels = find(manifests, "Pod")["metadata"]["labels"]

    assert service["spec"]["selector"].items() <= labels.items()
    assert not service["spec"]["selector"].items() <= test_labels.items()
    assert {port["name"]: port["port"] for port in service["spec"]["ports"]} == {"progress": 8443, "metrics": 8080}


def test_settings_of_the_operator() -> None:
    env = operator_env({"workers": 4, "relistSeconds": 60, "logLevel": "DEBUG", "watchNamespaces": ["a", "b"]})

    assert env["PROGRESS_URL"] == f"https://{RELEASE}.{NAMESPACE}.svc:8443"
    assert env["TRAINER_IMAGE"] == "registry.test/trainer:0.1.0"
    assert (env["WORKERS"], env["RELIST_SECONDS"], env["LOG_LEVEL"]) == ("4", "60", "DEBUG")
    assert env["WATCH_NAMESPACE"] == "a,b"
    assert env["LEASE_NAME"] == RELEASE
    assert env["OPERATOR_NAMESPACE"] == {"fieldRef": {"fieldPath": "metadata.namespace"}}
    assert env["POD_IP"] == {"fieldRef": {"fieldPath": "status.podIP"}}
    assert json.loads(env["STAGE_RESOURCES"]) == {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {}}


def test_settings_are_those_the_operator_reads() -> None:
    from finetune_operator.settings import Settings

    env = operator_env() | {"OPERATOR_NAMESPACE": NAMESPACE, "POD_NAME": "pod", "POD_IP": "10.0.0.7"}
    settings = Settings.from_environment(env)

    assert settings.tls_cert_file.parent.as_posix() == tls_mount()["mountPath"]
    assert settings.lease_name == RELEASE
    assert (settings.progress_port, settings.probe_port) == (8443, 8080)
    assert settings.watch_namespaces == ()


def tls_mount() -> dict[str, Any]:
    (container,) = find(render(), "Deployment")["spec"]["template"]["spec"]["containers"]
    (mount,) = (one for one in container["volumeMounts"] if one["name"] == "tls")
    return dict(mount)


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ({"repository": "r/o"}, "r/o:0.1.0"),
        ({"repository": "r/o", "tag": "1.2"}, "r/o:1.2"),
        ({"repository": "r/o", "digest": DIGEST}, f"r/o@{DIGEST}"),
        ({"repository": "r/o", "tag": "1.2", "digest": DIGEST}, f"r/o@{DIGEST}"),
    ],
)
def test_image_reference(image: dict[str, str], reference: str) -> None:
    for pod in pod_specs({"image": image}):
        assert pod["containers"][0]["image"] == reference
    assert operator_env({"trainer": {"image": image}})["TRAINER_IMAGE"] == reference


@pytest.mark.parametrize("name", ["image", "trainer.image"])
def test_missing_repository_is_told_by_name(name: str) -> None:
    values: dict[str, Any] = {"image": {"repository": ""}} if name == "image" else {"trainer": {"image": {}}}
    with pytest.raises(HelmError, match=f"set {name}.repository to the repository you pushed this image to"):
        render(values)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"replica": 2}, "replica"),
        ({"replicas": 9}, "replicas"),
        ({"logLevel": "debug"}, "logLevel"),
        ({"watchNamespaces": "ml"}, "watchNamespaces"),
        ({"image": {"repository": "r", "digest": "latest"}}, "digest"),
        ({"resources": {"claims": []}}, "claims"),
    ],
)
def test_schema_refuses(values: dict[str, Any], word: str) -> None:
    with pytest.raises(HelmError, match=word):
        render(values)


def test_pod_settings_reach_the_pod() -> None:
    values = {
        "podLabels": {"team": "ml", "app.kubernetes.io/name": "mine"},
        "podAnnotations": {"note": "x"},
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "system", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "system-cluster-critical",
        "imagePullSecrets": [{"name": "registry"}],
    }
    template = find(render(values), "Deployment")["spec"]["template"]

    assert template["metadata"]["labels"]["team"] == "ml"
    assert template["metadata"]["labels"]["app.kubernetes.io/name"] == "finetune-operator"
    assert template["metadata"]["annotations"] == {"note": "x"}
    spec = {name: template["spec"][name] for name in values if name not in ("podLabels", "podAnnotations")}
    assert spec == {name: value for name, value in values.items() if name in spec}


def test_crd_is_the_generated_one_and_kept() -> None:
    crd = find(render(), "CustomResourceDefinition")
    generated = yaml.safe_load((REPOSITORY / "crds/finetunejobs.yaml").read_text())

    assert crd["spec"] == generated["spec"]
    assert crd["metadata"]["name"] == generated["metadata"]["name"]
    assert crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_chart_copy_of_the_crd_is_equal() -> None:
    assert (CHART / "files/finetunejobs.yaml").read_bytes() == (REPOSITORY / "crds/finetunejobs.yaml").read_bytes()


def test_crd_switches() -> None:
    assert "annotations" not in find(render({"crds": {"keep": False}}), "CustomResourceDefinition")["metadata"]
    assert "CustomResourceDefinition" not in {one["kind"] for one in render({"crds": {"install": False}})}


def test_network_policy_lets_in_and_out_what_is_needed() -> None:
    spec = find(render({"networkPolicy": {"apiServerPorts": [6443]}}), "NetworkPolicy")["spec"]

    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert [[port["port"] for port in rule["ports"]] for rule in spec["ingress"]] == [["progress"], ["metrics"]]
    assert [[port["port"] for port in rule["ports"]] for rule in spec["egress"]] == [[53, 53], [6443], ["progress"]]


def test_network_policy_covers_operator_and_test_and_knows_the_children() -> None:
    from finetune_operator.manifests.names import MANAGED_BY, MANAGED_BY_LABEL

    manifests = render()
    spec = find(manifests, "NetworkPolicy")["spec"]

    for pod in (find(manifests, "Deployment")["spec"]["template"], find(manifests, "Pod")):
        assert spec["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert spec["ingress"][0]["from"][0]["podSelector"]["matchLabels"] == {MANAGED_BY_LABEL: MANAGED_BY}


def test_network_policy_lets_in_nodes_that_are_named() -> None:
    spec = find(render({"networkPolicy": {"nodeCidrs": ["10.1.0.0/16", "fd00::/64"]}}), "NetworkPolicy")["spec"]

    blocks = [peer["ipBlock"] for peer in spec["ingress"][0]["from"] if "ipBlock" in peer]
    assert blocks == [{"cidr": "10.1.0.0/16"}, {"cidr": "fd00::/64"}]
    with pytest.raises(HelmError, match="nodeCidrs"):
        render({"networkPolicy": {"nodeCidrs": ["10.1.0.0"]}})


def test_policies_of_jobs_know_the_operator() -> None:
    from finetune_operator.manifests.network_policy import OPERATOR_LABELS

    labels = find(render(release="prod"), "Deployment")["spec"]["template"]["metadata"]["labels"]

    assert OPERATOR_LABELS.items() <= labels.items()


def test_network_policy_switch() -> None:
    assert "NetworkPolicy" not in {one["kind"] for one in render({"networkPolicy": {"enabled": False}})}


def test_names_hold_the_release() -> None:
    names = {one["metadata"]["name"] for one in render(release="prod") if one["kind"] == "Deployment"}

    assert names == {"prod-finetune-operator"}


def test_documented_values_are_the_values() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    readme = (CHART / "README.md").read_text()
    documented = {line.split("`")[1] for line in readme.splitlines() if line.startswith("| `")}
    leaves = {"resources", "trainer.stageResources"}

    def paths(node: dict[str, Any], prefix: str = "") -> set[str]:
        found = set()
        for name, value in node.items():
            path = f"{prefix}{name}"
            whole = path in leaves or not isinstance(value, dict) or not value
            found |= {path} if whole else paths(value, f"{path}.")
        return found

    assert paths(values) == documented


def test_every_value_is_in_the_schema_and_back() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    assert set(schema["properties"]) - {"global"} == set(values)
    for name in ("image", "trainer", "crds", "tls", "networkPolicy", "serviceAccount", "admission", "userRoles"):
        assert set(schema["properties"][name]["properties"]) == set(values[name])
