"""Errors of calls to the API server, each with one meaning: try again later, or the answer is no."""

import json
from dataclasses import dataclass
from typing import Any, NoReturn

MESSAGE_LIMIT = 1500


class ApiError(Exception):
    """A call that did not work: HTTP status (0 when no answer came) and the API server's own words."""

    def __init__(self, message: str, *, status: int, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.retry_after = retry_after
        """Seconds that the API server asks us to wait; 0 when it does not say."""


class TransientError(ApiError):
    """May work later: no answer, overload, a server's error."""


class HeldBackError(TransientError):
    """Not sent: the API server asked to wait, and the time is not over."""


class ConflictError(TransientError):
    """The object is not what the caller thinks (HTTP 409): read again."""


class RefusedError(ApiError):
    """The API server says no; the same call fails again until something else changes."""


class NotFoundError(RefusedError):
    """There is no such object, or no such kind (HTTP 404)."""


class GoneError(RefusedError):
    """The API server no longer keeps that version of a list (HTTP 410): read the list again."""


class LeaseLostError(Exception):
    """A write was held back because this replica is not known to be the leader any more."""


_TRANSIENT = frozenset({401, 408, 429})
_BY_STATUS: dict[int, type[ApiError]] = {404: NotFoundError, 409: ConflictError, 410: GoneError}


@dataclass(frozen=True)
class Reply:
    """An HTTP answer, read whole."""

    status: int
    retry_after: str
    body: bytes

    def result(self, call: str) -> dict[str, Any]:
        """Return the JSON object. Raises TransientError or RefusedError for an error's status."""
        if self.status >= 400:
            self._raise(call)
        try:
            parsed: dict[str, Any] = json.loads(self.body)
        except ValueError as error:
            raise TransientError(f"{call}: the answer is no JSON: {error}", status=self.status) from error
        return parsed

    @property
    def wait(self) -> float:
        """Seconds that the API server asks us to wait; 0 when it does not say."""
        return float(self.retry_after) if self.retry_after.isdecimal() else 0.0

    def _raise(self, call: str) -> NoReturn:
        fallback = TransientError if self.status >= 500 or self.status in _TRANSIENT else RefusedError
        error = _BY_STATUS.get(self.status, fallback)
        raise error(f"{call}: {self._message()}", status=self.status, retry_after=self.wait)

    def _message(self) -> str:
        try:
            text = str(json.loads(self.body)["message"])
        except (ValueError, KeyError, TypeError):
            text = self.body.decode(errors="replace") or f"HTTP {self.status}"
        return text[:MESSAGE_LIMIT]
