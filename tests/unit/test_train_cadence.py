import pytest
from checkpoint_builders import commit

from finetune_api.spec import Checkpoint
from finetune_trainer.train.cadence import best_commit, commit_due, evaluates, export_commit


@pytest.mark.parametrize(
    ("done", "total", "every", "expected"),
    [(5, 20, 5, True), (6, 20, 5, False), (20, 20, 7, True), (20, 20, 0, True), (5, 20, 0, False)],
)
def test_when_a_run_evaluates(done, total, every, expected):
    assert evaluates(done, total_steps=total, every_steps=every) is expected


@pytest.mark.parametrize(
    ("every_steps", "every_minutes", "done", "saved", "seconds", "expected"),
    [
        (10, 0, 9, 0, 0, False),
        (10, 0, 10, 0, 0, True),
        (10, 0, 11, 10, 0, False),
        (10, 0, 12, 8, 0, True),  # step 10 was passed over while an upload was in flight
        (10, 0, 20, 15, 0, True),  # a commit for another reason at 15 does not move the multiples
        (0, 10, 3, 0, 599, False),
        (0, 10, 3, 0, 600, True),
        (0, 0.5, 3, 0, 30, True),
        (0, 10, 3, 3, 9999, False),  # this step is saved already
        (0, 0, 999, 0, 99999, False),
        (10, 10, 3, 0, 600, True),
    ],
)
def test_when_a_commit_is_due(every_steps, every_minutes, done, saved, seconds, expected):
    cadence = Checkpoint(uri="s3://bucket/runs/", every_steps=every_steps, every_minutes=every_minutes)
    assert commit_due(cadence, done=done, saved=saved, seconds_since_save=seconds) is expected


@pytest.mark.parametrize(
    ("commits", "best", "exported"),
    [
        ([], None, None),
        ([(1, None), (2, None)], None, 2),
        ([(1, 2.0), (2, 1.0), (3, 1.5)], 2, 2),
        ([(1, 1.0), (2, 1.0)], 1, 1),
        ([(1, None), (2, 3.0), (4, None)], 2, 2),
    ],
)
def test_best_and_exported_commit(commits, best, exported):
    records = [commit(step, eval_loss=eval_loss) for step, eval_loss in commits]
    chosen_best, chosen = best_commit(records), export_commit(records)
    assert (chosen_best.step if chosen_best else None) == best
    assert (chosen.step if chosen else None) == exported


@pytest.mark.parametrize(("metric", "best"), [("loss", 1), ("accuracy", 2), ("f1", 3)])
def test_the_best_commit_by_each_metric(metric, best):
    records = [
        commit(4, eval_loss=0.5),
        commit(3, eval_loss=0.4, eval_accuracy=0.8, eval_f1=0.9),
        commit(2, eval_loss=0.3, eval_accuracy=0.9, eval_f1=0.7),
        commit(1, eval_loss=0.2, eval_accuracy=0.7, eval_f1=0.8),
    ]
    chosen = best_commit(records, metric)
    assert chosen is not None
    assert chosen.step == best
    assert export_commit(records, metric) == chosen
