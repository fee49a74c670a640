"""One training process: `train-worker`, started by the launcher, once per GPU or CPU process of the pod."""

import signal
from typing import cast

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.run import Prepared, TrainResult
from finetune_api.stage import StageInput, TerminationMessage
from finetune_trainer import log
from finetune_trainer.checkpoint import CheckpointWriter, WriterSettings
from finetune_trainer.data.prepared import PreparedFiles
from finetune_trainer.data.settings import settle
from finetune_trainer.errors import StageFailure, StopRequested
from finetune_trainer.prepare.formats import Format
from finetune_trainer.rendezvous import patience_of
from finetune_trainer.stage_input import Pod, read_pod
from finetune_trainer.storage import Store
from finetune_trainer.train import finish, start
from finetune_trainer.train.ending import out_of_memory
from finetune_trainer.train.evaluation import compared_losses
from finetune_trainer.train.loop import Loop
from finetune_trainer.train.processes import from_rank_zero, join, on_rank_zero
from finetune_trainer.train.report import Reporter
from finetune_trainer.train.reporting import reporter_of
from finetune_trainer.train.result import last_word, publish
from finetune_trainer.train.run import Run
from finetune_trainer.train.sampler import Sampler
from finetune_trainer.train.saver import Saver
from finetune_trainer.train.scratch import Scratch
from finetune_trainer.train.state import RunState
from finetune_trainer.train.stopping import StopSignal, stop_at_once
from finetune_trainer.train.watchdog import Patience, Watchdog


def run(job: StageInput, store: Store) -> TerminationMessage:
    """Train, as one of the processes of the run. Raises StageFailure on every end but the good one."""
    pod = read_pod()
    with out_of_memory():
        return last_word(_train(job, store, pod))


def _train(job: StageInput, store: Store, pod: Pod) -> TrainResult:
    scratch = Scratch(pod.work_dir)
    process = join(job.spec.distributed.device, patience_of(job))
    with Watchdog(process.rank, pod.termination_log, Patience.of(pod.hang_seconds)) as watchdog:
        writer = from_rank_zero(pod.writer(job.attempt))
        prepared = Prepared.model_validate_json(scratch.manifest.read_bytes())
        with watchdog.during("while it loads the model", slow=True):
            training = start.build(settle(job, prepared), process, prepared, scratch, watchdog, StopSignal())
        tokenizer = PreparedFiles(prepared, scratch.prepared).tokenizer
        sampler = Sampler.of(training, tokenizer, cast(Format, prepared.data.format))
        return _train_and_score(training, sampler, store, pod, writer)


def _train_and_score(run: Run, sampler: Sampler | None, store: Store, pod: Pod, writer: str) -> TrainResult:
    """Run the training with its uploader and its reporter, which end with it; a failure tells what was reached."""
    scratch, process = Scratch(pod.work_dir), run.process
    metric = run.spec.evaluation.best_metric
    saver = Saver(_checkpoint_writer(run, writer), run.engine, run.method, process, scratch.staged, metric)
    reporter = reporter_of(run, store, pod, writer) if process.rank == 0 else None
    succeeded = False
    run.watchdog.listener = reporter
    signal.signal(signal.SIGTERM, stop_at_once)
    try:
        with out_of_memory():
            result = _run(run, saver, reporter, sampler, store, scratch, writer)
        succeeded = True
        return result
    except StopRequested as stop:
        failure = _stopped(saver)
        failure.reached = _reached(failure, run, saver, reporter)
        raise failure from stop
    except StageFailure as failure:
        failure.reached = _reached(failure, run, saver, reporter)
        raise
    finally:
        saver.close()
        if reporter is not None:
            reporter.close(succeeded=succeeded)


def _reached(failure: StageFailure, run: Run, saver: Saver, reporter: Reporter | None) -> TerminationMessage:
    return TerminationMessage(
        reason=failure.reason,
        plan=run.plan,
        progress=reporter.progress if reporter is not None else None,
        last_checkpoint=saver.last,
        best_checkpoint=saver.best,
    )


def _stopped(saver: Saver) -> StageFailure:
    """Return the end of a run that was stopped outside of its steps, when there is nothing new to commit."""
    last = f"it goes on from {saver.last.uri}" if saver.last else "no checkpoint was committed, so it begins anew"
    return StageFailure(ExitCode.STOPPED, Reason.STOPPED, f"stopped on request; {last}")


def _run(
    run: Run,
    saver: Saver,
    reporter: Reporter | None,
    sampler: Sampler | None,
    store: Store,
    scratch: Scratch,
    writer: str,
) -> TrainResult:
    state = _begin(run, saver, reporter, store, scratch)
    loop = Loop(run, saver, reporter, state, sampler)
    loop.train()
    with run.watchdog.during("while it reads its commits", slow=True):
        commits = finish.final_commits(run, saver, store, done=loop.done)
    chosen, tuned = finish.tuned_scores(run, store, commits, done=loop.done, scratch=scratch.best)
    compared = compared_losses(run)

    def conclude() -> TrainResult:
        assert reporter is not None  # noqa: S101 - this is rank 0
        progress = reporter.progress
        result = finish.result_of(
            run,
            writer,
            chosen=chosen,
            commits=commits,
            progress=progress,
            base=state.baseline,
            tuned=tuned,
            compared_losses=compared,
        )
        log.info("scored", exportedStep=chosen.step, **result.evaluation.to_wire())
        return publish(store, run.layout, result)

    with run.watchdog.during("while it writes down its result", slow=True):
        return on_rank_zero(run.process, conclude)


def _begin(run: Run, saver: Saver, reporter: Reporter | None, store: Store, scratch: Scratch) -> RunState:
    """Return the state to train from: that of the newest commit, or a new one with the scores of the base model."""
    with run.watchdog.during("while it looks for a checkpoint and loads it", slow=True):
        state = start.resume(run, saver, store, scratch.resumed)
    if reporter is not None:
        eval_loss = state.eval_loss if state is not None else None
        reporter.begin(saver.saved, eval_loss, saver.last, saver.best)
    return start.score_base(run) if state is None else start.score_resumed(run, saver, reporter, store, state)


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
            best_metric=run.spec.evaluation.best_metric,
        )
    )
