"""The progress server's certificate, read again when its files change.

A renewed certificate (cert-manager, or a chart that makes a new one) must not need a restart: the files are looked at
every half minute and loaded into the context that the listening socket already uses; open connections stay.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from finetune_operator.x509_validity import not_after

LOOK_EVERY_SECONDS = 30.0

logger = logging.getLogger(__name__)


class CertificateError(Exception):
    """The progress server's certificate cannot be used; the text says which files and why."""


class Certificate:
    """A server's TLS context over its certificate file and key file, and the authority that clients are told.

    Raises CertificateError when the files cannot be used at the start.
    """

    def __init__(self, *, cert_file: Path, key_file: Path, ca_file: Path) -> None:
        self._files = (cert_file, key_file, ca_file)
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            self._loaded = self._read()
            self._load()
        except (OSError, ssl.SSLError) as error:
            raise CertificateError(
                f"the certificate in {cert_file}, {key_file} and {ca_file} cannot be used: {error};"
                " mount the Secret that the chart makes, or set TLS_CERT_FILE, TLS_KEY_FILE and TLS_CA_FILE"
            ) from error

    def reload_if_changed(self) -> bool:
        """Load the files if they changed; return whether. A pair that does not fit is tried again next time."""
        try:
            content = self._read()
            if content == self._loaded:
                return False
            self._load()
        except (OSError, ssl.SSLError) as error:
            logger.error("the new certificate cannot be used yet; the old one stays: %s", error)
            return False
        self._loaded = content
        logger.info("the progress server's certificate was read again")
        return True

    @property
    def authority(self) -> str:
        """PEM text of the authority that signed the certificate."""
        return self._loaded[2].decode()

    @property
    def end(self) -> datetime | None:
        """Until when the certificate and its authority are both valid, if that can be read."""
        ends = (not_after(self._loaded[0]), not_after(self._loaded[2]))
        return min((end for end in ends if end), default=None)

    async def watch(self, on_change: Callable[[], None]) -> None:
        """Look at the files for ever."""
        while True:
            await asyncio.sleep(LOOK_EVERY_SECONDS)
            if self.reload_if_changed():
                on_change()

    def _read(self) -> tuple[bytes, ...]:
        return tuple(path.read_bytes() for path in self._files)

    def _load(self) -> None:
        self.context.load_cert_chain(*self._files[:2])
