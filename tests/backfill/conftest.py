"""Backfills in processes of their own, killed at random instants."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random

import msgspec
import pytest

from asyncclients.backfill import Report
from tests.support.command import start

WORKER = str(Path(__file__).with_name("killed_job.py"))


class Killer:
    """Runs `killed_job.py` and kills it, again and again, then lets it end.

    Attributes:
        kills: how often it was killed at work.
    """

    def __init__(self, environ: Mapping[str, str], seed: int = 0) -> None:
        self._environ = {**os.environ, **environ}
        self._random = Random(seed)
        self.kills = 0

    async def run(self, *arguments: str, kills: int, longest: float) -> Report:
        """The report of the last run, after *kills* kills, each within *longest* seconds."""
        for _ in range(kills):
            if not await self.kill(*arguments, longest=longest):
                break
        return msgspec.json.decode(await self.finish(*arguments), type=Report)

    async def kill(self, *arguments: str, longest: float) -> bool:
        """Kill a run within *longest* seconds; return False if it ended before."""
        was_killed = await self._once(arguments, self._random.uniform(0.0, longest)) is None
        self.kills += was_killed
        return was_killed

    async def finish(self, *arguments: str) -> bytes:
        """The report of a run that is not killed, as JSON."""
        report = await self._once(arguments, None)
        assert report is not None
        return report

    async def _once(self, arguments: tuple[str, ...], seconds: float | None) -> bytes | None:
        process = await start(*arguments, environ=self._environ, script=WORKER)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"go\n"
        try:
            out, err = await asyncio.wait_for(process.communicate(), seconds)
        except TimeoutError:
            process.kill()
            await process.communicate()
            return None
        assert process.returncode == 0, err.decode()
        return out


@pytest.fixture
def full_disk() -> Iterator[Callable[[], None]]:
    """No file may grow beyond 40,000 bytes; a call lifts that."""
    resource = pytest.importorskip("resource", reason="POSIX limits the size of files")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def lift() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
    yield lift
    lift()
