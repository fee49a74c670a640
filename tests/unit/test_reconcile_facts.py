"""What the pods told: samples and last words merged into the status."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plans import RESOLVED
from reconcile_builders import checkpoint, ended, observed, pod, progress, restarts, running, said, sample, status

from finetune_api.reasons import Phase, Reason
from finetune_api.stage import ProgressSample, Stage
from finetune_api.status import DataReport, EvaluationResult, OutputResult, Scores, SplitReport
from finetune_operator.reconcile.facts import format_duration, halted, last_word, with_facts

DATA = DataReport(
    format="messages",
    train=SplitReport(rows=9),
    validation=SplitReport(),
    test=SplitReport(),
    digest="d",
    warnings=["a is so; do b"],
)
SCORES = EvaluationResult(tuned=Scores(loss=1.0, perplexity=2.7, token_accuracy=0.9, tokens=10))
OUTPUT = OutputResult(uri="s3://models/bot/", step=100, digest="d")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0, "0s"),
        (59, "59s"),
        (60, "1m00s"),
        (250, "4m10s"),
        (3599, "59m59s"),
        (3600, "1h00m"),
        (3900, "1h05m"),
        (86399, "23h59m"),
        (86400, "1d00h"),
        (183600, "2d03h"),
    ],
)
def test_durations_for_people(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("phase", "attempt", "taken"),
    [
        (Phase.STARTING, 1, True),
        (Phase.RUNNING, 1, True),
        (Phase.RUNNING, 2, False),  # the sample is of an older attempt
        (Phase.RESTARTING, 1, True),
        (Phase.SUSPENDED, 1, True),
        (Phase.PREPARING, 0, False),
        (Phase.EXPORTING, 1, False),
    ],
)
def test_samples_count_for_their_attempt_while_it_runs(phase, attempt, taken):
    merged = with_facts(observed(sample(7), of=status(phase, attempt=attempt)))
    assert (merged.progress is not None) is taken


@pytest.mark.parametrize(
    ("step", "total", "percent"),
    [(0, 100, 0), (41, 100, 41), (199, 200, 99), (100, 100, 100), (120, 100, 100), (5, 0, 0)],
)
def test_percent_is_derived_here(step, total, percent):
    merged = with_facts(observed(sample(step, total=total, percent=77), of=status())).progress
    assert (merged.percent, merged.percent_text, merged.step_text) == (percent, f"{percent}%", f"{step}/{total}")


def test_eta_is_derived_here():
    merged = with_facts(observed(sample(1, estimated_remaining_seconds=250, eta="nonsense"), of=status())).progress
    assert merged.eta == "4m10s"
    assert with_facts(observed(sample(1, eta="nonsense"), of=status())).progress.eta is None


@pytest.mark.parametrize(
    ("known", "known_attempt", "step", "shown"),
    [
        (10, 1, 20, 20),
        (10, 1, 10, 10),
        (20, 1, 10, 20),  # never back within an attempt
        (20, 0, 10, 10),  # an attempt goes on from the last commit
    ],
)
def test_a_step_never_goes_back_within_an_attempt(known, known_attempt, step, shown):
    before = status(progress=progress(known, attempt=known_attempt))
    merged = with_facts(observed(sample(step), of=before)).progress
    assert merged.step == shown
    assert merged.attempt == (known_attempt if shown != step else 1)


def test_progress_of_the_last_attempt_is_shown_until_the_next_one_reports():
    before = status(Phase.STARTING, attempt=2, progress=progress(40, attempt=1))
    assert with_facts(observed(of=before)).progress.step == 40
    assert with_facts(observed(sample(30, attempt=2), of=before)).progress.step == 30


def test_checkpoints_come_with_samples():
    told = ProgressSample(
        attempt=1, progress=progress(50), last_checkpoint=checkpoint(40), best_checkpoint=checkpoint(20)
    )
    merged = with_facts(observed(told, of=status(last_checkpoint=checkpoint(20))))
    assert (merged.last_checkpoint.step, merged.best_checkpoint.step) == (40, 20)
    assert with_facts(observed(sample(60), of=merged)).last_checkpoint.step == 40  # not told is not lost


@pytest.mark.parametrize(("told_by", "shown"), [(1, 67), (2, 50)])
def test_a_commit_never_goes_back_within_an_attempt(told_by, shown):
    before = status(Phase.RUNNING, attempt=told_by, progress=progress(67, attempt=1), last_checkpoint=checkpoint(67))
    stale = ProgressSample(attempt=told_by, progress=progress(60), last_checkpoint=checkpoint(50))
    assert with_facts(observed(stale, of=before)).last_checkpoint.step == shown


@pytest.mark.parametrize(
    ("phase", "stage", "parts"),
    [
        (Phase.PREPARING, Stage.PREPARE, {"plan": RESOLVED, "data": DATA}),
        (Phase.RUNNING, Stage.TRAIN, {"evaluation": SCORES, "last_checkpoint": checkpoint(100)}),
        (Phase.EXPORTING, Stage.EXPORT, {"output": OUTPUT}),
    ],
)
def test_last_words_are_merged(phase, stage, parts):
    merged = with_facts(observed(ended(0, stage, told=said(Reason.SUCCEEDED, **parts)), of=status(phase)))
    assert {name: getattr(merged, name) for name in parts} == parts


def test_the_last_word_wins_over_a_sample():
    final = said(Reason.SUCCEEDED, progress=progress(100, estimated_remaining_seconds=0))
    merged = with_facts(observed(sample(98), ended(0, told=final), of=status())).progress
    assert (merged.step, merged.percent_text, merged.eta) == (100, "100%", "0s")


def test_a_failed_pod_tells_how_far_it_came():
    stopped = said(Reason.STOPPED, progress=progress(55), last_checkpoint=checkpoint(55))
    merged = with_facts(observed(ended(75, told=stopped), of=status()))
    assert (merged.progress.step, merged.last_checkpoint.step) == (55, 55)


@pytest.mark.parametrize(
    "deaf",
    [
        ended(0, index=1, told=said(Reason.SUCCEEDED, evaluation=SCORES)),  # only index 0 speaks for the attempt
        ended(0, attempt=2, told=said(Reason.SUCCEEDED, evaluation=SCORES)),
        ended(0, Stage.PREPARE, told=said(Reason.SUCCEEDED, evaluation=SCORES)),
        ended(0, told="not JSON"),
        running(),
    ],
)
def test_who_is_not_heard(deaf):
    assert with_facts(observed(deaf, of=status())).evaluation is None


@pytest.mark.parametrize("phase", [Phase.RESTARTING, Phase.SUSPENDED])
def test_the_last_word_of_a_pod_that_was_stopped_is_heard_without_its_speed(phase):
    told = progress(30, eta="5s", estimated_remaining_seconds=5, tokens_per_second=9.0)
    late = ended(75, told=said(Reason.STOPPED, progress=told, last_checkpoint=checkpoint(30)))
    merged = with_facts(observed(sample(29), late, of=status(phase)))
    assert merged.last_checkpoint == checkpoint(30)
    assert (merged.progress.step, merged.progress.eta, merged.progress.tokens_per_second) == (30, None, None)


def test_the_try_of_a_stage_is_the_one_that_is_heard():
    before = status(Phase.PREPARING, restarts=restarts(1, prepare=1))
    first = ended(0, Stage.PREPARE, 1, told=said(Reason.SUCCEEDED, data=DATA))
    second = ended(0, Stage.PREPARE, 2, told=said(Reason.SUCCEEDED, data=DATA.model_copy(update={"digest": "e"})))
    assert with_facts(observed(first, of=before)).data is None
    assert with_facts(observed(first, second, of=before)).data.digest == "e"


def test_last_word_of_a_pod_that_has_not_ended():
    assert last_word(pod()) is None


def test_halted_progress_keeps_where_it_was():
    kept = halted(progress(4, attempt=1, loss=2.0, eta="1s", tokens_per_second=3.0))
    assert kept == progress(4, attempt=1, loss=2.0)
    assert halted(None) is None


@given(st.lists(st.integers(0, 100), min_size=1, max_size=20))
def test_whatever_comes_in_whatever_order_the_highest_step_is_shown(steps):
    shown = status()
    for step in steps:
        shown = with_facts(observed(sample(step), of=shown))
    assert shown.progress.step == max(steps)
    assert shown.progress.percent == max(steps)


@given(st.text(max_size=60))
def test_no_last_word_breaks_the_merge(text):
    assert with_facts(observed(ended(1, told=text), of=status())) == status()


def test_an_attempt_tells_how_it_computes():
    smaller = RESOLVED.model_copy(update={"micro_batch_size": 2, "gradient_accumulation_steps": 2})
    before = status(attempt=2, plan=RESOLVED)
    told = ProgressSample(attempt=2, plan=smaller, progress=progress(1))
    assert with_facts(observed(told, of=before)).plan == smaller
    silent = ProgressSample(attempt=2, progress=progress(1))
    assert with_facts(observed(silent, of=before)).plan == RESOLVED
