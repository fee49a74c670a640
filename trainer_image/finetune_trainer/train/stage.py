"""The stage `train` in one pod: fetch what all its processes share, check the device, start the processes."""

import os
import shutil
import socket

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.run import RunLayout
from finetune_api.spec import Distributed
from finetune_api.stage import RENDEZVOUS_PORT, StageInput, TerminationMessage
from finetune_trainer import log
from finetune_trainer.data.prepared import fetch_adapter, fetch_model, fetch_prepared
from finetune_trainer.errors import StageFailure
from finetune_trainer.export.place import Place
from finetune_trainer.launcher import run_workers
from finetune_trainer.model.vocabulary import extend
from finetune_trainer.prepare.data_warnings import tell
from finetune_trainer.prepare.validation_rows import no_validation_rows
from finetune_trainer.rendezvous import announced, find_address
from finetune_trainer.stage_input import LOOPBACK, Pod, read_pod
from finetune_trainer.storage import Store
from finetune_trainer.train.result import last_word, read_result
from finetune_trainer.train.scratch import Scratch

WORKER_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
    "THP_MEM_ALLOC_ENABLE": "1",
}
"""Everything the model needs is fetched from S3, and a library that asks the network would only hang; a file that is
loaded as a checkpoint must not be able to run code. Large tensors of the CPU lie in pages of 2 MiB: taking such
memory costs a quarter of the time, and aligned tensors leave smaller holes between them."""
CPU_ENVIRONMENT = {
    "DS_ACCELERATOR": "cpu",
    "MALLOC_MMAP_THRESHOLD_": str(128 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
}
"""Beside it on processors alone. The C library gives large tensors back to the system as soon as they are freed, and
each step would take its memory anew, page by page: that made a step of LoRA a quarter longer. Now what a step has
freed the next one finds; only the largest, tiles of logits, still come and go.
"""


def run(job: StageInput, store: Store) -> TerminationMessage:
    """Train in this pod. Raises StageFailure or WorkersFailed on every end but the good one."""
    layout = RunLayout(job.spec.checkpoint.uri, job.run_id)
    if (result := read_result(store, layout)) is not None:
        log.info("already-trained", result=layout.train_result.uri)
        return last_word(result)
    pod = read_pod()
    with announced(job, pod, store):
        return _train(job, pod, store)


def _train(job: StageInput, pod: Pod, store: Store) -> TerminationMessage:
    require_device(job.spec.distributed)
    if pod.index == 0:
        # It may be another place than the prepare stage looked at: a suspended job's output can be changed.
        Place(job, store).require_free()
    _fetch(job, store, Scratch(pod.work_dir))
    set_environment(job.spec.distributed)
    address = find_address(job, pod, store)
    return run_workers(job, pod, master=(address, _port(job.spec.distributed)))


def set_environment(distributed: Distributed) -> None:
    """Set what the workers of this pod find in their environment; what the user says of memory counts."""
    os.environ.update(WORKER_ENVIRONMENT)
    if distributed.device == "cpu":
        os.environ.update(CPU_ENVIRONMENT | os.environ)


def _fetch(job: StageInput, store: Store, scratch: Scratch) -> None:
    """Download what the processes of this pod share."""
    layout = RunLayout(job.spec.checkpoint.uri, job.run_id)
    # A container that was restarted in its pod finds the remains of the one before.
    shutil.rmtree(scratch.staged, ignore_errors=True)
    prepared = fetch_prepared(store, layout, scratch.prepared)
    # The evaluation may have been edited since the rows were prepared, and a run is worth more than such an edit.
    tell(no_validation_rows(job.spec, prepared.record.data.validation.rows))
    fetch_model(store, job.spec.model.uri, prepared.record, scratch.model)
    extend(scratch.model, prepared.tokenizer, job.spec.model.new_tokens)
    fetch_adapter(store, prepared.record, scratch.adapter, spec=job.spec)
    scratch.manifest.write_text(prepared.record.model_dump_json(by_alias=True))
    log.info("fetched", modelBytes=sum(entry.size for entry in prepared.record.model_files))


def _port(distributed: Distributed) -> int:
    """Return the port where the processes meet: any free one when all are in this pod."""
    if distributed.num_nodes > 1:
        return RENDEZVOUS_PORT
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        return int(listener.getsockname()[1])


def require_device(distributed: Distributed) -> None:
    """Raise StageFailure when the pod has fewer GPUs than processes that want one."""
    if distributed.device == "cpu":
        return
    # Counts by the driver's management library, without taking memory on a GPU.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    import torch

    found = torch.cuda.device_count()
    if found < distributed.processes_per_node:
        raise StageFailure(
            ExitCode.INVALID,
            Reason.DEVICE_UNAVAILABLE,
            f"spec.distributed.device is gpu and processesPerNode {distributed.processes_per_node}, but this pod sees"
            f" {found} CUDA devices; check the node's driver and device plugin and"
            " spec.podTemplate.resources.limits['nvidia.com/gpu'], or set spec.distributed.device: cpu",
        )
