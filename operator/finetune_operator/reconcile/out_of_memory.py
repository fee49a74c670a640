"""Policy: which lack of memory another plan can mend.

That of training, where the plan decides what is in memory: on a GPU if the device was full (a pod that was killed
held too much on the host, of which the plan knows nothing), on CPUs if the pod was killed. The trainer says when no
plan is left that needs less; an image that does not is stopped here.
"""

from finetune_api.reasons import Reason
from finetune_api.stage import Stage
from finetune_operator.reconcile.ending import Verdict
from finetune_operator.reconcile.scene import Scene

MOST_PLANS = 20
"""More than any plan can be divided: a micro-batch of 4,096 sequences is halved twelve times."""


def can_save_memory(scene: Scene, verdict: Verdict) -> bool:
    """Whether the attempt may be followed by one with a plan that needs less."""
    on_cpu = scene.spec.distributed.device == "cpu"
    known = on_cpu if verdict.reason is Reason.OUT_OF_MEMORY else verdict.reason is Reason.OUT_OF_DEVICE_MEMORY
    return scene.stage is Stage.TRAIN and known and scene.status.restarts.out_of_memory < MOST_PLANS
