"""Client of the Kubernetes API: plain dicts over one aiohttp session.

A generated client would validate each object it reads against its own models, at ten times the CPU of `json.loads`;
this one knows six verbs. It holds at most as many connections as there are workers, gives up after 30 seconds, and
raises one of two errors: `TransientError` (try again later) or `RefusedError` (the API server says no).
A request to wait (Retry-After) holds for every caller: until it is over, calls of that verb and kind are not sent.
`write_guard` is asked before each write: a replica that has lost its Lease must not send another one.
"""

import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple, Self

import aiohttp
import kopf

from finetune_operator.backpressure import Backpressure
from finetune_operator.errors import HeldBackError, LeaseLostError, NotFoundError, Reply, TransientError
from finetune_operator.kinds import API_GROUP_LIST, LEASE, TOKEN_REVIEW, Kind
from finetune_operator.login import Headers, log_in
from finetune_operator.metrics import Metrics
from finetune_operator.wire import encode

FIELD_MANAGER = "finetune-operator"
CHUNK = 200
"""Objects in a chunk of a list: those of pods are 10 kB each, and five times that once they are parsed."""
TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=10)
_APPLY = "application/apply-patch+yaml"


class ListQuery(NamedTuple):
    """Which objects to list."""

    namespace: str | None = None
    """None: of all namespaces."""
    selector: str = ""
    """By labels."""
    chunk: int = CHUNK
    fields: str = ""
    """A selector by fields."""


class Page(NamedTuple):
    """A chunk of a list, and the version of the whole list."""

    items: list[dict[str, Any]]
    version: int


class Kube:
    """A session with the API server. Use as an async context manager."""

    def __init__(self, settings: kopf.OperatorSettings, *, connections: int, metrics: Metrics) -> None:
        self._settings = settings
        self._headers = Headers(settings)
        self._limit = connections
        self._metrics = metrics
        self._pressure = Backpressure(time.monotonic)
        self.write_guard: Callable[[], bool] = lambda: True

    async def __aenter__(self) -> Self:
        login = log_in(self._settings)
        connector = aiohttp.TCPConnector(limit=self._limit, ssl=login.as_ssl_context())
        self._session = aiohttp.ClientSession(connector=connector, timeout=TIMEOUT)
        self._server = login.server.rstrip("/")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, kind: Kind, *, namespace: str, name: str) -> dict[str, Any]:
        """Return the object. Raises NotFoundError."""
        return await self._call("get", kind, kind.path(namespace, name))

    async def pages(self, kind: Kind, query: ListQuery) -> AsyncIterator[Page]:
        """Yield the objects of a list in chunks. Raises GoneError when the API server no longer keeps the version of
        the first chunk; `query.chunk = 0` reads the list in one piece.
        """
        wanted = {"labelSelector": query.selector, "limit": str(query.chunk)}
        wanted |= {"fieldSelector": query.fields} if query.fields else {}
        while True:
            reply = await self._call("list", kind, kind.path(query.namespace), query=wanted)
            token = reply["metadata"].get("continue")
            yield Page(reply["items"], int(reply["metadata"]["resourceVersion"]))
            if not token:
                return
            wanted = {**wanted, "continue": token}
            del reply  # a chunk of pods is megabytes: it must be gone before the next one comes

    async def apply(self, kind: Kind, manifest: dict[str, Any], *, subresource: str = "") -> dict[str, Any]:
        """Apply the manifest on the server's side; return the object. Raises ConflictError when its uid differs."""
        meta = manifest["metadata"]
        path = kind.path(meta["namespace"], meta["name"]) + (f"/{subresource}" if subresource else "")
        query = {"fieldManager": FIELD_MANAGER, "force": "true", "fieldValidation": "Strict"}
        return await self._call("apply", kind, path, query=query, body=manifest)

    async def create(self, kind: Kind, manifest: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Create the object, or only ask whether it would be taken. Raises ConflictError when one of that name
        exists.
        """
        path = kind.path(manifest["metadata"].get("namespace"))
        query = {"fieldManager": FIELD_MANAGER, **({"dryRun": "All"} if dry_run else {})}
        return await self._call("create", kind, path, query=query, body=manifest)

    async def replace(self, kind: Kind, manifest: dict[str, Any]) -> dict[str, Any]:
        """Replace the object. Raises ConflictError when its resourceVersion is not the newest."""
        meta = manifest["metadata"]
        path = kind.path(meta["namespace"], meta["name"])
        return await self._call("update", kind, path, query={"fieldManager": FIELD_MANAGER}, body=manifest)

    async def delete(
        self, kind: Kind, *, namespace: str, name: str, uid: str, policy: str = "Background", force: bool = False
    ) -> None:
        """Delete the object of that uid; one that is gone already is fine. Raises ConflictError for another uid.

        `policy` says when it goes: before what it owns (Background) or after (Foreground). `force` removes a pod
        without waiting for its kubelet.
        """
        body: dict[str, Any] = {"propagationPolicy": policy, "preconditions": {"uid": uid}}
        body |= {"gracePeriodSeconds": 0} if force else {}
        try:
            await self._call("delete", kind, kind.path(namespace, name), body=body)
        except NotFoundError:
            return

    async def api_versions(self) -> frozenset[str]:
        """Return the API versions of every group that the server has, such as batch/v1."""
        groups = (await self._call("get", API_GROUP_LIST, "/apis"))["groups"]
        return frozenset(version["groupVersion"] for group in groups for version in group["versions"])

    async def review(self, token: str, *, audience: str) -> dict[str, Any]:
        """Return the status of a TokenReview: whose token it is, and whether it was made for the audience."""
        spec = {"token": token, "audiences": [audience]}
        body = {"apiVersion": TOKEN_REVIEW.api_version, "kind": TOKEN_REVIEW.kind, "spec": spec}
        reply = await self._call("review", TOKEN_REVIEW, TOKEN_REVIEW.path(), body=body)
        status: dict[str, Any] = reply["status"]
        return status

    async def _call(
        self, verb: str, kind: Kind, path: str, *, query: dict[str, str] | None = None, body: object = None
    ) -> dict[str, Any]:
        if verb in _WRITES and kind is not LEASE and not self.write_guard():
            raise LeaseLostError(f"{verb} {path} was not sent: the Lease is not held")
        self._respect_pressure(verb, kind, path)
        for attempt in (1, 2):
            try:
                with self._metrics.api_call_seconds.labels(verb).time():
                    reply = await self._send(verb, path, query or {}, body)
            except (aiohttp.ClientError, kopf.LoginError, TimeoutError, OSError) as error:
                self._metrics.api_calls.labels(verb, kind.kind, "none").inc()
                raise TransientError(f"{verb} {path}: {type(error).__name__}: {error}", status=0) from error
            self._metrics.api_calls.labels(verb, kind.kind, str(reply.status)).inc()
            if reply.status in _OVERLOADED and reply.wait:
                self._pressure.note(verb, kind.kind, seconds=reply.wait)
            if reply.status != 401 or attempt == 2:
                return reply.result(f"{verb} {path}")
            self._headers.expire()
        raise AssertionError("unreachable")

    def _respect_pressure(self, verb: str, kind: Kind, path: str) -> None:
        """Raise HeldBackError while the API server wants no such call.

        A Lease is renewed in spite of that: it is one call in two seconds, and the end of this process would be many.
        """
        left = 0.0 if kind is LEASE else self._pressure.seconds_left(verb, kind.kind)
        if left > 0:
            text = f"{verb} {path} was not sent: the API server asked to wait for {left:.1f} s more"
            raise HeldBackError(text, status=429, retry_after=left)

    async def _send(self, verb: str, path: str, query: dict[str, str], body: object) -> Reply:
        headers = {**self._headers.current(), "User-Agent": FIELD_MANAGER, "Accept": "application/json"}
        url, data = self._server + path, None
        if body is not None:
            headers["Content-Type"] = _APPLY if verb == "apply" else "application/json"
            data = encode(body)
        async with self._session.request(_METHODS[verb], url, params=query, headers=headers, data=data) as answer:
            return Reply(answer.status, answer.headers.get("Retry-After", ""), await answer.read())


_METHODS = {
    "get": "GET",
    "list": "GET",
    "apply": "PATCH",
    "create": "POST",
    "update": "PUT",
    "delete": "DELETE",
    "review": "POST",
}
_OVERLOADED = frozenset({429, 503})
_WRITES = frozenset({"apply", "create", "update", "delete"})
