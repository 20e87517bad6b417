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

from asyncclients.stores.talk import Talk

if TYPE_CHECKING:
    from asyncclients.limits.limiter import Limiter, LimiterState
    from asyncclients.limits.permit import Permit
    from asyncclients.limits.quota import Quota
    from asyncclients.limits.ratelimit_headers import Signal

_ROUNDING = 2e-6
"""Seconds: the store counts in microseconds."""


class SharedLimiter:
    """The quotas of one scope, over all processes.

    Args:
        local: this process's own limiter.
        talk: the talk with the store.
        lease: seconds for which a slot may be held before it is used.

    Attributes:
        slots: what this process holds, and what the store has yet to hear.
        talk: the talk with the store.
    """

    def __init__(self, local: Limiter, talk: Talk, lease: float) -> None:
        self._local, self._lease = local, lease
        self._numbers: dict[int, int] = {}  # number of a permit -> number of its slot
        self.talk, self.slots, self._silence = talk, talk.slots, talk.silence

    @property
    def quotas(self) -> tuple[Quota, ...]:
        """The quotas that this process obeys; others' hold as well."""
        return self._local.quotas

    def ready_at(self, now: float, spare: int = 0, *, even: bool = False) -> float:
        """The earliest instant at which a permit may be taken; inf until the store answers."""
        at = self._local.ready_at(now, spare, even=even)
        if at == math.inf:
            return at
        share = self._silence.share
        if share is not None:
            if self._silence.probed(now):
                return max(at, _due(share.ready_at(now), now))
            self.talk.ask(now)
            return math.inf
        lease = self.slots.first(now)
        if lease is not None and at <= lease.lapses_at:
            return max(at, _due(lease.usable_at, now))
        if at - self._lease > now:
            return at - self._lease
        self.talk.ask(now)
        return math.inf

    def take(self, now: float) -> Permit:
        """Take a slot. Only when `ready_at(now) <= now`."""
        share = self._silence.share
        permit = self._local.take(now)
        number = self._numbers[permit.number] = self.slots.use()
        self.talk.used(now)
        if share is not None:
            share.take(permit, now)
        self.slots.settle(number, permit.arrived_by)
        self.talk.report(now)
        return permit

    def answered(self, permit: Permit, now: float, signal: Signal | None) -> None:
        """The headers of the answer came in at *now*."""
        if signal is not None and signal.remaining is not None:
            signal = replace(signal, remaining=None)
        self._local.answered(permit, now, signal)
        self._settle(permit, now, min(now, permit.arrived_by))
        if signal is not None and signal.refused:
            self.talk.refused(now)
        elif signal is not None and signal.unavailable:
            self.talk.unavailable(now)
        else:
            self.talk.admitted()

    def lost(self, permit: Permit, now: float) -> None:
        """No answer will come, but the call may have arrived, as late as *now*."""
        self._local.lost(permit, now)
        self._settle(permit, now, now)

    def returned(self, permit: Permit, now: float) -> None:
        """The call was never sent."""
        self._local.returned(permit, now)
        number = self._numbers.pop(permit.number, None)
        if number is None:
            return
        self.slots.give_back(number)
        if self._silence.share is not None:
            self._silence.share.settle(permit, now, sent=False)
        self.talk.report(now)

    def refused(self, now: float, retry_after: float | None, permit: Permit | None = None) -> None:
        """The vendor said that the quota is spent."""
        self._local.refused(now, retry_after, permit)
        self.talk.refused(now)

    def earliest(self, calls: int, now: float) -> float:
        """The instant by which *calls* more calls could have been sent; rivals take turns."""
        at = self._local.earliest(calls, now)
        if self._silence.share is not None:
            alone = self._silence.share.ready_at(now)
            return at if alone == math.inf else max(at, alone)
        if not self.slots.leases:
            at = max(at, self.talk.opens_at(now))
        interval = max((1 / quota.rate for quota in self.quotas), default=0.0)
        return at + max(0, calls - len(self.slots.leases)) * self.talk.rivals * interval

    def add(self, quota: Quota, now: float) -> None:
        """Obey *quota* as well."""
        self._local.add(quota, now)

    def is_idle(self, now: float) -> bool:
        """True if nothing known here would delay a call, and the store has been told everything."""
        return self._local.is_idle(now) and self.talk.is_at_rest()

    def snapshot(self, now: float) -> LimiterState:
        """This process's own state; a slot opens when the store may give one."""
        state, share = self._local.snapshot(now), self._silence.share
        opens = 0.0
        if share is not None:
            opens = share.ready_at(now) - now
        elif not self.slots.leases:
            opens = self.talk.opens_at(now) - now
        return replace(state, opens_in=tuple(max(opens, own) for own in state.opens_in))

    def _settle(self, permit: Permit, now: float, arrived_by: float) -> None:
        number = self._numbers.pop(permit.number, None)
        if number is None:
            return
        self.slots.settle(number, arrived_by)
        if self._silence.share is not None:
            self._silence.share.settle(permit, now, sent=True)
        self.talk.report(now)


def _due(at: float, now: float) -> float:
    """*at*, or *now* where rounding alone is between them: a clock may stand still that long."""
    return at if at > now + _ROUNDING else now
