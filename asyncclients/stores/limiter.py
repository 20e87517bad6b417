"""The limiter of one scope whose slots come from a store.

* It returns at once, from the slots that it holds. If it holds none it asks the store in the
  background and returns infinity; the scheduler is dispatched when the response is in.
* The process's own limiter applies as well: token bucket, arrival bounds and what rate limits
  have taught are local.
* Accepted and rate-limited calls are reported to all processes: all pause, and all learn.
* The vendor's remaining count includes the calls of all processes, so it is not taken for
  external usage. Rate limits are still obeyed.
* What an operator has set applies to all processes: a pause, and quotas that replace those that
  are configured. It stays in force in an outage.
* In an outage the limit of `fallback.py` applies, so no call waits for the store forever.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from msgspec.structs import replace

from asyncclients.ratelimit.quota import ONE, Demand, Priority
from asyncclients.stores.protocol import parse_quotas

if TYPE_CHECKING:
    from asyncclients.ratelimit.headers import RateLimitInfo
    from asyncclients.ratelimit.limiter import Delay, Limiter, LimiterState
    from asyncclients.ratelimit.quota import Quota
    from asyncclients.ratelimit.slots import Permit
    from asyncclients.stores.lease_client import LeaseClient

_ROUNDING = 2e-6
"""Seconds: the store counts in microseconds."""


class SharedLimiter:
    """The quotas of one scope, shared by all processes.

    Args:
        local: this process's own limiter.
        client: its connection to the store.
    """

    def __init__(self, local: Limiter, client: LeaseClient) -> None:
        self._local, self.client, self._state = local, client, client.state
        # Number of a permit -> number of its first slot, and what the call takes.
        self._numbers: dict[int, tuple[int, Demand]] = {}
        self.slots, self._outage = self._state.slots, self._state.outage

    @property
    def quotas(self) -> tuple[Quota, ...]:
        """The quotas that this process obeys; those of others apply as well."""
        return self._local.quotas

    @property
    def configured(self) -> tuple[Quota, ...]:
        """The quotas that this process has configured; an operator may have replaced them."""
        return self._state.configured

    @property
    def by_operation(self) -> bool:
        return self._local.by_operation

    def kind_of(self, demand: Demand) -> Demand:
        return self._local.kind_of(demand)

    def openings(
        self, now: float, demand: Demand = ONE, *, reserve: int = 0, spaced: bool = False
    ) -> dict[str, float]:
        """Return when a call of *demand* may take from each group of quotas, by what is known."""
        found = self._local.openings(now, demand, reserve=reserve, spaced=spaced)
        fallback = self._outage.fallback
        if fallback is not None:
            found[""] = max(found[""], self._outage.next_permit_at(now, demand))
        elif lease := self.slots.first_lease(now, demand):
            found[""] = max(found[""], _clamp(lease.usable_at, now))
        else:
            wait = self._state.wait(demand, now)
            group = wait.group if wait.group in found else ""
            found[group] = max(found[group], wait.until)
        found[""] = max(found[""], self._state.held_until)
        return found

    def next_permit_at(
        self, now: float, demand: Demand = ONE, *, reserve: int = 0, spaced: bool = False
    ) -> float:
        """Return when a permit can be acquired; infinity until the store responds."""
        at = self._local.next_permit_at(now, demand, reserve=reserve, spaced=spaced)
        if at == math.inf:
            return at
        held_until = self._state.held_until
        at = max(at, held_until)
        if self._outage.fallback is not None:
            if self._outage.recently_probed(now):
                return max(at, _clamp(self._outage.next_permit_at(now, demand), now))
            self.client.request_slots(now, demand)
            return math.inf
        if held_until > now:
            self.client.request_slots(now, demand)  # to learn when the pause is ended early
            return at
        lease = self.slots.first_lease(now, demand)
        if lease is not None and at <= lease.lapses_at:
            return max(at, _clamp(lease.usable_at, now))
        if at - self._state.config.lease > now:
            return at - self._state.config.lease
        self.client.request_slots(now, demand)
        return math.inf

    def acquire(self, now: float, demand: Demand = ONE) -> Permit:
        """Use a slot. Allowed if `next_permit_at(now) <= now`."""
        permit = self._local.acquire(now, demand)
        number = self.slots.consume(demand)
        self._numbers[permit.number] = number, demand
        if self._outage.fallback is not None:
            self._outage.fallback.acquire(permit, now, demand)
        self.slots.record_arrival(number, demand, permit.arrived_by)
        self.client.on_sent(now)
        return permit

    def on_response(self, permit: Permit, now: float, info: RateLimitInfo | None) -> None:
        """Record that the response's headers were received at *now*."""
        if info is not None and info.remaining is not None:
            info = replace(info, remaining=None)
        self._local.on_response(permit, now, info)
        self._settle(permit, now, min(now, permit.arrived_by))
        if info is not None and info.is_rate_limited:
            self._report_rejection(now)
        elif info is not None and info.unavailable:
            self._state.unavailable_until = self._local.paused_until
            self.client.send_request_at(now, now)
        else:
            self._state.accepted += 1

    def on_no_response(self, permit: Permit, now: float, *, was_sent: bool = True) -> None:
        """Record that the call may have arrived, by *now*, or never was sent."""
        self._local.on_no_response(permit, now, was_sent=was_sent)
        self._settle(permit, now, now if was_sent else None)

    def on_rate_limited(
        self, now: float, retry_after: float | None, permit: Permit | None = None
    ) -> None:
        self._local.on_rate_limited(now, retry_after, permit)
        self._report_rejection(now)

    def _report_rejection(self, now: float) -> None:
        """Report at once that the vendor rate-limited a call: it concerns all processes."""
        self._state.rejected += 1
        self.client.send_request_at(now, now)

    def nth_permit_at(
        self, calls: int, now: float, demand: Demand = ONE, priority: Priority = Priority.BACKGROUND
    ) -> float:
        """Return when *calls* more calls can have been sent, with contenders taking turns."""
        local_at = self._local.nth_permit_at(calls, now, demand)
        at = max(local_at, self._state.held_until)
        if self._outage.fallback is not None:
            next_at = self._outage.next_permit_at(now, demand)
            return at if next_at == math.inf else max(at, next_at)
        turns = max(0, calls - self.slots.held(demand))
        if turns == calls:
            opens_at = self._state.opens_at(now, demand, priority)
            at = max(at, opens_at)
            turns -= opens_at > now  # the store has counted the turns before the first call
        quotas = [quota for _, quota in demand.quotas(self.quotas) if not quota.unit]
        interval = max((demand.cost / quota.rate for quota in quotas), default=0.0)
        return at + turns * self._state.last.contenders * interval

    def delay(
        self, now: float, demand: Demand = ONE, priority: Priority = Priority.BACKGROUND
    ) -> Delay:
        """Return what delays a call of *demand* longest, from *now* on."""
        found = [self._local.delay(now, demand), self._state.operator_delay()]
        if self._outage.fallback is None and not self.slots.held(demand):
            found.append(self._state.delay(now, demand, priority))
        return max(found, key=lambda delay: delay.until)

    def add(self, quota: Quota, now: float) -> None:
        self._state.add(quota, now)

    def is_idle(self, now: float) -> bool:
        """True if nothing known here would delay a call, and everything is reported."""
        return self._local.is_idle(now) and self.client.is_at_rest()

    def snapshot(self, now: float) -> LimiterState:
        """Return the local state, and what the store makes calls wait for."""
        fallback, held_for = self._outage.fallback, max(0.0, self._state.held_until - now)
        store_wait, store_quota = 0.0, None
        if fallback is not None:
            store_wait = self._outage.next_permit_at(now) - now
        elif not self.slots.leases and not held_for:
            store_wait = self._state.opens_at(now) - now
            name = self._state.wait(ONE, now).quota_name
            store_quota = next(iter(parse_quotas([name] if name else [])), None)
        has_responded = self._state.last_response_at > -math.inf
        return replace(
            self._local.snapshot(now),
            store_wait=store_wait,
            store_quota=store_quota,
            outage="" if fallback is None else fallback.description,
            held_for=held_for,
            control=self._state.control,
            unasked_store="" if has_responded else self._state.config.display_name,
        )

    def _settle(self, permit: Permit, now: float, arrived_by: float | None) -> None:
        """Report that the call of *permit* has arrived, or was not sent."""
        slots = self._numbers.pop(permit.number, None)
        if slots is None:
            return
        if arrived_by is None:
            self.slots.release(*slots)
        else:
            self.slots.record_arrival(*slots, arrived_by)
        if self._outage.fallback is not None:
            self._outage.fallback.settle(permit, now, sent=arrived_by is not None)
        self.client.report(now)


def _clamp(at: float, now: float) -> float:
    """Return *now* if *at* differs from it by rounding only: a clock may stand still that long."""
    return at if at > now + _ROUNDING else now
