import json
from math import inf, nan

import pytest
import torch
from plans import RESOLVED

from finetune_api.reasons import Reason
from finetune_api.stage import TerminationMessage
from finetune_api.status import Validation
from finetune_trainer.data.schedule import schedule
from finetune_trainer.progress import INTERVAL_SECONDS, ProgressPoster
from finetune_trainer.train import report
from finetune_trainer.train.devices import Devices
from finetune_trainer.train.report import Reporter, duration
from finetune_trainer.train.series import MetricsSeries
from finetune_trainer.train.sync import Outcome, Votes
from finetune_trainer.train.watchdog import Watchdog


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


STEP = {"tokens": 1000, "flops": 4e12, "waited": 0.01, "median_seconds": 1.23456}


def reporter_of(steps, poster, tmp_path, store):
    series = MetricsSeries(tmp_path / "metrics.jsonl", store, "where")
    devices = Devices(torch.device("cpu"), 1e12)
    return Reporter(steps, RESOLVED, attempt=3, poster=poster, series=series, devices=devices)


def test_progress_and_series_of_a_run(tmp_path, capsys):
    store, poster = Kept(), Samples()
    steps = schedule(20, epochs=2, max_steps=None, global_batch_size=4)
    reporter = reporter_of(steps, poster, tmp_path, store)
    reporter.begin(4, None, None, None)
    reporter.step(5, loss=2.34567, learning_rate=1e-4, grad_norm=0.5, **STEP)
    reporter.evaluation(5, Validation(eval_loss=2.1), Validation(eval_loss=2.0))
    progress = reporter.progress
    reporter.close()
    assert (progress.step, progress.total_steps, progress.percent, progress.epoch) == (5, 10, 50, 1.0)
    assert (progress.loss, progress.eval_loss, progress.best_eval_loss) == (2.3457, 2.1, 2.0)
    assert (progress.step_text, progress.percent_text) == ("5/10", "50%")
    assert progress.estimated_remaining_seconds is not None
    assert progress.median_step_seconds == 1.2346
    assert progress.mfu == pytest.approx(progress.tokens_per_second * 4e9 / 1e12, rel=0.01)
    assert progress.peak_bytes_per_device > 10_000_000
    assert 0 < progress.data_wait_share <= 1
    assert [urgent for _, urgent in poster.samples] == [True, False, True]
    assert all((sample.attempt, sample.plan) == (3, RESOLVED) for sample, _ in poster.samples)
    lines = [json.loads(line) for line in store.objects["where"].splitlines()]
    assert [line["step"] for line in lines] == [5, 5]
    assert lines[0]["loss"] == 2.34567
    assert (lines[0]["mfu"], lines[0]["peakBytes"]) == (progress.mfu, progress.peak_bytes_per_device)
    assert lines[1]["evalLoss"] == 2.1
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["step", "evaluation"]


@pytest.fixture
def clock(monkeypatch):
    """Return the time in seconds, to be moved by hand."""
    now = [100.0]
    monkeypatch.setattr(report.time, "monotonic", lambda: now[0])
    return now


def quiet_reporter(tmp_path, poster):
    steps = schedule(20, epochs=2, max_steps=None, global_batch_size=4)
    return reporter_of(steps, poster, tmp_path, Kept())


def test_heartbeats_move_the_time_alone_and_are_rare(tmp_path, clock):
    poster = Samples()
    reporter = quiet_reporter(tmp_path, poster)
    reporter.heartbeat()
    assert not poster.samples  # there is nothing to tell yet
    reporter.begin(4, 2.5, None, None)
    for _ in range(300):  # an evaluation of half a minute
        clock[0] += 0.1
        reporter.heartbeat()
    (first, _), *beats = poster.samples
    assert len(beats) == pytest.approx(30 / INTERVAL_SECONDS, abs=1)
    assert not any(urgent for _, urgent in beats)
    times = [sample.progress.last_update_time for sample, _ in poster.samples]
    assert times == sorted(set(times))
    without_time = {"last_update_time": first.progress.last_update_time}
    for sample, _ in beats:
        assert sample.progress.model_copy(update=without_time) == first.progress
    reporter.close()


def test_a_step_just_told_needs_no_heartbeat(tmp_path, clock):
    poster = Samples()
    reporter = quiet_reporter(tmp_path, poster)
    reporter.begin(4, None, None, None)
    clock[0] += INTERVAL_SECONDS
    reporter.step(5, loss=2, learning_rate=1e-4, grad_norm=1, **STEP)
    clock[0] += INTERVAL_SECONDS / 2
    reporter.heartbeat()
    assert [sample.progress.step for sample, _ in poster.samples] == [4, 5]
    clock[0] += INTERVAL_SECONDS
    reporter.heartbeat()
    assert [sample.progress.step for sample, _ in poster.samples] == [4, 5, 5]
    reporter.close()


def test_an_evaluation_makes_no_step_seem_slow(tmp_path, clock):
    """But the time that is left holds those to come: 3 steps of 2 s, and 400 s between, as there were till now."""
    reporter = quiet_reporter(tmp_path, Samples())
    reporter.begin(4, None, None, None)
    watchdog = Watchdog(0, tmp_path / "last-word")
    watchdog.listener = reporter
    for done in (5, 6, 7):
        clock[0] += 2
        reporter.step(done, loss=2, learning_rate=1e-4, grad_norm=1, **STEP)
        with watchdog.during("while it evaluates"):
            clock[0] += 600
    progress = reporter.progress
    assert (progress.tokens_per_second, progress.estimated_remaining_seconds) == (500.0, 1206)
    reporter.close()


def test_a_last_word_of_the_watchdog_tells_what_was_reached(tmp_path):
    reporter = quiet_reporter(tmp_path, Samples())
    word = TerminationMessage(reason=Reason.HUNG, message="it hangs")
    assert reporter.reached(word) == word
    reporter.begin(4, None, None, None)
    told = reporter.reached(word)
    assert (told.message, told.progress.step) == ("it hangs", 4)
    reporter.close()
