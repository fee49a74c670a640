"""The order of starting and ending.

Start: probes, then the Lease (a standby waits here, watching and writing nothing, and passes progress on to the
leader), then the progress server, the workers and the loops, and kopf last, because at its end kopf cancels every
task that was born after it. Its startup handler fills the store before a watch is opened; the workers wait for that.

End on SIGTERM: no new key is taken, passes under way may finish, the Lease is given back, kopf stops. A lost Lease
ends the process at once, without any of that: another replica may be writing already. Anything that was meant to
live for ever and ended ends the process with an error, since half an operator looks healthy and is not.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from typing import Any, NoReturn

import kopf
from aiohttp import web

from finetune_operator.handlers import NoMemories, build_registry
from finetune_operator.health import probe_application
from finetune_operator.listener import Site
from finetune_operator.replica import Replica
from finetune_operator.settings import Settings
from finetune_operator.worker import Worker

DRAIN_SECONDS = 10.0
KOPF_SECONDS = 8.0

Task = asyncio.Task[Any]

logger = logging.getLogger(__name__)


async def run(settings: Settings) -> int:
    """Run one replica until it is told to stop; return the exit code."""
    replica = Replica(settings)
    _stop_on_signals(replica.stop)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(replica.kube)
        await stack.enter_async_context(replica.lease_kube)
        probes = await _serve(probe_application(replica.health, replica.metrics), port=settings.probe_port)
        stack.push_async_callback(probes.cleanup)
        async with _standing_by(replica):
            acquired = await _acquired(replica)
        if not acquired:
            return 0
        return await _lead(replica, probes=probes)


@contextlib.asynccontextmanager
async def _standing_by(replica: Replica) -> AsyncIterator[None]:
    watching = asyncio.create_task(replica.certificate.watch(lambda: None), name="certificate")
    try:
        async with replica.standby().serving(port=replica.settings.progress_port):
            yield
    finally:
        watching.cancel()


async def _acquired(replica: Replica) -> bool:
    acquiring = asyncio.create_task(replica.leader.acquire(), name="acquire")
    stopping = asyncio.create_task(replica.stop.wait(), name="stop")
    await asyncio.wait({acquiring, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if acquiring.done():
        stopping.cancel()
        acquiring.result()
        return True
    acquiring.cancel()
    return False


async def _lead(replica: Replica, *, probes: web.AppRunner) -> int:
    settings = replica.settings
    server = replica.progress_server().application()
    progress = Site(server)
    await progress.start(port=settings.progress_port, context=replica.certificate.context)
    worker = replica.worker()
    keeping = asyncio.create_task(replica.leader.keep(), name="keep the Lease")
    workers = {asyncio.create_task(_work(replica, worker), name="worker") for _ in range(settings.workers)}
    loops = _loops(replica)
    stopping = asyncio.create_task(replica.stop.wait(), name="stop")
    kopf_stop, kopf_task, watches = await _start_kopf(replica)
    ended, _ = await asyncio.wait(
        {stopping, keeping, kopf_task, *watches, *workers, *loops}, return_when=asyncio.FIRST_COMPLETED
    )
    if keeping in ended or not replica.leader.holds():
        _die("the Lease is lost; another replica may be writing")
    code = 0 if replica.stop.is_set() else _report(ended, replica)
    await asyncio.gather(progress.cleanup(), probes.cleanup())
    await _drain(replica, workers)
    _cancel({keeping, stopping, *loops})
    await replica.leader.release()
    kopf_stop.set()
    _, hanging = await asyncio.wait({kopf_task}, timeout=KOPF_SECONDS)
    logger.info("ended", extra={"fields": {"code": code}})
    if hanging:  # asyncio would wait for kopf, which waits for a watch that logs in for ever
        _exit(code)
    return code


def _loops(replica: Replica) -> set[Task]:
    async def relist() -> None:
        await replica.primed.wait()
        await replica.lister.relist_forever(replica.settings.relist_seconds)

    def renew_pod_settings() -> None:
        replica.observer.settings = replica.pod_settings()

    return {
        asyncio.create_task(relist(), name="relist"),
        asyncio.create_task(replica.certificate.watch(renew_pod_settings), name="certificate"),
        asyncio.create_task(replica.discovery.refresh_forever(renew_pod_settings), name="discovery"),
    }


async def _work(replica: Replica, worker: Worker) -> None:
    await replica.primed.wait()
    await worker.run()


async def _start_kopf(replica: Replica) -> tuple[asyncio.Event, Task, set[Task]]:
    """Start kopf's tasks; return the event that stops them, the task that waits for all, and all of them.

    One that ends is the end of kopf, which may take long to see to the others: without a watch nothing is to be done.
    """
    before = asyncio.all_tasks()
    stop = asyncio.Event()
    namespaces = replica.settings.watch_namespaces
    tasks = await kopf.spawn_tasks(
        registry=build_registry(
            store=replica.store, queue=replica.queue, prime=replica.prime, compare=replica.lister.ask
        ),
        settings=replica.kopf_settings,
        memories=NoMemories(),
        identity=replica.settings.pod_name,  # kopf's own guess asks for the user's name, which an image's uid lacks
        clusterwide=not namespaces,
        namespaces=namespaces,
        stop_flag=stop,
    )
    _stop_on_signals(replica.stop)  # again: kopf has just installed handlers of its own
    return stop, asyncio.create_task(kopf.run_tasks(tasks, ignored=before), name="kopf"), set(tasks)


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


async def _serve(app: web.Application, *, port: int) -> web.AppRunner:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner


async def _drain(replica: Replica, workers: Iterable[Task]) -> None:
    replica.queue.close()
    _, slow = await asyncio.wait(workers, timeout=DRAIN_SECONDS if replica.primed.is_set() else 0.0)
    _cancel(slow)


def _cancel(tasks: Iterable[Task]) -> None:
    for task in tasks:
        task.cancel()


def _report(ended: Iterable[Task], replica: Replica) -> int:
    replica.health.workers_alive = False
    for task in ended:
        error = None if task.cancelled() else task.exception()
        logger.critical("%s has ended; so does the process", task.get_name(), exc_info=error)
    return 1


def _die(why: str) -> NoReturn:
    logger.critical(why)
    _exit(1)


def _exit(code: int) -> NoReturn:
    sys.stdout.flush()
    os._exit(code)
