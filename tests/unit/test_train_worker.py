"""How a training process ends when the GPU's memory does not suffice, whoever asked for it."""

from types import SimpleNamespace

import pytest
import torch
from deepspeed.accelerator.abstract_accelerator import DeepSpeedAccelerator
from plans import RESOLVED

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import CheckpointRef
from finetune_loopback.jobs import minimal_job
from finetune_trainer.errors import StageFailure
from finetune_trainer.train import worker

LACKS = [
    (torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 20.00 MiB.\nSee the documentation", "Tried to"),
    (
        torch.distributed.DistBackendError,
        "NCCL error in: NCCLUtils.cpp:77, unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'",
        "Cuda failure 2 'out of memory'",
    ),
    (RuntimeError, "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "cublasCreate"),
    (
        torch.AcceleratorError,
        "CUDA error: out of memory\nCUDA kernel errors might be reported later",
        "error: out of",
    ),
]


@pytest.fixture(params=LACKS, ids=lambda one: one[0].__name__)
def lack(request):
    """Return an error that a lack of memory shows as, and the words of it that tell."""
    kind, text, telling = request.param
    return kind(text), telling


def raising(error):
    def work(*_, **__):
        raise error

    return work


def assert_tells(failure, telling):
    assert (failure.code, failure.reason) == (ExitCode.OUT_OF_DEVICE_MEMORY, Reason.OUT_OF_DEVICE_MEMORY)
    assert failure.message.startswith("the GPU's memory did not suffice: ")
    assert telling in failure.message
    assert "\n" not in failure.message


def test_a_lack_of_memory_while_it_starts(monkeypatch, lack):
    error, telling = lack
    monkeypatch.setattr(worker, "read_pod", lambda: None)
    monkeypatch.setattr(worker, "_train", raising(error))
    with pytest.raises(StageFailure) as caught:
        worker.run(None, None)
    assert_tells(caught.value, telling)


@pytest.fixture
def training(monkeypatch):
    """Return a run whose uploader and processes are left out, and what is committed of it."""
    last = CheckpointRef(uri="s3://runs/c/5.json", step=5, time="2026-01-01T00:00:00Z", size_bytes=1)
    saver = SimpleNamespace(last=last, best=None, close=lambda: None)
    monkeypatch.setattr(worker, "Saver", lambda *_: saver)
    monkeypatch.setattr(worker, "_checkpoint_writer", lambda *_: None)
    monkeypatch.setattr(worker.signal, "signal", lambda *_: None)
    spec = FineTuneJobSpec.model_validate(minimal_job()["spec"])
    process, watchdog = SimpleNamespace(rank=1), SimpleNamespace(listener=None)
    return SimpleNamespace(
        spec=spec, process=process, engine=None, method=None, plan=RESOLVED, watchdog=watchdog
    ), last


def test_a_lack_of_memory_while_it_trains_tells_what_was_reached(monkeypatch, training, lack, tmp_path):
    (run, last), (error, telling) = training, lack
    monkeypatch.setattr(worker, "_run", raising(error))
    with pytest.raises(StageFailure) as caught:
        worker._train_and_score(run, None, None, SimpleNamespace(work_dir=tmp_path), "w")
    assert_tells(caught.value, telling)
    reached = caught.value.reached
    assert (reached.reason, reached.plan, reached.last_checkpoint) == (Reason.OUT_OF_DEVICE_MEMORY, RESOLVED, last)


def pin(error):
    """Raise an error where DeepSpeed asks for memory of the host that the GPU can read."""
    try:
        DeepSpeedAccelerator._torch_pin_memory(None, torch.empty(1, device="meta"))
    except RuntimeError as refused:
        raise error.with_traceback(refused.__traceback__)  # noqa: B904 - it stands for the one that was refused


def test_a_lack_of_the_hosts_memory_ends_the_job_and_names_what_to_raise(monkeypatch):
    error = torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported later")
    monkeypatch.setattr(worker, "read_pod", lambda: None)
    monkeypatch.setattr(worker, "_train", lambda *_: pin(error))
    with pytest.raises(StageFailure) as caught:
        worker.run(None, None)
    assert (caught.value.code, caught.value.reason) == (ExitCode.INVALID, Reason.OUT_OF_MEMORY)
    assert caught.value.message == (
        "the host's memory did not suffice for the optimizer's state: CUDA error: out of memory; raise"
        " spec.podTemplate.resources.limits.memory, on nodes that have it, or spec.distributed.numNodes"
    )


@pytest.mark.parametrize("text", ["CUDA error: an illegal memory access was encountered", ""])
def test_what_is_no_lack_of_memory_stays_a_crash(monkeypatch, training, tmp_path, text):
    run, _ = training
    monkeypatch.setattr(worker, "_run", raising(RuntimeError(text)))
    with pytest.raises(RuntimeError, match=f"^{text}$"):
        worker._train_and_score(run, None, None, SimpleNamespace(work_dir=tmp_path), "w")
