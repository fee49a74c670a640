"""Whose token is it: TokenReview with a cache.

A progress token is bound to a pod by the API server, which tells the pod's name and uid back. Answers are kept by
the token's hash (never the token) until the token expires or five minutes are over, refusals for ten seconds; both
are bounded in number. Unknown tokens share one budget of reviews, so that a flood of made-up tokens cannot turn the
operator into a load on the API server. The pod itself is looked up in the store on each request, so a cached answer
outlives no pod.
"""

import base64
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from finetune_api.stage import TOKEN_AUDIENCE
from finetune_operator.errors import ApiError, TransientError
from finetune_operator.kube import Kube
from finetune_operator.metrics import Metrics
from finetune_operator.samples import Budget

CACHE_SIZE = 10_000
GOOD_SECONDS = 300.0
BAD_SECONDS = 10.0
REVIEWS_PER_SECOND = 20.0
REVIEWS_BURST = 100.0
POD_NAME = "authentication.kubernetes.io/pod-name"
POD_UID = "authentication.kubernetes.io/pod-uid"
_ACCOUNT_PREFIX = "system:serviceaccount:"


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """The pod that a token was made for."""

    namespace: str
    name: str
    uid: str


class ReviewUnavailableError(Exception):
    """The API server could not be asked now; the token may be good."""


class TokenReviewer:
    """Tells which pod a token belongs to."""

    def __init__(self, kube: Kube, *, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._kube = kube
        self._metrics = metrics
        self._clock = clock
        self._cache: OrderedDict[str, tuple[PodIdentity | None, float]] = OrderedDict()
        self._budget = Budget(per_second=REVIEWS_PER_SECOND, burst=REVIEWS_BURST, clock=clock)

    async def identify(self, token: str) -> PodIdentity | None:
        """Return the token's pod, None for a token that is not good. Raises ReviewUnavailableError."""
        digest = digest_of(token)
        known = self._cache.get(digest)
        if known is not None and known[1] > self._clock():
            return known[0]
        identity = await self._review(token)
        self._keep(digest, identity, _seconds_left(token))
        return identity

    async def _review(self, token: str) -> PodIdentity | None:
        if not self._budget.try_take():
            raise ReviewUnavailableError("too many tokens to review")
        try:
            status = await self._kube.review(token, audience=TOKEN_AUDIENCE)
        except (TransientError, TimeoutError) as error:
            self._metrics.token_reviews.labels("unavailable").inc()
            raise ReviewUnavailableError(str(error)) from error
        except ApiError:
            self._metrics.token_reviews.labels("refused").inc()
            return None
        identity = pod_of(status)
        self._metrics.token_reviews.labels("good" if identity else "bad").inc()
        return identity

    def _keep(self, digest: str, identity: PodIdentity | None, seconds_left: float) -> None:
        seconds = BAD_SECONDS if identity is None else min(GOOD_SECONDS, seconds_left)
        self._cache[digest] = (identity, self._clock() + seconds)
        self._cache.move_to_end(digest)
        while len(self._cache) > CACHE_SIZE:
            self._cache.popitem(last=False)


def digest_of(token: str) -> str:
    """Return the key under which a token is known here."""
    return hashlib.sha256(token.encode()).hexdigest()


def pod_of(status: dict[str, Any]) -> PodIdentity | None:
    """Return the pod named by a TokenReview's status; None unless it is good, for us, and bound to a pod."""
    user = status.get("user") or {}
    extra = user.get("extra") or {}
    account = str(user.get("username") or "")
    names, uids = extra.get(POD_NAME) or [], extra.get(POD_UID) or []
    is_ours = status.get("authenticated") is True and TOKEN_AUDIENCE in (status.get("audiences") or ())
    if not is_ours or not account.startswith(_ACCOUNT_PREFIX) or len(names) != 1 or len(uids) != 1:
        return None
    return PodIdentity(namespace=account.removeprefix(_ACCOUNT_PREFIX).split(":")[0], name=names[0], uid=uids[0])


def _seconds_left(token: str) -> float:
    """Return the seconds until the token says that it expires; 0 for one whose claims cannot be read.

    Used only to shorten the time an answer is kept, after the API server has checked the token.
    """
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return max(0.0, float(claims["exp"]) - time.time())
    except (IndexError, ValueError, KeyError, TypeError):
        return 0.0
