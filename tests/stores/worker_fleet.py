"""Worker processes on one key against one strict sandbox in this process; in real time."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import cycle, pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

from asyncclients.sandbox import Sandbox
from asyncclients.stores.config import WhenDown
from tests.stores.quota_worker import Lag
from tests.support.shared_quota import most_in

WORKER = str(Path(__file__).with_name("quota_worker.py"))
CLOCKS = (0.0, 30.0, -30.0, 3600.0)
"""By how many seconds the clocks of one machine after the other are off."""
_STEADY = 0.02
"""Seconds for which loops may stand still in a measurement that counts."""

Admission = Literal["adaptive", "exact"]
TwoFloats = tuple[float, float]


class Trial(NamedTuple):
    """The result of one measurement.

    Attributes:
        used: mean fill of the rolling window, as a share of the quota.
        rejected: calls that the sandbox rate-limited.
        most: the most arrivals in any period.
        gap: the longest time without any arrival, in seconds.
        lag: the longest time for which a loop stood still, in seconds.
    """

    used: float
    rejected: int
    most: int
    gap: float
    lag: float


async def judged(measure: Callable[[], Awaitable[Trial]], good: Callable[[Trial], bool]) -> None:
    """Assert that a trial is *good*.

    A trial that is not good while this process or a worker was blocked by the machine's load
    is repeated.
    """
    trials: list[Trial] = []
    for _ in range(4):
        trials.append(await measure())
        if good(trials[-1]):
            return
        assert trials[-1].lag > _STEADY, trials
    pytest.fail(f"this machine is too busy to judge: {trials}")


class Fleet:
    """Worker processes that share one credential."""

    def __init__(
        self,
        sandbox: Sandbox,
        store: str,
        quota: TwoFloats,
        *,
        admission: Admission = "adaptive",
        when_down: WhenDown = "safe_share",
    ) -> None:
        self._sandbox, self._quota = sandbox, quota
        limit, period = quota
        self._words = [store, str(int(limit)), str(period), admission, when_down]
        self._clocks = cycle(CLOCKS)
        self.processes: list[Process] = []
        self.lag = Lag()

    async def start(self, count: int = 1) -> None:
        """So many more; returns when each has made a call."""
        environment = {**os.environ, **self._sandbox.environ}
        for _ in range(count):
            words = [WORKER, *self._words, str(next(self._clocks))]
            self.processes.append(
                await asyncio.create_subprocess_exec(
                    sys.executable, *words, stdout=PIPE, stderr=DEVNULL, env=environment
                )
            )
        await asyncio.gather(*(self._ready(process) for process in self.processes[-count:]))

    @staticmethod
    async def _ready(process: Process) -> None:
        assert process.stdout is not None
        async with asyncio.timeout(120):
            assert await process.stdout.readline() == b"ready\n"

    async def stop(self, process: Process) -> None:
        """Let it leave in good order."""
        self.processes.remove(process)
        process.terminate()
        output, _ = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0
        lag = float(output.rpartition(b" ")[2])
        self.lag.longest = max(self.lag.longest, lag)

    async def kill(self, process: Process) -> None:
        """SIGKILL."""
        self.processes.remove(process)
        process.kill()
        await process.communicate()

    def trial(self, since: float, until: float) -> Trial:
        """Return the result: *used* and *gap* from *since* to *until*, the rest from the start."""
        limit, period = self._quota
        arrivals = [arrival.at for arrival in self._sandbox.requests("intouch")]
        inside = [max(0.0, min(at + period, until) - max(at, since)) for at in arrivals]
        marks = [since, *(at for at in arrivals if since < at < until), until]
        return Trial(
            used=sum(inside) / (limit * (until - since)),
            rejected=self._sandbox.rejected("intouch"),
            most=most_in(period, arrivals),
            gap=max(b - a for a, b in pairwise(marks)),
            lag=self.lag.longest,
        )


@asynccontextmanager
async def fleet_of(
    count: int,
    store: str,
    quota: TwoFloats,
    *,
    admission: Admission = "adaptive",
    when_down: WhenDown = "safe_share",
) -> AsyncGenerator[Fleet]:
    """So many processes at work, against a sandbox with *quota*; they leave at the end."""
    async with Sandbox(quotas={"intouch": quota}) as sandbox:
        fleet = Fleet(sandbox, store, quota, admission=admission, when_down=when_down)
        watch = asyncio.create_task(fleet.lag.watch())
        try:
            await fleet.start(count)
            yield fleet
            for process in list(fleet.processes):
                await fleet.stop(process)
        finally:
            watch.cancel()
            for process in list(fleet.processes):
                await fleet.kill(process)


async def measure(store: str, quota: TwoFloats, processes: int, seconds: float) -> Trial:
    """So many processes at work for so long, after a warm-up of one period."""
    async with fleet_of(processes, store, quota) as fleet:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(quota[1])
        since = loop.time()
        await asyncio.sleep(seconds)
        until = loop.time()
    return fleet.trial(since, until)
