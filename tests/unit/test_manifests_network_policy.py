"""The NetworkPolicy of a job: whom its pods may talk to."""

from dataclasses import replace

import pytest
from reconcile_builders import SETTINGS, blueprint

from finetune_api.stage import Stage
from finetune_operator.manifests import build_children
from finetune_operator.manifests.network_policy import build_network_policy

ON = replace(SETTINGS, network_policies=True, operator_namespace="ops")
OWN = {"podSelector": {"matchLabels": {"finetune-operator.io/job": "bot"}}}


def policy(**s3):
    return build_network_policy(blueprint(settings=ON, storage={"s3": s3}))["spec"]


def ports(rule):
    return [(one["port"], one["protocol"]) for one in rule.get("ports", [])]


def test_only_the_jobs_own_pods_come_in():
    built = policy()
    assert built["podSelector"] == OWN["podSelector"]
    assert built["policyTypes"] == ["Ingress", "Egress"]
    assert built["ingress"] == [{"from": [OWN]}]


def test_ranks_meet_on_any_port_and_names_are_found():
    peers, dns, *_ = policy()["egress"]
    assert peers == {"to": [OWN]}
    assert ports(dns) == [(53, "UDP"), (53, "TCP"), (5353, "UDP"), (5353, "TCP")]


def test_progress_goes_to_the_operator_alone():
    rule = policy()["egress"][2]
    (peer,) = rule["to"]
    assert peer["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "ops"}}
    assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/name"] == "finetune-operator"
    assert ports(rule) == [(8443, "TCP")]


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [
        ("", 443),
        ("https://s3.example.com", 443),
        ("http://10.0.0.7", 80),
        ("http://[fd00::7]:9000", 9000),
        ("http://s3.example.com:8333", 8333),
        ("https://s3.example.com:port", 443),
        ("https://s3.example.com:99999", 443),
    ],
)
def test_storage_is_reached_on_the_port_of_its_endpoint(endpoint, port):
    rules = policy(endpoint=endpoint, credentialsSecretRef={"name": "s3"})["egress"]
    assert [ports(rule) for rule in rules[3:]] == [[(port, "TCP")]]


@pytest.mark.parametrize(
    ("host", "namespace"),
    [("s3", "ml"), ("s3.store", "store"), ("s3.store.svc", "store"), ("s3.store.svc.cluster.local", "store")],
)
def test_storage_within_the_cluster_is_reached_on_any_port_of_its_namespace(host, namespace):
    port, home = policy(endpoint=f"http://{host}:8333", credentialsSecretRef={"name": "s3"})["egress"][3:]
    selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    assert home == {"to": [{"namespaceSelector": selector}]}
    assert port == {"ports": [{"port": 8333, "protocol": "TCP"}]}


def test_the_port_of_plain_http_is_not_open_to_instance_metadata():
    (rule,) = policy(endpoint="http://s3.example.com", credentialsSecretRef={"name": "s3"})["egress"][3:]
    blocks = [one["ipBlock"] for one in rule["to"] if "ipBlock" in one]
    assert "169.254.0.0/16" in blocks[0]["except"]
    assert {"namespaceSelector": {}} in rule["to"]


@pytest.mark.parametrize(
    ("uri", "opened"),
    [
        ("https://mlflow.example.com", [[(443, "TCP")]]),
        ("http://mlflow.tools:5000/mlflow", [[(5000, "TCP")], []]),
    ],
)
def test_a_tracking_server_is_reached_as_s3_is(uri, opened):
    built = blueprint(
        settings=ON, storage={"s3": {"credentialsSecretRef": {"name": "s3"}}}, tracking={"mlflow": {"uri": uri}}
    )
    rules = build_network_policy(built)["spec"]["egress"]
    assert [ports(rule) for rule in rules[4:]] == opened
    home = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "tools"}}}
    assert ({"to": [home]} in rules) is ("tools" in uri)


def test_more_ports_are_opened_by_the_operators_settings():
    settings = replace(ON, network_ports=(3128, 5000))
    s3 = {"credentialsSecretRef": {"name": "s3"}}
    rules = build_network_policy(blueprint(settings=settings, storage={"s3": s3}))["spec"]["egress"]
    assert rules[-2:] == [{"ports": [{"port": port, "protocol": "TCP"}]} for port in (3128, 5000)]


def test_a_changed_endpoint_makes_another_policy():
    def name(**s3):
        return build_network_policy(blueprint(settings=ON, storage={"s3": s3}))["metadata"]["name"]

    first, second = name(endpoint="http://a.b.c:1"), name(endpoint="http://a.b.c:2")
    assert first != second
    assert first.startswith("bot-pods-")
    assert first == name(endpoint="http://other.b.c:1"), "what the policy says is the same"


def test_without_a_secret_the_keys_of_the_pods_identity_are_reached():
    rules = policy(endpoint="http://s3.example.com:8333")["egress"]
    assert [ports(rule) for rule in rules[3:]] == [[(8333, "TCP")], [(443, "TCP")], [(80, "TCP")]]
    addresses = [one["ipBlock"]["cidr"] for one in rules[5]["to"]]
    assert addresses[:2] == ["169.254.169.254/32", "169.254.170.23/32"]


@pytest.mark.parametrize(
    ("stage", "attempt", "comes"),
    [
        (Stage.PREPARE, 1, True),
        (Stage.PREPARE, 2, True),
        (Stage.TRAIN, 1, False),
        (Stage.TRAIN, 2, True),
        (Stage.EXPORT, 1, False),
    ],
)
def test_it_stands_before_the_first_pod_and_again_after_a_restart(stage, attempt, comes):
    kinds = [one["kind"] for one in build_children(blueprint(stage, attempt, settings=ON))]
    assert (kinds[0] == "NetworkPolicy") is comes
    assert "NetworkPolicy" not in [one["kind"] for one in build_children(blueprint(stage, attempt))]
