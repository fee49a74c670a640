"""Whose token it is: what a TokenReview must say, and how long its answer is believed."""

import asyncio
import base64
import json
import time
from typing import Any

import pytest

from finetune_api.stage import TOKEN_AUDIENCE
from finetune_operator.errors import RefusedError, TransientError
from finetune_operator.metrics import Metrics
from finetune_operator.tokens import (
    BAD_SECONDS,
    CACHE_SIZE,
    GOOD_SECONDS,
    REVIEWS_BURST,
    PodIdentity,
    ReviewUnavailableError,
    TokenReviewer,
    pod_of,
)

POD = PodIdentity(namespace="ns", name="tune-a1-0-abcde", uid="p1")


def review_status(**changes: Any) -> dict[str, Any]:
    extra = {"authentication.kubernetes.io/pod-name": [POD.name], "authentication.kubernetes.io/pod-uid": [POD.uid]}
    user = {"username": "system:serviceaccount:ns:default", "extra": extra}
    return {"authenticated": True, "audiences": [TOKEN_AUDIENCE], "user": user, **changes}


def token(name: str = "t", *, seconds: float = 3600) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"exp": time.time() + seconds, "name": name}).encode()).decode()
    return f"head.{claims.rstrip('=')}.signature"


class ReviewServer:
    """Answers reviews with one status, counts them, and can be out of order."""

    def __init__(self) -> None:
        self.reviews = 0
        self.status: dict[str, Any] = review_status()
        self.error: Exception | None = None

    async def review(self, token: str, *, audience: str) -> dict[str, Any]:
        assert token
        assert audience == TOKEN_AUDIENCE
        self.reviews += 1
        if self.error:
            raise self.error
        return self.status


class Bench:
    """A reviewer over a review server and a clock that is set by hand."""

    def __init__(self) -> None:
        self.server = ReviewServer()
        self.now = 0.0
        self.reviewer = TokenReviewer(self.server, metrics=Metrics(), clock=lambda: self.now)

    def identify(self, text: str) -> PodIdentity | None:
        return asyncio.run(self.reviewer.identify(text))


def test_a_good_review_names_the_pod() -> None:
    assert pod_of(review_status()) == POD


@pytest.mark.parametrize(
    "changes",
    [
        {"authenticated": False},
        {"authenticated": None},
        {"audiences": ["https://kubernetes.default.svc"]},
        {"audiences": None},
        {"user": None},
        {"user": {"username": "jane", "extra": review_status()["user"]["extra"]}},
        {"user": {"username": "system:serviceaccount:ns:default"}},
        {"user": {"username": "system:serviceaccount:ns:default", "extra": {}}},
        {
            "user": {
                "username": "system:serviceaccount:ns:default",
                "extra": {"authentication.kubernetes.io/pod-name": ["x"]},
            }
        },
        {"error": "expired", "authenticated": False},
    ],
)
def test_a_review_that_names_no_pod_of_ours_is_no_identity(changes: dict[str, Any]) -> None:
    assert pod_of(review_status(**changes)) is None


@pytest.mark.parametrize(("seconds", "believed"), [(3600, GOOD_SECONDS), (60, 60)])
def test_a_good_answer_is_kept_five_minutes_but_not_beyond_the_token(seconds: float, believed: float) -> None:
    bench = Bench()
    text = token(seconds=seconds)
    assert bench.identify(text) == POD
    bench.now = believed - 2
    assert bench.identify(text) == POD
    assert bench.server.reviews == 1
    bench.now = believed + 1
    bench.identify(text)
    assert bench.server.reviews == 2


def test_a_bad_answer_is_kept_briefly() -> None:
    bench = Bench()
    bench.server.status = {"authenticated": False}
    text = token()
    assert bench.identify(text) is None
    bench.server.status = review_status()
    assert bench.identify(text) is None
    bench.now = BAD_SECONDS + 1
    assert bench.identify(text) == POD


@pytest.mark.parametrize("text", ["opaque", "a.b.c", "a.e30.c"])
def test_a_token_without_readable_expiry_is_reviewed_each_time(text: str) -> None:
    bench = Bench()
    assert [bench.identify(text), bench.identify(text)] == [POD, POD]
    assert bench.server.reviews == 2


def test_an_api_server_that_does_not_answer_is_not_a_bad_token() -> None:
    bench = Bench()
    bench.server.error = TransientError("overloaded", status=503)
    with pytest.raises(ReviewUnavailableError):
        bench.identify(token())
    bench.server.error = None
    assert bench.identify(token()) == POD


def test_a_review_that_is_refused_is_a_bad_token() -> None:
    bench = Bench()
    bench.server.error = RefusedError("token is malformed", status=400)
    assert bench.identify(token()) is None


def test_a_flood_of_made_up_tokens_stops_at_the_budget() -> None:
    bench = Bench()
    bench.server.status = {"authenticated": False}
    for number in range(int(REVIEWS_BURST)):
        bench.identify(token(str(number)))
    with pytest.raises(ReviewUnavailableError):
        bench.identify(token("one more"))
    assert bench.server.reviews == int(REVIEWS_BURST)


def test_the_cache_is_bounded_and_holds_no_token() -> None:
    bench = Bench()
    for number in range(CACHE_SIZE + 50):
        bench.now += 1
        bench.reviewer._keep(str(number), POD, 3600)
    assert len(bench.reviewer._cache) == CACHE_SIZE
    text = token("secret")
    bench.identify(text)
    assert text not in repr(bench.reviewer._cache)
