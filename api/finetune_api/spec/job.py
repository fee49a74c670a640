"""`spec` of a FineTuneJob as a whole."""

from typing import ClassVar, Literal

from pydantic import Field

from finetune_api.base import Record, Rule
from finetune_api.pods import PodTemplate
from finetune_api.spec.data import Data
from finetune_api.spec.distributed import Distributed
from finetune_api.spec.evaluation import Evaluation
from finetune_api.spec.method import Method
from finetune_api.spec.model import Model
from finetune_api.spec.storage import Checkpoint, Output, Storage
from finetune_api.spec.tracking import Tracking
from finetune_api.spec.training import Training

ObjectiveType = Literal["sft", "pretrain", "classification"]


class FineTuneJobSpec(Record):
    """Specification of a fine-tuning job."""

    rules: ClassVar = (
        Rule(
            "!self.output.merge || self.method.type in ['lora', 'qlora', 'ia3']",
            "spec.output.merge merges an adapter into the base model; it needs spec.method.type: lora, qlora or ia3",
        ),
        Rule(
            "self.objective != 'classification' || self.method.type in ['full', 'freeze', 'lora', 'qlora', 'ia3']",
            "spec.method.type: prompt, prefix and adapter are for language models alone; for spec.objective:"
            " classification set lora, qlora, ia3, freeze or full",
        ),
        Rule(
            "!has(self.model.newTokens) || size(self.model.newTokens) == 0"
            " || (self.method.type in ['full', 'freeze', 'lora', 'qlora'] && !has(self.method.initialAdapter))",
            "spec.model.newTokens must be trained, by spec.method.type full, freeze, lora or qlora, and an"
            " initialAdapter knows none; remove newTokens, or change spec.method",
        ),
        Rule(
            "!has(self.model.newTokens) || size(self.model.newTokens) == 0 || self.distributed.zeroStage != 3"
            " || self.method.type in ['full', 'freeze']",
            "spec.model.newTokens with lora or qlora needs spec.distributed.zeroStage 0, 1, 2 or auto: single rows of"
            " a matrix cannot be trained where stage 3 has it in parts",
        ),
        Rule(
            "self.method.type != 'qlora' || self.distributed.zeroStage != 3",
            "spec.method.type: qlora needs spec.distributed.zeroStage 0, 1, 2 or auto: a quantised base is not"
            " sharded, so stage 3 saves nothing",
        ),
        Rule(
            "self.distributed.zeroStage != 3 || !has(self.method.lora) || !self.method.lora.useDora",
            "spec.method.lora.useDora needs spec.distributed.zeroStage 0, 1, 2 or auto: DoRA reads whole weights"
            " where stage 3 has them in parts",
        ),
        Rule(
            "self.objective != 'classification' || !has(self.evaluation.samplePrompts)"
            " || size(self.evaluation.samplePrompts) == 0",
            "spec.evaluation.samplePrompts asks the model for text, and spec.objective: classification makes one that"
            " tells labels; remove the prompts",
        ),
        Rule(
            "!self.training.compile || self.distributed.zeroStage != 3",
            "spec.training.compile needs spec.distributed.zeroStage 0, 1, 2 or auto: stage 3 puts weights together"
            " between operations that would be compiled into one",
        ),
        Rule(
            "self.training.optimizer.type != 'muon' || self.distributed.zeroStage == 0"
            " || self.distributed.zeroStage == 'auto'",
            "spec.training.optimizer.type: muon needs spec.distributed.zeroStage 0 or auto: it makes whole matrices"
            " orthogonal, and the other stages divide their gradients and its state",
        ),
        Rule(
            "self.distributed.offloadOptimizer != 'on' || self.distributed.zeroStage != 0",
            "spec.distributed.offloadOptimizer: on needs spec.distributed.zeroStage 1, 2, 3 or auto: stage 0 has the"
            " optimizer's state where the weights are",
        ),
        Rule(
            "self.distributed.offloadOptimizer != 'on' || self.training.optimizer.type == 'adamw'",
            "spec.distributed.offloadOptimizer: on needs spec.training.optimizer.type: adamw: 8-bit and paged states"
            " are a GPU's, and muon works on whole matrices",
        ),
        Rule(
            "self.distributed.device != 'cpu'"
            " || ((!has(self.podTemplate.resources.requests)"
            " || !self.podTemplate.resources.requests.exists(k, k.startsWith('nvidia.com/')))"
            " && (!has(self.podTemplate.resources.limits)"
            " || !self.podTemplate.resources.limits.exists(k, k.startsWith('nvidia.com/'))))",
            "spec.distributed.device: cpu takes no GPU; remove the nvidia.com resources from"
            " spec.podTemplate.resources or set spec.distributed.device: gpu",
        ),
        Rule(
            "self.distributed.device != 'gpu' || !has(self.podTemplate.resources.limits)"
            " || !('nvidia.com/gpu' in self.podTemplate.resources.limits)"
            " || string(self.podTemplate.resources.limits['nvidia.com/gpu'])"
            " == string(self.distributed.processesPerNode)",
            "spec.podTemplate.resources.limits['nvidia.com/gpu'] must equal spec.distributed.processesPerNode"
            " (one process per GPU)",
        ),
        Rule(
            "self.objective == 'sft' || self.data.lossOn == 'assistant'",
            "spec.data.lossOn belongs to spec.objective: sft, whose rows have answers; remove it or set sft",
        ),
        Rule(
            "self.data.lossOn in ['assistant', 'lastAssistant'] || self.evaluation.predictions.rows == 0",
            "spec.evaluation.predictions asks what stands before the last answer, which spec.data.lossOn: completion"
            " or all does not tell; set predictions.rows: 0, or lossOn: assistant",
        ),
        Rule(
            "self.objective == 'sft' || self.data.truncation != 'keepAnswer'",
            "spec.data.truncation: keepAnswer belongs to spec.objective: sft, whose rows have answers; set drop",
        ),
        Rule(
            "self.objective != 'pretrain' || self.data.truncation == 'drop'",
            "spec.data.truncation: running text (spec.objective: pretrain) is never left out but becomes several"
            " rows; remove truncation",
        ),
        Rule(
            "self.objective == 'pretrain' || self.data.format != 'text'",
            "spec.data.format: text is running text, which spec.objective: pretrain trains on; set that objective, or"
            " another format",
        ),
        Rule(
            "self.objective != 'pretrain' || self.data.format in ['auto', 'text']",
            "spec.objective: pretrain trains on running text; set spec.data.format: text or auto",
        ),
        Rule(
            "self.objective == 'classification' || self.data.format != 'label'",
            "spec.data.format: label is for spec.objective: classification; set that objective, or another format",
        ),
        Rule(
            "self.objective != 'classification' || self.data.format in ['auto', 'label']",
            "spec.objective: classification trains on rows with labels; set spec.data.format: label or auto",
        ),
        Rule(
            "self.objective == 'classification' || !has(self.data.labels) || size(self.data.labels) == 0",
            "spec.data.labels belongs to spec.objective: classification; remove the list or set that objective",
        ),
        Rule(
            "self.objective == 'classification' || self.training.classWeights == 'none'",
            "spec.training.classWeights belongs to spec.objective: classification; remove it or set that objective",
        ),
        Rule(
            "self.objective == 'classification' || self.evaluation.bestMetric == 'loss'",
            "spec.evaluation.bestMetric: accuracy and f1 are scores of labels; set bestMetric: loss or"
            " spec.objective: classification",
        ),
        Rule(
            "!has(self.evaluation.earlyStopping) || !has(self.data.split) || self.data.split.validation > 0.0"
            " || (has(self.data.validation) && size(self.data.validation) > 0)",
            "spec.evaluation.earlyStopping needs validation rows to look at; set spec.data.split.validation, or name"
            " files in spec.data.validation",
        ),
        Rule(
            "self.objective != 'pretrain' || self.evaluation.predictions.rows == 0",
            "spec.evaluation.predictions asks the model what test rows answer, and running text asks nothing; set"
            " predictions.rows: 0 or another spec.objective",
        ),
        Rule(
            "self.training.globalBatchSize % (self.distributed.numNodes * self.distributed.processesPerNode) == 0",
            "spec.training.globalBatchSize must be a multiple of distributed.numNodes x distributed.processesPerNode:"
            " every process takes the same share",
        ),
    )

    model: Model = Field(description="The base model.")
    objective: ObjectiveType = Field(
        default="sft",
        description="sft: supervised fine-tuning, loss on the assistant's answers alone; pretrain: continued"
        " pretraining, loss on every token of running text; classification: a head on each row's last token tells"
        " labels apart.",
    )
    method: Method = Field(default=Method(), description="How the model is adapted.")
    data: Data = Field(description="Rows to train, validate and test on.")
    training: Training = Field(description="Length, batch, learning rate, precision.")
    distributed: Distributed = Field(default=Distributed(), description="Nodes, processes and sharding.")
    evaluation: Evaluation = Field(default=Evaluation(), description="When and on what the model is scored.")
    checkpoint: Checkpoint = Field(description="Where and when the state of the run is committed.")
    output: Output = Field(description="Where the result goes.")
    storage: Storage = Field(default=Storage(), description="S3 and scratch space.")
    tracking: Tracking = Field(default=Tracking(), description="Where the numbers of the training go too.")
    pod_template: PodTemplate = Field(default=PodTemplate(), description="What a user may set on the pods.")
    backoff_limit: int = Field(
        default=3, ge=0, le=100, description="Failures that are retried; disruptions and stops never count."
    )
    pre_running_deadline_seconds: int = Field(
        default=3600,
        ge=1,
        le=2_592_000,
        description="Longest wait for the pods of a stage to run (scheduling, image pull); then the job fails."
        " Time in a queue does not count.",
    )
    active_deadline_seconds: int | None = Field(
        default=None,
        ge=1,
        le=31_536_000,
        description="Longest time from the start to the end of the job, without the time it was queued or suspended;"
        " then it fails with its last checkpoint committed. Left out means no limit.",
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        le=315_360_000,
        description="The FineTuneJob is deleted so many seconds after its end, with its pods and their logs; what is"
        " in S3 stays. Left out means never.",
    )
    suspend: bool = Field(
        default=False,
        description="true stops the job: running pods commit a checkpoint and end; false lets it go on from there."
        " While it is suspended every field of the spec may be changed.",
    )

    @property
    def can_shard_weights(self) -> bool:
        """Whether ZeRO stage 3 can hold the weights in parts."""
        return self.method.can_shard_weights and (not self.model.new_tokens or self.method.type in ("full", "freeze"))
