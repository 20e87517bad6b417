"""What a process may send while the store is silent.

`local` goes on alone, by its own limiter, at N times the processes in the worst
case. `pause` sends nothing. `safe_share` sends this process's share, so that
all together stay inside the quota although they cannot speak to each other:

* It first waits until every slot given before is over: a period, and a lease.
* N slots and P processes, P <= N: the share is N // P slots a period, by a
  limiter of its own in exact admission.
* P > N: the processes take turns on the store's clock, which each knows well
  enough. A turn is (period + slack) / N long; the slack is for clocks and latency.
* All must count alike. A process that was not counted for long, or whose last
  count is old or was changing, waits: it cannot know the others' shares.

A process that alone is cut off from a store that serves the others cannot
know it either. `pause` is the mode that is safe there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import msgspec

from asyncclients.limits.limiter import Limiter
from asyncclients.limits.quota import Quota
from asyncclients.stores.terms import BEAT, LIVE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncclients.limits.permit import Permit
    from asyncclients.stores.clock import StoreClock

AGREED = 2 * BEAT + 0.5
"""Seconds after which every process has heard of the last one that came or went."""
_TURN_SLACK = 0.175
_TURN_USE = 0.05
"""Seconds from its start in which a turn may be used."""


class Census(msgspec.Struct, frozen=True, kw_only=True):
    """How many processes live, how many come before this one, since when; at `heard_at`."""

    live: int
    rank: int
    stable: float
    heard_at: float

    def agreed(self, now: float) -> bool:
        """May this process suppose that all others count alike?"""
        return self.live > 0 and self.stable >= AGREED and now - self.heard_at <= LIVE


NOBODY = Census(live=0, rank=0, stable=0.0, heard_at=-math.inf)


class Share(Protocol):
    """What a process may send while it cannot ask; *outlook* says it in words."""

    outlook: str

    def ready_at(self, now: float) -> float: ...
    def take(self, permit: Permit, now: float) -> None: ...
    def settle(self, permit: Permit, now: float, *, sent: bool) -> None: ...


class Everything:
    """No limit beyond the local one."""

    outlook = "this process obeys its own limit only"

    def ready_at(self, now: float) -> float:
        """At once."""
        return now

    def take(self, permit: Permit, now: float) -> None:
        """Nothing to note."""

    def settle(self, permit: Permit, now: float, *, sent: bool) -> None:
        """Nothing to note."""


class Nothing(Everything):
    """Not until the store is back."""

    outlook = "nothing is sent"

    def ready_at(self, now: float) -> float:
        """Never: the store's return changes that."""
        del now
        return math.inf


class WindowShare:
    """So many slots of each window, beginning with a spent one."""

    outlook = "this process sends its share of the quota"

    def __init__(self, quotas: Sequence[Quota], now: float) -> None:
        self._limiter = Limiter(quotas, admission="exact", cold_start="full", now=now)
        self._permits: dict[int, Permit] = {}

    def ready_at(self, now: float) -> float:
        """When the share has a free slot."""
        return self._limiter.ready_at(now)

    def take(self, permit: Permit, now: float) -> None:
        """*permit* uses one."""
        self._permits[permit.number] = self._limiter.take(now)

    def settle(self, permit: Permit, now: float, *, sent: bool) -> None:
        """The call of *permit* has arrived by *now*, or was never *sent*."""
        own = self._permits.pop(permit.number, None)
        if own is not None:
            (self._limiter.lost if sent else self._limiter.returned)(own, now)


class Turns:
    """One call in each turn of one's own, on the store's clock."""

    outlook = "this process sends one call in each of its turns"

    def __init__(self, quota: Quota, census: Census, clock: StoreClock, start: float) -> None:
        self.length = (quota.period + _TURN_SLACK) / quota.limit
        self._use = min(_TURN_USE, self.length / 4)
        self._census, self._clock, self._not_before = census, clock, start

    def ready_at(self, now: float) -> float:
        """*now* inside a turn of one's own, else the start of the next."""
        at = max(now, self._not_before)
        time = self._clock.store_time(at)
        turn = math.floor(time / self.length)
        wait = (self._census.rank - turn) % self._census.live
        if wait == 0:
            if time - turn * self.length <= self._use:
                return at
            wait = self._census.live
        return at + (turn + wait) * self.length - time

    def take(self, permit: Permit, now: float) -> None:
        """The turn is used: the next is a round later."""
        del permit
        self._not_before = now + self.length

    def settle(self, permit: Permit, now: float, *, sent: bool) -> None:
        """Nothing to note: an unused turn is gone."""


def share_of(
    quotas: Sequence[Quota], census: Census, clock: StoreClock, now: float, over_by: float
) -> Share:
    """The share of one process; slots given before *now* may be used until *over_by*."""
    if not census.agreed(now):
        return Nothing()
    if all(quota.limit >= census.live for quota in quotas):
        parts = [Quota(quota.limit // census.live, quota.period) for quota in quotas]
        return WindowShare(parts, over_by)
    strictest = max(quotas, key=lambda quota: (quota.period + _TURN_SLACK) / quota.limit)
    longest = max(quota.period for quota in quotas)
    return Turns(strictest, census, clock, over_by + longest)
