"""Connections to the progress server, bounded in number, in rate and in age.

The port is open to every pod that a NetworkPolicy lets through, and some of them run what users wrote. A connection
costs memory (a quarter of a megabyte for TLS alone) and a handshake costs a millisecond before anything about its
token is known, so both are rationed per address, and no connection stays for long: a trainer opens one, posts, and
leaves. When all are taken, the address that holds most of them loses its oldest, so that nobody can shut the others
out. What is over the limits is closed unread; a trainer tries again by itself.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

from aiohttp import web

from finetune_operator.samples import Budgets

MOST_CONNECTIONS = 256
MOST_PER_ADDRESS = 32
PER_ADDRESS_PER_SECOND = 100.0
PER_ADDRESS_BURST = 200.0
ADDRESSES_KEPT = 10_000
HANDSHAKE_SECONDS = 5.0
AGE_SECONDS = 60.0
"""A connection ends after this time, whatever it does: half a request may be sent a byte at a time."""
IDLE_SECONDS = 15.0
LINGER_SECONDS = 1.0
"""For so long the rest of a refused body is read and thrown away, so that the client reads the answer."""
MOST_HEADERS = 32
BACKLOG = 128

Factory = Callable[[], asyncio.Protocol]


class Site:
    """A web application behind a listener."""

    def __init__(self, app: web.Application) -> None:
        self._runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=1.0,
            keepalive_timeout=IDLE_SECONDS,
            lingering_time=LINGER_SECONDS,
            max_headers=MOST_HEADERS,
            auto_decompress=False,
        )

    async def start(self, *, port: int, context: ssl.SSLContext) -> None:
        """Serve on the port."""
        await self._runner.setup()
        factory = self._runner.server
        assert factory is not None  # noqa: S101 - set by setup
        self._listener = Listener(factory, port=port, context=context)

    async def cleanup(self) -> None:
        """Accept nothing more and end what is open."""
        await self._listener.close()
        await self._runner.cleanup()


class Listener:
    """Accepts TLS connections on a port and gives each a protocol of the factory."""

    def __init__(self, factory: Factory, *, port: int, context: ssl.SSLContext) -> None:
        self._factory = factory
        self._context = context
        self._socket = _listen(port)
        self._socket.setblocking(False)
        self._open: dict[str, dict[_Guarded, None]] = {}
        self._rates = Budgets(
            per_second=PER_ADDRESS_PER_SECOND,
            burst=PER_ADDRESS_BURST,
            most=ADDRESSES_KEPT,
            clock=asyncio.get_running_loop().time,
        )
        self._accepting = asyncio.create_task(self._accept_forever(), name="accept progress connections")

    async def close(self) -> None:
        """Accept nothing more; connections that are open stay with their protocols."""
        self._accepting.cancel()
        await asyncio.wait({self._accepting})
        self._socket.close()

    async def _accept_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self._socket)
            except OSError:  # out of file descriptors, or the client is gone already
                await asyncio.sleep(0.1)
                continue
            host = str(address[0])
            if self._admits(host):
                self._start(connection, host)
            else:
                connection.close()

    def _admits(self, host: str) -> bool:
        """Whether the address may have one more connection; make room for it if so."""
        if len(self._open.get(host, ())) >= MOST_PER_ADDRESS or not self._rates.try_take(host):
            return False
        if sum(map(len, self._open.values())) >= MOST_CONNECTIONS:
            largest = max(self._open.values(), key=len)
            next(iter(largest)).abort()
        return True

    def _start(self, connection: socket.socket, host: str) -> None:
        guarded = _Guarded(self._factory(), on_end=lambda one: self._end(one, host))
        self._open.setdefault(host, {})[guarded] = None
        guarded.opening = asyncio.create_task(self._shake_hands(connection, guarded), name="progress connection")

    async def _shake_hands(self, connection: socket.socket, guarded: "_Guarded") -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: guarded,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=1.0,
            )
        except (OSError, TimeoutError):
            guarded.end()

    def _end(self, guarded: "_Guarded", host: str) -> None:
        theirs = self._open[host]
        del theirs[guarded]
        if not theirs:
            del self._open[host]


class _Guarded(asyncio.Protocol):
    """Passes a connection's events on, ends it when it is too old, and tells when it is over."""

    def __init__(self, inner: asyncio.Protocol, *, on_end: "Callable[[_Guarded], None]") -> None:
        self._inner = inner
        self._on_end: Callable[[_Guarded], None] | None = on_end
        self._transport: Any = None
        self._alarm: asyncio.TimerHandle | None = None
        self.opening: asyncio.Task[None] | None = None

    def abort(self) -> None:
        """End the connection now, whatever state it is in."""
        if self._transport is not None:
            self._transport.abort()
        elif self.opening is not None:
            self.opening.cancel()
        self.end()

    def end(self) -> None:
        """Tell that the connection is over, once."""
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._alarm = asyncio.get_running_loop().call_later(AGE_SECONDS, transport.abort)
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._inner.connection_lost(exc)
        self.end()

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


def _listen(port: int) -> socket.socket:
    """Return a socket that listens on every address, of both families where the system has both."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
    return socket.create_server(("", port), backlog=BACKLOG)
