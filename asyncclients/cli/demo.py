"""`asyncclients demo`: five rate-limited jobs against real HTTP servers on this machine.

What the closing table says comes from what the servers recorded, not from the
clients; only the retries are the clients' own count.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Annotated, Any, cast

from cyclopts import Parameter
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from asyncclients.cli.demo_jobs import Job, jobs, stage
from asyncclients.core.events import AttemptStarted, CallStarted
from asyncclients.core.pool import SessionPool
from asyncclients.sandbox import Sandbox

_REFRESH = 0.25
_LINE_EVERY = 5.0
"""Seconds between lines where nobody watches."""


class Retries:
    """Counts, per vendor, the attempts that were not the first of their call."""

    def __init__(self) -> None:
        self.by_vendor: Counter[str] = Counter()
        self._vendor: dict[int, str] = {}

    def __call__(self, event: object) -> None:
        if isinstance(event, CallStarted):
            self._vendor[event.call] = event.vendor
        elif isinstance(event, AttemptStarted) and event.attempt > 1:
            self.by_vendor[self._vendor[event.call]] += 1


async def demo(
    *, fast: Annotated[bool, Parameter(help="quotas a hundredfold, whole files")] = False
) -> int:
    """Run five jobs at their vendors' limits against pretend vendors on this machine.

    Takes under a minute. Nothing leaves the machine and no account is needed.
    """
    console = Console()
    retries = Retries()
    started = time.monotonic()
    async with stage(fast=fast, listeners=(retries,)) as (sandbox, pool):
        running = jobs(sandbox, pool, fast=fast)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_run(run)) for _, run in running]
            watch = _watch_live if console.is_terminal else _watch_lines
            await watch(console, [job for job, _ in running], tasks)
        console.print(_closing(sandbox, pool, [job for job, _ in running], retries))
        console.print(f"{time.monotonic() - started:.1f} s in all.")
        refused = sum(sandbox.refused(cast("Any", job.vendor)) for job, _ in running)
    return 0 if refused == 0 else 1


async def _run(run: Any) -> None:
    await run()


async def _watch_live(
    console: Console, watched: list[Job], tasks: list[asyncio.Task[None]]
) -> None:
    progress = Progress(
        TextColumn("{task.fields[vendor]:<18}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("{task.fields[eta]:>7}"),
        TextColumn("{task.description}", style="dim"),
        console=console,
    )
    bars: list[TaskID] = [
        progress.add_task(job.what, total=job.total, vendor=job.vendor, eta="") for job in watched
    ]
    head = Text("steps done, seconds left by the scheduler", style="dim")
    with Live(Group(head, progress), console=console, refresh_per_second=8):
        while True:
            for bar, job in zip(bars, watched, strict=True):
                progress.update(bar, completed=job.done, eta=_eta(job))
            if all(task.done() for task in tasks):
                return
            await asyncio.sleep(_REFRESH)


async def _watch_lines(
    console: Console, watched: list[Job], tasks: list[asyncio.Task[None]]
) -> None:
    while True:
        done = (f"{job.vendor} {job.done}/{job.total}" for job in watched)
        console.print(" | ".join(done), highlight=False, soft_wrap=True)
        await asyncio.wait(tasks, timeout=_LINE_EVERY)
        if all(task.done() for task in tasks):
            return


def _eta(job: Job) -> str:
    return "done" if job.done >= job.total else f"{job.eta():.0f} s"


def _closing(sandbox: Sandbox, pool: SessionPool, watched: list[Job], retries: Retries) -> Table:
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
            f"{summary.refused}",
            f"{retries.by_vendor[job.vendor]}",
            f"{refreshes.get(job.vendor, 0) or ''}",
        )
    return table
