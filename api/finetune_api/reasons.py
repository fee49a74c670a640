"""Reasons: one word of this enum says why a job is where it is.

Users script against them, so a reason is never renamed within an API version. Each one is explained, with its
mend, in docs/troubleshooting.md; a test fails when one is missing there.
"""

from enum import StrEnum


class Reason(StrEnum):
    """`status.reason`, the `reason` of conditions and of Events."""

    ACCEPTED = "Accepted"
    PREPARING = "Preparing"
    STARTING = "Starting"
    RUNNING = "Running"
    EXPORTING = "Exporting"
    SUCCEEDED = "Succeeded"

    QUEUED = "Queued"
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    RESUMED = "Resumed"

    UNSCHEDULABLE = "Unschedulable"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    CONTAINER_CONFIG_FAILED = "ContainerConfigFailed"
    CREATION_REFUSED = "CreationRefused"
    QUOTA_EXCEEDED = "QuotaExceeded"
    BACKING_OFF = "BackingOff"

    INVALID_SPEC = "InvalidSpec"
    INVALID_DATA = "InvalidData"
    INVALID_MODEL = "InvalidModel"
    OUTPUT_EXISTS = "OutputExists"
    DEVICE_UNAVAILABLE = "DeviceUnavailable"
    BUCKET_NOT_FOUND = "BucketNotFound"
    OBJECT_NOT_FOUND = "ObjectNotFound"
    STORAGE_ACCESS_DENIED = "StorageAccessDenied"
    STORAGE_UNREACHABLE = "StorageUnreachable"
    STORAGE_FAILED = "StorageFailed"
    OUT_OF_DEVICE_MEMORY = "OutOfDeviceMemory"
    OUT_OF_MEMORY = "OutOfMemory"
    DIVERGED = "Diverged"
    STOPPED = "Stopped"
    SCRATCH_FULL = "ScratchFull"
    DISRUPTED = "Disrupted"
    PREEMPTED = "Preempted"
    NODE_LOST = "NodeLost"
    HUNG = "Hung"
    CRASHED = "Crashed"
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    PRE_RUNNING_DEADLINE_EXCEEDED = "PreRunningDeadlineExceeded"
    ACTIVE_DEADLINE_EXCEEDED = "ActiveDeadlineExceeded"


class ConditionType(StrEnum):
    """Types of `status.conditions`."""

    VALID = "Valid"
    STORAGE_READY = "StorageReady"
    DATA_READY = "DataReady"
    SCHEDULED = "Scheduled"
    RUNNING = "Running"
    CHECKPOINTED = "Checkpointed"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class Phase(StrEnum):
    """`status.phase`."""

    PENDING = "Pending"
    PREPARING = "Preparing"
    QUEUED = "Queued"
    STARTING = "Starting"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    EXPORTING = "Exporting"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"

    @property
    def is_terminal(self) -> bool:
        """Whether a job in this phase never changes again."""
        return self in (Phase.SUCCEEDED, Phase.FAILED)
