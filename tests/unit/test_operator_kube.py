"""The client against an API server that answers everything an API server can answer."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from finetune_operator.backpressure import LONGEST_SECONDS, Backpressure
from finetune_operator.errors import (
    ConflictError,
    GoneError,
    HeldBackError,
    LeaseLostError,
    NotFoundError,
    RefusedError,
    TransientError,
)
from finetune_operator.handlers import kopf_settings
from finetune_operator.kinds import FINE_TUNE_JOB, JOB, LEASE, POD
from finetune_operator.kube import CHUNK, Kube, ListQuery
from finetune_operator.metrics import Metrics

Answer = Callable[[web.Request], web.Response]


class ApiServer:
    """Answers requests from a list, in order, and keeps what was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.asked: list[tuple[str, str, dict[str, str], dict[str, str], Any]] = []

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        parsed = json.loads(body) if body else None
        self.asked.append((request.method, request.path, dict(request.query), dict(request.headers), parsed))
        return self.answers.pop(0)(request)


def say(status: int, body: Any = None, **headers: str) -> Answer:
    return lambda _: web.json_response(body if body is not None else {}, status=status, headers=headers)


def sorry(status: int, message: str, **headers: str) -> Answer:
    return say(status, {"kind": "Status", "message": message}, **headers)


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    server = ApiServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    test_server = TestServer(app)
    await test_server.start_server()
    server.url = str(test_server.make_url("/"))  # type: ignore[attr-defined]
    yield server
    await test_server.close()


@pytest.fixture
def token_file(api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that writes the kubeconfig with another token."""
    path = tmp_path / "config"
    monkeypatch.setenv("KUBECONFIG", str(path))

    def write(token: str) -> None:
        config = {
            "clusters": [{"name": "c", "cluster": {"server": api.url}}],  # type: ignore[attr-defined]
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path.write_text(json.dumps(config))

    write("first")
    return write


@pytest.fixture
async def kube(token_file: object) -> AsyncIterator[Kube]:
    async with Kube(kopf_settings(), connections=2, metrics=Metrics()) as client:
        yield client


PODS = {"items": [{"n": 1}], "metadata": {"resourceVersion": "7", "continue": "more"}}
REST = {"items": [{"n": 2}], "metadata": {"resourceVersion": "7"}}


async def test_a_list_is_read_in_chunks_of_one_version(api: ApiServer, kube: Kube) -> None:
    api.answers = [say(200, PODS), say(200, REST)]
    pages = [page async for page in kube.pages(POD, ListQuery("ns", "a=b"))]
    assert [([item["n"] for item in page.items], page.version) for page in pages] == [([1], 7), ([2], 7)]
    assert [asked[1] for asked in api.asked] == ["/api/v1/namespaces/ns/pods"] * 2
    assert api.asked[0][2] == {"labelSelector": "a=b", "limit": str(CHUNK)}
    assert api.asked[1][2]["continue"] == "more"


async def test_a_list_may_be_selected_by_fields(api: ApiServer, kube: Kube) -> None:
    api.answers = [say(200, REST)]
    [page async for page in kube.pages(FINE_TUNE_JOB, ListQuery(fields="status.phase!=Failed"))]
    assert api.asked[0][2]["fieldSelector"] == "status.phase!=Failed"


async def test_a_list_whose_version_expired_between_chunks_says_so(api: ApiServer, kube: Kube) -> None:
    api.answers = [say(200, PODS), sorry(410, "expired")]
    with pytest.raises(GoneError, match="expired"):
        [page async for page in kube.pages(POD, ListQuery())]


async def test_api_versions_are_those_of_every_group(api: ApiServer, kube: Kube) -> None:
    batch = {"name": "batch", "versions": [{"groupVersion": "batch/v1"}, {"groupVersion": "batch/v1beta1"}]}
    api.answers = [say(200, {"groups": [batch, {"name": "apps", "versions": [{"groupVersion": "apps/v1"}]}]})]

    assert await kube.api_versions() == {"batch/v1", "batch/v1beta1", "apps/v1"}
    assert api.asked[0][:2] == ("GET", "/apis")


async def test_an_apply_names_its_manager_and_its_content(api: ApiServer, kube: Kube) -> None:
    api.answers = [say(200, {"ok": True})]
    manifest = {"metadata": {"namespace": "ns", "name": "tune"}, "status": {}}
    assert await kube.apply(FINE_TUNE_JOB, manifest, subresource="status") == {"ok": True}
    method, path, query, headers, body = api.asked[0]
    assert (method, path) == ("PATCH", "/apis/finetune-operator.io/v1alpha1/namespaces/ns/finetunejobs/tune/status")
    assert query == {"fieldManager": "finetune-operator", "force": "true", "fieldValidation": "Strict"}
    assert headers["Content-Type"] == "application/apply-patch+yaml"
    assert body == manifest


async def test_a_delete_is_of_one_uid_and_a_gone_object_is_fine(api: ApiServer, kube: Kube) -> None:
    api.answers = [say(200), sorry(404, "not found"), sorry(409, "uid differs, or written at the same moment")]
    for _ in range(2):
        await kube.delete(JOB, namespace="ns", name="tune-a1", uid="u")
    with pytest.raises(ConflictError):
        await kube.delete(JOB, namespace="ns", name="tune-a1", uid="u")
    assert api.asked[0][4] == {"propagationPolicy": "Background", "preconditions": {"uid": "u"}}


@pytest.mark.parametrize(
    ("answer", "error", "wait"),
    [
        (sorry(404, "no such thing"), NotFoundError, 0),
        (sorry(409, "exists"), ConflictError, 0),
        (sorry(403, "exceeded quota"), RefusedError, 0),
        (sorry(422, "invalid"), RefusedError, 0),
        (sorry(400, "strict decoding"), RefusedError, 0),
        (sorry(429, "slow down", **{"Retry-After": "7"}), TransientError, 7),
        (sorry(503, "overloaded", **{"Retry-After": "soon"}), TransientError, 0),
        (sorry(500, "etcd"), TransientError, 0),
        (lambda _: web.Response(status=502, text="<html>bad gateway"), TransientError, 0),
        (lambda _: web.Response(status=200, text="<html>log in"), TransientError, 0),
    ],
)
async def test_every_answer_is_one_of_two_errors(
    api: ApiServer, kube: Kube, answer: Answer, error: type[Exception], wait: float
) -> None:
    api.answers = [answer]
    with pytest.raises(error) as caught:
        await kube.get(POD, namespace="ns", name="p")
    assert type(caught.value) is error
    assert caught.value.retry_after == wait
    assert "get /api/v1/namespaces/ns/pods/p" in str(caught.value)


async def test_the_api_servers_words_are_in_the_error(api: ApiServer, kube: Kube) -> None:
    api.answers = [sorry(403, "exceeded quota: none")]
    with pytest.raises(RefusedError, match="exceeded quota: none"):
        await kube.create(JOB, {"metadata": {"namespace": "ns", "name": "j"}})


async def test_a_renewed_token_is_read_again_after_a_refusal(
    api: ApiServer, kube: Kube, token_file: Callable[[str], None]
) -> None:
    api.answers = [say(200), sorry(401, "expired"), say(200)]
    await kube.get(POD, namespace="ns", name="p")
    token_file("second")
    await kube.get(POD, namespace="ns", name="p")
    assert [asked[3]["Authorization"] for asked in api.asked] == ["Bearer first", "Bearer first", "Bearer second"]


async def test_a_token_that_stays_refused_is_tried_twice_and_then_later(api: ApiServer, kube: Kube) -> None:
    api.answers = [sorry(401, "no"), sorry(401, "no")]
    with pytest.raises(TransientError):
        await kube.get(POD, namespace="ns", name="p")
    assert len(api.asked) == 2


async def test_a_server_that_is_not_there_is_transient(kube: Kube) -> None:
    kube._server = "http://127.0.0.1:1"
    with pytest.raises(TransientError, match="list /api/v1/pods: ClientConnectorError"):
        await anext(kube.pages(POD, ListQuery()))


async def test_without_the_lease_nothing_is_written_but_reads_and_the_lease_itself_go_on(
    api: ApiServer, kube: Kube
) -> None:
    kube.write_guard = lambda: False
    manifest = {"metadata": {"namespace": "ns", "name": "x"}}
    for write in (
        lambda: kube.apply(FINE_TUNE_JOB, manifest),
        lambda: kube.create(JOB, manifest),
        lambda: kube.replace(JOB, manifest),
        lambda: kube.delete(JOB, namespace="ns", name="x", uid="u"),
    ):
        with pytest.raises(LeaseLostError):
            await write()
    assert api.asked == []
    api.answers = [say(200), say(201)]
    await kube.get(POD, namespace="ns", name="p")
    await kube.create(LEASE, manifest)
    assert len(api.asked) == 2


@pytest.mark.parametrize("status", [429, 503])
async def test_a_request_to_wait_holds_for_every_call_of_that_verb_and_kind(
    api: ApiServer, kube: Kube, status: int
) -> None:
    now = [0.0]
    kube._pressure = Backpressure(lambda: now[0])
    api.answers = [sorry(status, "slow down", **{"Retry-After": "5"}), say(200, {}), say(200, {})]
    for moment, left in ((0.0, 5), (1.5, 3.5), (4.9, 0.1)):
        now[0] = moment
        with pytest.raises(HeldBackError if moment else TransientError) as told:
            await kube.get(JOB, namespace="ns", name=f"at-{moment}")
        assert told.value.retry_after == pytest.approx(left)
    assert len(api.asked) == 1
    await kube.get(POD, namespace="ns", name="of-another-kind")
    now[0] = 5.0
    await kube.get(JOB, namespace="ns", name="later")
    assert [path.rpartition("/")[2] for _, path, *_ in api.asked] == ["at-0.0", "of-another-kind", "later"]


async def test_a_lease_is_renewed_in_spite_of_a_request_to_wait(api: ApiServer, kube: Kube) -> None:
    api.answers = [sorry(429, "slow down", **{"Retry-After": "60"}), say(200, {})]
    with pytest.raises(TransientError):
        await kube.get(LEASE, namespace="ns", name="l")
    await kube.get(LEASE, namespace="ns", name="l")


def test_nobody_can_ask_us_to_wait_for_hours() -> None:
    pressure = Backpressure(lambda: 0.0)
    pressure.note("apply", "FineTuneJob", seconds=86400)
    pressure.note("apply", "FineTuneJob", seconds=1)
    assert pressure.seconds_left("apply", "FineTuneJob") == LONGEST_SECONDS
    assert pressure.seconds_left("create", "FineTuneJob") == 0
