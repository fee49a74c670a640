"""Trainer: the stages prepare, train and export of a FineTuneJob."""

import os
import signal

if os.getpid() == 1:
    # The kernel drops a signal that the first process of a container has no handler for, and libraries take seconds
    # to import: a pod that was told to stop then would go on until it is killed, two minutes later. 75 is
    # ExitCode.STOPPED, which is not to be had yet.
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(75))
