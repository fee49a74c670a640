"""Posts progress samples to the operator from a background thread; the newest sample wins.

Training never waits for it and never fails by it: what cannot be sent is replaced by the next sample, and the
termination message carries the last word anyway.
"""

import http.client
import ssl
import threading
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from finetune_api.stage import ProgressSample
from finetune_trainer import log
from finetune_trainer.errors import describe
from finetune_trainer.stage_input import Pod

INTERVAL_SECONDS = 5.0
"""Between two samples, unless one is urgent. Each is a TLS connection, and a status is written every ten seconds at
most: at two seconds a thousand trainings cost the operator most of a core, for nothing that anybody sees."""
TIMEOUT_SECONDS = 5.0
_FIRST_PAUSE = 2.0
_LONGEST_PAUSE = 60.0
_PASSING_STATUS = {401, 403, 404, 429}
"""Refusals that may pass: a token about to be renewed, an operator that has not seen the pod yet."""


class Endpoint(NamedTuple):
    """Where samples go."""

    url: str
    ca_pem: str
    token_file: Path


def open_progress(pod: Pod) -> "ProgressPoster":
    """Return the poster of this pod; without a progress URL it keeps every sample to itself."""
    endpoint = Endpoint(pod.progress_url, pod.progress_ca, pod.token_file) if pod.progress_url else None
    return ProgressPoster(endpoint)


class ProgressPoster:
    """Keeps the newest sample and posts it when it is due."""

    def __init__(self, endpoint: Endpoint | None, interval: float = INTERVAL_SECONDS) -> None:
        self._endpoint = endpoint
        self._interval = interval
        self._change = threading.Condition()
        self._sample: ProgressSample | None = None
        self._urgent = False
        self._closing = False
        self._failures = 0
        self._due = 0.0
        self._thread: threading.Thread | None = None

    def post(self, sample: ProgressSample, *, urgent: bool = False) -> None:
        """Hand over a sample and return at once; an urgent one (a commit, an evaluation) is sent without delay."""
        if self._endpoint is None:
            return
        with self._change:
            self._sample = sample
            self._urgent = self._urgent or urgent
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
                self._thread.start()
            self._change.notify()

    def close(self, timeout: float = TIMEOUT_SECONDS) -> None:
        """Send the newest sample now and stop; give up after `timeout` seconds."""
        with self._change:
            self._closing = True
            self._change.notify()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        while (sample := self._next_due()) is not None:
            sent = self._try(sample)
            with self._change:
                if sent and self._sample is sample:
                    self._sample = None
                self._failures = 0 if sent else self._failures + 1
                pause = min(_FIRST_PAUSE * 2 ** (self._failures - 1), _LONGEST_PAUSE) if self._failures else 0
                self._due = time.monotonic() + max(pause, self._interval)

    def _next_due(self) -> ProgressSample | None:
        """Wait for the next sample to send; None when closed and all is sent, or sending fails while closing."""
        with self._change:
            while True:
                if self._closing:
                    sample, self._sample = self._sample, None
                    return sample
                wait = self._due - time.monotonic()
                if self._sample is not None and (wait <= 0 or (self._urgent and not self._failures)):
                    self._urgent = False
                    return self._sample
                self._change.wait(wait if self._sample is not None else None)

    def _try(self, sample: ProgressSample) -> bool:
        """Send a sample; return whether it is done with (accepted, or refused for good)."""
        assert self._endpoint is not None  # noqa: S101 - the thread runs only with one
        try:
            status, text = send(self._endpoint, sample)
        except Exception as error:  # noqa: BLE001 - whatever a broken endpoint answers, training goes on
            self._tell(describe(error))
            return False
        if status in _PASSING_STATUS or status >= 500:
            self._tell(f"{status} {text}")
            return False
        if status >= 300:
            log.warning("progress-refused", status=status, answer=text)
        return True

    def _tell(self, cause: str) -> None:
        if self._failures == 0:
            log.warning("progress-not-sent", cause=cause)


def send(endpoint: Endpoint, sample: ProgressSample) -> tuple[int, str]:
    """Post one sample; return status and the beginning of the answer. Raises what http.client and ssl raise."""
    url = urlsplit(endpoint.url)
    body = sample.model_dump_json(by_alias=True, exclude_none=True)
    headers = {
        "Authorization": f"Bearer {endpoint.token_file.read_text().strip()}",
        "Content-Type": "application/json",
    }
    connection = http.client.HTTPSConnection(
        url.hostname or "", url.port or 443, timeout=TIMEOUT_SECONDS, context=_trust(endpoint.ca_pem)
    )
    try:
        connection.request("POST", url.path, body, headers)
        reply = connection.getresponse()
        return reply.status, reply.read(200).decode(errors="replace")
    finally:
        connection.close()


def _trust(ca_pem: str) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=ca_pem or None)
