"""How a stage ends badly.

Everything that a user can act on is raised as a `StageFailure`: it carries the exit code that tells the operator
what to do, and the sentence that tells the user. Any other exception is a crash. `redact` keeps credentials out
of both.
"""

import re

from finetune_api.reasons import Reason
from finetune_api.stage import TerminationMessage

CRASH_EXIT_CODE = 1
MESSAGE_LIMIT = 1500
"""Characters of a termination message's sentence."""

_SECRETS = (
    (re.compile(r"(?i)(aws_secret_access_key|aws_session_token)(\s*[=:]\s*)\S+"), r"\1\2[redacted]"),
    (re.compile(r"(?i)(authorization\s*[=:]\s*)[^\r\n]+"), r"\1[redacted]"),
    (re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]+"), r"\1[redacted]"),
    (re.compile(r"(?i)(x-amz-(?:signature|credential|security-token)=)[^&\s]+"), r"\1[redacted]"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b"), "[redacted]"),
    (re.compile(r"(://)[^/\s:@]+:[^/\s@]+@"), r"\1[redacted]@"),
)


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""Of a terminal: torch writes them into its exceptions."""


class StageFailure(Exception):  # noqa: N818 - an outcome
    """A failure with its exit code, its reason and a sentence: what is wrong, where, and how to mend it."""

    def __init__(self, code: int, reason: Reason, message: str) -> None:
        super().__init__(code, reason, message)
        self.code = code
        self.reason = reason
        self.message = message
        self.reached: TerminationMessage | None = None
        """What the stage had reached by then, for its last word."""

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class WorkersFailed(Exception):  # noqa: N818 - an outcome
    """The worker processes of a pod ended with `code`, which may be any; `last_word` is the first failure's."""

    def __init__(self, code: int, last_word: TerminationMessage) -> None:
        super().__init__(code, last_word)
        self.code = code
        self.last_word = last_word


class StopRequested(BaseException):
    """SIGTERM arrived. Not an `Exception`, because HTTP libraries wrap those and try again."""


def redact(text: str) -> str:
    """Return the text with keys, tokens, signatures and passwords in URLs replaced by `[redacted]`."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def describe(error: BaseException) -> str:
    """Return type and text of an exception in one redacted line without colours."""
    text = " ".join(_COLOURS.sub("", str(error)).split())
    return redact(f"{type(error).__name__}: {text}" if text else type(error).__name__)[:MESSAGE_LIMIT]
