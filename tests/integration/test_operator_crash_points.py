"""Crash points: the operator is stopped at every write it makes, before and after it reached the API server.

Each life is lived once without a crash. Then it is lived again for every write of that life, twice: the operator is
stopped dead before the write is sent, or once it is answered, and started anew. The end must be the same: the status
without its times, the Jobs and pods that came into being, and what is left. Every third of these points is tried with
all tests, and each of them with `EXACT=whole`.
"""

import asyncio
import time
from dataclasses import asdict
from typing import Any

import pytest
from crash_feed import Feed, running_feed
from crash_lives import LIVES
from crash_points import Record, live
from crash_replica import Cut, Side
from crash_world import Life
from extent import IS_WHOLE

from finetune_loopback.certificates import write_certificate
from finetune_loopback.kube_client import KubeApi

AT_ONCE = 16
STRIDE = 1 if IS_WHOLE else 3
"""Odd, so that both sides of a write have their turn."""
SHARE_REACHED = 0.95
"""Two changes that come close together may be one status or two, so the last write of a life may not come again."""


@pytest.mark.slow
async def test_a_crash_at_any_write_changes_nothing(crd_installed: KubeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(crd_installed.admin))
    write_certificate(crd_installed.directory / "operator-tls")
    began = time.monotonic()
    async with running_feed(crd_installed) as feed:
        whole = dict(zip(LIVES, await live_all(feed, [(life, None) for life in LIVES]), strict=True))
        check_whole(whole)
        cuts = [
            (life, Cut(number, side))
            for life, record in whole.items()
            for number in range(1, len(record.writes) + 1)
            for side in Side
        ]
        records = await live_all(feed, cuts[::STRIDE])
    differences = [text for record in records if (text := difference(whole[record.life], record))]
    points = sum(record.was_cut for record in records)
    print(
        f"{points} points cut in {len(LIVES)} lives, {len(differences)} differences,"
        f" {len(records) - points} points not reached, {time.monotonic() - began:.0f} s"
    )
    print("writes of each life:", {life.name: len(record.writes) for life, record in whole.items()})
    assert points >= max(SHARE_REACHED * len(records), 100)
    assert not differences, "\n".join(differences)


async def live_all(feed: Feed, points: list[tuple[Life, Cut | None]]) -> list[Record]:
    """Live each life in a namespace of its own, some at a time."""
    room = asyncio.Semaphore(AT_ONCE)

    async def run(life: Life, cut: Cut | None) -> Record:
        where = f"{cut.side.value}-{cut.write}" if cut else "whole"
        async with room:
            return await live(feed, life, namespace=f"cut-{life.name}-{where}", cut=cut)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(run(life, cut)) for life, cut in points]
    return [task.result() for task in tasks]


def check_whole(whole: dict[Life, Record]) -> None:
    """Hold the lives without a crash to their scripts, or the comparison would be worth nothing."""
    for life, record in whole.items():
        assert record.outcome.phase == life.ends_as, (life.name, record.outcome, record.writes)
        assert record.starts == 1
        assert not record.outcome.violations


def difference(whole: Record, cut: Record) -> str:
    """Return what differs from the life without a crash, empty if nothing does."""
    place = f"{cut.life.name} cut {cut.cut}" + (f" ({whole.writes[cut.cut.write - 1]})" if cut.cut else "")
    parts = differing(asdict(whole.outcome), asdict(cut.outcome))
    return f"{place}: {'; '.join(parts)}" if parts else ""


def differing(expected: Any, found: Any, path: str = "") -> list[str]:
    """Return the places where two nested values differ."""
    if isinstance(expected, dict) and isinstance(found, dict):
        names = sorted(expected.keys() | found.keys())
        return [text for name in names for text in differing(expected.get(name), found.get(name), f"{path}.{name}")]
    if isinstance(expected, list | tuple) and isinstance(found, list | tuple) and len(expected) == len(found):
        pairs = enumerate(zip(expected, found, strict=True))
        return [text for number, (one, other) in pairs for text in differing(one, other, f"{path}[{number}]")]
    return [] if expected == found else [f"{path}: {expected!r} became {found!r}"]
