"""Why the calls of a scope wait for minutes or hours, reported once for each cause.

While calls wait, what delays them is examined every ten seconds, so a call costs nothing more.
A cause is reported when it is first known to last longer than `LONG_WAIT`, and again only if it
returns after it has been over for that long. A long queue is no cause: its calls are sent one
after the other.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from asyncclients.ratelimit.timer import Timer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

    from asyncclients.ratelimit.limiter import Delay

LONG_WAIT = 300.0
"""Seconds. Users ask about a call that waits longer."""
_FIRST_CHECK, _CHECK_EVERY = 1.0, 10.0
"""Seconds from the beginning of a wait, and between checks while calls wait."""


class LongWait(NamedTuple):
    """A number of calls that wait for the same cause, which ends in *seconds*."""

    calls: int
    seconds: float
    delay: Delay


class LongWaits:
    """Reports the long waits of one scope.

    Args:
        delays: returns what delays the waiting calls from a loop instant on, and how many calls.
        report: called once for each cause.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        delays: Callable[[float], Iterable[tuple[Delay, int]]],
        report: Callable[[LongWait], None],
    ) -> None:
        self._loop, self._delays, self._report = loop, delays, report
        # The reported causes by name, and when each is over: a while after its end, because the
        # next slot of a quota may have to be waited for as well.
        self._reported: dict[str, float] = {}
        self._timer = Timer(loop, self._check)

    def watch(self) -> None:
        """Examine the waiting calls soon, and then until none waits."""
        if self._timer.due_at == math.inf:
            self._timer.set(self._loop.time() + _FIRST_CHECK)

    def close(self) -> None:
        """Stop examining."""
        self._timer.cancel()

    def _check(self) -> None:
        now = self._loop.time()
        delays = [*self._delays(now)]
        waits: dict[str, LongWait] = {}
        for delay, calls in delays:
            if delay.until > now:
                same = waits.get(delay.name, LongWait(0, 0.0, delay))
                seconds = max(same.seconds, delay.until - now)
                waits[delay.name] = LongWait(same.calls + calls, seconds, delay)
        self._reported = {name: at for name, at in self._reported.items() if at > now}
        for name, wait in waits.items():
            is_new = name not in self._reported
            if is_new and wait.seconds > LONG_WAIT:
                self._report(wait)
            if not is_new or wait.seconds > LONG_WAIT:
                self._reported[name] = now + wait.seconds + LONG_WAIT
        if delays:
            self._timer.set(now + _CHECK_EVERY)
