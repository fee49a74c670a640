"""What a replica does with progress while another one leads: it passes it on.

A standby that were not ready would keep the Deployment incomplete for ever, and `helm --wait` with it; so it is
ready, gets its share of the Service's connections, and hands each report to the leader, whose address stands in the
Lease. It decides nothing: the leader's answer goes back as it is. A report that came from a standby goes no further,
because two standbys may each take the other for the leader for a moment; a report that is lost costs ten seconds of
freshness.
"""

import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from urllib.parse import quote, urlsplit

import aiohttp
from aiohttp import web

from finetune_operator.listener import Site
from finetune_operator.progress import BODY_LIMIT, PROGRESS_PATH
from finetune_operator.tls import Certificate

RELAYED = "Finetune-Relayed"
"""Header of a report that came from a standby."""
PASSED_ON = ("Authorization", "Content-Type")
TIMEOUT = aiohttp.ClientTimeout(total=10, sock_connect=3)
CONNECTIONS = 16

logger = logging.getLogger(__name__)


class Standby:
    """The progress endpoint of a replica that waits."""

    def __init__(self, *, leader_address: Callable[[], str], certificate: Certificate, progress_url: str) -> None:
        self._leader_address = leader_address
        self._certificate = certificate
        self._server_name = urlsplit(progress_url).hostname or ""
        self._trusted: tuple[str, ssl.SSLContext | None] = ("", None)

    @contextlib.asynccontextmanager
    async def serving(self, *, port: int) -> AsyncIterator[None]:
        """Take progress on the port for as long as the context is open."""
        connector = aiohttp.TCPConnector(limit=CONNECTIONS)
        async with aiohttp.ClientSession(connector=connector, timeout=TIMEOUT) as session:
            site = Site(self.application(session))
            await site.start(port=port, context=self._certificate.context)
            try:
                yield
            finally:
                await site.cleanup()

    def application(self, session: aiohttp.ClientSession) -> web.Application:
        """Return the web application; its requests to the leader use the session."""

        async def post(request: web.Request) -> web.Response:
            answer = await self._pass_on(request, session)
            if answer.status != 204:
                answer.force_close()
            return answer

        app = web.Application(client_max_size=BODY_LIMIT)
        app.router.add_post(PROGRESS_PATH, post)
        return app

    async def _pass_on(self, request: web.Request, session: aiohttp.ClientSession) -> web.Response:
        address = self._leader_address()
        if not address or RELAYED in request.headers:
            return web.Response(status=503, text="no replica leads\n")
        headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers} | {RELAYED: "1"}
        about = {part: quote(text, safe="") for part, text in request.match_info.items()}
        url = f"https://{address}{PROGRESS_PATH.format_map(about)}"
        try:
            body = await request.read()
            async with session.post(
                url, data=body, headers=headers, ssl=self._trust(), server_hostname=self._server_name
            ) as answer:
                return web.Response(status=answer.status, body=await answer.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            logger.warning("the leader does not take progress: %s", type(error).__name__)
            return web.Response(status=503, text="the leader does not answer\n")

    def _trust(self) -> ssl.SSLContext:
        """Return how the leader is known, whatever its address: by the certificate that all replicas share.

        One context for as long as the authority is the same: connections are used again only under the same one.
        """
        authority, context = self._trusted
        if context is None or authority != self._certificate.authority:
            authority = self._certificate.authority
            context = ssl.create_default_context(cadata=authority)
            self._trusted = (authority, context)
        return context
