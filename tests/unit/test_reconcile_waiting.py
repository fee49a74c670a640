"""Policy waiting: why pods do not run yet, and when patience ends."""

import pytest
from reconcile_builders import at, child, created, job, observed, pod, refused, running, spec, status

from finetune_api.reasons import Phase, Reason
from finetune_api.stage import Stage
from finetune_operator.reconcile import reconcile

TOO_SMALL = "0/2 nodes are available: 2 Insufficient memory."
NO_NODE = pod(unschedulable=TOO_SMALL)
PULLING = pod(node="n0", waiting_reason="ImagePullBackOff", waiting_message='Back-off pulling image "x"')
NO_KEY = pod(node="n0", waiting_reason="CreateContainerConfigError", waiting_message='secret "s3" not found')
CREATING = pod(node="n0", waiting_reason="ContainerCreating")


def starting(*records, now=60.0, before=None, **changes):
    """The plan of a job in phase Starting since T0, with two nodes and patience for 600 s."""
    about = job(before or status(Phase.STARTING), spec=spec(preRunningDeadlineSeconds=600, **changes))
    return reconcile(observed(*records, of=about), at(now))


@pytest.mark.parametrize(
    ("pods", "reason", "text"),
    [
        ((NO_NODE, running(index=1)), Reason.UNSCHEDULABLE, f"no node takes pod bot-a1-0: {TOO_SMALL}; add a node"),
        (
            (PULLING, running(index=1)),
            Reason.IMAGE_PULL_FAILED,
            'pod bot-a1-0: ImagePullBackOff: Back-off pulling image "x"',
        ),
        (
            (NO_KEY, running(index=1)),
            Reason.CONTAINER_CONFIG_FAILED,
            'CreateContainerConfigError: secret "s3" not found',
        ),
        ((CREATING, running(index=1)), Reason.STARTING, "pod bot-a1-0 is being set up on node n0"),
        ((pod(), running(index=1)), Reason.STARTING, "pod bot-a1-0 waits for a node"),
        ((NO_NODE, pod(index=1, node="n1", waiting_reason="ErrImagePull")), Reason.IMAGE_PULL_FAILED, "ErrImagePull"),
        ((NO_NODE, CREATING), Reason.UNSCHEDULABLE, TOO_SMALL),
    ],
)
def test_the_gravest_cause_is_told(pods, reason, text):
    plan = starting(child(), *pods)
    assert (plan.status.phase, plan.status.reason) == (Phase.STARTING, reason)
    assert text in plan.status.message
    assert plan.events == ()
    assert plan.requeue_after == 540


@pytest.mark.parametrize("pods", [(), (running(),)])
def test_missing_pods_are_told_in_one_sentence(pods):
    plan = starting(child(), *pods)
    assert (plan.status.reason, plan.requeue_after) == (Reason.STARTING, 30)
    assert "not all of 2 pods are created yet; see kubectl describe job bot-a1" in plan.status.message


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "ImageInspectError"])
def test_reasons_of_images(reason):
    plan = starting(child(), pod(node="n0", waiting_reason=reason), running(index=1))
    assert plan.status.reason is Reason.IMAGE_PULL_FAILED
    assert "check spec.podTemplate.image" in plan.status.message


@pytest.mark.parametrize("reason", ["CreateContainerConfigError", "CreateContainerError", "RunContainerError"])
def test_reasons_of_configuration(reason):
    plan = starting(child(), pod(node="n0", waiting_reason=reason), running(index=1))
    assert plan.status.reason is Reason.CONTAINER_CONFIG_FAILED


def test_an_image_name_that_can_never_be_pulled_fails_at_once():
    plan = starting(child(), pod(node="n0", waiting_reason="InvalidImageName", waiting_message="bad"), now=1)
    assert (plan.status.phase, plan.status.reason) == (Phase.FAILED, Reason.IMAGE_PULL_FAILED)
    assert plan.status.message == "pod bot-a1-0: InvalidImageName: bad; correct spec.podTemplate.image"
    assert [one.name for one in plan.deletes] == ["bot-a1"]


def test_a_pod_that_is_being_created_names_what_it_mounts():
    storage = {"s3": {"credentialsSecretRef": {"name": "mine"}, "caBundleConfigMapRef": {"name": "ca"}}}
    plan = starting(child(), CREATING, running(index=1), storage=storage)
    assert plan.status.message.endswith(
        "; it needs Secret mine with key credentials and ConfigMap ca with key ca.crt"
    )


@pytest.mark.parametrize("pods", [(), (pod(),), (CREATING, running(index=1))])
def test_usual_steps_of_the_first_seconds_are_not_worth_a_write(pods):
    before = starting(child(), now=1).status
    plan = starting(child(), *pods, now=5, before=before)
    assert plan.status.message == before.message == "Job bot-a1 starts on 2 nodes"
    assert plan.requeue_after == 25


def test_causes_that_kubernetes_names_are_told_from_the_first_second():
    assert starting(child(), NO_NODE, now=1).status.reason is Reason.UNSCHEDULABLE


@pytest.mark.parametrize(
    ("pods", "reason"),
    [
        ((NO_NODE, running(index=1)), Reason.UNSCHEDULABLE),
        ((PULLING, running(index=1)), Reason.IMAGE_PULL_FAILED),
        ((NO_KEY, running(index=1)), Reason.CONTAINER_CONFIG_FAILED),
        ((CREATING, running(index=1)), Reason.PRE_RUNNING_DEADLINE_EXCEEDED),
        ((), Reason.PRE_RUNNING_DEADLINE_EXCEEDED),
    ],
)
def test_patience_ends(pods, reason):
    assert starting(child(), *pods, now=599).status.phase is Phase.STARTING
    plan = starting(child(), *pods, now=600)
    assert (plan.status.phase, plan.status.reason) == (Phase.FAILED, reason)
    assert plan.status.message.startswith(
        "attempt 1: pods did not run within 600 s (spec.preRunningDeadlineSeconds): "
    )
    assert [(one.kind, one.name, one.uid) for one in plan.deletes] == [("Job", "bot-a1", "uid-bot-a1")]
    assert plan.events[0].type == "Warning"


def test_patience_counts_from_the_phase_and_not_from_the_job():
    before = status(Phase.STARTING, phase_time=at(500))
    assert starting(child(), NO_NODE, now=1000, before=before).status.phase is Phase.STARTING


def test_patience_has_no_part_in_a_running_attempt():
    plan = starting(child(), running(), running(index=1), now=10_000, before=status())
    assert plan.status.phase is Phase.RUNNING


@pytest.mark.parametrize(("phase", "name"), [(Phase.PREPARING, "bot-prepare"), (Phase.EXPORTING, "bot-export")])
def test_the_pod_of_a_stage_that_somebody_deleted_comes_again(phase, name):
    stage = Stage.PREPARE if phase is Phase.PREPARING else Stage.EXPORT
    first = starting(running(stage), before=status(phase)).status
    going = starting(running(stage, deletion_timestamp=at(90)), before=first)
    assert going.children == ()
    gone = starting(before=first, now=90)
    assert (gone.status.phase, f"Pod/{name}" in created(gone)) == (phase, True)


def test_an_attempt_that_lost_a_pod_before_it_ran_is_still_starting():
    placed = starting(child(), pod(node="n0"), pod(index=1, node="n1")).status
    assert starting(child(), running(), before=placed).status.phase is Phase.STARTING


@pytest.mark.parametrize("stage", [Stage.PREPARE, Stage.EXPORT])
def test_a_stage_whose_pod_never_ran_ends_patience(stage):
    phase = Phase.PREPARING if stage is Stage.PREPARE else Phase.EXPORTING
    plan = starting(pod(stage), before=status(phase), now=600)
    assert (plan.status.phase, plan.status.reason) == (Phase.FAILED, Reason.PRE_RUNNING_DEADLINE_EXCEEDED)
    assert [(one.kind, one.name) for one in plan.deletes] == [("Pod", f"bot-{stage.value}")]


@pytest.mark.parametrize(
    ("refusal", "phase", "text"),
    [
        (refused(message="no"), Phase.STARTING, "Kubernetes refuses to create Job bot-a1: no"),
        (
            refused(code=403, kind="PodGroup", name="bot-a1", message="no"),
            Phase.STARTING,
            "refuses to create PodGroup bot-a1",
        ),
        (refused(code=422, message="affinity: Invalid value"), Phase.FAILED, "affinity: Invalid value"),
        (refused(code=400, message="json"), Phase.FAILED, "json"),
    ],
)
def test_a_refused_creation(refusal, phase, text):
    plan = starting(refusal)
    assert (plan.status.phase, plan.status.reason) == (phase, Reason.CREATION_REFUSED)
    assert text in plan.status.message
    if phase is Phase.STARTING:
        assert created(plan) == ["Job/bot-a1"]  # tried again
        assert plan.requeue_after == 30


def test_a_refusal_is_borne_as_long_as_any_wait():
    plan = starting(refused(message="no"), now=600)
    assert (plan.status.phase, plan.status.reason) == (Phase.FAILED, Reason.CREATION_REFUSED)


def test_a_used_up_quota_is_named_and_waited_for():
    plan = starting(refused(message="exceeded quota: gpus, requested: pods=1"))
    assert (plan.status.phase, plan.status.reason) == (Phase.STARTING, Reason.QUOTA_EXCEEDED)
    assert "exceeded quota: gpus" in plan.status.message
    assert plan.requeue_after == 30


def test_pods_that_the_job_controller_cannot_make_are_asked_about():
    plan = starting(child(), running())
    (probe,) = plan.probes
    assert (probe["kind"], probe["metadata"]["name"]) == ("Pod", "bot-a1")
    assert plan.requeue_after == 30
    told = starting(child(), running(), refused(kind="Pod", name="bot-a1", message="exceeded quota: gpus"))
    assert told.status.reason is Reason.QUOTA_EXCEEDED
    assert starting(child(), running(), now=5).probes == ()  # the first seconds are the usual ones
    assert starting(child(), CREATING, running(index=1)).probes == ()


def test_no_answer_about_missing_pods_is_final():
    plan = starting(child(), refused(kind="Pod", name="bot-a1", code=422, message="bad"))
    assert (plan.status.phase, plan.status.reason) == (Phase.STARTING, Reason.CREATION_REFUSED)


@pytest.mark.parametrize("refusal", [refused(name="bot-prepare"), refused(name="bot-a9")])
def test_a_refusal_of_another_child_is_no_news(refusal):
    assert starting(refusal).status.reason is Reason.STARTING


def test_a_refusal_is_forgotten_with_the_job_in_view():
    assert starting(refused(), child(), running(), running(index=1)).status.phase is Phase.RUNNING


def test_a_job_deleted_while_starting_comes_again_after_its_pods():
    lingering = starting(running(deletion_timestamp=at(90)))
    assert lingering.children == ()
    assert lingering.status.message.startswith("waits for the end of bot-a1-0 on node n0")
    assert created(starting()) == ["Job/bot-a1"]
