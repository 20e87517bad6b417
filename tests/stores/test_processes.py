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
    """Return whether nothing was rate-limited and no period had more calls than the quota."""
    return trial.rejected == 0 and trial.most <= quota[0]


async def one_process(quota: TwoFloats) -> Trial:
    """Measure one process without a store, once for each quota."""
    if quota not in _alone:
        _alone[quota] = await measure("none", quota, 1, max(60.0, 2 * quota[1]))
    return _alone[quota]


@pytest.mark.parametrize("kind", ["redis", "file"])
async def test_four_processes_share_two_calls_per_second(
    url: str, tmp_path: Path, kind: str
) -> None:
    """Four processes, 2 per 1 s: never three in a second, and no slot lost.

    The machines' clocks are half a minute and an hour apart.
    """
    store = place_of(kind, url, tmp_path)
    await judged(
        lambda: measure(store, TWO, 4, 2.5),
        lambda trial: in_order(trial, TWO) and trial.used >= 0.9,
    )


async def test_processes_that_join_leave_and_die_exceed_no_quota(url: str) -> None:
    """One process joins, one leaves, one is killed: no rate limits, and the rest continue."""
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
    """Four processes: within 1 % of one process without a store, no rate limits."""
    alone = await one_process(quota)
    store = place_of(kind, url, tmp_path)
    await judged(
        lambda: measure(store, quota, 4, max(60.0, 2 * quota[1])),
        lambda trial: in_order(trial, quota) and trial.used >= 0.99 * alone.used,
    )


@pytest.mark.sweep
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("quota", [TWO, HUNDRED])
async def test_quota_is_used_while_processes_join_leave_and_die(url: str, quota: TwoFloats) -> None:
    """Processes join, are killed or leave all the time: 1 % lost at most, no rate limits."""
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
async def test_store_that_is_killed_exceeds_no_quota(when_down: WhenDown) -> None:
    """SIGKILL and a restart without data, three times: no rate limits, no hang, full use again.

    Nothing arrives for 5 s at most: 1 s until the outage begins, 1.3 s for a spent window and
    the leases, 2.5 s for a turn. In `pause` this is added to the outage.
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
