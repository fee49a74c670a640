"""The listener's bounds: connections per address and in all, their age, and what a client leaves behind."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from finetune_loopback.certificates import write_certificate
from finetune_operator import listener
from finetune_operator.listener import Listener


class Silent(asyncio.Protocol):
    """Answers nothing."""


class Port:
    """A listener on a free port and its clients."""

    def __init__(self, directory: Path) -> None:
        write_certificate(directory)
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server.load_cert_chain(directory / "tls.crt", directory / "tls.key")
        self.client = ssl.create_default_context(cafile=str(directory / "ca.crt"))
        self.listener = Listener(Silent, port=0, context=server)
        self.number = self.listener._socket.getsockname()[1]
        self.writers: list[asyncio.StreamWriter] = []

    async def connect(self, *, host: str = "127.0.0.1", tls: bool = True) -> asyncio.StreamReader:
        """Return the reader of a new connection from that address. Raises OSError when it is refused."""
        options = {"ssl": self.client, "server_hostname": "127.0.0.1"} if tls else {}
        reader, writer = await asyncio.open_connection("127.0.0.1", self.number, local_addr=(host, 0), **options)
        self.writers.append(writer)
        return reader

    def open(self) -> int:
        return sum(map(len, self.listener._open.values()))

    async def until_open(self, count: int) -> None:
        async with asyncio.timeout(10):
            while self.open() != count:  # noqa: ASYNC110 - what the listener counts is no event
                await asyncio.sleep(0.01)


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[Port]:
    made = Port(tmp_path)
    yield made
    await made.listener.close()
    for writer in made.writers:
        writer.transport.abort()
    await made.until_open(0)


async def is_over(reader: asyncio.StreamReader) -> bool:
    with contextlib.suppress(OSError):
        async with asyncio.timeout(10):
            return await reader.read(1) == b""
    return True


async def test_one_address_has_its_share_and_another_one_still_gets_in(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "MOST_PER_ADDRESS", 3)
    for _ in range(3):
        await port.connect()
    with pytest.raises((ConnectionError, ssl.SSLError)):
        await port.connect()
    await port.connect(host="127.0.0.2")
    assert port.open() == 4


async def test_when_all_are_taken_the_address_with_most_of_them_loses_its_oldest(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "MOST_CONNECTIONS", 4)
    oldest = await port.connect()
    for _ in range(2):
        await port.connect()
    other = await port.connect(host="127.0.0.2")
    await port.connect(host="127.0.0.3")
    assert await is_over(oldest)
    assert port.open() == 4
    assert not other.at_eof()


@pytest.fixture
def low_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two connections and hardly any more; a listener takes the rate when it is made."""
    monkeypatch.setattr(listener, "PER_ADDRESS_PER_SECOND", 0.001)
    monkeypatch.setattr(listener, "PER_ADDRESS_BURST", 2.0)


@pytest.mark.usefixtures("low_rate")
async def test_a_rate_of_connections_is_bounded(port: Port) -> None:
    for _ in range(2):
        await port.connect()
    with pytest.raises((ConnectionError, ssl.SSLError)):
        await port.connect()


async def test_a_connection_ends_at_its_age_and_one_without_a_handshake_before(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "AGE_SECONDS", 0.3)
    monkeypatch.setattr(listener, "HANDSHAKE_SECONDS", 0.2)
    readers = [await port.connect(), await port.connect(tls=False)]
    assert all([await is_over(reader) for reader in readers])
    await port.until_open(0)


async def test_what_a_client_leaves_behind_is_freed(port: Port) -> None:
    for tls in (True, False):
        await port.connect(tls=tls)
    await port.until_open(2)
    for writer in port.writers:
        writer.transport.abort()
    await port.until_open(0)
