"""A renewed certificate is taken without a restart; a half-written one is not."""

import asyncio
import ssl
from pathlib import Path

import pytest
from aiohttp import ClientConnectorCertificateError, ClientSession, TCPConnector, web

from finetune_loopback.certificates import write_certificate
from finetune_loopback.processes import free_ports
from finetune_operator.tls import Certificate, CertificateError


def certificate_in(directory: Path) -> Certificate:
    return Certificate(cert_file=directory / "tls.crt", key_file=directory / "tls.key", ca_file=directory / "ca.crt")


async def fetch(port: int, authority: str) -> int:
    context = ssl.create_default_context(cadata=authority)
    url = f"https://127.0.0.1:{port}/"
    async with ClientSession(connector=TCPConnector(ssl=context)) as session, session.get(url) as answer:
        return answer.status


async def test_a_new_certificate_serves_the_next_connection(tmp_path: Path) -> None:
    write_certificate(tmp_path)
    certificate = certificate_in(tmp_path)
    (port,) = free_ports(1)
    runner = web.AppRunner(web.Application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=certificate.context).start()
    before = certificate.authority
    assert await fetch(port, before) == 404
    assert certificate.reload_if_changed() is False
    write_certificate(tmp_path)
    assert certificate.reload_if_changed() is True
    assert certificate.authority != before
    assert await fetch(port, certificate.authority) == 404
    with pytest.raises(ClientConnectorCertificateError):
        await fetch(port, before)
    await runner.cleanup()


def test_a_pair_that_does_not_fit_is_left_and_tried_again(tmp_path: Path) -> None:
    write_certificate(tmp_path)
    certificate = certificate_in(tmp_path)
    before, key = certificate.authority, (tmp_path / "tls.key").read_bytes()
    write_certificate(tmp_path)
    new_key = (tmp_path / "tls.key").read_bytes()
    (tmp_path / "tls.key").write_bytes(key)
    assert certificate.reload_if_changed() is False
    assert certificate.authority == before
    (tmp_path / "tls.key").write_bytes(new_key)
    assert certificate.reload_if_changed() is True


@pytest.mark.parametrize("missing", ["tls.crt", "tls.key", "ca.crt"])
def test_a_missing_file_is_named_at_the_start_and_waited_for_later(tmp_path: Path, missing: str) -> None:
    write_certificate(tmp_path)
    certificate = certificate_in(tmp_path)
    (tmp_path / missing).unlink()
    assert certificate.reload_if_changed() is False
    with pytest.raises(CertificateError, match=missing):
        certificate_in(tmp_path)


async def test_the_watch_tells_of_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_operator.tls.LOOK_EVERY_SECONDS", 0.01)
    write_certificate(tmp_path)
    certificate, told = certificate_in(tmp_path), asyncio.Event()
    watch = asyncio.create_task(certificate.watch(told.set))
    write_certificate(tmp_path)
    async with asyncio.timeout(10):
        await told.wait()
    watch.cancel()
