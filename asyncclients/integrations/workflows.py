"""The durable workflows of backfills, as DBOS knows them.

DBOS finds workflows by name and calls them in whatever process takes them off
the queue; there the one `Worker` of the process does their steps.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from dbos import DBOS

from asyncclients.backfill.report import RequestCounts
from asyncclients.backfill.steps import PullCursor
from asyncclients.errors import ConfigurationError
from asyncclients.integrations.worker import Worker

_here: Worker | None = None


def register_worker(worker: Worker) -> None:
    """*worker* does the steps in this process from now on.

    Raises:
        ConfigurationError: there is one.
    """
    global _here  # noqa: PLW0603 - DBOS is one per process
    if _here is not None:
        raise ConfigurationError("this process has an open Backfills already")
    _here = worker


def unregister_worker() -> None:
    """Nobody does any more."""
    global _here  # noqa: PLW0603
    _here = None


def _worker() -> Worker:
    assert _here is not None, "DBOS runs while a Backfills is open"
    return _here


@contextmanager
def _running() -> Generator[None]:
    """The workflow of this context runs in this process."""
    running, name = _worker().running, DBOS.workflow_id or ""
    running.add(name)
    try:
        yield
    finally:
        running.discard(name)


@DBOS.step(name="asyncclients.push_batch")
async def _push_batch(job: str, number: int) -> None:
    await _worker().deliver(job, number)


@DBOS.step(name="asyncclients.pull_pages")
async def _pull_some(job: str, after: PullCursor | None) -> PullCursor:
    return await _worker().fetch(job, after)


@DBOS.workflow(name="asyncclients.push", max_recovery_attempts=None)
async def push_batches(job: str, numbers: list[int]) -> None:
    with _running():
        for number in numbers:
            await _push_batch(job, number)


@DBOS.workflow(name="asyncclients.pull", max_recovery_attempts=None)
async def pull_pages(job: str) -> RequestCounts:
    with _running():
        reached = await _pull_some(job, None)
        tally = reached.counts
        while not reached.last:
            reached = await _pull_some(job, reached)
            tally = tally.plus(reached.counts)
    return tally
