"""The progress server over HTTP: the table of refusals, and what is kept of an accepted sample."""

import gzip
import json
import time
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

from finetune_loopback.kube_objects import raw_child_job, raw_job, raw_pod
from finetune_operator.kinds import FINE_TUNE_JOB, JOB, POD
from finetune_operator.metrics import Metrics
from finetune_operator.progress import BODY_LIMIT, PER_TOKEN_BURST, ProgressServer
from finetune_operator.samples import SampleBook
from finetune_operator.store import Store
from finetune_operator.tokens import PodIdentity, ReviewUnavailableError
from finetune_operator.workqueue import Key, WorkQueue

KEY = Key("ns", "tune")
PATH = "/v1/namespaces/ns/jobs/tune/progress"
TRAIN_POD = PodIdentity(namespace="ns", name="tune-a2-0-abcde", uid="p-now")
SAMPLE = {"attempt": 2, "progress": {"step": 5, "totalSteps": 10, "loss": 1.25}}


class KnownTokens:
    """Stands for the API server's reviews: token text to pod."""

    def __init__(self) -> None:
        self.pods: dict[str, PodIdentity | None] = {"good": TRAIN_POD}
        self.asked = 0

    async def identify(self, token: str) -> PodIdentity | None:
        self.asked += 1
        if token == "unavailable":
            raise ReviewUnavailableError("api server is down")
        return self.pods.get(token)


class Desk:
    """A served progress endpoint and everything behind it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.is_ready = True
        self.store = Store()
        self.tokens = KnownTokens()
        self.metrics = Metrics()
        self.queue = WorkQueue(self)  # the clock is set by hand
        self.samples = SampleBook(self.queue, clock=self.time)
        self._fill()

    def time(self) -> float:
        return self.now

    def call_later(self, *_: Any) -> None:
        return None

    def _fill(self) -> None:
        self.store.put(FINE_TUNE_JOB, raw_job(attempt=2, phase="Running"))
        now, before = raw_child_job(attempt=2, uid="j2"), raw_child_job(attempt=1, uid="j1")
        prepare = raw_child_job(stage="prepare", uid="j0")
        foreign = raw_child_job("tune", attempt=9, uid="j9", owner_uid="another-job")
        for job in (now, before, prepare, foreign):
            self.store.put(JOB, job)
        pods = {"good": now, "stale": before, "prepare": prepare, "foreign-owner": foreign}
        for token, job in pods.items():
            self._know(token, raw_pod(job, uid="p-now" if token == "good" else f"p-{token}"))
        self._know("index-1", raw_pod(now, index=1, uid="p-1"))

    def _know(self, token: str, pod: dict[str, Any]) -> None:
        self.store.put(POD, pod)
        meta = pod["metadata"]
        self.tokens.pods[token] = PodIdentity(namespace="ns", name=meta["name"], uid=meta["uid"])

    def server(self) -> ProgressServer:
        return ProgressServer(
            store=self.store,
            reviewer=self.tokens,
            samples=self.samples,
            metrics=self.metrics,
            is_ready=lambda: self.is_ready,
            clock=self.time,
            refusal_seconds=0.0,
        )

    def counted(self, cause: str) -> float:
        value = self.metrics.registry.get_sample_value("finetune_operator_progress_samples_total", {"verdict": cause})
        return value or 0.0


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
async def url(desk: Desk) -> AsyncIterator[str]:
    server = TestServer(desk.server().application())
    await server.start_server()
    yield str(server.make_url(""))
    await server.close()


async def post(
    url: str,
    *,
    token: str | None = "good",  # noqa: S107 - not a password
    path: str = PATH,
    body: Any = SAMPLE,
    kind: str = "application/json",
    **more: str,
) -> tuple[int, dict[str, Any]]:
    headers = {"Content-Type": kind, **more} | ({"Authorization": f"Bearer {token}"} if token is not None else {})
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with ClientSession() as session, session.post(url + path, data=data, headers=headers) as answer:
        text = await answer.text()
        return answer.status, json.loads(text) if text else {}


async def test_an_accepted_sample_is_kept_and_marks_the_job_dirty(desk: Desk, url: str) -> None:
    assert await post(url) == (HTTPStatus.NO_CONTENT, {})
    newest = desk.samples.get(KEY, uid="u1")
    assert newest is not None
    assert (newest.progress.step, newest.progress.loss) == (5, 1.25)
    assert desk.queue.depth() == 1
    assert desk.counted("accepted") == 1


NAN = b'{"attempt": 2, "progress": {"loss": NaN}}'
INFINITE = b'{"attempt": 2, "progress": {"loss": 1e999}}'
REFUSALS = [
    ("no token", {"token": None}, 401, "bad_token"),
    ("empty token", {"token": ""}, 401, "bad_token"),
    ("long token", {"token": "x" * 7000}, 401, "bad_token"),
    ("unknown token", {"token": "made-up"}, 401, "bad_token"),
    ("review not possible", {"token": "unavailable"}, 503, "unavailable"),
    ("unknown job", {"path": "/v1/namespaces/ns/jobs/other/progress"}, 404, "unknown_job"),
    ("unknown namespace", {"path": "/v1/namespaces/elsewhere/jobs/tune/progress"}, 404, "unknown_job"),
    ("pod of a prepare stage", {"token": "prepare"}, 403, "wrong_index"),
    ("pod with another index", {"token": "index-1"}, 403, "wrong_index"),
    ("pod below another object", {"token": "foreign-owner"}, 403, "foreign_pod"),
    ("pod of an earlier attempt", {"token": "stale", "body": {**SAMPLE, "attempt": 1}}, 409, "stale_attempt"),
    ("sample of an earlier attempt", {"body": {**SAMPLE, "attempt": 1}}, 409, "stale_attempt"),
    ("sample of a later attempt", {"body": {**SAMPLE, "attempt": 3}}, 409, "stale_attempt"),
    ("not JSON", {"body": b"{"}, 422, "bad_body"),
    ("NaN", {"body": NAN}, 422, "bad_body"),
    ("infinity", {"body": INFINITE}, 422, "bad_body"),
    (
        "a step that etcd cannot hold",
        {"body": {**SAMPLE, "progress": {"step": 2**63, "totalSteps": 1}}},
        422,
        "bad_body",
    ),
    (
        "a time without a zone",
        {"body": {**SAMPLE, "progress": {"lastUpdateTime": "2026-01-01T00:00:00"}}},
        422,
        "bad_body",
    ),
    (
        "a time beyond all",
        {"body": {**SAMPLE, "progress": {"lastUpdateTime": "9999-12-31T23:59:59Z"}}},
        422,
        "bad_body",
    ),
    ("unknown field", {"body": {**SAMPLE, "more": 1}}, 422, "bad_body"),
    ("missing field", {"body": {"attempt": 2}}, 422, "bad_body"),
    ("empty body", {"body": b""}, 422, "bad_body"),
    ("nested too deep", {"body": b'{"progress": ' + b"[" * 30_000}, 422, "bad_body"),
    ("not an object", {"body": b"[1]"}, 422, "bad_body"),
    ("a form", {"kind": "application/x-www-form-urlencoded"}, 415, "bad_type"),
    ("compressed", {"Content-Encoding": "gzip", "body": gzip.compress(b" " * 10_000_000)}, 415, "bad_type"),
    ("too large", {"body": b"x" * (BODY_LIMIT + 1)}, 413, "too_large"),
]


@pytest.mark.parametrize(("case", "request_", "status", "cause"), REFUSALS, ids=[row[0] for row in REFUSALS])
async def test_refusals(desk: Desk, url: str, case: str, request_: dict[str, Any], status: int, cause: str) -> None:
    answer, body = await post(url, **request_)
    assert (answer, bool(body.get("message"))) == (status, True), case
    assert desk.counted(cause) == 1
    assert desk.samples.get(KEY, uid="u1") is None
    assert desk.queue.depth() == 0


async def test_a_pod_made_anew_under_the_same_name_is_not_the_one_the_token_was_made_for(
    desk: Desk, url: str
) -> None:
    desk.tokens.pods["good"] = PodIdentity(namespace="ns", name=TRAIN_POD.name, uid="p-before")
    assert (await post(url))[0] == 403


async def test_a_pod_of_another_namespace_may_not_speak(desk: Desk, url: str) -> None:
    desk.tokens.pods["good"] = PodIdentity(namespace="theirs", name=TRAIN_POD.name, uid=TRAIN_POD.uid)
    assert (await post(url))[0] == 403


async def test_a_body_that_grows_beyond_its_bound_without_saying_so_is_refused(desk: Desk, url: str) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 8192

    async with ClientSession() as session:
        headers = {"Authorization": "Bearer good", "Content-Type": "application/json"}
        async with session.post(url + PATH, data=chunks(), headers=headers) as answer:
            assert answer.status == 413
    assert desk.counted("too_large") == 1


async def test_a_job_that_has_ended_takes_no_progress(desk: Desk, url: str) -> None:
    desk.store.put(FINE_TUNE_JOB, raw_job(version=2, attempt=2, phase="Failed"))
    assert (await post(url))[0] == 409


async def test_a_replica_that_is_not_ready_asks_to_come_back_and_reviews_nothing(desk: Desk, url: str) -> None:
    desk.is_ready = False
    assert (await post(url))[0] == 503
    assert desk.tokens.asked == 0


async def test_one_tokens_rate_is_bounded_before_it_is_reviewed(desk: Desk, url: str) -> None:
    answers = [(await post(url))[0] for _ in range(int(PER_TOKEN_BURST) + 2)]
    assert answers[-2:] == [429, 429]
    assert answers.count(204) == PER_TOKEN_BURST
    assert desk.tokens.asked == PER_TOKEN_BURST
    desk.now += 1
    assert (await post(url))[0] == 204


async def test_healthz_needs_no_token(url: str) -> None:
    async with ClientSession() as session, session.get(f"{url}/healthz") as answer:
        assert answer.status == 200


async def test_a_refusal_takes_its_time_and_an_accepted_sample_does_not(desk: Desk) -> None:
    server = desk.server()
    server._refusal_seconds = 0.3
    running = TestServer(server.application())
    await running.start_server()
    times = []
    for token in ("good", "made-up"):
        began = time.monotonic()
        await post(str(running.make_url("")), token=token)
        times.append(time.monotonic() - began)
    await running.close()
    assert times[0] < 0.3 <= times[1]
