"""The durable workflows of backfills, registered with DBOS.

DBOS finds workflows by name and calls them in the process that dequeues them, where its one
`Worker` runs their steps.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from dbos import DBOS

from asyncclients.backfill.report import RequestCounts
from asyncclients.backfill.steps import PullCursor
from asyncclients.errors import ConfigurationError
from asyncclients.integrations.jobs.worker import Worker

_current: Worker | None = None


@contextmanager
def serving(worker: Worker) -> Generator[None]:
    """Run the steps of this process in *worker* while the block is open.

    Raises:
        ConfigurationError: this process has a worker already.
    """
    global _current  # noqa: PLW0603 - DBOS is one per process
    if _current is not None:
        raise ConfigurationError("this process has an open Backfills already")
    _current = worker
    try:
        yield
    finally:
        _current = None


def _worker() -> Worker:
    assert _current is not None, "DBOS runs while a Backfills is open"
    return _current


@contextmanager
def _running() -> Generator[None]:
    """List the current workflow in `Worker.running` inside the block."""
    running, name = _worker().running, DBOS.workflow_id or ""
    running.add(name)
    try:
        yield
    finally:
        running.discard(name)


@DBOS.step(name="asyncclients.push_batch")
async def _push_batch(job: str, number: int, share: float | None) -> None:
    await _worker().deliver(job, number, share)


@DBOS.step(name="asyncclients.pull_pages")
async def _pull_some(job: str, after: PullCursor | None, share: float | None) -> PullCursor:
    return await _worker().fetch(job, after, share)


@DBOS.workflow(name="asyncclients.push", max_recovery_attempts=None)
async def push_batches(job: str, numbers: list[int], share: float | None = None) -> None:
    with _running():
        for number in numbers:
            await _push_batch(job, number, share)


@DBOS.workflow(name="asyncclients.pull", max_recovery_attempts=None)
async def pull_pages(job: str, share: float | None = None) -> RequestCounts:
    with _running():
        cursor: PullCursor | None = None
        counts = RequestCounts()
        while cursor is None or not cursor.last:
            cursor = await _pull_some(job, cursor, share)
            counts = counts.plus(cursor.counts)
    return counts
