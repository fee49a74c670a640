"""A watch as raw lines, opened again where it broke off: a busy API server drops watchers that are slow to read."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp

from bench_harness.errors import BenchError

WATCH_SECONDS = 6 * 3600
ERROR = b'{"type":"ERROR"'


async def watch_lines(
    session: aiohttp.ClientSession,
    path: str,
    *,
    opened: Callable[[], Awaitable[object]] | None = None,
    **query: str,
) -> AsyncIterator[bytes]:
    """Yield the lines of a watch for ever; `opened` is awaited once the server has answered the first time.

    Raises BenchError when the server no longer holds what was missed.
    """
    arguments = {**query, "watch": "1", "timeoutSeconds": str(WATCH_SECONDS)}
    line = b""
    while True:
        async with session.get(path, params=arguments) as reply:
            reply.raise_for_status()
            if opened is not None:
                await opened()
                opened = None
            async for line in _split(reply.content):
                if line.startswith(ERROR):
                    raise BenchError(f"the watch of {path} ended: {line.decode()[:300]}")
                yield line
        if line:
            arguments["resourceVersion"] = json.loads(line)["object"]["metadata"]["resourceVersion"]


async def _split(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield whole lines; the rest of a line that the server did not finish is left out, it comes again."""
    rest = b""
    try:
        async for chunk in content.iter_any():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line
    except aiohttp.ClientPayloadError:
        return
