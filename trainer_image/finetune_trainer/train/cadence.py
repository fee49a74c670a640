"""When a run evaluates and commits, and which commit is exported: pure decisions."""

from collections.abc import Sequence

from finetune_api.run import Commit
from finetune_api.spec import Checkpoint
from finetune_api.spec.evaluation import BestMetric
from finetune_api.status import Validation


def evaluates(done: int, *, total_steps: int, every_steps: int) -> bool:
    """Whether the model is scored on the validation rows after `done` steps."""
    return done == total_steps or (every_steps > 0 and done % every_steps == 0)


def commit_due(cadence: Checkpoint, *, done: int, saved: int, seconds_since_save: float) -> bool:
    """Whether a commit is due after `done` steps, the last one having been made after `saved` steps.

    A multiple of everySteps that had to be passed over, because an upload was in flight, stays due.
    """
    by_steps = cadence.every_steps > 0 and done // cadence.every_steps > saved // cadence.every_steps
    by_time = cadence.every_minutes > 0 and seconds_since_save >= cadence.every_minutes * 60
    return done > saved and (by_steps or by_time)


def best_commit(commits: Sequence[Commit], metric: BestMetric = "loss") -> Commit | None:
    """Return the best commit by a metric, the earlier one of equals; None if none was evaluated."""
    best: Commit | None = None
    for commit in sorted(commits, key=lambda commit: commit.step):
        best = commit if is_better(commit, best, metric) else best
    return best


def is_better(one: Validation, other: Validation | None, metric: BestMetric) -> bool:
    """Whether one has a score that is better than the other's, or the only one."""
    merit, standing = one.merit(metric), None if other is None else other.merit(metric)
    return merit is not None and (standing is None or merit > standing)


def export_commit(commits: Sequence[Commit], metric: BestMetric = "loss") -> Commit | None:
    """Return the commit whose weights are exported: the best, else the newest."""
    return best_commit(commits, metric) or max(commits, key=lambda commit: commit.step, default=None)
