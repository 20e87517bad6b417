"""Real processes on one key, against one strict sandbox in the parent process; in real time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest

from asyncclients.stores.config import WhenDown
from tests.stores.worker_fleet import Trial, TwoFloats, fleet_of, judged, measure
from tests.support.valkey_server import Server

TWO, HUNDRED = (2.0, 1.0), (100.0, 60.0)
_alone: dict[TwoFloats, Trial] = {}


def place_of(kind: str, url: str, directory: Path) -> str:
    return url if kind == "redis" else str(directory / "limits.db")


def in_order(trial: Trial, quota: TwoFloats) -> bool:
    """Nothing refused, and never more than the quota in any period."""
    return trial.refused == 0 and trial.most <= quota[0]


async def one_process(quota: TwoFloats) -> Trial:
    """What one process without a store comes to."""
    if quota not in _alone:
        _alone[quota] = await measure("none", quota, 1, max(60.0, 2 * quota[1]))
    return _alone[quota]


@pytest.mark.parametrize("kind", ["redis", "file"])
async def test_four_processes_on_two_a_second(url: str, tmp_path: Path, kind: str) -> None:
    """Four processes, 2 per 1 s, five seconds: never three in a second, and no slot missed.

    The machines' clocks are half a minute and an hour apart.
    """
    store = place_of(kind, url, tmp_path)
    await judged(
        lambda: measure(store, TWO, 4, 5.0),
        lambda trial: in_order(trial, TWO) and trial.used >= 0.9,
    )


async def test_processes_join_leave_and_die(url: str) -> None:
    """One joins, one leaves, one is killed by SIGKILL, at work: never refused, and it goes on."""
    quota = (10.0, 1.0)

    async def trial() -> Trial:
        async with fleet_of(3, url, quota) as fleet:
            await fleet.kill(fleet.processes[0])
            await asyncio.sleep(1)
            await fleet.start()
            await fleet.stop(fleet.processes[0])
            loop = asyncio.get_running_loop()
            since = loop.time()
            await asyncio.sleep(2)
            until = loop.time()
        return fleet.trial(since, until)

    await judged(trial, lambda trial: in_order(trial, quota) and trial.used >= 0.9)


# --- Long runs ----------------------------------------------------------------------


@pytest.mark.sweep
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["redis", "file"])
@pytest.mark.parametrize("quota", [TWO, HUNDRED])
async def test_four_processes_use_what_one_uses(
    url: str, tmp_path: Path, kind: str, quota: TwoFloats
) -> None:
    """Four processes: within 1 % of one process without a store, no refusal."""
    alone = await one_process(quota)
    store = place_of(kind, url, tmp_path)
    await judged(
        lambda: measure(store, quota, 4, max(60.0, 2 * quota[1])),
        lambda trial: in_order(trial, quota) and trial.used >= 0.99 * alone.used,
    )


@pytest.mark.sweep
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("quota", [TWO, HUNDRED])
async def test_they_use_it_also_while_they_join_leave_and_die(url: str, quota: TwoFloats) -> None:
    """Every while one of four joins, is killed by SIGKILL or leaves: 1 % at most, no refusal."""
    alone = await one_process(quota)
    random = Random(quota[0])
    pause = max(12.0, quota[1] / 2)

    async def trial() -> Trial:
        async with fleet_of(3, url, quota) as fleet:
            loop = asyncio.get_running_loop()
            await asyncio.sleep(quota[1])
            since = loop.time()
            for _ in range(3):
                await fleet.start()
                await asyncio.sleep(pause)
                await fleet.kill(random.choice(fleet.processes))
                await asyncio.sleep(pause)
                await fleet.start()
                await asyncio.sleep(pause)
                await fleet.stop(random.choice(fleet.processes))
            until = loop.time()
        return fleet.trial(since, until)

    await judged(trial, lambda trial: in_order(trial, quota) and trial.used >= 0.99 * alone.used)


@pytest.mark.sweep
@pytest.mark.timeout(900)
@pytest.mark.parametrize("when_down", ["safe_share", "pause"])
async def test_the_store_dies_under_four_processes(when_down: WhenDown) -> None:
    """SIGKILL and a restart without its data, three times: no refusal, no hang, full use again.

    Nothing arrives for 5 s at most: silence is noticed in 1 s, a spent window and the leases
    take another 1.3 s, a turn 2.5 s. In `pause` that comes on top of the outage.
    """
    down = 8.0
    loop = asyncio.get_running_loop()

    async def trial() -> Trial:
        with Server() as server:
            async with fleet_of(4, server.url, TWO, when_down=when_down) as fleet:
                begun = loop.time()
                for _ in range(3):
                    await asyncio.sleep(6)
                    await asyncio.to_thread(server.kill)
                    await asyncio.sleep(down)
                    await asyncio.to_thread(server.start)
                await asyncio.sleep(10)
                since = loop.time()
                await asyncio.sleep(10)
                until = loop.time()
        return fleet.trial(since, until)._replace(gap=fleet.trial(begun, until).gap)

    longest = 5.0 + (down if when_down == "pause" else 0.0)
    await judged(
        trial,
        lambda trial: in_order(trial, TWO) and trial.used >= 0.9 and trial.gap <= longest,
    )
