"""Watches pods and jobs from a process of its own, and notes when each job's first pod and its end were seen.

Of the tens of thousands of events only new pods and ended jobs are parsed, so that the observer takes little of the
processor that the contenders compete for. It is the same for all of them.
"""

import asyncio
import contextlib
import json
import multiprocessing
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from subprocess import Popen

import aiohttp

from bench_harness.errors import BenchError
from finetune_loopback.kube_client import KubeApi
from finetune_loopback.processes import die_with_parent
from operator_bench.kinds import KINDS, Kind
from operator_bench.watching import watch_lines

ADDED = b'{"type":"ADDED"'
START_SECONDS = 30
LOOK_SECONDS = 1.0


@dataclass
class Sightings:
    """Moments on the clock of time.monotonic(), by the job's name."""

    first_pod: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    pods: int = 0


class Observer:
    """A running observer process."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def await_end(self, seconds: float, contender: "Popen[bytes]") -> Sightings:
        """Return what was seen once every job has ended.

        Raises BenchError when that takes too long, or when the contender ends first.
        """
        deadline = time.monotonic() + seconds
        while not self._connection.poll(LOOK_SECONDS):
            if contender.poll() is not None:
                raise BenchError(f"the contender has ended with {contender.returncode} while its jobs ran")
            if time.monotonic() > deadline:
                raise BenchError(f"not all jobs have ended after {seconds:g} s")
        return _received(self._connection)


@contextlib.contextmanager
def observing(api: KubeApi, kind: str, *, namespace: str, jobs: int) -> Iterator[Observer]:
    """Watch a namespace until `jobs` jobs of a kind have ended; the watches are open when this is entered."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = (theirs, api, kind, namespace, jobs)
    process = context.Process(target=_main, args=arguments, daemon=True, name="observer")
    process.start()
    theirs.close()
    try:
        if not ours.poll(START_SECONDS):
            raise BenchError(f"the observer does not watch after {START_SECONDS} s")
        ours.recv()
        yield Observer(ours)
    finally:
        process.kill()
        process.join()


def _received(connection: Connection) -> Sightings:
    try:
        sightings: Sightings = connection.recv()
    except EOFError:
        raise BenchError("the observer has ended: see its traceback above") from None
    return sightings


def _main(connection: Connection, api: KubeApi, kind: str, namespace: str, jobs: int) -> None:
    die_with_parent()
    asyncio.run(_observe(connection, api, KINDS[kind], namespace=namespace, jobs=jobs))


async def _observe(connection: Connection, api: KubeApi, kind: Kind, *, namespace: str, jobs: int) -> None:
    seen, opened, all_began = Sightings(), asyncio.Barrier(3), asyncio.Event()
    headers = {"Authorization": f"Bearer {api.admin_token}"}
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(api.ca_file)))
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(api.url, connector=connector, headers=headers, timeout=timeout) as session:
        path = f"/api/v1/namespaces/{namespace}/pods"
        pods = watch_lines(session, path, opened=opened.wait, labelSelector=kind.pod_label)
        ends = watch_lines(session, kind.collection(namespace), opened=opened.wait)
        async with asyncio.TaskGroup() as group:
            noting = group.create_task(_note_pods(pods, kind, seen, jobs=jobs, all_began=all_began))
            ending = group.create_task(_note_ends(ends, kind, seen, jobs=jobs))
            await opened.wait()
            connection.send("watching")
            await asyncio.gather(ending, all_began.wait())  # the watch of the pods may lag behind
            noting.cancel()
    connection.send(seen)


async def _note_pods(
    lines: AsyncIterator[bytes], kind: Kind, seen: Sightings, *, jobs: int, all_began: asyncio.Event
) -> None:
    async for line in lines:
        if line.startswith(ADDED):
            labels = json.loads(line)["object"]["metadata"]["labels"]
            seen.first_pod.setdefault(labels[kind.pod_label], time.monotonic())
            seen.pods += 1
            if len(seen.first_pod) == jobs:
                all_began.set()


async def _note_ends(lines: AsyncIterator[bytes], kind: Kind, seen: Sightings, *, jobs: int) -> None:
    async for line in lines:
        if not any(mark in line for mark in kind.marks):
            continue
        item = json.loads(line)["object"]
        name, outcome = kind.job_of(item), kind.outcome(item)
        if name is None or outcome is None or name in seen.ended:
            continue
        seen.ended[name] = time.monotonic()
        if outcome == "Failed":
            seen.failed.append(name)
        if len(seen.ended) == jobs:
            return
