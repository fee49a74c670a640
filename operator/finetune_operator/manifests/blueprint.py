"""What one stage's child is built from."""

from dataclasses import dataclass

from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import Stage, StageInput
from finetune_operator.manifests.names import child_name, stage_labels
from finetune_operator.manifests.resources import memory_bytes
from finetune_operator.model import FineTuneJob, PodSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Blueprint:
    """A stage of a job and its number: the attempt of the training stage, the try of the others."""

    job: FineTuneJob
    spec: FineTuneJobSpec
    settings: PodSettings
    stage: Stage
    attempt: int
    run_id: str
    """Name of the run below checkpoint.uri."""
    out_of_memory: int = 0
    """Attempts of the run that ran out of memory."""

    @property
    def name(self) -> str:
        """Name of the Job or pod."""
        return child_name(self.job.name, self.stage, self.attempt)

    @property
    def labels(self) -> dict[str, str]:
        """Labels of the child and its pods."""
        return stage_labels(self.job.name, self.stage, self.attempt)

    @property
    def is_training(self) -> bool:
        """Whether this is the training stage."""
        return self.stage is Stage.TRAIN

    @property
    def uses_gpu(self) -> bool:
        """Whether the pods take GPUs: the prepare and export pods never do."""
        return self.is_training and self.spec.distributed.device == "gpu"

    @property
    def on_host_network(self) -> bool:
        """Whether the pods use the network of their node: those of training may."""
        return self.is_training and self.spec.pod_template.host_network

    @property
    def num_pods(self) -> int:
        """Pods of the Job."""
        return self.spec.distributed.num_nodes if self.is_training else 1

    @property
    def processes(self) -> int:
        """Processes of each pod that compute."""
        return self.spec.distributed.processes_per_node if self.is_training else 1

    def stage_input(self) -> StageInput:
        """Return what the stage is told about its job."""
        return StageInput(
            name=self.job.name,
            namespace=self.job.namespace,
            uid=self.job.uid,
            run_id=self.run_id,
            attempt=self.attempt if self.is_training else 0,
            memory_limit_bytes=memory_bytes(self.spec.pod_template.resources.limits),
            out_of_memory=self.out_of_memory if self.is_training else 0,
            spec=self.spec,
        )
