"""Leadership under faults, on simulated time: never two leaders, takeover within the promised time."""

import asyncio
import copy
from collections.abc import Callable
from typing import Any

import pytest

from finetune_loopback.simulated_time import simulate
from finetune_operator.errors import ConflictError, NotFoundError, TransientError
from finetune_operator.leader import DURATION, RENEW_DEADLINE, Leader

TAKEOVER_SECONDS = 15


class LeaseServer:
    """One Lease with optimistic locking, as the API server keeps it."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.writers: list[str] = []

    def write(self, lease: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.lease = copy.deepcopy(lease)
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        self.writers.append(lease["spec"]["holderIdentity"])
        return copy.deepcopy(self.lease)


class Line:
    """One replica's connection: can be cut, slow, or lose the answer of a write that was done."""

    def __init__(self, server: LeaseServer) -> None:
        self.server = server
        self.is_cut = False
        self.delay = 0.0
        self.loses_answers = False
        self.reads = 0

    async def get(self, kind: object, *, namespace: str, name: str) -> dict[str, Any]:
        self.reads += 1
        await self._travel()
        if self.server.lease is None:
            raise NotFoundError("no such lease", status=404)
        return copy.deepcopy(self.server.lease)

    async def create(self, kind: object, manifest: dict[str, Any]) -> dict[str, Any]:
        await self._travel()
        if self.server.lease is not None:
            raise ConflictError("already exists", status=409)
        return await self._answer(self.server.write(manifest))

    async def replace(self, kind: object, manifest: dict[str, Any]) -> dict[str, Any]:
        await self._travel()
        if self.server.lease is None:
            raise NotFoundError("no such lease", status=404)
        if manifest["metadata"]["resourceVersion"] != str(self.server.version):
            raise ConflictError("the object has been modified", status=409)
        return await self._answer(self.server.write(manifest))

    async def _travel(self) -> None:
        await asyncio.sleep(0.01 + self.delay)
        if self.is_cut:
            raise TransientError("connection refused", status=0)

    async def _answer(self, reply: dict[str, Any]) -> dict[str, Any]:
        if self.loses_answers:
            raise TransientError("connection reset", status=0)
        return reply


class Replica:
    """A replica that leads as the operator does: acquire, keep, and end when the Lease is lost."""

    def __init__(self, server: LeaseServer, name: str) -> None:
        loop = asyncio.get_running_loop()
        self.line = Line(server)
        self.leader = Leader(
            self.line, namespace="ns", name="lease", identity=name, address=f"{name}:8443", clock=loop.time
        )
        self.led_from: float | None = None
        self._led = asyncio.Event()
        self.task = asyncio.create_task(self._lead())

    async def _lead(self) -> None:
        await self.leader.acquire()
        self.led_from = asyncio.get_running_loop().time()
        self._led.set()
        await self.leader.keep()

    async def leads(self) -> None:
        await self._led.wait()


async def pair() -> tuple[Replica, Replica, LeaseServer]:
    """Return a leader and a standby."""
    server = LeaseServer()
    first = Replica(server, "first")
    await first.leads()
    second = Replica(server, "second")
    await asyncio.sleep(5)
    assert first.leader.holds()
    assert not second.leader.holds()
    return first, second, server


def test_the_first_replica_creates_the_lease_and_keeps_it() -> None:
    async def main() -> None:
        first, second, server = await pair()
        await asyncio.sleep(600)
        assert first.leader.holds()
        assert second.led_from is None
        assert set(server.writers) == {"first"}
        assert server.lease is not None
        assert server.lease["spec"]["leaseTransitions"] == 0

    simulate(main)


def test_a_renewal_is_one_call() -> None:
    async def story() -> None:
        server = LeaseServer()
        replica = Replica(server, "a")
        await asyncio.sleep(5)
        before, reads = server.version, replica.line.reads
        await asyncio.sleep(20)
        assert server.version - before >= 9
        assert replica.line.reads == reads
        assert replica.leader.holds()

    simulate(story)


def test_an_api_server_that_needs_seconds_for_each_call_ends_no_leader() -> None:
    async def story() -> None:
        server = LeaseServer()
        replica = Replica(server, "a")
        await asyncio.sleep(5)
        replica.line.delay = 3.4
        for _ in range(60):
            await asyncio.sleep(1)
            assert replica.leader.holds()

    simulate(story)


def test_a_standby_knows_where_the_leader_is_while_it_leads() -> None:
    async def main() -> None:
        first, second, server = await pair()
        assert (first.leader.address_of_other(), second.leader.address_of_other()) == ("", "first:8443")
        first.task.cancel()
        await second.leads()
        assert server.lease is not None
        assert list(server.lease["metadata"]["annotations"].values()) == ["second:8443"]
        await asyncio.sleep(DURATION)
        assert second.leader.address_of_other() == ""

    simulate(main)


def test_a_standby_that_does_not_see_the_lease_knows_no_leader_after_its_duration() -> None:
    async def main() -> None:
        _, second, _ = await pair()
        second.line.is_cut = True
        await asyncio.sleep(DURATION / 2)
        assert second.leader.address_of_other() == "first:8443"
        await asyncio.sleep(DURATION)
        assert second.leader.address_of_other() == ""

    simulate(main)


def test_a_leader_that_has_no_address_leaves_none_of_the_one_before_and_others_notes_stay() -> None:
    async def main() -> None:
        first, second, server = await pair()
        assert server.lease is not None
        server.lease["metadata"]["annotations"]["note"] = "x"
        second.leader._address = ""
        first.task.cancel()
        await second.leads()
        assert server.lease["metadata"]["annotations"] == {"note": "x"}

    simulate(main)


def test_two_replicas_that_start_together_make_one_leader() -> None:
    async def main() -> list[bool]:
        server = LeaseServer()
        replicas = [Replica(server, str(number)) for number in range(5)]
        await asyncio.sleep(30)
        return [replica.leader.holds() for replica in replicas]

    assert sum(simulate(main)) == 1


def test_a_killed_leader_is_followed_within_the_promise() -> None:
    async def main() -> float:
        first, second, _ = await pair()
        first.task.cancel()
        died = asyncio.get_running_loop().time()
        await second.leads()
        assert second.led_from is not None
        return second.led_from - died

    assert DURATION - 5 < simulate(main) < TAKEOVER_SECONDS


def test_a_released_lease_is_taken_at_once() -> None:
    async def main() -> float:
        first, second, server = await pair()
        first.task.cancel()
        await first.leader.release()
        assert not first.leader.holds()
        ended = asyncio.get_running_loop().time()
        await second.leads()
        assert server.lease is not None
        assert server.lease["spec"]["leaseTransitions"] == 1
        return (second.led_from or 0) - ended

    assert simulate(main) < 3


def break_connection(line: Line) -> None:
    line.is_cut = True


def hang(line: Line) -> None:
    line.delay = 1000


def lose_answers(line: Line) -> None:
    line.loses_answers = True


@pytest.mark.parametrize("fault", [break_connection, hang])
def test_a_leader_that_cannot_renew_stops_before_another_one_starts(fault: Callable[[Line], None]) -> None:
    async def main() -> None:
        first, second, _ = await pair()
        fault(first.line)
        while first.leader.holds():
            assert not second.leader.holds()
            await asyncio.sleep(0.05)
        stopped = asyncio.get_running_loop().time()
        await second.leads()
        assert (second.led_from or 0) - stopped > 1
        assert first.task.done()

    simulate(main)


def test_a_leader_whose_answers_are_lost_stops_too() -> None:
    async def main() -> None:
        first, second, _ = await pair()
        lose_answers(first.line)
        await asyncio.sleep(RENEW_DEADLINE + 4)
        assert first.task.done()
        assert not second.leader.holds()

    simulate(main)


def test_a_short_fault_costs_nothing() -> None:
    async def main() -> None:
        first, second, _ = await pair()
        first.line.is_cut = True
        await asyncio.sleep(RENEW_DEADLINE - 4)
        first.line.is_cut = False
        await asyncio.sleep(30)
        assert first.leader.holds()
        assert second.led_from is None

    simulate(main)


def test_a_frozen_process_knows_by_its_own_clock_that_it_lost() -> None:
    async def main() -> None:
        first, _, _ = await pair()
        first.task.cancel()
        await asyncio.sleep(RENEW_DEADLINE + 0.1)
        assert not first.leader.holds()

    simulate(main)


def test_a_standbys_clock_starts_when_it_first_sees_the_lease_whatever_the_lease_says() -> None:
    """A holder whose wall clock is years behind is not robbed of its Lease."""

    async def main() -> float:
        server = LeaseServer()
        spec = {"holderIdentity": "other", "leaseDurationSeconds": DURATION, "renewTime": "1999-01-01T00:00:00.0Z"}
        server.write({"metadata": {"name": "lease"}, "spec": spec})
        replica = Replica(server, "me")
        await replica.leads()
        return replica.led_from or 0

    assert DURATION < simulate(main) < TAKEOVER_SECONDS


def test_release_leaves_a_lease_alone_that_another_one_has_taken() -> None:
    async def main() -> None:
        server = LeaseServer()
        replica = Replica(server, "me")
        await replica.leads()
        assert server.lease is not None
        server.lease["spec"]["holderIdentity"] = "other"
        await replica.leader.release()
        assert server.lease["spec"]["holderIdentity"] == "other"

    simulate(main)


def no_holder(lease: dict[str, Any]) -> None:
    lease["spec"]["holderIdentity"] = ""


def thief(lease: dict[str, Any]) -> None:
    lease["spec"] |= {"holderIdentity": "thief", "leaseDurationSeconds": 3600}


@pytest.mark.parametrize("edit", [no_holder, None], ids=["emptied", "deleted"])
def test_a_leader_takes_a_lease_back_that_names_nobody_and_no_standby_steps_in(
    edit: Callable[[dict[str, Any]], None] | None,
) -> None:
    async def main() -> None:
        leader, standby, server = await pair()
        for _ in range(20):
            if edit is None:
                server.lease = None
            else:
                assert server.lease is not None
                edit(server.lease)
                server.write(server.lease)
            await asyncio.sleep(3.3)
            assert leader.leader.holds()
        assert standby.led_from is None

    simulate(main)


def test_a_leader_ends_at_once_when_the_lease_names_another_one() -> None:
    async def main() -> None:
        server = LeaseServer()
        first = Replica(server, "first")
        await asyncio.sleep(5)
        assert server.lease is not None
        thief(server.lease)
        server.write(server.lease)
        await asyncio.sleep(2.5)
        assert not first.leader.holds()
        await asyncio.wait_for(first.task, 1)

    simulate(main)
