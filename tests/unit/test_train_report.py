import json
from math import inf, nan

import pytest

from finetune_trainer.data.schedule import schedule
from finetune_trainer.progress import ProgressPoster
from finetune_trainer.train.report import MetricsSeries, Reporter, duration, speed_of
from finetune_trainer.train.sync import Outcome, Votes


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59, "59s"),
        (60, "1m00s"),
        (750, "12m30s"),
        (3900, "1h05m"),
        (86399, "23h59m"),
        (273600, "3d04h"),
    ],
)
def test_durations_for_people(seconds, text):
    assert duration(seconds) == text


def test_speed_is_averaged_over_the_marks():
    speed = speed_of([(10.0, 4, 1000), (12.0, 5, 1400), (14.0, 6, 1800)])
    assert speed.seconds_per_step == 2.0
    assert speed.tokens_per_second == 200.0


@pytest.mark.parametrize(
    ("loss", "norm", "finite"),
    [(1.0, 2.0, True), (nan, 2.0, False), (inf, 2.0, False), (1.0, nan, False), (1.0, -1.0, False), (0.0, 0.0, True)],
)
def test_outcome_that_is_no_number(loss, norm, finite):
    assert Outcome(1, loss, norm, Votes()).is_finite is finite


class Kept:
    def __init__(self):
        self.objects = {}

    def put(self, location, data):
        self.objects[location] = data


class Samples(ProgressPoster):
    def __init__(self):
        super().__init__(None)
        self.samples = []

    def post(self, sample, *, urgent=False):
        self.samples.append((sample, urgent))


def test_progress_and_series_of_a_run(tmp_path, capsys):
    store, poster = Kept(), Samples()
    steps = schedule(20, epochs=2, max_steps=None, global_batch_size=4)
    reporter = Reporter(steps, 3, poster, MetricsSeries(tmp_path / "metrics.jsonl", store, "where"))
    reporter.begin(4, None, None, None)
    reporter.step(5, loss=2.34567, learning_rate=1e-4, grad_norm=0.5, tokens=1000, waited=0.01)
    reporter.evaluation(5, 2.1, 2.0)
    progress = reporter.progress
    reporter.close()
    assert (progress.step, progress.total_steps, progress.percent, progress.epoch) == (5, 10, 50, 1.0)
    assert (progress.loss, progress.eval_loss, progress.best_eval_loss) == (2.3457, 2.1, 2.0)
    assert (progress.step_text, progress.percent_text) == ("5/10", "50%")
    assert progress.estimated_remaining_seconds is not None
    assert [urgent for _, urgent in poster.samples] == [True, False, True]
    assert all(sample.attempt == 3 for sample, _ in poster.samples)
    lines = [json.loads(line) for line in store.objects["where"].splitlines()]
    assert [line["step"] for line in lines] == [5, 5]
    assert lines[0]["loss"] == 2.34567
    assert lines[1]["evalLoss"] == 2.1
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["step", "evaluation"]
