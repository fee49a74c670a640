"""How a run ends: which commit is exported, and how its weights score on the test rows."""

from pathlib import Path
from shutil import rmtree

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.run import Commit, TrainResult
from finetune_api.status import EvaluationResult, Progress, Scores
from finetune_trainer import log
from finetune_trainer.checkpoint import checkpoint_ref, fetch_commit
from finetune_trainer.errors import StageFailure
from finetune_trainer.model import weights
from finetune_trainer.storage import Store
from finetune_trainer.train.cadence import best_commit, export_commit
from finetune_trainer.train.errand import run_errand
from finetune_trainer.train.evaluation import Evaluation, evaluate
from finetune_trainer.train.processes import on_rank_zero
from finetune_trainer.train.run import Run, commits_of
from finetune_trainer.train.saver import Saver
from finetune_trainer.train.state import WEIGHTS, is_weights


def final_commits(run: Run, saver: Saver, store: Store, *, done: int) -> list[Commit]:
    """Return this run's commits, that of its last step among them; every process must call it."""

    def read() -> list[Commit]:
        commits = commits_of(run, store)
        if not any(commit.step == done for commit in commits):
            raise StageFailure(
                ExitCode.STORAGE,
                Reason.STORAGE_FAILED,
                f"training is done but its last checkpoint could not be committed: {saver.last_error}",
            )
        return commits

    return on_rank_zero(run.process, read)


def tuned_scores(
    run: Run, store: Store, commits: list[Commit], *, done: int, scratch: Path
) -> tuple[Commit, Evaluation | None]:
    """Return the commit to export and its scores on the test rows; every process must call it."""
    chosen = export_commit(commits, run.spec.evaluation.best_metric)
    assert chosen is not None  # noqa: S101 - the last step is committed
    if chosen.step != done:
        with run.watchdog.during("while it loads the best weights", slow=True):
            _load_weights(run, store, chosen, scratch)
    return chosen, evaluate(run, run.data.test, "while it scores the tuned model")


def _load_weights(run: Run, store: Store, commit: Commit, directory: Path) -> None:
    def fetch() -> bool:
        rmtree(directory, ignore_errors=True)
        return fetch_commit(store, run.layout, commit, directory, is_weights)

    if not run_errand(fetch, directory, run.process, run.watchdog):
        raise StageFailure(
            ExitCode.STORAGE,
            Reason.STORAGE_FAILED,
            f"{run.layout.commit(commit.step).uri} holds the best weights but its objects were altered; it is marked"
            " bad now and the next attempt takes another",
        )
    weights.restore(run.engine.module.model, run.method, directory / "rank-0" / WEIGHTS)
    log.info("best-weights-loaded", step=commit.step, evalLoss=commit.eval_loss)


def result_of(
    run: Run,
    writer: str,
    *,
    chosen: Commit,
    commits: list[Commit],
    progress: Progress,
    base: Scores | None,
    tuned: Evaluation | None,
    compared_losses: list[float],
) -> TrainResult:
    """Return the record of a run that is done."""
    best = best_commit(commits, run.spec.evaluation.best_metric)
    return TrainResult(
        writer=writer,
        export_commit=run.layout.commit(chosen.step).key,
        plan=run.plan,
        progress=progress,
        last_checkpoint=checkpoint_ref(run.layout, max(commits, key=lambda commit: commit.step)),
        best_checkpoint=checkpoint_ref(run.layout, best) if best else None,
        evaluation=EvaluationResult(base=base, tuned=tuned.scores if tuned else None),
        confusion=tuned.confusion if tuned else None,
        compared_losses=compared_losses,
    )
