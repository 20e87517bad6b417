"""`asyncclients demo`: five rate-limited jobs against real HTTP servers on this machine.

The final table shows the records of the servers; only the retries are counted by the clients.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, cast

from cyclopts import Parameter
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from asyncclients.backfill.report import Progress
from asyncclients.cli.demo_jobs import DemoJob, Run, jobs, stage
from asyncclients.core.events import AttemptStarted, CallStarted
from asyncclients.core.pool import SessionPool
from asyncclients.sandbox import Sandbox

if TYPE_CHECKING:
    from asyncclients.integrations.monitor import Monitor

_REFRESH = 0.25
_LINE_EVERY = 5.0
"""Seconds between lines if standard output is not a terminal."""


class Retries:
    """An event listener that counts the retries of each vendor."""

    def __init__(self) -> None:
        self.by_vendor: Counter[str] = Counter()
        self._vendor: dict[int, str] = {}

    def __call__(self, event: object) -> None:
        if isinstance(event, CallStarted):
            self._vendor[event.call] = event.vendor
        elif isinstance(event, AttemptStarted) and event.attempt > 1:
            self.by_vendor[self._vendor[event.call]] += 1


async def demo(
    *,
    fast: Annotated[bool, Parameter(help="use 100 times the quotas, and the whole files")] = False,
    web: Annotated[bool, Parameter(help="show quotas and jobs on a local web page")] = False,
) -> int:
    """Run five jobs at their vendors' limits against mock vendors on this machine.

    Takes less than a minute. Nothing leaves the machine and no account is needed.
    """
    console = Console()
    retries = Retries()
    async with AsyncExitStack() as stack:
        sandbox, pool = await stack.enter_async_context(stage(fast=fast, listeners=(retries,)))
        running = jobs(sandbox, pool, fast=fast)
        watched = [job for job, _ in running]
        if web:
            await stack.enter_async_context(_page(console, pool, watched))
        await _work(console, running)
        console.print(_closing(sandbox, pool, watched, retries))
        if web:
            console.print("The page stays until Ctrl-C.")
            await asyncio.Event().wait()
        refused = sum(sandbox.rejected(cast("Any", job.vendor)) for job in watched)
    return 0 if refused == 0 else 1


async def _work(console: Console, running: list[tuple[DemoJob, Run]]) -> None:
    started = time.monotonic()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_run(run)) for _, run in running]
        watch = _watch_live if console.is_terminal else _watch_lines
        await watch(console, [job for job, _ in running], tasks)
    console.print(f"Done in {time.monotonic() - started:.1f} s.")


@asynccontextmanager
async def _page(
    console: Console, pool: SessionPool, watched: list[DemoJob]
) -> AsyncGenerator[None]:
    """Serve the live page of *pool* and of the demo's jobs inside the block."""
    from asyncclients.integrations.monitor import Monitor  # imports aiohttp's server

    async with Monitor(pool) as monitor:
        console.print(f"Live page: {monitor.url}", soft_wrap=True, highlight=False)
        feeding = asyncio.create_task(_feed(monitor, watched))
        try:
            yield
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)


async def _feed(monitor: Monitor, watched: list[DemoJob]) -> None:
    started = time.monotonic()
    while True:
        for job in watched:
            stats = job.client.stats()
            progress = Progress(
                done=job.done,
                failed=0,
                unknown=0,
                skipped=0,
                rate=job.done / max(_REFRESH, time.monotonic() - started),
                quota_use=stats.quota_use,
                eta=0.0 if job.done >= job.total else job.eta(),
            )
            monitor.job(f"{job.vendor}: {job.what}")(progress)
        await asyncio.sleep(_REFRESH)


async def _run(run: Run) -> None:
    await run()


async def _watch_live(
    console: Console, watched: list[DemoJob], tasks: list[asyncio.Task[None]]
) -> None:
    bars_shown = Bars(
        TextColumn("{task.fields[vendor]:<18}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("{task.fields[eta]:>7}"),
        TextColumn("{task.description}", style="dim"),
        console=console,
    )
    bars: list[TaskID] = [
        bars_shown.add_task(job.what, total=job.total, vendor=job.vendor, eta="") for job in watched
    ]
    head = Text("steps done, seconds left by the scheduler", style="dim")
    with Live(Group(head, bars_shown), console=console, refresh_per_second=8):
        while True:
            for bar, job in zip(bars, watched, strict=True):
                bars_shown.update(bar, completed=job.done, eta=_eta(job))
            if all(task.done() for task in tasks):
                return
            await asyncio.sleep(_REFRESH)


async def _watch_lines(
    console: Console, watched: list[DemoJob], tasks: list[asyncio.Task[None]]
) -> None:
    while True:
        done = (f"{job.vendor} {job.done}/{job.total}" for job in watched)
        console.print(" | ".join(done), highlight=False, soft_wrap=True)
        await asyncio.wait(tasks, timeout=_LINE_EVERY)
        if all(task.done() for task in tasks):
            return


def _eta(job: DemoJob) -> str:
    return "done" if job.done >= job.total else f"{job.eta():.0f} s"


def _closing(
    sandbox: Sandbox, pool: SessionPool, watched: list[DemoJob], retries: Retries
) -> Table:
    table = Table(title="As the servers recorded it", title_justify="left")
    table.add_column("vendor", no_wrap=True)
    for name in ("calls", "seconds", "quota used", "429s", "retries", "tokens"):
        table.add_column(name, justify="right")
    refreshes = {stats.vendor: stats.token_refreshes for stats in pool.stats()}
    for job in watched:
        summary = sandbox.summary(cast("Any", job.vendor))
        seconds = (summary.last_at or 0.0) - (summary.first_at or 0.0)
        table.add_row(
            job.vendor,
            f"{summary.arrivals}",
            f"{seconds:.1f}",
            f"{summary.quota_use:.1%}",
            f"{summary.rejected}",
            f"{retries.by_vendor[job.vendor]}",
            f"{refreshes.get(job.vendor, 0) or ''}",
        )
    return table
