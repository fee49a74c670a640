"""A standby passes progress on to the leader and decides nothing; over real TLS."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from finetune_loopback.certificates import write_certificate
from finetune_loopback.processes import free_ports
from finetune_operator.listener import Site
from finetune_operator.progress import BODY_LIMIT, PROGRESS_PATH
from finetune_operator.standby import RELAYED, Standby
from finetune_operator.tls import Certificate

PATH = "/v1/namespaces/ml/jobs/bot/progress"


class Leader:
    """Answers as it is told and keeps what it got."""

    def __init__(self) -> None:
        self.status, self.text = 204, ""
        self.got: list[web.Request] = []
        self.bodies: list[bytes] = []

    async def post(self, request: web.Request) -> web.Response:
        self.got.append(request)
        self.bodies.append(await request.read())
        return web.Response(status=self.status, text=self.text or None)


class Pair:
    """A leader and a standby on loopback."""

    def __init__(self, directory: Path) -> None:
        write_certificate(directory)
        files = {"cert_file": "tls.crt", "key_file": "tls.key", "ca_file": "ca.crt"}
        self.certificate = Certificate(**{name: directory / file for name, file in files.items()})
        self.leader = Leader()
        self.leader_port, self.port = free_ports(2)
        self.address = f"127.0.0.1:{self.leader_port}"
        self.standby = Standby(
            leader_address=lambda: self.address, certificate=self.certificate, progress_url="https://127.0.0.1:1"
        )

    async def post(self, body: bytes = b"{}", **headers: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"https://127.0.0.1:{self.port}{PATH}",
                data=body,
                headers={"Authorization": "Bearer t", "Content-Type": "application/json", **headers},
                ssl=self.standby._trust(),
            ) as answer,
        ):
            return answer.status, await answer.text()


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    made = Pair(tmp_path)
    app = web.Application()
    app.router.add_post(PROGRESS_PATH, made.leader.post)
    site = Site(app)
    await site.start(port=made.leader_port, context=made.certificate.context)
    async with made.standby.serving(port=made.port):
        yield made
    await site.cleanup()


async def test_a_report_reaches_the_leader_as_it_was(pair: Pair) -> None:
    body = json.dumps({"attempt": 1, "text": "è"}).encode()

    assert await pair.post(body, Cookie="secret=1") == (204, "")

    (got,) = pair.leader.got
    assert (got.path, pair.leader.bodies) == (PATH, [body])
    assert (got.headers["Authorization"], got.headers["Content-Type"]) == ("Bearer t", "application/json")
    assert "Cookie" not in got.headers


@pytest.mark.parametrize("status", [400, 401, 403, 413, 429, 503])
async def test_the_leaders_answer_goes_back(pair: Pair, status: int) -> None:
    pair.leader.status, pair.leader.text = status, "because"

    assert await pair.post() == (status, "because")


async def test_connections_to_the_leader_are_used_again(pair: Pair) -> None:
    for _ in range(5):
        await pair.post()

    assert len({request.transport for request in pair.leader.got}) == 1


async def test_without_a_leader_it_says_so(pair: Pair) -> None:
    pair.address = ""

    assert (await pair.post())[0] == 503
    assert pair.leader.got == []


async def test_a_leader_that_is_gone_is_told(pair: Pair) -> None:
    pair.address = f"127.0.0.1:{free_ports(1)[0]}"

    assert (await pair.post())[0] == 503


async def test_a_report_of_another_standby_goes_no_further(pair: Pair) -> None:
    assert (await pair.post(**{RELAYED: "1"}))[0] == 503
    assert pair.leader.got == []


async def test_two_standbys_that_take_each_other_for_the_leader_end_it(pair: Pair) -> None:
    pair.address = f"127.0.0.1:{pair.port}"

    assert (await pair.post())[0] == 503


async def test_a_body_over_the_limit_stays_here(pair: Pair) -> None:
    assert (await pair.post(b"x" * (BODY_LIMIT + 1)))[0] == 413
    assert pair.leader.got == []


async def test_a_stranger_at_the_leaders_address_gets_nothing(pair: Pair, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_certificate(other)
    stranger = Certificate(cert_file=other / "tls.crt", key_file=other / "tls.key", ca_file=other / "ca.crt")
    (port,) = free_ports(1)
    app = web.Application()
    app.router.add_post(PROGRESS_PATH, pair.leader.post)
    site = Site(app)
    await site.start(port=port, context=stranger.context)
    pair.address = f"127.0.0.1:{port}"

    assert (await pair.post())[0] == 503
    assert pair.leader.got == []
    await site.cleanup()
