"""How the pods of an attempt find the one with index 0: by its address in the bucket that all of them share.

A Service would give that pod a name, for a quarter of all that the API server writes for a job, and make cluster DNS,
which remembers for a while that a name was missing, a part of every start.
"""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from ipaddress import ip_address

from pydantic import ValidationError

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.run import Rendezvous, RunLayout
from finetune_api.stage import StageInput
from finetune_api.uris import S3Location
from finetune_trainer import log
from finetune_trainer.errors import CRASH_EXIT_CODE, StageFailure
from finetune_trainer.stage_input import LOOPBACK, Pod
from finetune_trainer.storage import Store
from finetune_trainer.train.stopping import StopSignal

SPARE_TIMEOUT = timedelta(minutes=10)
"""Longer than the operator waits for the pods of the run to start: it can say why one does not."""
WITHDRAW_SECONDS = 5.0
"""For what is only a courtesy: the pod's last word must be out before the kubelet kills it."""
QUIET_SECONDS, TELL_SECONDS = 10.0, 60.0
"""A wait so short is not worth a line; then there is one so often."""
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 2.0


def patience_of(job: StageInput) -> timedelta:
    """Return how long the pods of a run, and the processes in them, wait for one another."""
    return timedelta(seconds=job.spec.pre_running_deadline_seconds) + SPARE_TIMEOUT


@contextmanager
def announced(job: StageInput, pod: Pod, store: Store) -> Iterator[None]:
    """While this lasts, pod 0 tells where the pods of the attempt meet. Raises StageFailure when it cannot.

    Not afterwards: a queue that takes the place back and gives another one starts the same attempt with other pods.
    """
    if job.spec.distributed.num_nodes == 1 or pod.index > 0:
        yield
        return
    location, record = _location(job), Rendezvous(writer=pod.writer(job.attempt), address=ip_address(pod.address))
    try:
        store.put(location, record.model_dump_json(by_alias=True).encode())
        log.info("rendezvous-told", address=pod.address)
        yield
    finally:
        _withdraw(store, location, record)


def find_address(job: StageInput, pod: Pod, store: Store) -> str:
    """Return the address of pod 0. Raises StageFailure when that has not told it in the time that ranks wait."""
    if job.spec.distributed.num_nodes == 1:
        return LOOPBACK
    return pod.address if pod.index == 0 else _await_address(store, _location(job), patience_of(job))


def _location(job: StageInput) -> S3Location:
    return RunLayout(job.spec.checkpoint.uri, job.run_id).rendezvous(job.attempt)


def _await_address(store: Store, location: S3Location, patience: timedelta) -> str:
    began, next_word, pause = time.monotonic(), QUIET_SECONDS, FIRST_PAUSE
    while (record := _read(store, location)) is None:
        waited = time.monotonic() - began
        if waited > patience.total_seconds():
            raise _nobody_came(location, waited)
        if waited >= next_word:
            log.info("waits-for-pod", index=0, seconds=round(waited), uri=location.uri)
            next_word = waited + TELL_SECONDS
        time.sleep(pause * random.uniform(0.75, 1))  # noqa: S311 - many pods look at the same object
        pause = min(2 * pause, LONGEST_PAUSE)
    return str(record.address)


def _nobody_came(location: S3Location, waited: float) -> StageFailure:
    sentence = f"waited {waited:.0f} s for the pod with index 0 to tell its address in {location.uri}, in vain"
    return StageFailure(CRASH_EXIT_CODE, Reason.CRASHED, f"{sentence}; see the events and the log of that pod")


def _read(store: Store, location: S3Location) -> Rendezvous | None:
    """Return what pod 0 told, None if it has not."""
    text = store.read_if_there(location)
    try:
        return None if text is None else Rendezvous.model_validate_json(text)
    except ValidationError as error:
        cause = error.errors()[0]["msg"]
        sentence = f"{location.uri} tells no address ({cause}); nothing but the trainer may write there"
        raise StageFailure(ExitCode.STORAGE, Reason.STORAGE_FAILED, sentence) from error


def _withdraw(store: Store, location: S3Location, ours: Rendezvous) -> None:
    """Delete what this pod told, if it can be done soon; a failure changes nothing about how the pod ends."""

    def remove() -> None:
        try:
            if _read(store, location) == ours:
                store.delete([location])
        except StageFailure as failure:
            log.warning("rendezvous-left", uri=location.uri, cause=failure.message)

    remover = threading.Thread(target=remove, daemon=True)
    with StopSignal().deferred():  # by now the system would end the pod, without a last word
        remover.start()
        remover.join(WITHDRAW_SECONDS)
    if remover.is_alive():
        log.warning("rendezvous-left", uri=location.uri, cause=f"not deleted within {WITHDRAW_SECONDS:g} s")
