"""What a trainer pod's exit code says to the operator: a contract, documented in docs/troubleshooting.md."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the stages `prepare`, `train` and `export`; any other non-zero code is a crash."""

    DONE = 0
    INVALID = 64
    """The spec, the model or the data is wrong; a retry cannot mend it."""
    OUT_OF_DEVICE_MEMORY = 65
    """The device's memory did not suffice for the plan; the next attempt takes one that needs less."""
    STOPPED = 75
    """Stopped on request with its checkpoint committed; the next attempt goes on from there."""
    STORAGE = 76
    """S3 refused for longer than the retry budget."""
    DIVERGED = 77
    """Loss or gradients are no longer numbers, or the loss jumped."""
    HUNG = 78
    """No step for so long that the training hangs; the stacks of all ranks are in the log."""
    KILLED = 137
    """Killed by signal 9; with the container reason `OOMKilled` it is a lack of host memory."""
