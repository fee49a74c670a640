import io

import pytest

from finetune_api.reasons import Phase, Reason
from finetune_api.status import FineTuneJobStatus, Progress
from finetune_cli import watch
from finetune_cli.__main__ import main

RUNNING = FineTuneJobStatus(
    phase=Phase.RUNNING,
    reason=Reason.RUNNING,
    progress=Progress(step=12, total_steps=40, percent=30, loss=1.25, tokens_per_second=311.4, eta="2m10s"),
)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (Progress(step=0, total_steps=40), "step 0/40  0%"),
        (RUNNING.progress, "step 12/40  30%  loss 1.2500  311 tokens/s  2m10s left"),
        (
            Progress(step=40, total_steps=40, percent=100, loss=0.5, eval_loss=0.75),
            "step 40/40  100%  loss 0.5000  validation 0.7500",
        ),
    ],
)
def test_progress_line_leaves_out_what_is_not_known(progress, line):
    assert watch.render_progress(progress) == line


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (FineTuneJobStatus(), "Pending"),
        (RUNNING, "Running"),
        (
            FineTuneJobStatus(phase=Phase.FAILED, reason=Reason.INVALID_DATA, message="a.jsonl:3: messages: empty"),
            "Failed (InvalidData): a.jsonl:3: messages: empty",
        ),
    ],
)
def test_phase_line(status, line):
    assert watch.render_phase(status) == line


def test_a_pipe_gets_a_line_per_step_and_none_when_nothing_changed():
    out = io.StringIO()
    screen = watch.Screen(out)
    for _ in range(3):
        screen.show(RUNNING)
    assert out.getvalue() == "Running\n  step 12/40  30%  loss 1.2500  311 tokens/s  2m10s left\n"


def test_a_terminal_redraws_in_place_and_ends_the_line_before_the_next_phase():
    out = Terminal()
    screen = watch.Screen(out)
    screen.show(RUNNING)
    screen.show(FineTuneJobStatus(phase=Phase.EXPORTING))
    assert out.getvalue().endswith("2m10s left\nExporting\n")
    assert "\r\x1b[K" in out.getvalue()


@pytest.mark.parametrize(
    ("phases", "code"),
    [
        ([Phase.PENDING, Phase.RUNNING, Phase.SUCCEEDED], 0),
        ([Phase.PREPARING, Phase.FAILED], 1),
        ([Phase.RUNNING], 2),
    ],
)
def test_exit_code_tells_how_the_job_ended(phases, code, monkeypatch):
    seen = {}

    def stream(**where):
        seen.update(where)
        yield from (FineTuneJobStatus(phase=phase) for phase in phases)

    monkeypatch.setattr(watch, "stream_status", stream)
    assert main(["watch", "bot", "-n", "team", "--timeout", "5"]) == code
    assert seen == {"name": "bot", "namespace": "team", "timeout": 5.0}
