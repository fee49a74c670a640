"""An HTTP proxy before a kube-apiserver that injects faults: refusals, silence, resets, torn watches, a partition.

It speaks plain HTTP to its client and TLS to the API server; credentials pass through. Watches are passed on line by
line. It also notes every request, so that a test can tell what was sent when.
"""

import contextlib
import http.client
import json
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from finetune_loopback.kube_client import KubeApi
from finetune_loopback.kube_faults import Fault, FaultBook, Kind

_PASSED_ON = ("authorization", "content-type", "accept", "user-agent")
_GONE = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410}


class KubeFaultProxy(ThreadingHTTPServer):
    """The proxy."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, api: KubeApi) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.api = api
        self.upstream = urlsplit(api.url).netloc
        self.context = ssl.create_default_context(cafile=str(api.ca_file))
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.faults = FaultBook()
        self.watches: set[socket.socket] = set()
        self._connected = threading.Event()
        self._connected.set()

    def kubeconfig(self, name: str, *, token: str) -> Path:
        """Write and return a kubeconfig that leads through this proxy."""
        document = json.loads(self.api.kubeconfig(name, token=token).read_text())
        document["clusters"][0]["cluster"] = {"server": self.url}
        path = self.api.directory / f"{name}-by-proxy.kubeconfig"
        path.write_text(json.dumps(document))
        return path

    def cut_watches(self) -> None:
        """End every watch that is open now."""
        for client in list(self.watches):
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def partition(self) -> None:
        """From now on nothing passes, in either direction: connections stay open and silent, new ones too."""
        self._connected.clear()

    def heal(self) -> None:
        """Let things pass again; what was under way meanwhile is lost."""
        self._connected.set()

    def passes(self) -> bool:
        """Return whether things pass now; where they do not, wait for the end of the partition first."""
        if self._connected.is_set():
            return True
        self._connected.wait()
        return False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent: clients that give up break their connections."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: KubeFaultProxy

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self.server.passes():
            return self._reset()
        fault = self.server.faults.take(self.command, self.path, body)
        kind = fault.kind if fault else None
        if fault and kind in _WATCH_KINDS:
            return self._break_watch(fault)
        if fault and kind is Kind.REFUSE:
            return self._refuse(fault)
        if fault and kind in (Kind.HANG, Kind.HOLD):
            fault.release.wait()
        if kind in (Kind.RESET, Kind.HANG):
            return self._reset()
        with contextlib.closing(self._upstream()) as upstream:
            reply = self._ask(upstream, body)
            if "watch=true" in self.path:
                return self._stream(reply)
            return self._answer(reply, fault)

    do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = _serve  # noqa: N815 - names of the base class

    def _upstream(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self.server.upstream, timeout=400, context=self.server.context)

    def _ask(self, upstream: http.client.HTTPSConnection, body: bytes) -> http.client.HTTPResponse:
        headers = {name: value for name, value in self.headers.items() if name.lower() in _PASSED_ON}
        upstream.request(self.command, self.path, body or None, headers)
        return upstream.getresponse()

    def _answer(self, reply: http.client.HTTPResponse, fault: Fault | None) -> None:
        content = reply.read()
        if fault and fault.kind is Kind.HANG_REPLY:
            fault.release.wait()
        if not self.server.passes() or (fault and fault.kind in (Kind.HANG_REPLY, Kind.LOSE_REPLY)):
            return self._reset()
        kept = {name: reply.headers[name] for name in ("Content-Type", "Retry-After") if name in reply.headers}
        is_cut = fault is not None and fault.kind is Kind.CUT_REPLY
        self._send(reply.status, content, kept, cut=is_cut)
        return None

    def _stream(self, reply: http.client.HTTPResponse) -> None:
        """Pass a watch on as it comes."""
        self._begin_stream(reply.status)
        self.server.watches.add(self.connection)
        try:
            while chunk := reply.read1(65536):
                if not self.server.passes():
                    return self._reset()
                self._chunk(chunk)
            self._chunk(b"")
        finally:
            self.server.watches.discard(self.connection)

    def _break_watch(self, fault: Fault) -> None:
        if fault.kind is Kind.WATCH_GONE:
            fault.release.wait()
        self._begin_stream(200)
        if fault.kind is Kind.WATCH_GONE:
            self._chunk(json.dumps({"type": "ERROR", "object": _GONE}).encode() + b"\n")
        elif fault.kind in (Kind.WATCH_CUT, Kind.WATCH_TORN):
            self._chunk(b'{"type":"MODIFIED","object":{"kind":"Pod","metadata":{"na')
        elif fault.kind is Kind.WATCH_SILENT:
            self._hold_open(fault)
        if fault.kind is Kind.WATCH_CUT:
            self.close_connection = True
        else:
            self._chunk(b"")

    def _hold_open(self, fault: Fault) -> None:
        self.server.watches.add(self.connection)
        fault.release.wait()
        self.server.watches.discard(self.connection)

    def _refuse(self, fault: Fault) -> None:
        message = f"injected {fault.status}"
        text = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": fault.status}
        more = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
        self._send(fault.status, json.dumps(text).encode(), {"Content-Type": "application/json", **more})

    def _begin_stream(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, data: bytes) -> None:
        """Send a piece of a stream; an empty one ends it."""
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _send(self, status: int, content: bytes, headers: dict[str, str], *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = self.close_connection or cut

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the name of the base class
        """Stay silent."""


_WATCH_KINDS = frozenset(kind for kind in Kind if kind.name.startswith("WATCH_"))


@contextlib.contextmanager
def running_kube_fault_proxy(api: KubeApi) -> Iterator[KubeFaultProxy]:
    """Run a proxy before the API server."""
    proxy = KubeFaultProxy(api)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.heal()
        proxy.faults.clear()
        proxy.cut_watches()
        proxy.shutdown()
        proxy.server_close()
