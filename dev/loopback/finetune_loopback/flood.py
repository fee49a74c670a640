"""Offers a server on loopback so many posts a second: `python -m finetune_loopback.flood --help`.

The posts are due at a steady pace whatever the server does. Each goes down one of the kept-alive connections without
waiting for the answer to the one before; where a connection takes no more, the post counts as held back, not as sent.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import re
import secrets
import ssl
import sys
from dataclasses import dataclass, field

BUFFER = 65_536
"""Bytes that may wait in a connection before it counts as full."""
TICK = 0.01
STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")


@dataclass
class Tally:
    """What became of the posts."""

    offered: int = 0
    sent: int = 0
    held_back: int = 0
    connections: int = 0
    refused_connections: int = 0
    answers: collections.Counter[str] = field(default_factory=collections.Counter)


class Connection(asyncio.Protocol):
    """One kept-alive connection."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be ready to send."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what asyncio gives for TCP
        self.transport = transport
        self.tally.connections += 1

    def data_received(self, data: bytes) -> None:
        """Count the answers."""
        self.tally.answers.update(code.decode() for code in STATUS.findall(data))

    def connection_lost(self, exc: Exception | None) -> None:
        """Be gone; another one is opened in its place."""
        self.transport = None

    def try_send(self, request: bytes) -> bool:
        """Send a request unless the connection is full or gone."""
        if self.transport is None or self.transport.get_write_buffer_size() > BUFFER:
            return False
        self.transport.write(request)
        return True


async def flood(options: argparse.Namespace) -> Tally:
    """Offer the posts; return what became of them."""
    tally, loop = Tally(), asyncio.get_running_loop()
    context = ssl.create_default_context(cafile=options.ca)
    lanes = [_Lane() for _ in range(options.connections)]
    keepers = [asyncio.create_task(_keep(lane, tally, options, context)) for lane in lanes]
    began, turn = loop.time(), 0
    while (elapsed := loop.time() - began) < options.seconds:
        for _ in range(int(options.rate * elapsed) - tally.offered):
            turn += 1
            tally.offered += 1
            lane = lanes[turn % len(lanes)]
            if lane.connection is not None and lane.connection.try_send(_request(options)):
                tally.sent += 1
            else:
                tally.held_back += 1
        await asyncio.sleep(TICK)
    for keeper in keepers:
        keeper.cancel()
    return tally


@dataclass
class _Lane:
    connection: Connection | None = None


async def _keep(lane: _Lane, tally: Tally, options: argparse.Namespace, context: ssl.SSLContext) -> None:
    """Keep a connection open in the lane."""
    loop = asyncio.get_running_loop()
    while True:
        if lane.connection is None or lane.connection.transport is None:
            with contextlib.suppress(OSError):
                _, lane.connection = await loop.create_connection(
                    lambda: Connection(tally), "127.0.0.1", options.port, ssl=context, ssl_handshake_timeout=5
                )
                continue
            tally.refused_connections += 1
        await asyncio.sleep(0.2)


def _request(options: argparse.Namespace) -> bytes:
    token: str = options.token or f"made-up-{secrets.token_hex(16)}"
    body: bytes = options.body.encode()
    head = (
        f"POST {options.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def main() -> int:
    """Read the options, offer the posts, print the tally as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ca", required=True, help="PEM file of the authority of the server's certificate")
    parser.add_argument("--path", required=True)
    parser.add_argument("--body", required=True)
    parser.add_argument("--token", default="", help="bearer token; without it each post bears another made-up one")
    parser.add_argument("--rate", type=float, required=True, help="posts a second")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--connections", type=int, default=32)
    tally = asyncio.run(flood(parser.parse_args()))
    sys.stdout.write(json.dumps(vars(tally)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
