"""The limiter of one scope whose slots come from a store.

Rules:

* It answers at once, from the slots that it holds. Where it holds none it asks
  the store in the background, says "not yet" (infinity), and its queue is
  pumped when the answer is in.
* The local limiter stays in front: pacing, arrival bounds and what refusals
  have taught are this process's own, and nothing is sent against them.
* Refusals and admitted calls belong to the quota: all processes pause, and all learn.
* What the vendor says remains was counted over all processes, so it is not
  taken for a stranger's use of the quota here; refusals still are heeded.
* Nothing here waits for the store without bound, see `outage.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from msgspec.structs import replace

from asyncclients.stores.lease_client import LeaseClient

if TYPE_CHECKING:
    from asyncclients.ratelimit.headers import RateLimitInfo
    from asyncclients.ratelimit.limiter import Limiter, LimiterState
    from asyncclients.ratelimit.quota import Quota
    from asyncclients.ratelimit.window import Permit

_ROUNDING = 2e-6
"""Seconds: the store counts in microseconds."""


class SharedLimiter:
    """The quotas of one scope, over all processes.

    Args:
        local: this process's own limiter.
        lease_client: the talk with the store.
        lease: seconds for which a slot may be held before it is used.

    Attributes:
        slots: what this process holds, and what the store has yet to hear.
        lease_client: the talk with the store.
    """

    def __init__(self, local: Limiter, talk: LeaseClient, lease: float) -> None:
        self._local, self._lease = local, lease
        self._numbers: dict[int, int] = {}  # number of a permit -> number of its slot
        self.lease_client, self.slots, self._silence = talk, talk.slots, talk.outage

    @property
    def quotas(self) -> tuple[Quota, ...]:
        """The quotas that this process obeys; others' hold as well."""
        return self._local.quotas

    def next_permit_at(self, now: float, reserve: int = 0, *, spaced: bool = False) -> float:
        """The earliest instant at which a permit may be taken; inf until the store answers."""
        at = self._local.next_permit_at(now, reserve, spaced=spaced)
        if at == math.inf:
            return at
        share = self._silence.fallback
        if share is not None:
            if self._silence.recently_probed(now):
                return max(at, _due(share.ready_at(now), now))
            self.lease_client.request_slots(now)
            return math.inf
        lease = self.slots.first(now)
        if lease is not None and at <= lease.lapses_at:
            return max(at, _due(lease.usable_at, now))
        if at - self._lease > now:
            return at - self._lease
        self.lease_client.request_slots(now)
        return math.inf

    def acquire(self, now: float) -> Permit:
        """Take a slot. Only when `ready_at(now) <= now`."""
        share = self._silence.fallback
        permit = self._local.acquire(now)
        number = self._numbers[permit.number] = self.slots.consume()
        self.lease_client.on_sent(now)
        if share is not None:
            share.take(permit, now)
        self.slots.report_arrival(number, permit.arrived_by)
        self.lease_client.report(now)
        return permit

    def on_response(self, permit: Permit, now: float, info: RateLimitInfo | None) -> None:
        """The headers of the answer came in at *now*."""
        if info is not None and info.remaining is not None:
            info = replace(info, remaining=None)
        self._local.on_response(permit, now, info)
        self._settle(permit, now, min(now, permit.arrived_by))
        if info is not None and info.is_rate_limited:
            self.lease_client.on_rate_limited(now)
        elif info is not None and info.unavailable:
            self.lease_client.unavailable(now)
        else:
            self.lease_client.on_accepted()

    def on_no_response(self, permit: Permit, now: float) -> None:
        """No answer will come, but the call may have arrived, as late as *now*."""
        self._local.on_no_response(permit, now)
        self._settle(permit, now, now)

    def cancel(self, permit: Permit, now: float) -> None:
        """The call was never sent."""
        self._local.cancel(permit, now)
        number = self._numbers.pop(permit.number, None)
        if number is None:
            return
        self.slots.release(number)
        if self._silence.fallback is not None:
            self._silence.fallback.settle(permit, now, sent=False)
        self.lease_client.report(now)

    def on_rate_limited(
        self, now: float, retry_after: float | None, permit: Permit | None = None
    ) -> None:
        """The vendor said that the quota is spent."""
        self._local.on_rate_limited(now, retry_after, permit)
        self.lease_client.on_rate_limited(now)

    def nth_permit_at(self, calls: int, now: float) -> float:
        """The instant by which *calls* more calls could have been sent; rivals take turns."""
        at = self._local.nth_permit_at(calls, now)
        if self._silence.fallback is not None:
            alone = self._silence.fallback.ready_at(now)
            return at if alone == math.inf else max(at, alone)
        if not self.slots.leases:
            at = max(at, self.lease_client.opens_at(now))
        interval = max((1 / quota.rate for quota in self.quotas), default=0.0)
        return at + max(0, calls - len(self.slots.leases)) * self.lease_client.contenders * interval

    def add(self, quota: Quota, now: float) -> None:
        """Obey *quota* as well."""
        self._local.add(quota, now)

    def is_idle(self, now: float) -> bool:
        """True if nothing known here would delay a call, and the store has been told everything."""
        return self._local.is_idle(now) and self.lease_client.is_at_rest()

    def snapshot(self, now: float) -> LimiterState:
        """This process's own state; a slot opens when the store may give one."""
        state, share = self._local.snapshot(now), self._silence.fallback
        opens = 0.0
        if share is not None:
            opens = share.ready_at(now) - now
        elif not self.slots.leases:
            opens = self.lease_client.opens_at(now) - now
        return replace(state, opens_in=tuple(max(opens, own) for own in state.opens_in))

    def _settle(self, permit: Permit, now: float, arrived_by: float) -> None:
        number = self._numbers.pop(permit.number, None)
        if number is None:
            return
        self.slots.report_arrival(number, arrived_by)
        if self._silence.fallback is not None:
            self._silence.fallback.settle(permit, now, sent=True)
        self.lease_client.report(now)


def _due(at: float, now: float) -> float:
    """*at*, or *now* where rounding alone is between them: a clock may stand still that long."""
    return at if at > now + _ROUNDING else now
