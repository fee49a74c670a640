"""The uploader process of one rank: takes finished local folders from a pipe and brings them to S3.

A process and not a thread, because a thread would fight the training for the interpreter lock. It is spawned, so
that it inherits neither device memory nor locks, and it dies with its parent: an upload that outlived its attempt
could write beside the next one.
"""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from ctypes import c_uint64
from multiprocessing.connection import Connection
from typing import Any

from finetune_trainer import log
from finetune_trainer.checkpoint.commit import gather_ranks, put_commit, upload_rank
from finetune_trainer.checkpoint.discover import checkpoint_ref
from finetune_trainer.checkpoint.records import (
    Committed,
    Outcome,
    Save,
    SaveFailed,
    Uploaded,
    WriterSettings,
)
from finetune_trainer.checkpoint.retention import collect_orphans, tidy
from finetune_trainer.errors import StageFailure, describe
from finetune_trainer.orphans import die_with
from finetune_trainer.storage import Store, open_s3

_NICENESS = 5
_Work = Callable[[Store, WriterSettings, int], None]


class Signs:
    """Counts signs of life, in memory that the training reads when it likes: a pipe would fill while it does not."""

    def __init__(self, counter: c_uint64) -> None:
        self._counter = counter
        self._lock = threading.Lock()
        """Between the threads of an upload; it is not shared, for a killed uploader would leave it held."""

    def sent(self, size: int) -> None:
        """Count a piece, unless it is taken back; `size`: its bytes."""
        if size > 0:
            self.count()

    def count(self) -> None:
        """Count a sign."""
        with self._lock:
            self._counter.value += 1


def run_uploader(
    connection: Connection, counter: c_uint64, settings: WriterSettings, parent: int, log_fields: dict[str, Any]
) -> None:
    """Serve `Save` requests until None arrives or the parent is gone; answer each with its outcome.

    `counter` lies in memory that the parent reads: it goes up by one for each piece sent and each save ended.
    """
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_NICENESS)  # the training goes first
    log.bind(**log_fields)
    log.capture_library_logs()
    store = open_s3(settings.s3, settings.budget)
    if settings.rank == 0:
        _housekeeping("orphans-left", collect_orphans, store, settings, 0)
    signs = Signs(counter)
    while (save := _next(connection)) is not None:
        outcome = handle(store, settings, save, signs)
        signs.count()
        connection.send(outcome)
        if isinstance(outcome, Committed):
            _housekeeping("old-checkpoints-left", tidy, store, settings, outcome.step)


def handle(store: Store, settings: WriterSettings, save: Save, signs: Signs) -> Outcome:
    """Carry out one save; whatever goes wrong is the outcome, not an exception."""
    start = time.monotonic()
    try:
        outcome = _save(store, settings, save, signs)
    except StageFailure as failure:
        return SaveFailed(save.step, failure.message)
    except Exception as error:  # noqa: BLE001 - a failed save must never end the uploader, and by it the next saves
        log.exception("checkpoint-crashed", error, step=save.step)
        return SaveFailed(save.step, describe(error))
    finally:
        shutil.rmtree(save.directory, ignore_errors=True)
    if isinstance(outcome, Committed):
        seconds = round(time.monotonic() - start, 3)
        log.info("checkpoint-committed", step=save.step, bytes=outcome.ref.size_bytes, seconds=seconds)
    return outcome


def _save(store: Store, settings: WriterSettings, save: Save, signs: Signs) -> Outcome:
    upload_rank(store, settings, save, signs.sent)
    if settings.rank != 0:
        return Uploaded(save.step)
    files = gather_ranks(store, settings, save.step)
    commit = put_commit(store, settings, save, files)
    return Committed(save.step, checkpoint_ref(settings.layout, commit))


def _housekeeping(event: str, work: _Work, store: Store, settings: WriterSettings, step: int) -> None:
    try:
        work(store, settings, step)
    except StageFailure as failure:
        # It is done again after the next commit.
        log.warning(event, cause=failure.message)
    except Exception as error:  # noqa: BLE001 - what cannot be tidied up must not cost a checkpoint
        log.exception(event, error)


def _next(connection: Connection) -> Save | None:
    try:
        request: Save | None = connection.recv()
    except EOFError:
        return None
    return request
