"""When to send during an outage of the vendor, and what a series of 403s means.

A single failed call is retried after a pause. Five failures in a row without a success open
the circuit: one probe at a time is sent, with growing pauses, until one succeeds. So an outage
does not use up the tries of a row, and a vendor that recovers is not hit by all workers at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from random import random
from typing import NamedTuple

from asyncclients.backfill.files.source import Row
from asyncclients.errors import AsyncClientsError, BackfillStoppedError, ForbiddenError, error_text

_THRESHOLD = 5
"""Failed calls in a row that open the circuit."""
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0

_FORBIDDEN_AT_START, _FORBIDDEN_LATER, _FORBIDDEN_AT_END = 5, 50, 3
"""Rows in a row with a 403 that mean a revoked credential: before any success, after one, and
at the end of the input."""


class CircuitBreaker:
    """Delays calls during an outage of the vendor.

    After *max_outage* seconds without any success `guard` and `backoff` raise. `cause` is why the
    last call failed, in words; empty if it succeeded.
    """

    def __init__(self, max_outage: float = 900.0) -> None:
        self._loop = asyncio.get_running_loop()
        self._max_outage = max_outage
        self._failures = self._failed_probes = 0
        self._failing_since: float | None = None
        self._last_error = self.cause = ""
        self._probing = asyncio.Lock()
        self.successes = 0

    @property
    def is_open(self) -> bool:
        """True during an outage: send inside `guard` only."""
        return self._failures >= _THRESHOLD

    @property
    def outage_seconds(self) -> float:
        """Seconds since the last success while the circuit is open, else 0."""
        if self._failing_since is None or not self.is_open:
            return 0.0
        return self._loop.time() - self._failing_since

    def on_success(self) -> None:
        """Close the circuit: the vendor accepted a call, or rejected the row in it."""
        self.successes += 1
        self._failures = self._failed_probes = 0
        self._failing_since = None
        self.cause = ""

    def on_failure(self, error: BaseException) -> None:
        """Count a call without a response, or with one that does not depend on its rows."""
        self._failures += 1
        self._last_error = error_text(error)
        self.cause = error.message if isinstance(error, AsyncClientsError) else self._last_error
        if self._failing_since is None:
            self._failing_since = self._loop.time()

    def guard(self) -> AbstractAsyncContextManager[None]:
        """Return a context to send in: entered at once, or as the next probe during an outage.

        Raises:
            BackfillStoppedError: the outage is longer than max_outage.
        """
        return self._probe() if self.is_open else nullcontext()

    @asynccontextmanager
    async def _probe(self) -> AsyncGenerator[None]:
        async with self._probing:
            if self.is_open:  # otherwise the probe before this one succeeded
                # Not `_failures`: calls that were on the wire together count as one failure.
                await self.backoff(self._failed_probes + 1)
                self._failed_probes += 1  # `on_success` resets it
                yield
                return
        yield

    async def backoff(self, tries: int) -> None:
        """Wait before the next try, after *tries* tries; raise `BackfillStoppedError` as `guard` does."""
        seconds = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(tries - 1, 10))
        seconds *= 0.5 + random() / 2  # noqa: S311 - jitter
        since = self._failing_since
        if since is not None and self._loop.time() + seconds - since > self._max_outage:
            raise BackfillStoppedError(
                f"no usable response from the vendor for {self._loop.time() - since:.0f} s; "
                f"the last error: {self._last_error}",
                advice="The state is saved: run again when the vendor is available, "
                "or increase max_outage=",
            )
        await asyncio.sleep(seconds)


class _WaitingRow(NamedTuple):
    """A row with a 403, and the numbers of the events that its call started and that it got it."""

    start: int
    forbidden: int
    row: Row
    error: ForbiddenError


class ForbiddenRows:
    """Rows that got a 403: is the row forbidden, or was the credential revoked?

    Such a row waits and is not sent again. It fails once a call that started after its 403
    succeeds, because the credential is valid then. The credential counts as revoked, the run
    stops and the waiting rows are pending, when the last 50 calls got a 403 (5 before any
    success; the last 3 at the end of the input). Calls are ordered by their start, because
    responses can overtake each other.
    """

    def __init__(self) -> None:
        self._waiting: deque[_WaitingRow] = deque()
        self._events = 0
        self._last_success = 0
        """Start of the last call, in the order of starting, that succeeded."""

    def begin(self) -> int:
        """Return the number of the start of a call, which is now."""
        self._events += 1
        return self._events

    def add(self, start: int, row: Row, error: ForbiddenError, *, any_done: bool) -> None:
        """Add *row*, whose call got a 403; *any_done*: the job has rows that are done.

        Raises:
            ForbiddenError: the credential was revoked.
        """
        self._events += 1
        self._waiting.append(_WaitingRow(start, self._events, row, error))
        has_succeeded = any_done or self._last_success
        if self._streak() >= (_FORBIDDEN_LATER if has_succeeded else _FORBIDDEN_AT_START):
            raise self._revoked(error)

    def on_success(self, start: int) -> list[tuple[Row, ForbiddenError]]:
        """Return the rows that have failed, now that the call of *start* has succeeded."""
        self._last_success = max(self._last_success, start)
        failed: list[tuple[Row, ForbiddenError]] = []
        while self._waiting and self._waiting[0].forbidden < start:
            waiting = self._waiting.popleft()
            failed.append((waiting.row, waiting.error))
        return failed

    def on_end(self, *, any_done: bool) -> list[tuple[Row, ForbiddenError]]:
        """Return the rows that have failed, at the end of the input; raise as `add` does."""
        limit = _FORBIDDEN_AT_END if any_done or self._last_success else 1
        if self._waiting and self._streak() >= limit:
            raise self._revoked(self._waiting[-1].error)
        failed = [(waiting.row, waiting.error) for waiting in self._waiting]
        self._waiting.clear()
        return failed

    def _streak(self) -> int:
        return sum(waiting.start > self._last_success for waiting in self._waiting)

    def _revoked(self, error: ForbiddenError) -> ForbiddenError:
        error.advice = (
            f"The last {self._streak()} rows got a 403: the credential may have been revoked. "
            "They are pending; run again with a valid credential. If only these rows are "
            "forbidden, add a permitted row at the end of the input"
        )
        return error
