"""Policy validate: a spec that cannot be read ends the job with the fields that are wrong."""

import pytest
from reconcile_builders import T0, child, job, observed, running, spec, status

from finetune_api.reasons import Phase, Reason
from finetune_operator.reconcile import reconcile
from finetune_operator.reconcile.privilege import privileged_fields
from finetune_operator.reconcile.validate import SpecError, parse_spec


def without(name):
    return {key: value for key, value in spec().items() if key != name}


def test_valid_spec_gets_its_defaults():
    assert parse_spec(spec()).training.learning_rate == 2e-4


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (without("model"), "spec.model: Field required"),
        (spec(modle={}), "spec.modle: Extra inputs are not permitted"),
        (spec(model={"uri": "http://x"}), "spec.model.uri: String should match pattern"),
        (spec(training={"learningRate": 20}), "spec.training.learningRate: Input should be less than or equal to 10"),
        (spec(training={"microBatchSize": 0}), "spec.training.microBatchSize: "),
        (spec(distributed={"zeroStage": 4}), "spec.distributed.zeroStage: "),
        (spec(data={"train": []}), "spec.data.train: List should have at least 1 item"),
        (
            spec(data={"train": [{"uri": "s3://data/a"}, {"url": "s3://data/b"}]}),
            "spec.data.train[1].uri: Field required",
        ),
        (
            spec(podTemplate={"resources": {"limits": {"memory": "3 GB"}}}),
            "spec.podTemplate.resources.limits.memory: ",
        ),
    ],
)
def test_the_message_names_the_field(raw, text):
    with pytest.raises(SpecError) as error:
        parse_spec(raw)
    assert text in str(error.value)
    assert str(error.value).endswith("correct the spec: delete the job and create it anew")


def test_a_field_with_alternatives_is_named_once():
    with pytest.raises(SpecError) as error:
        parse_spec(spec(training={"microBatchSize": 0}))
    assert str(error.value).count("microBatchSize") == 1


def test_many_errors_are_cut():
    with pytest.raises(SpecError, match="and 3 more"):
        parse_spec(spec(**{f"unknown{number}": 1 for number in range(8)}))


def test_a_spec_too_large_for_a_variable_is_refused():
    # 65536 characters are what the schema takes; in UTF-8 they may be four times as many bytes
    with pytest.raises(SpecError, match=r"bytes large and may have 100000; shorten spec.model.chatTemplate"):
        parse_spec(spec(model={"chatTemplate": "日" * 60_000}))


def test_an_invalid_spec_fails_the_job():
    plan = reconcile(observed(of=job(spec=without("model"))), T0)
    assert (plan.status.phase, plan.status.reason) == (Phase.FAILED, Reason.INVALID_SPEC)
    assert "spec.model: Field required" in plan.status.message
    assert plan.status.completion_time == T0
    assert plan.children == ()
    assert {one.type.value: one.status for one in plan.status.conditions} == {
        "Valid": "False",
        "Succeeded": "False",
        "Failed": "True",
    }


def test_a_spec_that_becomes_unreadable_leaves_nothing_running():
    plan = reconcile(observed(child(), running(), of=job(status(), spec=without("model"))), T0)
    assert plan.status.phase is Phase.FAILED
    assert [one.name for one in plan.deletes] == ["bot-a1"]


@pytest.mark.parametrize(
    ("template", "fields"),
    [
        ({}, ()),
        ({"volumes": [{"name": "x", "emptyDir": {}}]}, ()),
        ({"hostNetwork": True}, ("spec.podTemplate.hostNetwork",)),
        (
            {"privileged": True, "capabilities": ["IPC_LOCK"]},
            ("spec.podTemplate.privileged", "spec.podTemplate.capabilities"),
        ),
        (
            {"volumes": [{"name": "x", "emptyDir": {}}, {"name": "y", "hostPath": {"path": "/"}}]},
            ("spec.podTemplate.volumes[1].hostPath",),
        ),
    ],
)
def test_what_only_an_admin_may_set_is_refused_where_nobody_checks_who_did(template, fields):
    raw = spec(podTemplate=template)
    assert privileged_fields(parse_spec(raw)) == fields
    if not fields:
        parse_spec(raw, allow_privileged=False)
        return
    with pytest.raises(SpecError, match="only an admin may set this") as refusal:
        parse_spec(raw, allow_privileged=False)
    assert str(refusal.value).startswith(", ".join(fields))
