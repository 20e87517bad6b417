"""Does the steps of jobs that lie in a shared database, for any engine.

An engine calls `deliver` for each batch of a push, and `fetch` again and again
for a pull. Either may be called anew after a crash, by any worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from asyncclients.backfill.steps import PullCursor, PushTarget, pull_step, push_step
from asyncclients.errors import BackfillStoppedError, ConfigurationError
from asyncclients.integrations.database import Database, DbRowLog
from asyncclients.integrations.job_store import DbPageStore, JobRecord, JobStore
from asyncclients.paging import Paginator

T = TypeVar("T")
Resolve = Callable[[str], PushTarget | Paginator[Any]]

_JUDGED_FROM = 50
"""Rows after which the share of failed ones is looked at."""


class Worker:
    """The steps of the jobs in *database*.

    Args:
        database: what the workers share.
        resolve: makes of a job's spec where its rows go, or the list it pulls.

    Attributes:
        running: the workflows that run in this process, by their ids.
    """

    def __init__(self, database: Database, resolve: Resolve) -> None:
        self._database, self._resolve = database, resolve
        self._backlog = JobStore(database)
        self._resolved: dict[str, PushTarget | Paginator[Any]] = {}
        self._steps: set[asyncio.Task[Any]] = set()
        self._leaving = False
        self.running: set[str] = set()

    async def leave(self) -> None:
        """End all steps: nothing more is sent, calls on the wire may finish, within 30 s."""
        self._leaving = True
        for step in self._steps:
            step.cancel()
        await asyncio.gather(*self._steps, return_exceptions=True)

    async def deliver(self, job: str, number: int) -> None:
        """Deliver batch *number* of *job*: one durable step."""
        rows = await self._backlog.rows(job, number)
        if not rows:
            return
        task, to = await self._resolved_of(job)
        if not isinstance(to, PushTarget):
            raise ConfigurationError(f"the job {job!r} is a push, and resolves to a list")
        await self._check_failures(job, to.max_failed)
        book = DbRowLog(self._database, job)
        step = push_step(rows, to, book, flow=f"push {job}", coerce=task.lax)
        await self._backlog.finish(job, number, await self._until_left(step))

    async def fetch(self, job: str, after: PullCursor | None) -> PullCursor:
        """Fetch the pages of *job* that follow *after*: one durable step."""
        _, source = await self._resolved_of(job)
        if isinstance(source, PushTarget):
            raise ConfigurationError(f"the job {job!r} is a pull, and resolves to a destination")
        shelf = DbPageStore(self._database, job)
        step = pull_step(source, shelf, after=after, flow=f"pull {job}")
        return await self._until_left(step)

    async def _resolved_of(self, job: str) -> tuple[JobRecord, PushTarget | Paginator[Any]]:
        task = await self._backlog.find(job)
        assert task is not None, "a step is asked for after its job is in the table"
        if task.spec not in self._resolved:
            self._resolved[task.spec] = self._resolve(task.spec)
        return task, self._resolved[task.spec]

    async def _check_failures(self, job: str, max_failed: float) -> None:
        report = await self._backlog.report(job)
        settled = report.done + report.failed + report.unknown + report.skipped
        if settled >= _JUDGED_FROM and report.failed > max_failed * settled:
            raise BackfillStoppedError(
                f"{report.failed} of {settled} rows of {job!r} failed",
                advice="See the failed rows; correct the input or its mapping. To go on all "
                "the same, run again with a higher max_failed",
            )

    async def _until_left(self, step: Coroutine[Any, Any, T]) -> T:
        """What *step* returns; when this worker leaves, it is cancelled, and lands its calls."""
        task = asyncio.create_task(step)
        self._steps.add(task)
        task.add_done_callback(self._steps.discard)
        if self._leaving:
            task.cancel()
        return await task
