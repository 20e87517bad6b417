"""Why a call waits, in words an operator can act on.

Pure reading: of the limiter's state, of the queue, of who else uses the quota.
The reasons are all those that hold at that instant.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from asyncclients.ratelimit.quota import Priority

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncclients.core.scope import Scope
    from asyncclients.ratelimit.limiter import LimiterState
    from asyncclients.ratelimit.quota import Quota
    from asyncclients.ratelimit.scheduler import Scheduler


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What stands between a call made now and the wire.

    Attributes:
        vendor: its name.
        seconds: until such a call could go out, as far as can be told.
        ahead: calls that go before it.
        reasons: what it waits for, in words; empty when it would go out at once.
    """

    vendor: str
    seconds: float
    ahead: int
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        if not self.reasons:
            return f"{self.vendor}: a call made now goes out at once"
        when = f"in about {_span(self.seconds)}" if self.seconds else "soon"
        return f"{self.vendor}: a call made now goes out {when}: {'; '.join(self.reasons)}"


def explain(scope: Scope, priority: Priority, now: float) -> Explanation:
    """Why a call of *priority* made at *now* in *scope* would wait."""
    scheduler = scope.scheduler
    state = scheduler.limiter.snapshot(now)
    queued = scheduler.queued()
    ahead = queued["interactive"] + (queued["background"] if priority else 0)
    reasons = [*_queue(ahead, queued, priority), *_crowding(scheduler), *_limits(scheduler, state)]
    if reasons and state.external_rate:
        reasons.append(f"others use the same quota, at {state.external_rate:.2g} calls per second")
    return Explanation(
        vendor=scope.vendor,
        seconds=scheduler.eta(1, priority),
        ahead=ahead,
        reasons=tuple(reasons),
    )


def _queue(ahead: int, queued: dict[str, int], priority: Priority) -> Iterator[str]:
    if ahead:
        kinds = [f"{count} {kind}" for kind, count in queued.items() if count]
        if priority is Priority.INTERACTIVE:
            kinds = kinds[:1]
        yield f"{_calls(ahead)} wait{'s' if ahead == 1 else ''} before it ({', '.join(kinds)})"


def _crowding(scheduler: Scheduler) -> Iterator[str]:
    if scheduler.in_flight >= scheduler.max_in_flight:
        yield f"{scheduler.in_flight} requests are in flight, as many as max_in_flight allows"
    pool = scheduler.connections
    if pool.in_use >= pool.limit:
        yield f"the pool has {pool.in_use} requests in flight, as many as max_connections allows"


def _limits(scheduler: Scheduler, state: LimiterState) -> Iterator[str]:
    if state.paused_for:
        yield f"the vendor refused by rate, so nothing is sent for {_span(state.paused_for)}"
    if state.probing and state.in_flight:
        yield "after refusals in a row, one call at a time is sent until one is let in"
    quotas = zip(scheduler.limiter.quotas, state.holds, state.opens_in, strict=True)
    for quota, held, opens_in in quotas:
        if opens_in > 0:
            yield _full(quota, held, opens_in)
    if state.paced_for > 0 and max(state.opens_in, default=0.0) <= 0:
        yield f"calls are spread over the period: the next may go in {_span(state.paced_for)}"


def _full(quota: Quota, held: int, opens_in: float) -> str:
    opens = "when an answer comes in" if opens_in == math.inf else f"in {_span(opens_in)}"
    whose = "" if held >= quota.limit else f", {quota.limit - held} by others"
    return f"the quota of {quota} is used up ({held} by this pool{whose}); a slot opens {opens}"


def _calls(count: int) -> str:
    return "1 call" if count == 1 else f"{count} calls"


def _span(seconds: float) -> str:
    if seconds == math.inf:
        return "an unknown time"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min"
