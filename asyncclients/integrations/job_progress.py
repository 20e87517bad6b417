"""Tells somebody how a job is going that many workers do, from what is in their database."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from asyncclients.backfill import Progress, Report
from asyncclients.backfill.report import RequestCounts
from asyncclients.core.events import Callback

_EVERY = 2.0
"""Seconds from one telling to the next: each counts the rows of the job."""


class JobProgress:
    """Looks at one job from its `begin` on.

    Args:
        stand: what the job has come to.
        tell: who is told about every two seconds, if anybody. Its quota use is 0: it is
            known when the batches are finished, so from the report.
        total: rows that there are; 0 where nobody knows.
    """

    def __init__(
        self,
        stand: Callable[[], Awaitable[Report]],
        tell: Callable[[Progress], None] | None,
        total: int = 0,
    ) -> None:
        self._stand, self._total = stand, total
        self._tell = None if tell is None else Callback(tell)
        self._loop = asyncio.get_running_loop()
        self._begun_at = self._told_at = self._loop.time()
        self._before = 0

    async def begin(self) -> None:
        """The run begins: what was done before does not count for its rate."""
        if self._tell is not None:
            self._before = _settled(await self._stand())
        self._begun_at = self._told_at = self._loop.time()

    async def look(self, *, last: bool = False) -> None:
        """Tell, if it is time; at the end in any case."""
        now = self._loop.time()
        if self._tell is None or (now < self._told_at + _EVERY and not last):
            return
        self._told_at = now
        stand = await self._stand()
        settled = _settled(stand)
        rate = (settled - self._before) / max(now - self._begun_at, 1e-9)
        eta = max(0, self._total - settled) / rate if self._total and rate else None
        self._tell(
            Progress(
                done=stand.done,
                failed=stand.failed,
                unknown=stand.unknown,
                skipped=stand.skipped,
                rate=rate,
                quota_use=0.0,
                eta=eta,
            )
        )

    def report(self, report: Report, tally: RequestCounts) -> Report:
        """*report*, with what this run has put on the wire until now, and its seconds."""
        seconds = self._loop.time() - self._begun_at
        return msgspec.structs.replace(
            report,
            requests=tally.requests,
            rejected=tally.rejected,
            seconds=seconds,
            quota_use=tally.quota_use(seconds),
        )


def _settled(stand: Report) -> int:
    return stand.done + stand.failed + stand.unknown + stand.skipped
