"""One training process: `train-worker`, started by the launcher, once per GPU or CPU process of the pod."""

import torch

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.run import Prepared, TrainResult
from finetune_api.stage import StageInput, TerminationMessage
from finetune_api.status import EvaluationResult
from finetune_trainer import log
from finetune_trainer.checkpoint import CheckpointWriter, WriterSettings
from finetune_trainer.errors import StageFailure
from finetune_trainer.progress import open_progress
from finetune_trainer.stage_input import Pod, read_pod
from finetune_trainer.storage import Store
from finetune_trainer.train import finish, start
from finetune_trainer.train.loop import Loop
from finetune_trainer.train.processes import from_rank_zero, join, on_rank_zero
from finetune_trainer.train.report import MetricsSeries, Reporter
from finetune_trainer.train.result import last_word, publish
from finetune_trainer.train.run import Run
from finetune_trainer.train.saver import Saver
from finetune_trainer.train.scratch import Scratch
from finetune_trainer.train.state import RunState


def run(job: StageInput, store: Store) -> TerminationMessage:
    """Train, as one of the processes of the run. Raises StageFailure on every end but the good one."""
    pod = read_pod()
    try:
        return last_word(_train(job, store, pod))
    except torch.OutOfMemoryError as error:
        raise StageFailure(
            ExitCode.OUT_OF_DEVICE_MEMORY,
            Reason.OUT_OF_DEVICE_MEMORY,
            f"the GPU's memory does not suffice: {str(error).splitlines()[0]}; lower spec.training.microBatchSize or"
            " spec.data.maxLength, set activationCheckpointing: on, or raise zeroStage or the number of processes",
        ) from error


def _train(job: StageInput, store: Store, pod: Pod) -> TrainResult:
    scratch = Scratch(pod.work_dir)
    process = join(job.spec.distributed.device)
    writer = from_rank_zero(pod.writer(job.attempt))
    prepared = Prepared.model_validate_json(scratch.manifest.read_bytes())
    training = start.build(job, process, prepared, scratch)
    saver = Saver(_checkpoint_writer(training, writer), training.engine, training.method, process, scratch.staged)
    reporter = _reporter(training, store, pod, writer) if process.rank == 0 else None
    try:
        return _train_and_score(training, saver, reporter, store, scratch, writer)
    except StageFailure as failure:
        failure.reached = TerminationMessage(
            reason=failure.reason,
            progress=reporter.progress if reporter is not None else None,
            last_checkpoint=saver.last,
            best_checkpoint=saver.best,
        )
        raise
    finally:
        saver.close()
        if reporter is not None:
            reporter.close()


def _train_and_score(
    run: Run, saver: Saver, reporter: Reporter | None, store: Store, scratch: Scratch, writer: str
) -> TrainResult:
    state = start.resume(run, saver, store, scratch.resumed) or _baseline(run)
    loop = Loop(run, saver, reporter, state)
    loop.train()
    commits = finish.final_commits(run, saver, store)
    chosen, tuned = finish.tuned_scores(run, store, commits, scratch.best)
    scores = EvaluationResult(base=state.baseline, tuned=tuned)
    log.info("scored", exportedStep=chosen.step, **scores.to_wire())

    def conclude() -> TrainResult:
        assert reporter is not None  # noqa: S101 - this is rank 0
        result = finish.result_of(
            run, writer, chosen=chosen, commits=commits, progress=reporter.progress, scores=scores
        )
        return publish(store, run.layout, result)

    return on_rank_zero(run.process, conclude)


def _baseline(run: Run) -> RunState:
    """Score the base model if the job asks for it; adapters are still without effect."""
    scores = finish.test_scores(run) if run.spec.evaluation.baseline else None
    if scores is not None:
        log.info("baseline", **scores.to_wire())
    return RunState(baseline=scores)


def _checkpoint_writer(run: Run, writer: str) -> CheckpointWriter:
    checkpoint = run.spec.checkpoint
    return CheckpointWriter(
        WriterSettings(
            s3=run.spec.storage.s3,
            layout=run.layout,
            writer=writer,
            rank=run.process.rank,
            world_size=run.process.world_size,
            attempt=run.job.attempt,
            keep_last=checkpoint.keep_last,
            keep_best=checkpoint.keep_best,
        )
    )


def _reporter(run: Run, store: Store, pod: Pod, writer: str) -> Reporter:
    series = MetricsSeries(Scratch(pod.work_dir).metrics, store, run.layout.metrics(writer))
    return Reporter(run.data.schedule, run.job.attempt, open_progress(pod), series)
