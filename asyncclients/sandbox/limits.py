"""Models of the rate limiters that vendors use.

They are pure arithmetic: each model decides whether a request that arrives at *now* is accepted,
with the state that such a server has. They are written from the definitions and share no code
with the client's limiter, so that they are an independent check.

Instants are float seconds of one monotonic clock and must not decrease between calls.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol


class ServerLimit(Protocol):
    """A limit of `limit` requests per `period` seconds."""

    limit: float
    period: float

    def admit(self, now: float) -> bool:
        """Count a request that arrives at *now*; False means 429."""
        ...

    def remaining(self, now: float) -> int:
        """Return the number of requests that would be accepted at *now*."""
        ...

    def reset_after(self, now: float) -> float:
        """Return the seconds until a request would be accepted (0: now)."""
        ...


class SlidingLog:
    """At most `limit` in every half-open interval of `period` seconds.

    With *count_rejected*, rejected requests count as well, as in limiters that count before they
    decide.
    """

    def __init__(self, limit: float, period: float, *, count_rejected: bool = False) -> None:
        self.limit, self.period = limit, period
        self.count_rejected = count_rejected
        self._log: deque[float] = deque()

    def _forget(self, now: float) -> None:
        while self._log and self._log[0] <= now - self.period:
            self._log.popleft()

    def admit(self, now: float) -> bool:
        self._forget(now)
        admitted = len(self._log) < self.limit
        if admitted or self.count_rejected:
            self._log.append(now)
        return admitted

    def remaining(self, now: float) -> int:
        self._forget(now)
        return max(0, int(self.limit) - len(self._log))

    def reset_after(self, now: float) -> float:
        self._forget(now)
        surplus = len(self._log) - int(self.limit)
        return max(0.0, self._log[surplus] + self.period - now) if surplus >= 0 else 0.0


class FixedWindow:
    """At most `limit` in each window [phase + k·period, phase + (k+1)·period)."""

    def __init__(self, limit: float, period: float, *, phase: float = 0.0) -> None:
        self.limit, self.period, self.phase = limit, period, phase
        self._window = -math.inf
        self._count = 0

    def _roll(self, now: float) -> None:
        window = math.floor((now - self.phase) / self.period)
        if window != self._window:
            self._window, self._count = window, 0

    def admit(self, now: float) -> bool:
        self._roll(now)
        if self._count >= self.limit:
            return False
        self._count += 1
        return True

    def remaining(self, now: float) -> int:
        self._roll(now)
        return max(0, int(self.limit) - self._count)

    def window_ends_after(self, now: float) -> float:
        """Return the seconds until the counter is reset, whether or not it is full."""
        self._roll(now)
        return self.phase + (self._window + 1) * self.period - now

    def reset_after(self, now: float) -> float:
        return 0.0 if self.remaining(now) else self.window_ends_after(now)


class TokenBucket:
    """A bucket of *capacity* tokens, refilled at limit/period a second."""

    def __init__(self, limit: float, period: float, *, capacity: float | None = None) -> None:
        self.limit, self.period = limit, period
        self.capacity = limit if capacity is None else capacity
        self._tokens = self.capacity
        self._at: float | None = None

    def _refill(self, now: float) -> None:
        if self._at is not None:
            gained = (now - self._at) * self.limit / self.period
            self._tokens = min(self.capacity, self._tokens + gained)
        self._at = now

    def admit(self, now: float) -> bool:
        self._refill(now)
        # A request at the exact instant of its token must not fail by rounding.
        if self._tokens < 1 - 1e-9:
            return False
        self._tokens -= 1
        return True

    def remaining(self, now: float) -> int:
        self._refill(now)
        return int(self._tokens + 1e-9)

    def reset_after(self, now: float) -> float:
        self._refill(now)
        return max(0.0, (1 - self._tokens) * self.period / self.limit)


class TwoCounter:
    """A sliding window estimated from two aligned counters.

    The count of the previous window, weighted by how much of it still overlaps,
    plus the count of this one (the form popularised by Cloudflare and used by
    the `limits` package's sliding-window counter).
    """

    def __init__(self, limit: float, period: float, *, phase: float = 0.0) -> None:
        self.limit, self.period, self.phase = limit, period, phase
        self._window: int | None = None
        self._previous = 0
        self._current = 0

    def _roll(self, now: float) -> float:
        """Advance to the window of *now*; return the share of it that is over."""
        position = (now - self.phase) / self.period
        window = math.floor(position)
        if self._window is None:
            self._window = window
        elif window > self._window:
            self._previous = self._current if window == self._window + 1 else 0
            self._window, self._current = window, 0
        return position - window

    def _estimate(self, now: float) -> float:
        over = self._roll(now)
        return self._previous * (1 - over) + self._current

    def admit(self, now: float) -> bool:
        # The estimate includes this request, so it must fit completely.
        if self._estimate(now) + 1 > self.limit + 1e-9:
            return False
        self._current += 1
        return True

    def remaining(self, now: float) -> int:
        return max(0, int(self.limit - self._estimate(now) + 1e-9))

    def reset_after(self, now: float) -> float:
        over = self._roll(now)
        if self.remaining(now):
            return 0.0
        # previous·(1 − over') + current + 1 = limit, solved for over' ...
        if self._current + 1 <= self.limit:
            due = 1 - (self.limit - self._current - 1) / self._previous
            return max(0.0, (due - over) * self.period)
        # ... or, where this window is full, the same in the next one, whose previous it is.
        due = 1 - (self.limit - 1) / self._current
        return (1 - over + max(0.0, due)) * self.period
