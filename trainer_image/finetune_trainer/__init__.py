"""Trainer: the stages prepare, train and export of a FineTuneJob."""

import os
import signal

from finetune_api.exitcodes import ExitCode

if os.getpid() == 1:
    # The kernel drops a signal that the first process of a container has no handler for, and libraries take seconds
    # to import: a pod that was told to stop then would go on until it is killed, two minutes later.
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(ExitCode.STOPPED))
