"""What a process may send while the store is silent.

`local` goes on alone, by its own limiter, at N times the processes in the worst
case. `pause` sends nothing. `safe_share` sends this process's share, so that
all together stay inside the quota although they cannot speak to each other:

* It first waits until every slot given before is over: a period, and a lease.
* Its share is the block of the quota that the store gave it last, see `shares.py`:
  blocks never overlap, whatever each process knows of the others.
* A block of 1/2^k is that part of each window, by a limiter of its own in exact
  admission, while that is one call at least.
* Below that, the processes whose blocks are in the same slot take turns on the store's
  clock, which each knows well enough. A turn is a period + slack; the slack is for
  clocks and latency.
* A process without a block sends nothing: it came in the last second before the
  outage to a quota that was divided among others. So does one whose block may have
  been given to another, since it was stopped for longer than `LIVE`.

A process that alone is cut off from a store that serves the others cannot
know it. `pause` is the mode that is safe there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import msgspec

from asyncclients.ratelimit.limiter import Limiter
from asyncclients.ratelimit.quota import Quota
from asyncclients.stores.shares import UNIT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncclients.ratelimit.window import Permit
    from asyncclients.stores.clock import StoreClock

_TURN_SLACK = 0.175
_TURN_USE = 0.05
"""Seconds from its start in which a turn may be used."""


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """What the store said last of the processes of a scope.

    Attributes:
        peers: how many there are.
        start, size: this one's block of the quota.
        due_at: loop instant at which the store expects the next beat.
        until: loop instant from which the block may be another's.
        idle: this process had not sent for a while.
    """

    peers: int
    start: int
    size: int
    due_at: float
    until: float
    idle: bool


NO_MEMBERS = Membership(peers=0, start=0, size=0, due_at=-math.inf, until=-math.inf, idle=False)


class FallbackPolicy(Protocol):
    """What a process may send while it cannot ask; *outlook* says it in words."""

    outlook: str

    def ready_at(self, now: float) -> float: ...
    def take(self, permit: Permit, now: float) -> None: ...
    def settle(self, permit: Permit, now: float, *, sent: bool) -> None: ...


class Unlimited:
    """No limit beyond the local one."""

    outlook = "this process obeys its own limit only"

    def ready_at(self, now: float) -> float:
        """At once."""
        return now

    def take(self, permit: Permit, now: float) -> None:
        """Nothing to note."""

    def settle(self, permit: Permit, now: float, *, sent: bool) -> None:
        """Nothing to note."""


class Blocked(Unlimited):
    """Not until the store is back."""

    outlook = "nothing is sent"

    def ready_at(self, now: float) -> float:
        """Never: the store's return changes that."""
        del now
        return math.inf


class NoShare(Blocked):
    """Not until the store is back: the share of this process is not known."""

    outlook = "nothing is sent, since this process was not given a share"


class StaticShare:
    """So many slots of each window, beginning with a spent one."""

    def __init__(self, quotas: Sequence[Quota], live: int, now: float) -> None:
        self._limiter = Limiter(quotas, admission="exact", cold_start="full", now=now)
        self._permits: dict[int, Permit] = {}
        sizes = " and ".join(f"{quota.limit} per {quota.period:g} s" for quota in quotas)
        self.outlook = f"1 of {live} processes, {sizes}"

    def ready_at(self, now: float) -> float:
        """When the share has a free slot."""
        return self._limiter.next_permit_at(now)

    def take(self, permit: Permit, now: float) -> None:
        """*permit* uses one."""
        self._permits[permit.number] = self._limiter.acquire(now)

    def settle(self, permit: Permit, now: float, *, sent: bool) -> None:
        """The call of *permit* has arrived by *now*, or was never *sent*."""
        own = self._permits.pop(permit.number, None)
        if own is not None:
            (self._limiter.on_no_response if sent else self._limiter.cancel)(own, now)


class TimeSlots:
    """One call in each turn of one's own, on the store's clock.

    Args:
        length: seconds of a turn.
        count: how many turns there are before the same comes again.
        index: which one is this process's.
        start: nothing is sent before.
    """

    def __init__(
        self, length: float, count: int, index: int, *, live: int, clock: StoreClock, start: float
    ) -> None:
        self.length, self._count, self._index = length, count, index
        self._use = min(_TURN_USE, length / 4)
        self._clock, self._not_before = clock, start
        self.outlook = f"1 of {live} processes, 1 per {length * count:g} s"

    def ready_at(self, now: float) -> float:
        """*now* inside a turn of one's own, else the start of the next."""
        at = max(now, self._not_before)
        time = self._clock.store_time(at)
        turn = math.floor(time / self.length)
        wait = (self._index - turn) % self._count
        if wait == 0:
            if time - turn * self.length <= self._use:
                return at
            wait = self._count
        return at + (turn + wait) * self.length - time

    def take(self, permit: Permit, now: float) -> None:
        """The turn is used: the next is a round later."""
        del permit
        self._not_before = now + self.length

    def settle(self, permit: Permit, now: float, *, sent: bool) -> None:
        """Nothing to note: an unused turn is gone."""


def fallback_policy(
    quotas: Sequence[Quota], census: Membership, clock: StoreClock, now: float, over_by: float
) -> FallbackPolicy:
    """The share of one process; slots given before *now* may be used until *over_by*."""
    if not census.size or now >= census.until:
        return NoShare()
    if not quotas:
        return Unlimited()
    if all(quota.limit * census.size >= UNIT for quota in quotas):
        parts = [Quota(quota.limit * census.size // UNIT, quota.period) for quota in quotas]
        return StaticShare(parts, census.peers, over_by)
    slots = 1 << (min(quota.limit for quota in quotas).bit_length() - 1)
    whole = UNIT // slots  # the smallest block that is a slot of every quota
    length = max((quota.period + _TURN_SLACK) / (quota.limit // slots) for quota in quotas)
    return TimeSlots(
        length,
        whole // census.size,
        _reversed(census.start % whole // census.size, whole // census.size),
        live=census.peers,
        clock=clock,
        start=over_by + max(quota.period for quota in quotas),
    )


def _reversed(index: int, count: int) -> int:
    """Return *index* with its bits reversed: a half has every other turn, as its halves have."""
    bits = count.bit_length() - 1
    return int(f"{index:0{bits}b}"[::-1], 2) if bits else 0
