"""Policy: the end with a result."""

from finetune_api.reasons import Phase, Reason
from finetune_api.status import EvaluationResult
from finetune_operator.reconcile.scene import Scene, Step


def succeed(scene: Scene) -> Step:
    """End the job as Succeeded; the message names the result and what training gained."""
    output = scene.status.output
    where = (output.merged_uri or output.adapter_uri or output.uri) if output else scene.spec.output.uri
    return Step(
        phase=Phase.SUCCEEDED,
        reason=Reason.SUCCEEDED,
        message=f"the tuned model is at {where}{_gain(scene.status.evaluation)}",
    )


def _gain(evaluation: EvaluationResult | None) -> str:
    if evaluation is None or evaluation.tuned is None:
        return ""
    tuned = f"{evaluation.tuned.loss:.4g}"
    return f"; test loss {f'{evaluation.base.loss:.4g} -> ' if evaluation.base else ''}{tuned}"
