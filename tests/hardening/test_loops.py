"""Event loops that are not the default one: calls, backfills and stores work on them."""

from __future__ import annotations

import asyncio
import importlib
import selectors
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from asyncclients import IntouchClient, Quota, SessionPool
from asyncclients.backfill import pull, push
from asyncclients.sandbox import Sandbox
from asyncclients.stores import FileLimits

QUOTA: Final = (1_000, 1.0)
ROWS: Final = 30


def _uvloop() -> asyncio.AbstractEventLoop:
    found: asyncio.AbstractEventLoop = importlib.import_module("uvloop").new_event_loop()
    return found


def _selecting(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    return lambda: asyncio.SelectorEventLoop(getattr(selectors, name)())


LOOPS: Final = {
    "select": _selecting("SelectSelector"),
    "poll": _selecting("PollSelector"),
    "uvloop": _uvloop,
}


async def work(folder: Path) -> list[int]:
    """Push, pull, and one call that fails before it succeeds; how many rows each time."""
    quotas = [Quota(*QUOTA)]
    async with (
        Sandbox({"intouch": QUOTA}) as sandbox,
        SessionPool(limits=FileLimits(folder / "limits.db")) as pool,
    ):
        intouch = IntouchClient.from_env(pool, sandbox.environ, quotas=quotas)
        pushed = await push(
            [f"tag {n}" for n in range(ROWS)], intouch.tags.create, state=folder / "a"
        )
        pulled = await pull(intouch.tags.list(), folder / "tags.jsonl", state=folder / "b")
        sandbox.fail("intouch", "drop")
        listed = [tag.name async for tag in intouch.tags.list()]
        return [pushed.done, pulled.done, len(listed), len(sandbox.state("intouch").tags)]


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_of_another_kind(name: str, tmp_path: Path) -> None:
    """Each kind does all of the work."""
    with asyncio.Runner(loop_factory=LOOPS[name]) as runner:
        assert runner.run(work(tmp_path)) == [ROWS] * 4
