"""Which APIs the cluster has: PodGroups are written only where a scheduler has brought their API.

Asked at start and every few minutes, so that a scheduler that is installed later is found without a restart.
"""

import asyncio
import logging
from collections.abc import Callable

from finetune_operator.errors import ApiError
from finetune_operator.kube import Kube

RETRY_SECONDS = 2.0
REFRESH_SECONDS = 600.0

logger = logging.getLogger(__name__)


class Discovery:
    """What the API server last said it has."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self.api_versions: frozenset[str] = frozenset()
        """Such as batch/v1."""

    async def prime(self) -> None:
        """Ask for the first time; wait for the API server as long as it takes."""
        while not await self.refresh():  # noqa: ASYNC110 - another process ends this, not an event of ours
            await asyncio.sleep(RETRY_SECONDS)

    async def refresh(self) -> bool:
        """Ask once; return whether there was an answer. Without one, what was known stays."""
        try:
            self.api_versions = await self._kube.api_versions()
        except ApiError as error:
            logger.warning("the API server does not say which APIs it has: %s", error.message)
            return False
        return True

    async def refresh_forever(self, then: Callable[[], None]) -> None:
        """Ask again for ever, and call `then` when something came or went."""
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            before = self.api_versions
            await self.refresh()
            if self.api_versions != before:
                then()
