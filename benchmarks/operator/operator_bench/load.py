"""Creates the jobs: the same client with the same number of connections for every contender."""

import asyncio
import json
import ssl
import time

import aiohttp

from bench_harness.errors import BenchError
from finetune_loopback.kube_client import KubeApi
from operator_bench.kinds import Object

CONNECTIONS = 32


def create_all(api: KubeApi, path: str, bodies: dict[str, Object]) -> dict[str, float]:
    """Create objects as fast as it goes; return when each was sent, on the clock of time.monotonic().

    All are there when it returns. Raises BenchError when one is refused.
    """
    return asyncio.run(_create_all(api, path, {name: json.dumps(body).encode() for name, body in bodies.items()}))


async def _create_all(api: KubeApi, path: str, bodies: dict[str, bytes]) -> dict[str, float]:
    sent: dict[str, float] = {}
    waiting = iter(bodies.items())
    headers = {"Authorization": f"Bearer {api.admin_token}", "Content-Type": "application/json"}
    context = ssl.create_default_context(cafile=str(api.ca_file))
    connector = aiohttp.TCPConnector(ssl=context, limit=CONNECTIONS)
    async with aiohttp.ClientSession(api.url, connector=connector, headers=headers) as session:

        async def create() -> None:
            for name, body in waiting:
                sent[name] = time.monotonic()
                async with session.post(path, data=body) as reply:
                    if reply.status != 201:
                        raise BenchError(f"POST {path}: {reply.status}: {await reply.text()}")
                    await reply.read()

        await asyncio.gather(*(create() for _ in range(CONNECTIONS)))
    return sent
