"""Discovery: asked until there is an answer, and what was known stays while there is none."""

import asyncio

import pytest

from finetune_operator import discovery
from finetune_operator.discovery import Discovery
from finetune_operator.errors import TransientError

OLD, NEW = frozenset({"batch/v1"}), frozenset({"batch/v1", "scheduling.volcano.sh/v1beta1"})


class Server:
    """Answers from a list; the last answer is repeated."""

    def __init__(self, *answers: frozenset[str] | Exception) -> None:
        self.answers = list(answers)

    async def api_versions(self) -> frozenset[str]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


DOWN = TransientError("no answer", status=0)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "RETRY_SECONDS", 0)
    monkeypatch.setattr(discovery, "REFRESH_SECONDS", 0)


async def test_the_first_answer_is_waited_for() -> None:
    asked = Discovery(Server(DOWN, DOWN, OLD))  # type: ignore[arg-type]
    await asked.prime()
    assert asked.api_versions == OLD


async def test_what_was_known_stays_without_an_answer() -> None:
    asked = Discovery(Server(OLD, DOWN))  # type: ignore[arg-type]
    assert await asked.refresh()
    assert not await asked.refresh()
    assert asked.api_versions == OLD


async def test_what_is_installed_later_is_told_once() -> None:
    asked = Discovery(Server(OLD, OLD, DOWN, NEW))  # type: ignore[arg-type]
    await asked.prime()
    told: list[frozenset[str]] = []
    came = asyncio.Event()

    def note() -> None:
        told.append(asked.api_versions)
        came.set()

    task = asyncio.create_task(asked.refresh_forever(note))
    await asyncio.wait_for(came.wait(), timeout=10)
    for _ in range(10):
        await asyncio.sleep(0)
    task.cancel()
    assert told == [NEW]
