"""Models of the rate limiters that vendors use.

They are pure arithmetic: each model decides whether a request that arrives at *now* is accepted,
with the state that such a server has. They are written from the definitions and share no code
with the client's limiter, so that they are an independent check.

Instants are float seconds of one monotonic clock and must not decrease between calls.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Protocol


class ServerLimit(Protocol):
    """A limit of `limit` requests per `period` seconds."""

    limit: float
    period: float

    def admit(self, now: float, cost: int = 1) -> bool:
        """Count a request of *cost* units that arrives at *now*; False means 429."""
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

    def admit(self, now: float, cost: int = 1) -> bool:
        self._forget(now)
        admitted = len(self._log) + cost <= self.limit
        if admitted or self.count_rejected:
            self._log.extend([now] * cost)
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
        self._window: object = None
        self._count = 0

    def window_of(self, now: float) -> object:
        """Return what identifies the window of *now*; the counter is reset when it changes."""
        return math.floor((now - self.phase) / self.period)

    def admit(self, now: float, cost: int = 1) -> bool:
        if self.remaining(now) < cost:
            return False
        self._count += cost
        return True

    def remaining(self, now: float) -> int:
        window = self.window_of(now)
        if window != self._window:
            self._window, self._count = window, 0
        return max(0, int(self.limit) - self._count)

    def window_ends_after(self, now: float) -> float:
        """Return the seconds until the counter is reset, whether or not it is full."""
        windows = math.floor((now - self.phase) / self.period)
        return self.phase + (windows + 1) * self.period - now

    def reset_after(self, now: float) -> float:
        return 0.0 if self.remaining(now) else self.window_ends_after(now)


class Rules:
    """Several limits, each for the requests whose `METHOD /path` contains its text.

    *costs* is the units of the requests that contain a text, 1 for all others. A request counts
    against all of its limits, or against none if one of them rejects it.
    """

    def __init__(
        self, *rules: tuple[str, ServerLimit], costs: Mapping[str, int] | None = None
    ) -> None:
        self._rules, self._costs = rules, costs or {}
        self.limit = min((limit.limit for _, limit in rules), default=math.inf)
        self.period = max((limit.period for _, limit in rules), default=0.0)

    def of(self, request: str) -> Rules:
        """Return the rules for *request*, a `METHOD /path`."""
        rules = [rule for rule in self._rules if rule[0] in request]
        return Rules(*rules, costs={"": self._cost(request)})

    def _cost(self, request: str = "") -> int:
        return max((cost for text, cost in self._costs.items() if text in request), default=1)

    def admit(self, now: float, cost: int = 1) -> bool:
        cost *= self._cost()
        if any(limit.remaining(now) < cost for _, limit in self._rules):
            return False
        for _, limit in self._rules:
            limit.admit(now, cost)
        return True

    def remaining(self, now: float) -> int:
        least = min((limit.remaining(now) for _, limit in self._rules), default=self._cost())
        return least // self._cost()

    def reset_after(self, now: float) -> float:
        return max((limit.reset_after(now) for _, limit in self._rules), default=0.0)


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

    def admit(self, now: float, cost: int = 1) -> bool:
        self._refill(now)
        # A request at the exact instant of its token must not fail by rounding.
        if self._tokens < cost - 1e-9:
            return False
        self._tokens -= cost
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

    def admit(self, now: float, cost: int = 1) -> bool:
        # The estimate includes this request, so it must fit completely.
        if self._estimate(now) + cost > self.limit + 1e-9:
            return False
        self._current += cost
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
