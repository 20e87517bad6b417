"""The calls of a push: whose rows, whether they may be repeated, whether they have left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from asyncclients.backfill.meter import Meter
from asyncclients.backfill.records import Records
from asyncclients.backfill.sources import Row
from asyncclients.core.endpoint import Sending


class Flight:
    """The `Watch` of one call after another.

    A request that must not be repeated leaves only after it is on the disk that
    it does. That is asked for when its turn has come, so that after a crash only
    what was really on the wire is unknown, and not all that stood in the queue.

    Args:
        told: whether calls may be repeated, None to learn it from each request.
        stopping: whether the run is to send nothing more.
    """

    __slots__ = ("_ledger", "_meter", "_out", "_rows", "_stopping", "_told", "repeatable")

    def __init__(
        self, ledger: Records, meter: Meter, told: bool | None, stopping: Callable[[], bool]
    ) -> None:
        self._ledger, self._meter, self._told = ledger, meter, told
        self._stopping = stopping
        self.board(())

    def board(self, rows: Sequence[Row]) -> None:
        """The next call has *rows*; none between two calls."""
        self._rows = rows
        self.repeatable = self._told
        self._out = 0

    @property
    def sent(self) -> bool:
        """A request has left that was not refused by rate: it may have been carried out."""
        return self._out > 0

    async def sending(self, request: Sending) -> None:
        """Note that *request* goes out now; only then return."""
        if self._stopping():
            raise asyncio.CancelledError
        if self.repeatable is None:
            self.repeatable = request.idempotent
        if not (self._out or self.repeatable):
            await self._ledger.sending(self._rows)
        self._out += 1
        self._meter.sending(request)

    async def leave(self) -> None:
        """The rows go out now, nobody tells how."""
        if not self.repeatable:
            await self._ledger.sending(self._rows)
        self._out += 1

    def refused(self) -> None:
        """The last request was refused by rate."""
        self._meter.refused()
        self._out -= 1
        if not self.sent:
            self._ledger.unsent(self._rows)
