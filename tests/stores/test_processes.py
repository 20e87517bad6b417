"""Real processes on one key, against one strict sandbox in the parent process; in real time."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path
from typing import Literal

import pytest

from asyncclients.sandbox import Sandbox

from .server import Server
from .world import most_in

WORKER = str(Path(__file__).with_name("worker.py"))


class Fleet:
    """Worker processes that share one credential."""

    def __init__(
        self,
        sandbox: Sandbox,
        store: str,
        quota: tuple[float, float],
        admission: Literal["adaptive", "exact"] = "adaptive",
    ) -> None:
        self._sandbox, self._store, self._quota = sandbox, store, quota
        self._admission = admission
        self.processes: list[Process] = []

    async def start(self, count: int = 1) -> None:
        """So many more; returns when each has sent a call, or waits for its turn."""
        limit, period = self._quota
        environment = {**os.environ, **self._sandbox.environ}
        words = [self._store, str(int(limit)), str(period), self._admission]
        for _ in range(count):
            self.processes.append(
                await asyncio.create_subprocess_exec(
                    sys.executable, WORKER, *words, stdout=PIPE, stderr=DEVNULL, env=environment
                )
            )
        await asyncio.gather(*(self._ready(process) for process in self.processes[-count:]))

    @staticmethod
    async def _ready(process: Process) -> None:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"ready\n"

    async def stop(self, process: Process) -> None:
        """Let it leave in good order."""
        self.processes.remove(process)
        process.terminate()
        output, _ = await asyncio.wait_for(process.communicate(), 10)
        assert b"rejected 0" in output
        assert process.returncode == 0

    async def kill(self, process: Process) -> None:
        """SIGKILL."""
        self.processes.remove(process)
        process.kill()
        await process.communicate()

    async def end(self) -> None:
        for process in list(self.processes):
            await self.stop(process)


def fill(sandbox: Sandbox, quota: tuple[float, float], since: float, until: float) -> float:
    """Mean fill of the rolling window from *since* to *until*, as a share of the quota."""
    limit, period = quota
    arrivals = [arrival.at for arrival in sandbox.requests("intouch")]
    inside = (min(at + period, until) - max(at, since) for at in arrivals)
    return sum(seconds for seconds in inside if seconds > 0) / (limit * (until - since))


def in_order(sandbox: Sandbox, quota: tuple[float, float]) -> bool:
    arrivals = [arrival.at for arrival in sandbox.requests("intouch")]
    return sandbox.refused("intouch") == 0 and most_in(quota[1], arrivals) <= quota[0]


async def measure(store: str, quota: tuple[float, float], processes: int, seconds: float) -> float:
    """The fill by so many processes after a warm-up; it must be in order."""
    async with Sandbox(quotas={"intouch": quota}) as sandbox:
        fleet = Fleet(sandbox, store, quota)
        await fleet.start(processes)
        await asyncio.sleep(quota[1])
        since = asyncio.get_running_loop().time()
        await asyncio.sleep(seconds)
        used = fill(sandbox, quota, since, since + seconds)
        await fleet.end()
        assert in_order(sandbox, quota)
        return used


@pytest.mark.parametrize("kind", ["redis", "file"])
async def test_four_processes_on_two_a_second(url: str, tmp_path: Path, kind: str) -> None:
    """Four processes, 2 per 1 s, five seconds: never three in a second, and no slot missed."""
    store = url if kind == "redis" else str(tmp_path / "limits.db")
    assert await measure(store, (2, 1.0), 4, 5.0) >= 0.9


async def test_processes_join_leave_and_die(url: str) -> None:
    """One joins, one leaves, one is killed by SIGKILL, at work: never refused, and it goes on.

    In `exact` admission: the sandbox's own loop stands still while it starts a process.
    """
    quota = (10, 1.0)
    async with Sandbox(quotas={"intouch": quota}) as sandbox:
        fleet = Fleet(sandbox, url, quota, "exact")
        await fleet.start(3)
        await fleet.kill(fleet.processes[0])
        await asyncio.sleep(1)
        await fleet.start()
        await fleet.stop(fleet.processes[0])
        loop = asyncio.get_running_loop()
        since = loop.time()
        await asyncio.sleep(2)
        assert fill(sandbox, quota, since, loop.time()) >= 0.9
        await fleet.end()
        assert in_order(sandbox, quota)


@pytest.mark.sweep
@pytest.mark.timeout(900)
@pytest.mark.parametrize("quota", [(2, 1.0), (100, 60.0)])
async def test_four_processes_use_what_one_uses(url: str, quota: tuple[float, float]) -> None:
    """Long runs: four processes within 1 % of one process without a store, no refusal."""
    seconds = max(60.0, 2 * quota[1])
    alone = await measure("none", quota, 1, seconds)
    assert await measure(url, quota, 4, seconds) >= 0.99 * alone


@pytest.mark.sweep
@pytest.mark.timeout(300)
async def test_the_store_dies_under_four_processes() -> None:
    """SIGKILL and a restart while four processes work: no refusal, and the quota is used again."""
    quota = (2, 1.0)
    with Server() as server:
        async with Sandbox(quotas={"intouch": quota}) as sandbox:
            fleet = Fleet(sandbox, server.url, quota)
            await fleet.start(4)
            for _ in range(3):
                await asyncio.sleep(6)
                server.kill()
                await asyncio.sleep(8)
                server.start()
            await asyncio.sleep(10)
            loop = asyncio.get_running_loop()
            since = loop.time()
            await asyncio.sleep(10)
            assert fill(sandbox, quota, since, loop.time()) >= 0.9
            await fleet.end()
            assert in_order(sandbox, quota)
