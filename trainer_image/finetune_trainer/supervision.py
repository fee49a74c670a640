"""Starts the workers of a pod, passes a stop on to them, and sees to it that all of them end."""

import asyncio
import os
import signal
from asyncio.subprocess import Process
from collections.abc import Iterable, Mapping, Sequence

from finetune_api.exitcodes import ExitCode
from finetune_api.stage import TERMINATION_LIMIT
from finetune_trainer import log
from finetune_trainer.workers import SIGNAL_BASE, Ended, Workers


async def supervise(workers: Workers) -> list[Ended]:
    """Start the workers and return how they ended, in order. SIGTERM is passed on to them."""
    workers.messages.mkdir(parents=True, exist_ok=True)
    # Inherited, so that a worker that cannot write its stacks yet does not die of being asked for them.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    ended: list[Ended] = []
    processes: dict[int, Process] = {}
    stopping = asyncio.Event()

    def pass_on_stop() -> None:
        log.info("stop-requested")
        stopping.set()
        _send(processes.values(), signal.SIGTERM)

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, pass_on_stop)
    watchers = []
    for rank in workers.ranks:
        processes[rank] = await _start(workers, rank)
        watchers.append(asyncio.create_task(_watch(rank, processes[rank], ended, stopping)))
        if stopping.is_set():
            _send([processes[rank]], signal.SIGTERM)
    guard = asyncio.create_task(_enforce_stop(stopping, workers, processes))
    try:
        await _until_all_ended(watchers, ended, workers, processes)
    finally:
        guard.cancel()
    return ended


async def _start(workers: Workers, rank: int) -> Process:
    # As long as a last word can be, so that there is room for it on a disk that is full by then.
    workers.message_file(rank).write_bytes(b" " * TERMINATION_LIMIT)
    environment: Mapping[str, str] = {**os.environ, **workers.environment(rank)}
    return await asyncio.create_subprocess_exec(*workers.command, env=environment)


async def _watch(rank: int, process: Process, ended: list[Ended], stopping: asyncio.Event) -> None:
    code = await process.wait()
    if code == -signal.SIGTERM and stopping.is_set():
        code = ExitCode.STOPPED  # it had not got as far as to handle the signal
    worker = Ended(rank, code if code >= 0 else SIGNAL_BASE - code)
    ended.append(worker)
    log.info("worker-ended", workerRank=rank, exitCode=worker.code)


async def _until_all_ended(
    watchers: Sequence[asyncio.Task[None]], ended: Sequence[Ended], workers: Workers, processes: Mapping[int, Process]
) -> None:
    pending = set(watchers)
    while pending and not any(worker.failed for worker in ended):
        _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    if pending:
        _, pending = await asyncio.wait(pending, timeout=workers.failure_grace)
    if pending:
        await _kill(processes, workers.stacks_grace, "another worker failed")
        await asyncio.wait(pending)


async def _enforce_stop(stopping: asyncio.Event, workers: Workers, processes: Mapping[int, Process]) -> None:
    await stopping.wait()
    await asyncio.sleep(workers.stop_grace - workers.stacks_grace)
    await _kill(processes, workers.stacks_grace, f"they did not stop within {workers.stop_grace:.0f} s")


async def _kill(processes: Mapping[int, Process], pause: float, cause: str) -> None:
    """End the workers that are left; before, each writes into the log where its threads stand."""
    left = {rank: process for rank, process in processes.items() if process.returncode is None}
    for rank, process in left.items():
        # One after the other: they write into the same log, and not in one piece.
        log.warning("stacks-requested", cause=cause, workerRank=rank)
        _send([process], signal.SIGUSR1)
        await asyncio.sleep(pause / len(left))
    log.warning("workers-killed", cause=cause, workerRanks=list(left))
    _send(processes.values(), signal.SIGKILL)


def _send(processes: Iterable[Process], number: int) -> None:
    for process in processes:
        if process.returncode is None:
            process.send_signal(number)
