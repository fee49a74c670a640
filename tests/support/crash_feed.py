"""One watch of each kind for many lives at once, and a client that knows which of its writes were not yet told.

Whoever writes through `Feed.call`, or hands the reply to `owe`, can ask `has_told` whether the watches have caught up
with a namespace: "nothing more will happen" is then a fact and not a wait of so many seconds.
"""

import asyncio
import contextlib
import json
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp

from finetune_loopback.kube_client import ApiError, KubeApi
from finetune_operator.kinds import FINE_TUNE_JOB, JOB, POD, Kind

Object = dict[str, Any]
Listener = Callable[[Kind, str, Object], None]
KINDS = (FINE_TUNE_JOB, JOB, POD)
_BY_NAME = {kind.kind: kind for kind in KINDS}


class Feed:
    """What the API server tells, for every namespace."""

    def __init__(self, api: KubeApi) -> None:
        self.api = api
        self.session: aiohttp.ClientSession
        self._objects: dict[tuple[Kind, str], dict[str, Object]] = defaultdict(dict)
        self.listeners: list[Listener] = []
        self.made: dict[str, list[tuple[str, str]]] = defaultdict(list)
        """Kind and name of every object that came into being, by namespace, in order."""
        self._seen = dict.fromkeys(KINDS, 0)
        self._owed: dict[tuple[str, Kind], int] = {}
        self._leaving: dict[str, set[str]] = defaultdict(set)

    def of(self, kind: Kind, namespace: str) -> list[Object]:
        """Return the objects of a namespace by name."""
        return [one for _, one in sorted(self._objects[kind, namespace].items())]

    def has_told(self, namespace: str) -> bool:
        """Return whether every write that is known of has been told."""
        if self._leaving[namespace]:
            return False
        return all(self._seen[kind] >= self._owed.get((namespace, kind), 0) for kind in KINDS)

    def owe(self, reply: Object, *, namespace: str, kind: Kind | None = None) -> None:
        """Note the reply to a write: its event is on the way. A Status is the reply to a deletion that is done."""
        if reply.get("kind") == "Status":
            uid = str((reply.get("details") or {}).get("uid", ""))
            if kind in KINDS and any(one["metadata"]["uid"] == uid for one in self.of(kind, namespace)):
                self._leaving[namespace].add(uid)
            return
        known = _BY_NAME.get(str(reply.get("kind")), kind)
        if known in KINDS and reply["metadata"].get("resourceVersion"):
            version = int(reply["metadata"]["resourceVersion"])
            self._owed[namespace, known] = max(version, self._owed.get((namespace, known), 0))

    async def call(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json", **query: str
    ) -> Object:
        """Ask the API server as the administrator. Raises ApiError when it refuses."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": content_type} if data else {}
        async with self.session.request(
            method, self.api.url + path, data=data, headers=headers, params=query
        ) as answer:
            reply: Object = json.loads(await answer.read())
            if answer.status >= 400:
                raise ApiError(answer.status, reply)
            return reply

    async def write(
        self, method: str, kind: Kind, namespace: str, name: str = "", body: Any = None, **more: Any
    ) -> Object | None:
        """Write an object of a kind that is watched; None when it was gone already."""
        path = kind.path(namespace, name or None) + more.pop("subresource", "")
        while True:
            try:
                reply = await self.call(method, path, body, **more)
            except ApiError as error:
                if error.code == 409 and method == "PATCH":  # somebody else wrote at the same moment
                    continue
                if error.code == 404 and method != "POST":
                    return None
                raise
            self.owe(reply, namespace=namespace, kind=kind)
            return reply

    async def follow(self, kind: Kind) -> None:
        """Watch a kind for ever."""
        version = (await self.call("GET", kind.path(), limit="1"))["metadata"]["resourceVersion"]
        while True:
            query = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version}
            async with self.session.get(self.api.url + kind.path(), params=query) as answer:
                buffer = b""
                async for chunk in answer.content.iter_any():
                    *lines, buffer = (buffer + chunk).split(b"\n")
                    for line in lines:
                        version = self._note(kind, json.loads(line))

    def _note(self, kind: Kind, event: Object) -> str:
        meta = event["object"]["metadata"]
        self._seen[kind] = max(self._seen[kind], int(meta["resourceVersion"]))
        if event["type"] != "BOOKMARK":
            self._take(kind, event["type"], event["object"])
        return str(meta["resourceVersion"])

    def _take(self, kind: Kind, change: str, raw: Object) -> None:
        meta = raw["metadata"]
        namespace, name = meta["namespace"], meta["name"]
        if change == "DELETED":
            self._objects[kind, namespace].pop(name, None)
            self._leaving[namespace].discard(meta["uid"])
        else:
            self._objects[kind, namespace][name] = raw
        if change == "ADDED":
            self.made[namespace].append((kind.kind, name))
        for listener in self.listeners:
            listener(kind, change, raw)


@contextlib.asynccontextmanager
async def running_feed(api: KubeApi) -> AsyncIterator[Feed]:
    """Follow every kind until the end of the context."""
    context = ssl.create_default_context(cafile=str(api.ca_file))
    headers = {"Authorization": f"Bearer {api.admin_token}"}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    connector = aiohttp.TCPConnector(ssl=context, limit=40)
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session:
        feed = Feed(api)
        feed.session = session
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(feed.follow(kind)) for kind in KINDS]
            yield feed
            for task in tasks:
                task.cancel()
