import os
import signal

import pytest

from finetune_trainer.errors import StopRequested
from finetune_trainer.train.stopping import StopSignal, stop_at_once


@pytest.fixture
def at_once():
    """SIGTERM as it is while a run begins or ends."""
    before = signal.signal(signal.SIGTERM, stop_at_once)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("at_once")
def test_a_deferred_signal_interrupts_nothing_and_is_remembered():
    stop = StopSignal()
    with stop.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
    assert stop.requested


@pytest.mark.usefixtures("at_once")
def test_outside_of_it_the_signal_counts_at_once():
    stop = StopSignal()
    with stop.deferred(), stop.deferred():
        pass
    with pytest.raises(StopRequested):
        os.kill(os.getpid(), signal.SIGTERM)
    assert not stop.requested
