"""The rows that are still to do, in order.

On a resumed job the rows that were read before are read again and compared, as
a whole, by a digest: if the input is not the same up to there, nothing is sent.
Those that are not settled then come first.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque

from asyncclients.backfill.encoding import encode_rows
from asyncclients.backfill.ledger import JournalRowLog
from asyncclients.backfill.sources import Row, Source
from asyncclients.errors import StateMismatchError


class PendingRows:
    """Hands out rows of *source* that *ledger* has not settled."""

    def __init__(self, source: Source, ledger: JournalRowLog) -> None:
        self._source, self._ledger = source, ledger
        self._ready: deque[Row] = deque()
        self._held: list[Row] = []
        self._reading = asyncio.Lock()
        self._digest = hashlib.blake2b(digest_size=16)
        self._known = ledger.state.read
        self._read = 0
        self._ended = False
        self._failure: BaseException | None = None
        self.stopped = False

    def stop(self) -> None:
        """Hand out no more."""
        self.stopped = True

    def ready(self, most: int) -> list[Row]:
        """At most *most* rows, of those that are read; none while so many are not."""
        ready = self._ready
        if len(ready) < most or self.stopped:
            return []
        return [ready.popleft() for _ in range(most)]

    async def take(self, most: int) -> list[Row]:
        """At most *most* rows; none at the end.

        Raises:
            StateMismatchError: the input has changed since the job was begun.
            InputError: the input cannot be read on.
        """
        while len(self._ready) < most and not self._ended and not self.stopped:
            async with self._reading:
                if len(self._ready) < most and not self._ended:
                    await self._fill()
        return self.ready(min(most, len(self._ready)))

    async def _fill(self) -> None:
        if self._failure is not None:
            raise self._failure  # an iterator that has raised looks like one at its end
        try:
            rows = await self._source.chunk()
        except BaseException as failure:
            self._failure = failure
            raise
        if not rows:
            if self._read < self._known:
                raise self._changed(f"it has {self._read} rows now, and {self._known} were read")
            self._ended = True
            return
        again = rows[: max(0, self._known - self._read)]
        if again:
            self._again(again)
            rows = rows[len(again) :]
        if rows:
            self._note(rows)
            if recovered := self._ledger.recovered:
                rows = [row for row in rows if row.number not in recovered]
            self._ready.extend(rows)
            self._ledger.reading(self._read, self._digest.hexdigest())

    def _note(self, rows: list[Row]) -> None:
        self._read += len(rows)
        self._digest.update(encode_rows(rows))

    def _again(self, rows: list[Row]) -> None:
        """*rows* were read before."""
        self._note(rows)
        ledger = self._ledger
        for row in rows:
            ledger.unknowns.seen(row)
        self._held += [row for row in rows if row.number not in ledger.settled]
        if self._read == self._known:
            if self._digest.hexdigest() != ledger.state.digest:
                raise self._changed(f"its first {self._known} rows are not what they were")
            self._ready.extend(self._held)
            self._held.clear()

    def _changed(self, how: str) -> StateMismatchError:
        return StateMismatchError(
            f"{self._source.name} has changed since this job was begun: {how}",
            file=self._source.name,
            advice="Give back the old input (rows may be added at its end), "
            "or push the new one with a state file of its own",
        )
