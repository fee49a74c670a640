"""Policy: what a failed Job means, by exit codes, OOM kills and disruptions of its pods.

When one rank fails the others follow: they lose their peer, or Kubernetes ends them with their Job. So the most
telling end counts and not the loudest: what no retry can mend, then lack of memory, then a disruption, then the
storage, and of the rest what came first. A pod that was deleted takes its end with it; then the Job's own condition
names the exit code or the disruption, since its failure policy matches every one of them.
"""

import re
from datetime import UTC, datetime

from finetune_api.reasons import Reason
from finetune_operator.model import JobCondition
from finetune_operator.reconcile.advice import failure_advice
from finetune_operator.reconcile.ending import (
    REASON_OF_CODE,
    Action,
    Ending,
    Verdict,
    Weight,
    end_of,
    judge_code,
)
from finetune_operator.reconcile.out_of_memory import can_save_memory
from finetune_operator.reconcile.scene import Scene

POD_IN_CONDITION = re.compile(r"[Pp]od [^/\s]+/(?P<pod>\S+) ")
CODE_IN_CONDITION = re.compile(r"failed with exit code (?P<code>\d+)")
DISRUPTION_IN_CONDITION = "condition DisruptionTarget"
FIRST = datetime.min.replace(tzinfo=UTC)


def judge(scene: Scene, failure: JobCondition) -> Verdict:
    """Return what the failure of the current stage's Job means; `failure` is the Job's condition that says so."""
    endings = [ending for pod in scene.pods if (ending := end_of(pod))]
    unseen = _unseen(scene, failure)
    endings += [unseen] if unseen else []
    if not endings:
        text = failure.message or failure.reason or "Kubernetes gives no cause"
        return Verdict(Action.RETRY, Reason.CRASHED, f"Job {scene.child_name} failed: {text}")
    verdict = min(endings, key=lambda ending: ending[:4]).verdict
    if verdict.action is Action.SAVE_MEMORY and not can_save_memory(scene, verdict):
        verdict = verdict._replace(action=Action.FAIL)
    return _advise(verdict, scene)


def _unseen(scene: Scene, failure: JobCondition) -> Ending | None:
    """Return the end of the pod that the condition names, if that pod is not in view any more."""
    named = POD_IN_CONDITION.search(failure.message)
    if named is None or any(pod.name == named["pod"] for pod in scene.pods):
        return None
    if DISRUPTION_IN_CONDITION in failure.message:
        verdict = Verdict(Action.RESTART, Reason.DISRUPTED, f"pod {named['pod']} lost its place on its node")
        return Ending(Weight.DISRUPTED, FIRST, 0, 0, verdict)
    code = CODE_IN_CONDITION.search(failure.message)
    if code is None:
        return None
    verdict = judge_code(int(code["code"]), who=f"pod {named['pod']}")
    weight = Weight.FATAL if int(code["code"]) in REASON_OF_CODE else Weight.OTHER
    return Ending(weight, FIRST, 0, 0, verdict)


def _advise(verdict: Verdict, scene: Scene) -> Verdict:
    """Add what to change, unless the stage itself said it by naming a field of the spec."""
    advice = failure_advice(verdict.reason, scene.stage, scene.status.last_checkpoint)
    if verdict.action is not Action.FAIL or not advice or "spec." in verdict.message:
        return verdict
    return verdict._replace(message=f"{verdict.message}; {advice}")
