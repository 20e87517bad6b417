"""`asyncclients demo`: backfills at their vendors' limits, one of them killed and resumed.

All figures are from the records of the mock vendors, which run in this process.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live

from asyncclients.cli import DONE, FAILED, INTERRUPTED
from asyncclients.cli.demo.scenario import Scenario, open_scenario
from asyncclients.cli.demo.screen import closing, frame, progress_line
from asyncclients.cli.options import Switch
from asyncclients.cli.output import show
from asyncclients.cli.signals import on_signals

if TYPE_CHECKING:
    from asyncclients.integrations.monitor import Monitor

_REFRESH = 0.2
_LINE_EVERY = 5.0
"""Seconds between lines if standard output is not a terminal."""


async def demo(*, fast: Switch = False, web: Switch = False, json: Switch = False) -> int:
    """Run backfills and web requests at five vendors' limits, on mock vendors of this machine.

    One backfill is killed and resumed, and a naive client does the same work beside it. Takes
    less than a minute. Nothing leaves the machine and no account is needed.

    Args:
        fast: move fewer rows, in about 13 seconds.
        web: show quotas and jobs on a local web page, too.
        json: print the closing table as JSON, and everything else to standard error.
    """
    console = Console(highlight=False, stderr=json)
    task = asyncio.current_task()
    assert task is not None
    on_signals(task.cancel, ("SIGTERM", "SIGHUP"))
    async with open_scenario(fast=fast) as scene, _page(scene, web=web) as monitor:
        if monitor is not None:
            console.print(f"Live page: {monitor.url}", soft_wrap=True)
        try:
            await _show(console, scene, monitor)
        except asyncio.CancelledError:
            rows = f"{scene.jobs[0].done():,} of {len(scene.jobs[0].expected):,} contacts"
            gone = "the mock vendors and the demo's files are gone"
            text = f"Interrupted after {scene.seconds():.0f} s, with {rows} pulled; {gone}"
            print(text, file=sys.stderr)
            return INTERRUPTED
        if json:
            show(scene.results(), as_json=True, describe=str)
        else:
            console.print(closing(scene))
        broken = scene.broken_promises()
        for promise in broken:
            print(f"Not as promised: {promise}", file=sys.stderr)
        if web:
            await _until_interrupted(console)
        return FAILED if broken else DONE


def _page(scene: Scenario, *, web: bool) -> AbstractAsyncContextManager[Monitor | None]:
    """Return the live page of *scene* if *web* is set."""
    if not web:
        return nullcontext()
    from asyncclients.integrations.monitor import Monitor  # imports aiohttp's server

    return Monitor(*scene.pools)


async def _until_interrupted(console: Console) -> None:
    console.print("The page stays until Ctrl-C.")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return


async def _show(console: Console, scene: Scenario, monitor: Monitor | None) -> None:
    """Run *scene* and show its progress."""
    running = asyncio.create_task(scene.run(monitor.job if monitor else None))
    try:
        if console.is_terminal and not console.is_dumb_terminal:
            # Refreshed here, not by Live's thread, which would read the records while they change.
            with Live(frame(scene), console=console, auto_refresh=False, transient=True) as live:
                while not running.done():
                    live.update(frame(scene), refresh=True)
                    await asyncio.wait([running], timeout=_REFRESH)
        while not running.done():
            console.print(progress_line(scene), soft_wrap=True)
            await asyncio.wait([running], timeout=_LINE_EVERY)
        await running
    finally:
        running.cancel()
        await asyncio.wait([running])
