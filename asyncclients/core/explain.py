"""Why a call would wait now: all reasons that apply, as text for an operator."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from asyncclients.ratelimit.control import span_text
from asyncclients.ratelimit.quota import ONE, Demand, Priority

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncclients.core.scope import Scope
    from asyncclients.ratelimit.limiter import LimiterState
    from asyncclients.ratelimit.scheduler import Scheduler

_AT_ONCE = 1e-3
"""Seconds below which a wait is none."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a call made now would wait, and how long.

    Attributes:
        seconds: estimate of the wait.
        ahead: queued calls that are sent before it.
        reasons: why it waits; empty if it would be sent at once.
    """

    vendor: str
    seconds: float
    ahead: int
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        if not self.reasons:
            return f"{self.vendor}: a call made now is sent at once"
        about = f"in about {span_text(self.seconds)}" if self.seconds >= _AT_ONCE else "soon"
        return f"{self.vendor}: a call made now is sent {about}: {'; '.join(self.reasons)}"


def explain(scope: Scope, priority: Priority, now: float, demand: Demand = ONE) -> Explanation:
    """Return why a call of *priority* and *demand* made at loop time *now* in *scope* would wait.

    Raises:
        ConfigurationError: the call costs more than a quota allows.
    """
    scheduler = scope.scheduler
    demand = scheduler.limiter.kind_of(demand)
    state = scheduler.limiter.snapshot(now)
    queued = scheduler.queued_before(demand)
    if priority is Priority.INTERACTIVE:
        del queued["background"]
    reasons = [
        *_of_queue(scheduler, state, queued),
        *_of_quotas(scheduler, state),
        *_of_store(scheduler, state),
        *_of_own_quotas(scheduler, demand, now),
    ]
    if reasons and state.control.quotas is not None:
        reasons.append(str(state.control.quotas))
    if reasons and state.external_rate:
        reasons.append(
            f"other clients use the same quota, {state.external_rate:.2g} calls per second"
        )
    return Explanation(
        vendor=scope.vendor,
        seconds=scheduler.eta(1, priority, demand),
        ahead=sum(queued.values()),
        reasons=tuple(reasons),
    )


def _of_queue(scheduler: Scheduler, state: LimiterState, queued: dict[str, int]) -> Iterator[str]:
    if state.unasked_store:
        yield (
            f"the limit store {state.unasked_store} has not responded yet, so what other processes"
            " have used, and whether an operator has paused the calls, is not known"
        )
    if ahead := sum(queued.values()):
        kinds = ", ".join(f"{count} {kind}" for kind, count in queued.items() if count)
        calls = "1 call is" if ahead == 1 else f"{ahead} calls are"
        yield f"{calls} queued before it ({kinds})"
    if scheduler.in_flight >= scheduler.max_in_flight:
        yield f"{scheduler.in_flight} requests are in flight, the maximum of max_in_flight"
    pool = scheduler.in_flight_limit
    if pool.in_use >= pool.limit:
        yield f"the pool has {pool.in_use} requests in flight, the maximum of max_connections"


def _of_quotas(scheduler: Scheduler, state: LimiterState) -> Iterator[str]:
    if state.control.pause is not None and state.held_for:
        yield f"{state.control.pause} in all processes (`asyncclients limits resume` ends it)"
    if state.paused_for:
        yield f"the vendor has rate-limited the scope: nothing is sent for {span_text(state.paused_for)}"
    if state.probing and scheduler.in_flight:
        yield "after several 429s in a row, one call at a time is sent until one is accepted"
    quotas = zip(scheduler.limiter.quotas, state.holds, state.opens_in, strict=True)
    full = [each for each in quotas if each[2] > 0 and not each[0].operations]
    for quota, held, opens_in in full:
        if quota != state.store_quota:
            others = "" if held >= quota.limit else f", {quota.limit - held} by other clients"
            yield (
                f"the quota of {quota} is used up ({held} by this pool{others}); "
                f"a slot opens {when(opens_in)}"
            )
    if state.paced_for > 0 and not full:
        yield f"calls are spread over the period: the next is sent in {span_text(state.paced_for)}"


def _of_store(scheduler: Scheduler, state: LimiterState) -> Iterator[str]:
    if state.store_wait <= 0:
        return
    opens, quota = when(state.store_wait), state.store_quota
    if state.outage:
        yield f"the limit store is unreachable ({state.outage}): the next call is sent {opens}"
    elif quota is not None:
        held = dict(zip(scheduler.limiter.quotas, state.holds, strict=True)).get(quota, 0)
        yield (
            f"all processes together have used the quota of {quota} ({held} by this pool); "
            f"a slot opens {opens}"
        )
    elif not state.paused_for:
        yield f"the limit store grants the next slot {opens}"


def _of_own_quotas(scheduler: Scheduler, demand: Demand, now: float) -> Iterator[str]:
    for group, at in scheduler.limiter.openings(now, demand).items():
        if group and at > now:
            whose = "its " if group.startswith("share:") else ""
            name = demand.describe(group, scheduler.limiter.quotas)
            yield f"it waits for {whose}{name}, which opens {when(at - now)}"


def when(seconds: float) -> str:
    """Return the words for an instant *seconds* from now; inf for the next response."""
    if seconds == math.inf:
        return "when a response arrives"
    return "at once" if seconds < _AT_ONCE else f"in {span_text(seconds)}"
