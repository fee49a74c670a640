"""An HTTP proxy before an S3 server that injects faults: refusals, resets, lost replies, altered and short bodies.

It also counts requests and can hold one, so that a test acts (kills a process) at an exact step of a protocol.
"""

import contextlib
import http.client
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length", "date", "server"}


class Kind(Enum):
    """What happens to a request."""

    REFUSE = auto()
    """Answered with `status` and `code`; the server never sees it."""
    RESET = auto()
    """The connection is reset; the server never sees it."""
    LOSE_REPLY = auto()
    """The server does it, then the connection is reset."""
    FLIP_BIT = auto()
    """One bit of the reply's body is flipped."""
    TRUNCATE = auto()
    """The reply's body ends half way."""
    SHORTEN = auto()
    """The reply's body is half as long, and its length says so."""
    HOLD = auto()
    """The request waits, before the server sees it, until `release` is set."""
    HOLD_REPLY = auto()
    """The server does it, and the reply waits until `release` is set."""


@dataclass
class Fault:
    """A fault for the next `times` requests whose method and path with query match."""

    kind: Kind
    method: str
    contains: str = ""
    times: int = 1
    status: int = 503
    code: str = "SlowDown"
    reached: threading.Event = field(default_factory=threading.Event)
    """Set when it first happened."""
    release: threading.Event = field(default_factory=threading.Event)


class S3FaultProxy(ThreadingHTTPServer):
    """The proxy; `requests` lists method and path with query of all requests so far."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[tuple[str, str]] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def inject(self, kind: Kind, method: str, contains: str = "", **more: Any) -> Fault:
        """Add a fault and return it; faults are used up in the order they were added."""
        fault = Fault(kind, method, contains, **more)
        with self._lock:
            self._faults.append(fault)
        return fault

    def count(self, method: str, contains: str = "") -> int:
        """Return how many requests of this kind came."""
        return sum(1 for verb, path in self.requests if verb == method and contains in path)

    def next_fault(self, method: str, path: str) -> Fault | None:
        """Note a request and return the fault that hits it."""
        with self._lock:
            self.requests.append((method, path))
            for fault in self._faults:
                if fault.times > 0 and fault.method == method and fault.contains in path:
                    fault.times -= 1
                    fault.reached.set()
                    return fault
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent: clients that are killed by a test break their connections."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: S3FaultProxy

    def _serve(self) -> None:
        fault = self.server.next_fault(self.command, self.path)
        body = self._body()
        kind = fault.kind if fault else None
        if kind is Kind.REFUSE and fault:
            self._reply(fault.status, [], _error(fault.code) if self.command != "HEAD" else b"")
            return
        if kind is Kind.RESET:
            self._reset()
            return
        if kind is Kind.HOLD and fault:
            fault.release.wait()
        status, headers, content = self._forward(body)
        if kind is Kind.HOLD_REPLY and fault:
            fault.release.wait()
        if kind is Kind.LOSE_REPLY:
            self._reset()
            return
        if kind is Kind.FLIP_BIT:
            content = bytes([content[0] ^ 1]) + content[1:]
        if kind is Kind.SHORTEN:
            content = content[: len(content) // 2]
        self._reply(status, headers, content, cut=kind is Kind.TRUNCATE)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815 - names of the base class

    def _body(self) -> bytes:
        """Return the body as it came: over TLS, clients send it in chunks, which are passed on as they are."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        raw, size = b"", -1
        while size != 0:
            line = self.rfile.readline()
            size = int(line, 16)
            raw += line + self.rfile.read(size + 2)
        return raw

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)
        with contextlib.closing(upstream):
            # The Host header is signed: it must stay what the client sent.
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            reply = upstream.getresponse()
            headers = [(name, value) for name, value in reply.getheaders() if name.lower() not in _HOP_BY_HOP]
            if self.command == "HEAD":
                headers.append(("Content-Length", reply.getheader("Content-Length") or "0"))
            return reply.status, headers, reply.read()

    def _reply(self, status: int, headers: list[tuple[str, str]], body: bytes, *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if self.command != "HEAD" and status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = cut

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the name of the base class
        """Stay silent."""


def _error(code: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>".encode()


@contextlib.contextmanager
def running_fault_proxy(upstream: str) -> Iterator[S3FaultProxy]:
    """Run a proxy before the S3 server at `upstream`."""
    proxy = S3FaultProxy(upstream)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
