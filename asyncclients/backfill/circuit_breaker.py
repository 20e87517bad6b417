"""Waiting for a vendor that does not answer.

One call that fails says little, so it waits a moment and is tried again. Five
in a row, with no success between, say that the vendor is away: then everything
stops but one probe at a time, with growing pauses, until one succeeds. Rows
are not used up by an outage, and a vendor that comes back is not met by all at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from random import random
from typing import Generic, NamedTuple, TypeVar

from asyncclients.errors import BackfillStoppedError, ForbiddenError, error_text

T = TypeVar("T")

_THRESHOLD = 5
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
_AT_ONCE = nullcontext()


_FEW, _MANY, _LAST = 5, 50, 3
"""Rows answered 403 in a row that mean the credential: at first, later, at the end."""


class CircuitBreaker:
    """Knows whether the vendor answers.

    Args:
        max_outage: seconds without any success after which `turn` and `pause` raise.
    """

    def __init__(self, max_outage: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._max_outage = max_outage
        self._streak = self._failed_probes = 0
        self._since: float | None = None
        self._last = ""
        self._probing = asyncio.Lock()
        self.successes = 0

    @property
    def seconds(self) -> float:
        """For how long nothing has succeeded; 0 while the vendor is not away."""
        if self._since is None or self._streak < _THRESHOLD:
            return 0.0
        return self._loop.time() - self._since

    @property
    def is_open(self) -> bool:
        """So many calls have failed, with no success between, that `turn` has to be waited for."""
        return self._streak >= _THRESHOLD

    def on_success(self) -> None:
        """A call was answered: with success, or with a no that means the row."""
        self.successes += 1
        self._streak = self._failed_probes = 0
        self._since = None

    def on_failure(self, error: BaseException) -> None:
        """A call got no answer that says anything about its rows."""
        self._streak += 1
        self._last = error_text(error)
        if self._since is None:
            self._since = self._loop.time()

    def guard(self) -> AbstractAsyncContextManager[None]:
        """Send inside the block: at once, or when the vendor is away, as its next probe.

        Raises:
            BackfillStoppedError: it has been away for longer than max_outage.
        """
        return _AT_ONCE if self._streak < _THRESHOLD else self._probe()

    @asynccontextmanager
    async def _probe(self) -> AsyncGenerator[None]:
        while self._streak >= _THRESHOLD:
            async with self._probing:
                if self._streak < _THRESHOLD:
                    break
                # The failed calls that were in flight together say no more than one of them.
                await self.backoff(self._failed_probes + 1)
                self._failed_probes += 1  # unless it succeeds
                yield
                return
        yield

    async def backoff(self, tries: int) -> None:
        """Wait before try number *tries* + 1.

        Raises:
            BackfillStoppedError: it would end after max_outage.
        """
        seconds = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(tries - 1, 10))
        seconds *= 0.5 + random() / 2  # noqa: S311 - jitter
        since = self._since
        if since is not None and self._loop.time() + seconds - since > self._max_outage:
            raise BackfillStoppedError(
                f"the vendor has given no usable answer for {self._loop.time() - since:.0f} s; "
                f"the last words: {self._last}",
                advice="The state is saved: run again when the vendor is back, "
                "or allow a longer max_outage=",
            )
        await asyncio.sleep(seconds)


class Attempt(NamedTuple):
    """When a call began: its number among all calls, and how many 403s there had been."""

    number: int
    seen: int


class ForbiddenRows(Generic[T]):
    """Rows that were answered 403: is the row forbidden, or was the credential revoked?

    Such a row waits, neither failed nor sent again. It has failed once a call that began
    after its 403 succeeds: the credential works. But if of all calls the last 50 were
    answered 403 (5 while nothing has ever succeeded), or at the end of the input the last 3,
    it is the credential: the run stops, and the rows that wait are pending. Calls count in
    the order in which they began, since responses overtake each other.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Attempt, int, T, ForbiddenError]] = deque()
        self._begun = self._seen = 0
        self._succeeded = 0
        """The number of the last call that succeeded."""

    def begin(self) -> Attempt:
        """Note that a call begins."""
        self._begun += 1
        return Attempt(self._begun, self._seen)

    def add(self, attempt: Attempt, row: T, error: ForbiddenError, *, done: bool) -> None:
        """*row* was answered 403 in *attempt*; *done*: the job has carried out rows.

        Raises:
            ForbiddenError: it is the credential.
        """
        self._waiting.append((attempt, self._seen, row, error))
        self._seen += 1
        if self._streak() >= (_MANY if done or self._succeeded else _FEW):
            raise self._revoked(error)

    def succeeded(self, attempt: Attempt) -> list[tuple[T, ForbiddenError]]:
        """Return the rows that are forbidden, now that *attempt* has succeeded."""
        self._succeeded = max(self._succeeded, attempt.number)
        failed: list[tuple[T, ForbiddenError]] = []
        while self._waiting and self._waiting[0][1] < attempt.seen:
            failed.append(self._waiting.popleft()[2:])
        return failed

    def ended(self, *, done: bool) -> list[tuple[T, ForbiddenError]]:
        """Return the rows that are forbidden, now that there are no more to send.

        Raises:
            ForbiddenError: it is the credential.
        """
        if self._waiting and self._streak() >= (_LAST if done or self._succeeded else 1):
            raise self._revoked(self._waiting[-1][3])
        failed = [(row, error) for _, _, row, error in self._waiting]
        self._waiting.clear()
        return failed

    def _streak(self) -> int:
        return sum(attempt.number > self._succeeded for attempt, *_ in self._waiting)

    def _revoked(self, error: ForbiddenError) -> ForbiddenError:
        error.advice = (
            f"The last {self._streak()} rows were answered 403: the credential may have been "
            "revoked. They are not failed; run again with a valid one. If only these rows are "
            "forbidden, add one at the end of the input that is not"
        )
        return error
