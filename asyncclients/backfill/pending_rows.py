"""The rows of an input that are still to be delivered, and the check that it has not changed."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from typing import Protocol

from asyncclients.backfill.encoding import encode_rows
from asyncclients.backfill.files.source import FileSource, Row, Source
from asyncclients.backfill.state.push_state import IntervalSet, PushState
from asyncclients.errors import StateMismatchError


class InputLog(Protocol):
    """The rows of a job that earlier runs have read and settled.

    Attributes:
        state: the number of rows that were read, and their digest.
        settled: numbers of the rows that are not delivered again.
        recovered: settled rows that may come after those that were read.
        is_verified: the rows that were read are known to be unchanged.
    """

    state: PushState
    settled: IntervalSet
    recovered: set[int]
    is_verified: bool

    def on_reread(self, row: Row) -> Row:
        """Return *row*, which an earlier run has read, or what is sent in its place."""
        ...

    def set_read(self, read: int, digest: str) -> None:
        """Note that *read* rows with *digest* were read, some of them for the first time."""
        ...

    def set_total(self, total: int | None) -> None:
        """Note that the input has *total* rows."""
        ...


class PendingRows:
    """The rows of *source* that are still to be delivered, in order.

    A resumed run reads the rows of earlier runs again and compares a digest of all of them:
    if the input has changed up to that point, nothing is sent. Of those rows, the ones that
    are not settled come first.
    """

    def __init__(self, source: Source, log: InputLog) -> None:
        self._source, self._log = source, log
        self._ready: deque[Row] = deque()
        self._unsettled: list[Row] = []  # rows of earlier runs, until the digest is compared
        self._reading = asyncio.Lock()
        self._digest = hashlib.blake2b(digest_size=16)
        self._read_before = log.state.read
        self._read = 0
        self._is_at_end = self._is_stopped = False
        self._failure: BaseException | None = None

    def stop(self) -> None:
        """Return no more rows."""
        self._is_stopped = True

    async def is_exhausted(self) -> bool:
        """Return True if no row is left; False also if the next row of an iterable is not known."""
        while not self._ready and not self._is_at_end and isinstance(self._source, FileSource):
            await self._fill()
        return self._is_at_end and not self._ready

    def take_nowait(self, count: int) -> list[Row]:
        """Return *count* rows if that many are read already, else none."""
        ready = self._ready
        if len(ready) < count or self._is_stopped:
            return []
        return [ready.popleft() for _ in range(count)]

    async def take(self, count: int) -> list[Row]:
        """Return at most *count* rows; none at the end.

        Raises:
            StateMismatchError: the input has changed since the job was created.
            InputError: the input cannot be read.
        """
        while len(self._ready) < count and not self._is_at_end and not self._is_stopped:
            async with self._reading:
                if len(self._ready) < count and not self._is_at_end:
                    await self._fill()
        return self.take_nowait(min(count, len(self._ready)))

    async def _fill(self) -> None:
        if self._failure is not None:
            raise self._failure  # after an exception, an iterator looks exhausted
        try:
            rows = await self._source.chunk()
        except BaseException as failure:
            self._failure = failure
            raise
        if not rows:
            if self._read < self._read_before:
                raise _shorter(self._source, self._read, self._read_before)
            self._log.set_total(self._read)
            self._is_at_end = True
            return
        old = rows[: max(0, self._read_before - self._read)]
        if old:
            self._skip_settled(old)
            rows = rows[len(old) :]
        if rows:
            self._add_to_digest(rows)
            if recovered := self._log.recovered:
                rows = [row for row in rows if row.number not in recovered]
            self._ready.extend(rows)
            self._log.set_read(self._read, self._digest.hexdigest())

    def _add_to_digest(self, rows: list[Row]) -> None:
        self._read += len(rows)
        self._digest.update(encode_rows(rows))

    def _skip_settled(self, rows: list[Row]) -> None:
        """Keep the unsettled ones of *rows*, which an earlier run has read."""
        self._add_to_digest(rows)
        log = self._log
        current = [log.on_reread(row) for row in rows]
        unsettled = [row for row in current if row.number not in log.settled]
        if log.is_verified:
            self._ready.extend(unsettled)
            return
        self._unsettled += unsettled
        if self._read == self._read_before:
            if self._digest.hexdigest() != log.state.digest:
                raise _changed(self._source, f"its first {self._read_before} rows differ")
            self._ready.extend(self._unsettled)
            self._unsettled.clear()


async def check_unchanged(source: Source, log: InputLog) -> None:
    """Compare the rows of *source* with those that earlier runs have read; keep none of them.

    Raises:
        StateMismatchError: they differ.
    """
    digest, read, count = hashlib.blake2b(digest_size=16), 0, log.state.read
    while read < count:
        rows = (await source.chunk())[: count - read]
        if not rows:
            raise _shorter(source, read, count)
        read += len(rows)
        digest.update(encode_rows(rows))
    if count and digest.hexdigest() != log.state.digest:
        raise _changed(source, f"its first {count} rows differ")
    log.is_verified = True


def _shorter(source: Source, now: int, before: int) -> StateMismatchError:
    return _changed(source, f"it has {now} rows now, and {before} were read before")


def _changed(source: Source, how: str) -> StateMismatchError:
    return StateMismatchError(
        f"{source.name} has changed since this job was created: {how}",
        file=source.name,
        advice="Restore the old input (rows may be added at its end), "
        "or push the new one with another state file. If only failed rows were corrected, restore "
        "it, correct them in the file of failed rows, and give --retry-failed (retry_failed=True)",
    )
