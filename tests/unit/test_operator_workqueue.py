"""The work queue's promises, on simulated time."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_loopback.simulated_time import simulate
from finetune_operator.workqueue import FIRST_BACKOFF, LONGEST_BACKOFF, Key, QueueClosedError, WorkQueue

A, B, C = (Key("ns", name) for name in "abc")


def new_queue(jitter: float = 1.0) -> WorkQueue:
    return WorkQueue(asyncio.get_running_loop(), jitter=lambda: jitter)


def now() -> float:
    return asyncio.get_running_loop().time()


async def take_at(queue: WorkQueue) -> tuple[Key, float]:
    key = await queue.take()
    return key, now()


def test_a_key_that_is_first_goes_before_all_others_and_only_once() -> None:
    async def main() -> None:
        queue = new_queue()
        queue.add(A)
        queue.add(B, first=True)
        queue.add(C, first=True)
        assert [await queue.take(), await queue.take()] == [B, C]
        queue.add(B, first=True)
        queue.done(B)
        assert [await queue.take(), await queue.take()] == [A, B]

    simulate(main)


def test_a_key_stands_in_line_once() -> None:
    async def main() -> None:
        queue = new_queue()
        for key in (A, B, A, A):
            queue.add(key)
        assert queue.depth() == 2
        assert [await queue.take(), await queue.take()] == [A, B]
        assert queue.depth() == 0

    simulate(main)


def test_a_key_dirtied_while_worked_on_comes_back_after_and_not_before() -> None:
    async def main() -> None:
        queue = new_queue()
        queue.add(A)
        assert await queue.take() == A
        queue.add(A)
        queue.add(B)
        assert await queue.take() == B
        other = asyncio.create_task(queue.take())
        await asyncio.sleep(5)
        assert not other.done()
        queue.done(A)
        assert await other == A

    simulate(main)


def test_backoff_doubles_to_five_minutes_and_begins_anew_after_success() -> None:
    async def main() -> None:
        queue = new_queue()
        waits = []
        for _ in range(14):
            began = now()
            queue.retry(A)
            key, at = await take_at(queue)
            queue.done(key)
            waits.append(at - began)
        assert waits[:4] == pytest.approx([FIRST_BACKOFF * 2**power for power in range(4)])
        assert waits == sorted(waits)
        assert waits[-1] == pytest.approx(LONGEST_BACKOFF)
        queue.succeeded(A)
        began = now()
        queue.retry(A)
        assert (await take_at(queue))[1] - began == pytest.approx(FIRST_BACKOFF)

    simulate(main)


@pytest.mark.parametrize(("jitter", "share"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
def test_jitter_takes_up_to_half_of_a_backoff(jitter: float, share: float) -> None:
    async def main() -> float:
        queue = new_queue(jitter)
        queue.retry(A)
        return (await take_at(queue))[1]

    assert simulate(main) == pytest.approx(FIRST_BACKOFF * share)


@pytest.mark.parametrize(("jitter", "seconds"), [(0.0, 30), (0.5, 37.5), (1.0, 45)])
def test_retry_waits_at_least_as_long_as_the_server_asked_and_not_all_come_at_once(
    jitter: float, seconds: float
) -> None:
    async def main() -> float:
        queue = WorkQueue(asyncio.get_running_loop(), jitter=lambda: jitter)
        queue.retry(A, at_least=30)
        return (await take_at(queue))[1]

    assert simulate(main) == pytest.approx(seconds)


def test_an_event_ends_a_backoff_and_the_old_due_time_does_not_count_any_more() -> None:
    async def main() -> None:
        queue = new_queue()
        queue.add_after(A, 10)
        queue.add(A)
        assert await take_at(queue) == (A, 0)
        queue.done(A)
        nothing = asyncio.create_task(queue.take())
        await asyncio.sleep(60)
        assert not nothing.done()
        nothing.cancel()

    simulate(main)


@pytest.mark.parametrize("delays", [(5, 10), (10, 5)])
def test_the_earliest_due_time_counts_and_counts_once(delays: tuple[int, int]) -> None:
    async def main() -> None:
        queue = new_queue()
        for delay in delays:
            queue.add_after(A, delay)
        assert await take_at(queue) == (A, 5)
        queue.done(A)
        second = asyncio.create_task(queue.take())
        await asyncio.sleep(60)
        assert not second.done()
        second.cancel()

    simulate(main)


def test_later_keys_come_in_the_order_of_their_due_times() -> None:
    async def main() -> list[tuple[Key, float]]:
        queue = new_queue()
        queue.add_after(C, 30)
        queue.add_after(A, 10)
        queue.add_after(B, 20)
        return [await take_at(queue) for _ in range(3)]

    assert simulate(main) == [(A, 10), (B, 20), (C, 30)]


def test_oldest_age_counts_waiting_and_working_but_not_what_is_due_later() -> None:
    async def main() -> list[float]:
        queue, ages = new_queue(), []
        queue.add_after(B, 100)
        await asyncio.sleep(10)
        ages.append(queue.oldest_age())
        queue.add(A)
        await asyncio.sleep(7)
        ages.append(queue.oldest_age())
        await queue.take()
        await asyncio.sleep(3)
        ages.append(queue.oldest_age())
        queue.done(A)
        ages.append(queue.oldest_age())
        return ages

    assert simulate(main) == [0, 7, 3, 0]


def test_a_cancelled_taker_loses_no_key() -> None:
    async def main() -> Key:
        queue = new_queue()
        first, second = asyncio.create_task(queue.take()), asyncio.create_task(queue.take())
        await asyncio.sleep(0)
        queue.add(A)
        first.cancel()
        async with asyncio.timeout(1):
            return await second

    assert simulate(main) == A


def test_close_lets_every_taker_go_even_with_keys_in_line() -> None:
    async def main() -> None:
        queue = new_queue()
        takers = [asyncio.create_task(queue.take()) for _ in range(3)]
        await asyncio.sleep(0)
        queue.close()
        results = await asyncio.gather(*takers, return_exceptions=True)
        assert all(isinstance(result, QueueClosedError) for result in results)
        queue.add(A)
        with pytest.raises(QueueClosedError):
            await queue.take()

    simulate(main)


Step = tuple[str, int, float]
STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "after", "retry"]), st.integers(0, 4), st.floats(0, 3)), min_size=1, max_size=40
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, workers=st.integers(1, 4))
def test_no_key_is_lost_nor_worked_on_twice_at_a_time(steps: list[Step], workers: int) -> None:
    """Every key that was marked is worked on after its last mark, never by two workers at once."""

    async def main() -> None:
        queue = new_queue(0.3)
        working: Counter[Key] = Counter()
        finished: dict[Key, float] = {}

        async def work() -> None:
            while True:
                key = await queue.take()
                working[key] += 1
                assert working[key] == 1
                began = now()
                await asyncio.sleep(0.7)
                working[key] -= 1
                finished[key] = began
                queue.done(key)

        tasks = [asyncio.create_task(work()) for _ in range(workers)]
        marked: dict[Key, float] = {}
        for action, number, pause in steps:
            key = Key("ns", str(number))
            if action == "add":
                queue.add(key)
            elif action == "after":
                queue.add_after(key, pause)
            else:
                queue.retry(key)
            marked[key] = now()
            await asyncio.sleep(pause / 2)
        await asyncio.sleep(2 * LONGEST_BACKOFF)
        assert queue.depth() == 0
        assert all(finished[key] >= at for key, at in marked.items())
        failed = [task.exception() for task in tasks if task.done()]
        assert not failed
        for task in tasks:
            task.cancel()

    simulate(main)
