"""`CheckpointWriter`: the training process's end of its uploader."""

import multiprocessing
import os
import shutil
import time
from ctypes import c_uint64
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import NamedTuple

from finetune_trainer import log
from finetune_trainer.checkpoint.records import CommitMeta, Committed, Outcome, Save, SaveFailed, WriterSettings
from finetune_trainer.checkpoint.uploader import run_uploader

_SPAWN = multiprocessing.get_context("spawn")


class _Uploader(NamedTuple):
    process: SpawnProcess
    connection: Connection


class CheckpointWriter:
    """Hands finished folders to the uploader process; never blocks but in `drain` and `close`, never raises.

    One save is in flight at a time. All ranks must save the same steps: reduce `busy` over the ranks (maximum)
    and save only when no rank is busy. Use it from the main thread: the uploader dies with the thread that made it.
    The uploader starts at once, so that it is ready by the first save; one that died is replaced by the next save.
    """

    def __init__(self, settings: WriterSettings) -> None:
        self._settings = settings
        # No lock: one uploader at a time writes it, and eight bytes are read as a whole.
        self._counter = _SPAWN.RawValue(c_uint64)
        self._uploader: _Uploader | None = None
        self._in_flight: Save | None = None
        self._committed: list[Committed] = []
        self.skipped = 0
        self.failed = 0
        self.last_error = ""
        """Why the last failed save failed."""
        self._running()

    @property
    def signs(self) -> int:
        """Signs of life of the uploader so far: pieces sent and saves ended."""
        return self._counter.value

    @property
    def busy(self) -> bool:
        """Whether a save is in flight."""
        self._receive()
        return self._in_flight is not None

    def submit(self, step: int, directory: Path, meta: CommitMeta) -> bool:
        """Hand over a folder, which is deleted when it is saved, failed or skipped.

        Returns False, and counts it, when the save before is still in flight.
        """
        if self.busy:
            self.skipped += 1
            log.warning("checkpoint-skipped", step=step, cause="the save before is still in flight")
            shutil.rmtree(directory, ignore_errors=True)
            return False
        self._in_flight = Save(step, directory, meta)
        try:
            self._running().connection.send(self._in_flight)
        except OSError as error:
            self._fail(f"the uploader process is gone ({error})")
        return True

    def poll(self) -> list[Committed]:
        """Return the commits since the last call (rank 0 only); failures are counted in `failed`."""
        self._receive()
        committed, self._committed = self._committed, []
        return committed

    def drain(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for the save in flight; return whether none is."""
        deadline = time.monotonic() + timeout
        while self.busy and (left := deadline - time.monotonic()) > 0:
            uploader = self._running()
            wait([uploader.connection, uploader.process.sentinel], left)
        return not self.busy

    def close(self, timeout: float = 30) -> None:
        """End the uploader, at the latest after `timeout` seconds; drain first to keep the save in flight."""
        if self._uploader is None:
            return
        process, connection = self._uploader
        if not self.busy:
            try:
                connection.send(None)
                process.join(timeout)
            except OSError:
                log.warning("uploader-gone", exitCode=process.exitcode)
        process.kill()
        process.join()
        self._receive()
        self._discard()

    def _running(self) -> _Uploader:
        if self._uploader is None:
            ours, theirs = multiprocessing.Pipe()
            arguments = (theirs, self._counter, self._settings, os.getpid(), log.bound())
            process = _SPAWN.Process(target=run_uploader, args=arguments, daemon=True)
            process.start()
            # Only the child may hold its end, or its death would not be seen.
            theirs.close()
            self._uploader = _Uploader(process, ours)
        return self._uploader

    def _receive(self) -> None:
        if self._uploader is None:
            return
        process, connection = self._uploader
        # Asked first: what a process sent before it ended is then still found in the pipe.
        alive = process.is_alive()
        try:
            while connection.poll():
                self._take(connection.recv())
        except (EOFError, OSError):
            alive = False
        if not alive:
            self._discard()

    def _take(self, outcome: Outcome) -> None:
        if isinstance(outcome, SaveFailed):
            self._fail(outcome.message)
            return
        self._in_flight = None
        if isinstance(outcome, Committed):
            self._committed.append(outcome)

    def _discard(self) -> None:
        if self._uploader is not None:
            process, connection = self._uploader
            process.kill()
            process.join()
            connection.close()
            self._uploader = None
            if self._in_flight is not None:
                self._fail(f"the uploader process ended with exit code {process.exitcode}")

    def _fail(self, message: str) -> None:
        if self._in_flight is not None:
            self.failed += 1
            self.last_error = message
            log.error("checkpoint-failed", step=self._in_flight.step, cause=message, failed=self.failed)
            shutil.rmtree(self._in_flight.directory, ignore_errors=True)
            self._in_flight = None
