"""The floor: plain Indexed Jobs under kube-controller-manager, one per job or three in sequence.

Nothing that makes its pods through Jobs can be faster or write less. Three in sequence have the pods of our three
stages: one, two, one. A minimal client creates the next Job when the one before is complete.
"""

import asyncio
import contextlib
import json
import multiprocessing
import ssl
from collections.abc import Iterator
from subprocess import Popen

import aiohttp

from finetune_loopback.controller_manager import running_controller_manager
from finetune_loopback.kube_client import KubeApi
from finetune_loopback.processes import die_with_parent
from operator_bench.audit import is_controller
from operator_bench.contender import HOME, Contender, Setting, grant
from operator_bench.kinds import BENCH_LABEL, JOB_MARKS, Object
from operator_bench.load import CONNECTIONS
from operator_bench.watching import watch_lines

DRIVER = "three-jobs-driver"
PODS = (1, 2, 1)
"""Pods of the three Jobs that stand for prepare, train and export."""
RIGHTS = [{"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create", "list", "watch"]}]


def plain_job(job: str, *, pods: int = 2, stage: int | None = None) -> Object:
    """Return an Indexed Job of so many pods; with a stage it is that one of three."""
    labels = {BENCH_LABEL: job}
    container = {"name": "trainer", "image": "registry.example/trainer:test"}
    template = {"metadata": {"labels": labels}, "spec": {"restartPolicy": "Never", "containers": [container]}}
    spec = {"completions": pods, "parallelism": pods, "completionMode": "Indexed", "backoffLimit": 0}
    name = job if stage is None else f"{job}-{stage}"
    metadata = {"name": name, "labels": labels}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {**spec, "template": template}}


def next_job(item: Object) -> Object | None:
    """Return the Job that follows one of three, or None after the last."""
    stage = int(item["metadata"]["name"].rpartition("-")[2])
    job = item["metadata"]["labels"][BENCH_LABEL]
    return plain_job(job, pods=PODS[stage], stage=stage + 1) if stage < len(PODS) else None


@contextlib.contextmanager
def _start(setting: Setting) -> Iterator["Popen[bytes]"]:
    directory = setting.directory / "controller-manager"
    with running_controller_manager(setting.api, directory, flags=setting.controller_flags) as process:
        yield process


@contextlib.contextmanager
def _driver(setting: Setting) -> Iterator[int]:
    grant(setting.api, HOME, DRIVER, RIGHTS)
    token = setting.api.token_for(HOME, DRIVER)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_drive, args=(setting.api, token), daemon=True, name=DRIVER)
    process.start()
    try:
        yield process.pid or 0
    finally:
        process.kill()
        process.join()


def _drive(api: KubeApi, token: str) -> None:
    die_with_parent()
    asyncio.run(_follow(api, token))


async def _follow(api: KubeApi, token: str) -> None:
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(api.ca_file)), limit=CONNECTIONS + 1)
    headers, timeout = {"Authorization": f"Bearer {token}"}, aiohttp.ClientTimeout(total=None)
    seen: set[str] = set()
    async with (
        asyncio.TaskGroup() as creating,
        aiohttp.ClientSession(api.url, connector=connector, headers=headers, timeout=timeout) as session,
    ):
        async for line in watch_lines(session, "/apis/batch/v1/jobs", labelSelector=BENCH_LABEL):
            following = _after(line, seen)
            if following:
                creating.create_task(_create(session, *following))


def _after(line: bytes, seen: set[str]) -> tuple[str, Object] | None:
    """Return the namespace and the Job that is due now that this one is complete."""
    if JOB_MARKS[0] not in line:
        return None
    item = json.loads(line)["object"]
    conditions = item["status"].get("conditions", [])
    complete = any(one["type"] == "Complete" and one["status"] == "True" for one in conditions)
    if not complete or item["metadata"]["uid"] in seen:
        return None
    seen.add(item["metadata"]["uid"])
    following = next_job(item)
    return (item["metadata"]["namespace"], following) if following else None


async def _create(session: aiohttp.ClientSession, namespace: str, job: Object) -> None:
    async with session.post(f"/apis/batch/v1/namespaces/{namespace}/jobs", json=job) as reply:
        reply.raise_for_status()


FLOOR = Contender(
    name="floor",
    kind_name="Job",
    body=plain_job,
    install=lambda setting: None,
    start=_start,
    is_writer=is_controller,
    is_controller_manager=True,
)
FLOOR3 = Contender(
    name="floor3",
    kind_name="ThreeJobs",
    body=lambda name: plain_job(name, pods=PODS[0], stage=1),
    install=lambda setting: None,
    start=_start,
    is_writer=lambda user: is_controller(user) or user.endswith(f":{DRIVER}"),
    is_controller_manager=True,
    driver=_driver,
)
