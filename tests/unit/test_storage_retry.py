"""The retry loop, under a clock of its own."""

from pathlib import Path
from typing import Any

import pytest
from botocore import exceptions as boto
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.reasons import Reason
from finetune_api.spec import S3Storage
from finetune_trainer.errors import StageFailure
from finetune_trainer.storage import RetryBudget, retry
from finetune_trainer.storage.client import FIRST_CONTACT, STEADY, Access, Patience
from finetune_trainer.storage.faults import Target
from finetune_trainer.storage.retry import RetryingClient, pause

TARGET = Target("GetObject", "b", "k", "http://s3", "Secret s3")
BUDGET = RetryBudget(seconds=300, first_contact=60)


class FakeClient:
    """Has what the loop uses of a client."""

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self.meta = self
        self.events = self
        self.note: Any = None

    def register(self, event: str, handler: Any) -> None:
        assert event == "response-received.s3"
        self.note = handler


class Clock:
    """Sleeping is what makes time pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(retry, "time", clock)
    return clock


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[FakeClient]:
    made: list[FakeClient] = []

    def build(access: Access, patience: Patience) -> FakeClient:
        made.append(FakeClient(patience))
        return made[-1]

    monkeypatch.setattr(retry, "build_client", build)
    return made


@pytest.fixture
def client(clock: Clock, built: list[FakeClient]) -> RetryingClient:
    return RetryingClient(Access(S3Storage(), Path("credentials"), Path("ca")), BUDGET)


def error(code: str, status: int) -> boto.ClientError:
    response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return boto.ClientError(response, "GetObject")  # type: ignore[arg-type]


def failing(*errors: Exception, then: str = "done", clock: Clock | None = None, seconds: float = 0.0) -> Any:
    left = list(errors)

    def work(_client: Any) -> str:
        if clock is not None:
            clock.now += seconds
        if left:
            raise left.pop(0)
        return then

    return work


def always(problem: Exception, clock: Clock, seconds: float = 0.0) -> Any:
    def work(_client: Any) -> str:
        clock.now += seconds
        raise problem

    return work


def test_passing_errors_are_sat_out(client: RetryingClient) -> None:
    assert client.call(TARGET, failing(*[error("SlowDown", 503)] * 5)) == "done"


@pytest.mark.parametrize("problem", [error("NoSuchKey", 404), error("AccessDenied", 403), boto.NoCredentialsError()])
def test_lasting_errors_end_at_once(client: RetryingClient, clock: Clock, problem: Exception) -> None:
    with pytest.raises(StageFailure):
        client.call(TARGET, failing(problem))
    assert clock.now == 0


def test_the_budget_ends_the_tries(client: RetryingClient, built: list[FakeClient], clock: Clock) -> None:
    client.call(TARGET, lambda fake: fake.note({"status_code": 200}))  # type: ignore[attr-defined]
    with pytest.raises(StageFailure) as caught:
        client.call(TARGET, always(error("InternalError", 500), clock))
    assert caught.value.reason is Reason.STORAGE_FAILED
    assert 270 < clock.now <= 300


@pytest.mark.parametrize("seconds_per_try", [0, 1, 30])
def test_an_endpoint_that_never_answered_is_told_within_two_minutes(
    client: RetryingClient, clock: Clock, seconds_per_try: float
) -> None:
    # 30 s is the longest that one try can take: two attempts with a read time-out of 15 s.
    assert FIRST_CONTACT.attempts * FIRST_CONTACT.read_seconds == 30
    with pytest.raises(StageFailure) as caught:
        client.call(TARGET, always(boto.EndpointConnectionError(endpoint_url="http://s3"), clock, seconds_per_try))
    assert caught.value.reason is Reason.STORAGE_UNREACHABLE
    assert clock.now < 100


def test_after_the_first_answer_the_client_is_patient(client: RetryingClient, built: list[FakeClient]) -> None:
    client.call(TARGET, lambda fake: fake.note(None))  # type: ignore[attr-defined]
    client.call(TARGET, lambda fake: fake.note({"status_code": 404}))  # type: ignore[attr-defined]
    client.call(TARGET, failing())
    assert [fake.patience for fake in built] == [FIRST_CONTACT, STEADY]


def test_expired_credentials_are_read_anew_until_they_are_renewed(
    client: RetryingClient, built: list[FakeClient]
) -> None:
    assert client.call(TARGET, failing(*[error("ExpiredToken", 400)] * 3)) == "done"
    assert len(built) == 4


def test_unknown_keys_are_read_anew_once(client: RetryingClient, built: list[FakeClient], clock: Clock) -> None:
    assert client.call(TARGET, failing(error("InvalidAccessKeyId", 403))) == "done"
    assert len(built) == 2
    with pytest.raises(StageFailure) as caught:
        client.call(TARGET, always(error("InvalidAccessKeyId", 403), clock))
    assert caught.value.reason is Reason.STORAGE_ACCESS_DENIED
    assert clock.now < 5


def test_other_errors_pass_through(client: RetryingClient) -> None:
    with pytest.raises(ZeroDivisionError):
        client.call(TARGET, failing(ZeroDivisionError()))


@given(attempt=st.integers(1, 10_000), jitter=st.floats(0, 1, exclude_max=True))
def test_pauses_grow_and_are_bounded(attempt: int, jitter: float) -> None:
    assert 0.25 <= pause(attempt, jitter) <= 20
    assert pause(attempt + 1, jitter) >= pause(attempt, jitter)
