"""Which steps are committed while uploads are slow or fail: the best so far always is."""

from ast import literal_eval

import pytest
import torch.distributed as dist
import torch.multiprocessing
from held_loop import Script, join, play, play_together

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason


@pytest.fixture
def alone(tmp_path):
    """A group of this process alone; return a scratch space."""
    join(tmp_path)
    yield tmp_path
    dist.destroy_process_group()


def events(capsys, name):
    return [line for line in capsys.readouterr().out.splitlines() if f'"event": "{name}"' in line]


def test_the_best_so_far_waits_for_the_upload_before(alone, capsys):
    played = play(Script([3.0, 2.0, 2.5, 2.9], looks={1: 3}), alone)
    assert played.committed == {1: 3.0, 2: 2.0, 4: 2.9}
    assert (played.best_commit, played.waits) == (2, 3)
    assert played.best == {1: 3.0, 2: 2.0, 3: 2.0, 4: 2.0}
    out = capsys.readouterr().out
    assert out.count('"event": "waits-for-upload"') == 1
    assert '"event": "checkpoint-postponed"' not in out


def test_a_commit_that_is_due_but_not_the_best_is_postponed(alone, capsys):
    every_step = {"checkpoint": {"everySteps": 1, "everyMinutes": 0}}
    played = play(Script([2.0, 3.0, 3.0, 3.0, 3.0], looks={1: 9}, ends_after={1: 3}, spec=every_step), alone)
    assert (played.saved, played.waits) == ([1, 4, 5], 0)
    assert len(events(capsys, "checkpoint-postponed")) == 2


def test_what_is_in_flight_and_better_is_not_waited_for(alone):
    played = play(Script([3.0, 2.0, 2.5, 2.5, 2.5], looks={2: 9}, ends_after={2: 4}), alone)
    assert (played.saved, played.waits) == ([1, 2, 5], 0)
    assert played.best == {1: 3.0, 2: 2.0, 3: 2.0, 4: 2.0, 5: 2.0}


@pytest.mark.parametrize("fails_after", [2, 3])
def test_a_score_whose_upload_failed_is_no_longer_the_best(alone, fails_after):
    """Commits and the scores that are told are then measured against what there is."""
    script = Script([3.0, 2.0, 2.5, 2.4, 2.9], looks={2: 9}, ends_after={2: fails_after}, fails=[2])
    played = play(script, alone)
    expected = {2: [1, 2, 3, 4, 5], 3: [1, 2, 4, 5]}[fails_after]
    assert played.saved == expected
    assert (played.best_commit, played.committed[4]) == (4, 2.4)
    assert (played.best[4], played.best[5]) == (2.4, 2.4)


def test_the_best_so_far_is_committed_when_the_upload_it_waits_for_fails(alone):
    played = play(Script([3.0, 2.0, 2.5], looks={1: 2}, fails=[1]), alone)
    assert played.committed == {2: 2.0, 3: 2.5}
    assert played.best_commit == 2


def test_a_stop_while_it_waits_loses_nothing(alone):
    played = play(Script([3.0, 2.0, 2.5], looks={1: 2}, stop_at_look=1), alone)
    assert played.failure is not None
    assert (played.failure.code, played.failure.reason) == (ExitCode.STOPPED, Reason.STOPPED)
    assert "stopped on request after step 2; its checkpoint is committed" in played.failure.message
    assert played.committed == {1: 3.0, 2: 2.0}
    assert played.best == {1: 3.0, 2: 2.0}


def test_a_stop_while_it_waits_ends_within_the_grace(alone):
    played = play(Script([3.0, 2.0, 2.5], looks={1: 9}, stop_at_look=1), alone)
    assert played.failure is not None
    assert "its checkpoint did not finish its upload within the grace period" in played.failure.message
    assert (played.failure.code, played.saved) == (ExitCode.STOPPED, [1])


def played_by_two(plays, scratch):
    """Return what each of two processes has to tell of plays with a script for each."""
    torch.multiprocessing.spawn(play_together, (plays, scratch), nprocs=2)
    return [literal_eval((scratch / f"{rank}").read_text()) for rank in range(2)]


@pytest.mark.slow
def test_processes_wait_for_the_slowest_of_them(tmp_path):
    """Whichever is slow, and where uploads fail: all of them save the same steps, and none waits for ever."""
    losses = [3.0, 2.0, 2.5, 2.9]
    fast, slow, failing = Script(losses), Script(losses, looks={1: 2}), Script(losses, fails=[2])
    first, second = played_by_two([(fast, slow), (slow, fast), (failing, failing)], tmp_path)
    saved = [[1, 2, 4], [1, 2, 4], [1, 2, 3, 4]]
    assert [play["saved"] for play in first] == [play["saved"] for play in second] == saved
    assert first[2]["committed"] == {1: 3.0, 3: 2.5, 4: 2.9}


@pytest.mark.slow
def test_the_step_after_a_save_begins_when_all_have_saved(tmp_path):
    """Rank 0 alone writes the whole weights; in a step the others would have less patience with it than in a save."""
    (first,), (second,) = played_by_two([(Script([2.0, 3.0], save_seconds=1.5), Script([2.0, 3.0]))], tmp_path)
    assert first["saved"] == second["saved"] == [1, 2]
    assert second["begun"][0] < first["handed"][0] < second["begun"][1]
