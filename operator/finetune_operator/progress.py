"""The progress server: where rank 0 of a training stage says how far it is.

    POST /v1/namespaces/{namespace}/jobs/{name}/progress    Authorization: Bearer <pod-bound token>
    GET  /healthz

Checks run from cheap to dear: kind and length of the body, token present, the token's own rate, whose token it is,
whether that pod may speak, and only then the body. A refusal takes its time and ends the connection, so that a client
that goes on costs next to nothing. Nothing of a refused request is kept, and nothing of it reaches the log but the
job's key and the cause. A sample lives in memory: the last word of a stage travels in its termination message, so a
sample that is lost costs ten seconds of freshness.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from http import HTTPStatus

from aiohttp import web
from pydantic import ValidationError

from finetune_api.stage import ProgressSample
from finetune_operator.log import job_fields
from finetune_operator.metrics import Metrics
from finetune_operator.progress_rules import Verdict, judge_pod, judge_sample
from finetune_operator.samples import Budgets, SampleBook
from finetune_operator.store import Store
from finetune_operator.tokens import PodIdentity, ReviewUnavailableError, TokenReviewer, digest_of
from finetune_operator.workqueue import Key

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PROGRESS_PATH = "/v1/namespaces/{namespace}/jobs/{name}/progress"
BODY_LIMIT = 64 * 1024
BODY_SECONDS = 10
TOKEN_LIMIT = 8192
PER_TOKEN_PER_SECOND = 2.0
PER_TOKEN_BURST = 20.0
TOKENS_KEPT = 10_000
REFUSAL_SECONDS = 1.0
CLOSE_SECONDS = 2.0
"""From a refusal to the hard end of its connection."""

logger = logging.getLogger(__name__)


class _RefusedRequestError(Exception):
    """Ends the handling of a request with a verdict."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.cause)
        self.verdict = verdict


class ProgressServer:
    """Handlers of the progress endpoint over a store, a token reviewer and a book of samples."""

    def __init__(
        self,
        *,
        store: Store,
        reviewer: TokenReviewer,
        samples: SampleBook,
        metrics: Metrics,
        is_ready: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        refusal_seconds: float = REFUSAL_SECONDS,
    ) -> None:
        self._is_ready = is_ready
        self._refusal_seconds = refusal_seconds
        self._store = store
        self._reviewer = reviewer
        self._samples = samples
        self._metrics = metrics
        self._rates = Budgets(per_second=PER_TOKEN_PER_SECOND, burst=PER_TOKEN_BURST, most=TOKENS_KEPT, clock=clock)

    def application(self) -> web.Application:
        """Return the web application."""
        app = web.Application(client_max_size=BODY_LIMIT, middlewares=[self._take_time])
        app.router.add_post(PROGRESS_PATH, self._post)
        app.router.add_get("/healthz", _healthz)
        return app

    @web.middleware
    async def _take_time(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer at once only to an accepted sample; take time for a refusal, and end its connection."""
        try:
            answer = await handler(request)
        except web.HTTPException as error:
            await self._cool_down(request, error)
            raise
        if answer.status != HTTPStatus.NO_CONTENT:
            await self._cool_down(request, answer)
        return answer

    async def _cool_down(self, request: web.Request, answer: web.StreamResponse) -> None:
        """Wait; what the client sent ahead on this connection is dropped with it.

        A close alone would wait for ever: asyncio's TLS does not end a connection whose reading is paused, as it is
        when more was sent ahead than is taken, once the client has hung up.
        """
        answer.force_close()
        await asyncio.sleep(self._refusal_seconds)
        if request.transport is not None:
            asyncio.get_running_loop().call_later(CLOSE_SECONDS, request.transport.abort)

    async def _post(self, request: web.Request) -> web.Response:
        key = Key(request.match_info["namespace"], request.match_info["name"])
        verdict = await self._judge(request, key)
        self._metrics.progress.labels(verdict.cause).inc()
        if verdict.status is HTTPStatus.NO_CONTENT:
            return web.Response(status=verdict.status)
        logger.debug("progress refused", extra=job_fields(*key, cause=verdict.cause))
        headers = {"Retry-After": "5"} if verdict.status in _RETRY else {}
        return web.json_response({"message": verdict.message}, status=verdict.status, headers=headers)

    async def _judge(self, request: web.Request, key: Key) -> Verdict:
        try:
            token = self._token(request)
            pod = await self._identify(token)
            allowed = judge_pod(self._store, key, pod)
            if allowed.status is not HTTPStatus.NO_CONTENT:
                return allowed
            sample = await _read_sample(request)
        except _RefusedRequestError as error:
            return error.verdict
        verdict = judge_sample(self._store, key, pod=pod, sample=sample)
        if verdict.status is HTTPStatus.NO_CONTENT:
            self._samples.put(key, uid=verdict.uid, sample=_received(sample))
        return verdict

    def _token(self, request: web.Request) -> str:
        """Return the bearer token of a request that is worth a look."""
        if request.content_type != "application/json" or "Content-Encoding" in request.headers:
            raise _RefusedRequestError(_WRONG_TYPE)
        if (request.content_length or 0) > BODY_LIMIT:
            raise _RefusedRequestError(_TOO_LARGE)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not 0 < len(token) <= TOKEN_LIMIT:
            raise _RefusedRequestError(_UNAUTHORIZED)
        if not self._is_ready():
            raise _RefusedRequestError(_UNAVAILABLE)
        if not self._rates.try_take(digest_of(token)):
            raise _RefusedRequestError(_TOO_MANY)
        return token

    async def _identify(self, token: str) -> PodIdentity:
        try:
            pod = await self._reviewer.identify(token)
        except ReviewUnavailableError as error:
            raise _RefusedRequestError(_UNAVAILABLE) from error
        if pod is None:
            raise _RefusedRequestError(_UNAUTHORIZED)
        return pod


async def _healthz(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")


def _received(sample: ProgressSample) -> ProgressSample:
    """Return the sample with the time of its receipt: silence is judged by it, and a node's clock may be wrong."""
    progress = sample.progress.model_copy(update={"last_update_time": datetime.now(UTC)})
    return sample.model_copy(update={"progress": progress})


async def _read_sample(request: web.Request) -> ProgressSample:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await request.read()
        return ProgressSample.model_validate_json(body)
    except web.HTTPRequestEntityTooLarge as error:
        raise _RefusedRequestError(_TOO_LARGE) from error
    except TimeoutError as error:
        raise _RefusedRequestError(_SLOW) from error
    except ValidationError as error:
        bad = Verdict(HTTPStatus.UNPROCESSABLE_ENTITY, "bad_body", _first_error(error))
        raise _RefusedRequestError(bad) from error


def _first_error(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}"


_TOO_LARGE = Verdict(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", f"a sample has at most {BODY_LIMIT} bytes")
_WRONG_TYPE = Verdict(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "bad_type", "send application/json, not encoded")
_SLOW = Verdict(HTTPStatus.REQUEST_TIMEOUT, "slow_body", "the body did not arrive in time")
_UNAUTHORIZED = Verdict(HTTPStatus.UNAUTHORIZED, "bad_token", "send the pod's projected token as bearer token")
_TOO_MANY = Verdict(HTTPStatus.TOO_MANY_REQUESTS, "too_many", "send at most two samples per second")
_UNAVAILABLE = Verdict(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", "not ready now; send it again")
_RETRY = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
