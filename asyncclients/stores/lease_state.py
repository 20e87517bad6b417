"""The state of one process for one scope: the log by its last response, its slots and reports.

`protocol.py` explains the terms. Nothing here waits, sends or reads a clock: `now` is an
argument. `lease_client.py` sends the requests.
"""

from __future__ import annotations

import math
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

from asyncclients.ratelimit.control import NO_CONTROL, Control
from asyncclients.ratelimit.limiter import Delay, delay_until
from asyncclients.ratelimit.quota import ONE, Demand
from asyncclients.ratelimit.slots import RATE_SAFETY, TokenBucket
from asyncclients.stores.clock import SECOND, StoreClock, micros
from asyncclients.stores.fallback import OutageState
from asyncclients.stores.lease_book import MAX_SLOTS, Lease, LeaseBook
from asyncclients.stores.protocol import (
    HEARTBEAT,
    PROBE_INTERVAL,
    SEND_GRACE,
    TTL,
    UNKNOWN_EPOCH,
    Groups,
    LeaseRequest,
    LeaseResponse,
    QuotaSpec,
    StoreUnavailableError,
    decode_pause,
    decode_quotas,
    parse_quotas,
)
from asyncclients.stores.shares import contains

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from asyncclients.ratelimit.limiter import Limiter
    from asyncclients.ratelimit.quota import Quota
    from asyncclients.stores.config import StoreConfig
    from asyncclients.stores.fallback import OutageLog

_NO_BLOCK_HEARTBEAT = 0.1
"""Seconds to the second request of a process without a block; doubled after each, up to `HEARTBEAT`."""
_FEW = 4
"""Processes up to which each sends a heartbeat every second."""
_HEARTBEAT_OF_MANY = 1.95
"""Seconds between heartbeats of more processes, so that each sees an operator's change within two."""
_SPACED_BURST = 1.25
"""Burst where calls are spaced evenly: a call that is slightly late does not delay the next."""
_MAX_FEEDBACK = 5000
"""Accepted calls of other processes that the limiter counts for one response, at most."""
_IDLE_TIMEOUT = 60.0
"""Seconds without calls after which a process counts as idle."""
_IDLE_HEARTBEAT = 10.0
_MAX_HEARTBEAT = 120.0
_CROWD = 100
"""Scopes or processes above which heartbeats are sent less often, to save the store work."""


class Wait(NamedTuple):
    """The wait before the next request for a demand."""

    until: float  # loop instant of the request
    quota_name: str  # of the quota that delays the calls; empty if none does
    delay: Delay  # what delays them, and until when at least
    priority: int = 0  # their class

    @property
    def group(self) -> str:
        """The group of that quota."""
        return self.quota_name.partition(" ")[2]


class LeaseState:
    """One process's side of a scope: what it knows of the log, holds, and has to report.

    Args:
        key: one-way name of the scope.
        local: this process's limiter: its quotas, and the rate it has learned.
        config: how the store is used.
        outage_log: logs for all scopes of the pool.
        first_slot: number of the first slot.
    """

    def __init__(
        self,
        key: str,
        local: Limiter,
        config: StoreConfig,
        outage_log: OutageLog,
        first_slot: int = 1,
    ) -> None:
        self.key, self.local, self.config, self.outage_log = key, local, config, outage_log
        self.slots = LeaseBook(first_slot)
        self.outage = OutageState(config)
        self.used_at = -math.inf  # loop instant of the last call
        self.unavailable_until = -math.inf  # of the vendor, as it has announced
        self.accepted = self.rejected = 0  # calls of this process, not reported yet
        self.configured = local.quotas  # which an operator's quotas may replace
        # From the last response:
        self.last_response_at = -math.inf
        self.last = LeaseResponse()
        self.control = NO_CONTROL  # the settings of an operator
        self.held_until = -math.inf  # the end of an operator's pause
        self.last_priority, self.last_demand = 0, ONE  # of the request that it answers
        self._clock = StoreClock()
        self._is_clock_suspect = False  # it was set forward: later leases are not used
        self._due_at = -math.inf  # the store expects the next request by then
        self._block_until = -math.inf  # the store may give the block to others afterwards
        self._is_known_idle = False  # the last request said so
        self._no_block_heartbeat = _NO_BLOCK_HEARTBEAT
        self._heartbeat_at = -math.inf  # when the next heartbeat is due
        self._renew_at = -math.inf  # when calls in flight are reported again
        self._waits: dict[Demand, Wait] = {}
        self._random = Random(config.process)  # noqa: S311 - a different one in each process

    # --- What the limiter asks --------------------------------------------------------

    def wait(self, demand: Demand, now: float, priority: int = 1) -> Wait:
        """Return the wait before a request for *demand*; it is over by *now* if there is none.

        A wait of background calls does not apply to interactive ones.
        """
        wait = self._waits.get(demand)
        if wait is None or wait.until <= now or wait.priority > priority:
            return Wait(now, "", Delay(now))
        return wait

    def opens_at(self, now: float, demand: Demand = ONE, priority: int = 1) -> float:
        """Return the earliest instant at which the store may grant another slot."""
        until = self.wait(demand, now, priority).until
        return until + self.config.lease if until > now else now

    def delay(self, now: float, demand: Demand, priority: int) -> Delay:
        """Return what delays a call of *demand* at least.

        If a quota of all calls delays the demand of the last request, it also delays any demand
        that costs as much or more.
        """
        own, last = (self.wait(each, now, priority) for each in (demand, self.last_demand))
        if not last.group and self.last_demand.cost <= demand.cost:
            return max(own.delay, last.delay, key=lambda delay: delay.until)
        return own.delay

    def operator_delay(self) -> Delay:
        """Return the delay by an operator's pause; without one, its end is not in the future."""
        name = str(self.control.pause or "paused by an operator")
        remedy = "`asyncclients limits resume` ends the pause"
        return Delay(self.held_until, name, advice=remedy, name=name, remedy=remedy)

    def add(self, quota: Quota, now: float) -> None:
        """Configure *quota* as well."""
        self.configured = (*self.configured, quota)
        if self.control.quotas is None:
            self.local.add(quota, now)

    def is_at_rest(self) -> bool:
        """Return whether nothing is held or to be reported; a member also reports that it is idle."""
        return not (
            self.outage.failures
            or (self.last.member_count > 0 and not self._is_known_idle)
            or self.slots.leases
            or self.slots.in_flight
            or self.slots.has_unreported()
        )

    # --- When the next request is due -------------------------------------------------

    def next_request_at(self, now: float, waiting: int) -> float:
        """Return when a request is due without another event, with *waiting* calls; inf if never."""
        slots, at = self.slots, self.outage.probe_at()
        if at == math.inf:
            if slots.has_unreported() or self.rejected or self._is_clock_suspect:
                at = now + self.report_delay()
            at = min(at, self._heartbeat_at, self._renew_at if slots.in_flight else math.inf)
        is_member = not self.outage.failures and self.last.member_count > 0
        is_needed = is_member or slots.leases or slots.has_unreported()
        return math.inf if self._is_idle(now, waiting) and not is_needed else at

    def report_delay(self) -> float:
        """Return the seconds after which the reports that are due must be sent at the latest.

        An arrival makes its slot open a period later, so there is time. A slot that was not
        used may be granted to others at once.
        """
        if self.slots.released or self.rejected or self._is_clock_suspect:
            return self.urgent_delay()
        if self.slots.arrived:
            return max(0.005, min(self.periods()) / 20)
        return self._renewal_interval(self._heartbeat_interval)

    def urgent_delay(self) -> float:
        """Return the seconds until a report that concerns other processes is sent."""
        return min(0.25, max(0.005, min(self.periods()) / 20))

    def periods(self) -> list[float]:
        """Return the periods of the sliding quotas in seconds; never empty."""
        quotas = (*self.local.quotas, *self.configured)
        return [quota.period for quota in quotas if not quota.unit] or [HEARTBEAT]

    def _is_idle(self, now: float, waiting: int) -> bool:
        """Return whether this process has no calls, and sent none lately."""
        idle_timeout = _IDLE_TIMEOUT * min(1.0, _CROWD / max(1, len(self.outage_log.vendors)))
        return not (self.slots.in_flight or waiting) and now >= self.used_at + idle_timeout

    @property
    def _heartbeat_interval(self) -> float:
        """Seconds between two requests of a process that sends calls, at most."""
        members = self.last.member_count
        interval = HEARTBEAT if members <= _FEW else _HEARTBEAT_OF_MANY
        return min(_MAX_HEARTBEAT, max(interval, HEARTBEAT * members / _CROWD))

    def _renewal_interval(self, interval: float) -> float:
        """Return the seconds between two reports of a call in flight; *interval* of a heartbeat."""
        shortest = min(self.periods())
        return min(interval, max(min(HEARTBEAT, shortest), shortest / 2))

    # --- Requests -------------------------------------------------------------------

    def request(
        self, now: float, waiting: int, priority: int, demand: Demand, *, goodbye: bool = False
    ) -> LeaseRequest:
        """Return a request for the slots of up to *waiting* calls of *demand*."""
        slots, config, periods = self.slots, self.config, self.periods()
        slots.expire(now, max(periods))
        is_idle, interval = self._schedule_heartbeat(now, waiting)
        is_heartbeat = goodbye or self.outage.fallback is not None
        count = 0 if is_heartbeat else slots.wanted(demand, waiting)
        recovering = self.outage.others_may_be_sending(now, self.last_response_at + max(periods))
        arrived = dict(islice(slots.arrived.items(), MAX_SLOTS))
        released = dict(islice(slots.released.items(), MAX_SLOTS))
        in_flight = self._due_in_flight(now, interval)
        reported = (each for _, each in arrived.values())
        demands = dict.fromkeys((demand, *reported, *in_flight.values(), *released.values()))
        groups = {each: self._groups(each) for each in demands}
        return LeaseRequest(
            process=config.process,
            epoch=self._reported_epoch(now, recovering=recovering),
            seen=(self.last.server, self.last.now),
            new_epoch=uuid4().hex[:12],
            recovering=recovering,
            assume_spent=config.assume_spent or self.last.epoch != "",
            wall=micros(self.local.wall_time(now)),
            quotas=self._specs(self.configured, now, demands),
            arrived=tuple((n, micros(now - at), groups[each]) for n, (at, each) in arrived.items()),
            in_flight=tuple((n, groups[each]) for n, each in in_flight.items()),
            released=tuple(released),
            first=slots.reserve_numbers(count * demand.cost),
            count=count,
            cost=demand.cost,
            groups=groups[demand],
            priority=int(priority),
            accepted=self.accepted,
            rejected=self.rejected,
            pause=self._vendor_pause_micros(now),
            goodbye=goodbye,
            idle=is_idle,
            block_held=(self.last.start, self.last.size),
            heartbeat_due=micros(interval),
            lease=micros(min(config.lease, min(periods) / 4)),
            grace=micros(SEND_GRACE),
            ttl=micros(max(TTL, 3 * interval)),
            min_retry=micros(min(0.25, max(0.005, min(periods) / 8))),
            recovery_hold=micros(max(periods)),
            detection_time=self._micros_to_notice(PROBE_INTERVAL),
            takeover_time=self._micros_to_notice(max(PROBE_INTERVAL, self._heartbeat_interval)),
            vendor=self.outage_log.vendor(self.key),
            obeys=self.last.operator_quotas,
            operator_quotas=self._specs(self.control.set_quotas, now),
        )

    def _schedule_heartbeat(self, now: float, waiting: int) -> tuple[bool, float]:
        """Return whether this process is idle, and the seconds until its next request at most."""
        is_idle = self._is_idle(now, waiting)
        if self.outage.failures:
            interval = HEARTBEAT
        elif is_idle:
            crowd = max(1.0, len(self.outage_log.vendors) / _CROWD)
            interval = min(_MAX_HEARTBEAT, _IDLE_HEARTBEAT * crowd)
        else:
            interval = self._heartbeat_interval
        self._is_known_idle, self._heartbeat_at = is_idle, now + interval
        return is_idle, interval

    def _due_in_flight(self, now: float, interval: float) -> dict[int, Demand]:
        """Return the calls without a response, if it is time to report them again."""
        if now < self._renew_at:
            return {}
        self._renew_at = now + self._renewal_interval(interval)
        return self.slots.in_flight

    def _vendor_pause_micros(self, now: float) -> int:
        paused_until = self.local.paused_until if self.rejected else self.unavailable_until
        return micros(max(0.0, paused_until - now))

    def _micros_to_notice(self, interval: float) -> int:
        """Return the time in which a process that asks every *interval* seconds has a response.

        The slots that were granted to it before are void by then.
        """
        return micros(interval + 2 * self.config.timeout + self.config.lease + SEND_GRACE)

    def _reported_epoch(self, now: float, *, recovering: bool) -> str:
        """Return the epoch that contains this process's calls of the last period; "" for none."""
        if self._is_clock_suspect:
            return UNKNOWN_EPOCH
        longest = max((quota.period for quota in self.local.quotas), default=HEARTBEAT)
        longest += SEND_GRACE + self.config.lease
        is_old = not recovering and now - self.last_response_at > longest
        return "" if is_old else self.last.epoch

    def _groups(self, demand: Demand) -> Groups:
        groups = dict.fromkeys(group for group, _ in demand.quotas(self.local.quotas) if group)
        return tuple(groups)

    def _specs(
        self, quotas: Sequence[Quota], now: float, demands: Iterable[Demand] = ()
    ) -> tuple[QuotaSpec, ...]:
        """Return *quotas*, and the shares of those in force that *demands* take."""
        state = self.local.snapshot(now)
        found = {(quota.group, quota): None for quota in quotas}
        for demand in demands:
            taken = demand.quotas(self.local.quotas)
            found.update(dict.fromkeys(each for each in taken if each[0]))
        return tuple(
            self._calendar_spec(group, quota, now)
            if quota.unit
            else QuotaSpec(
                limit=quota.limit,
                period=micros(quota.period),
                interval=micros(quota.period / quota.limit / RATE_SAFETY / state.rate_factor),
                burst=TokenBucket(quota, 0.0).full_burst if state.bursts else _SPACED_BURST,
                group=group,
            )
            for group, quota in found
        )

    def _calendar_spec(self, group: str, quota: Quota, now: float) -> QuotaSpec:
        wall = self.local.wall_time(now)
        start, end = quota.window(wall)
        return QuotaSpec(
            limit=quota.limit,
            period=micros(quota.period),
            interval=0,
            burst=0.0,
            group=group,
            calendar=f"{quota.unit}:{quota.timezone}",
            previous=micros(quota.window(wall, -1)[0]),
            start=micros(start),
            next=micros(end),
            used=self.local.used(group, quota, now),
        )

    # --- Responses ------------------------------------------------------------------

    def apply(
        self,
        request: LeaseRequest,
        response: LeaseResponse,
        demand: Demand,
        sent_at: float,
        received_at: float,
    ) -> None:
        """Apply *response* to *request*, which asked for slots of *demand*."""
        self.last_response_at = received_at
        self._update_due_times(request, response, sent_at, received_at)
        self._log_data_loss(request, response, received_at)
        self._log_other_quotas(request, response, received_at)
        self._update_control(response, received_at)
        base = self._clock.update(sent_at, received_at, response.now)
        is_suspect = self._is_clock_suspect and request.epoch != UNKNOWN_EPOCH
        self._is_clock_suspect = is_suspect or self._clock.has_jumped
        if self._clock.has_jumped:
            advice = "Check the time service of its host"
            self.outage_log.on_reset(
                self.key, received_at, "its clock was set forward", request, advice
            )
        lease = request.lease / SECOND
        for offset, opens_in in enumerate(response.opens_in):
            usable_at, number = base + opens_in / SECOND, request.first + offset * request.cost
            self.slots.leases.append(Lease(usable_at, usable_at + lease, number, demand))
        if self._is_clock_suspect:
            self.slots.drop_leases()
        until = base + response.retry_in / SECOND
        if response.contenders:  # jitter: not all at once, nor always in the same order
            until += self._random.random() * lease / 2
        self._waits = {each: wait for each, wait in self._waits.items() if wait.until > received_at}
        delay = self._delay_from_response(request, response, demand, base)
        self._waits[demand] = Wait(until, response.waits_for, delay, request.priority)
        self.last_priority, self.last_demand = request.priority, demand
        self.outage_log.on_response(received_at, ends_outage=self.outage.fallback is not None)
        self.outage.stop()
        self._learn_from_others(request, response, received_at)
        self.last = response

    def _update_due_times(
        self, request: LeaseRequest, response: LeaseResponse, sent_at: float, received_at: float
    ) -> None:
        self._due_at = received_at + request.heartbeat_due / SECOND
        self._block_until = sent_at + request.ttl / SECOND
        if not contains((response.start, response.size), request.block_held):
            self._heartbeat_at = received_at  # confirm it, so that others can get the rest
        elif response.size or request.idle:
            self._no_block_heartbeat = _NO_BLOCK_HEARTBEAT
        else:
            self._heartbeat_at = min(self._heartbeat_at, received_at + self._no_block_heartbeat)
            self._no_block_heartbeat = min(2 * self._no_block_heartbeat, HEARTBEAT)
        if self.last.epoch not in {"", response.epoch}:  # a new log lacks the calls in flight
            self._renew_at, self._heartbeat_at = -math.inf, received_at

    def _log_data_loss(self, request: LeaseRequest, response: LeaseResponse, now: float) -> None:
        if request.epoch not in {"", response.epoch, UNKNOWN_EPOCH}:
            advice = "Check whether it was restarted, emptied or replaced, or evicts keys"
            self.outage_log.on_reset(self.key, now, "it lost its data", request, advice)
        elif request.seen[0] not in {"", response.server} and response.epoch == self.last.epoch:
            self.outage_log.on_takeover(self.key, now, request)

    def _update_control(self, response: LeaseResponse, now: float) -> None:
        self.held_until = now + response.held / SECOND if response.held else -math.inf
        pause, quotas = response.operator_pause, response.operator_quotas
        if (pause, quotas) == (self.last.operator_pause, self.last.operator_quotas):
            return
        before = self.control
        self.control = Control(
            pause=decode_pause(pause) if pause else None,
            quotas=decode_quotas(quotas) if quotas else None,
        )
        if before.quotas != self.control.quotas:
            self.local.replace(self.control.in_force(self.configured), now)

    def _log_other_quotas(self, request: LeaseRequest, response: LeaseResponse, now: float) -> None:
        others = _other_quotas(request, response)
        if others - _other_quotas(request, self.last):
            self.outage_log.on_other_quotas(self.key, now, self.configured, parse_quotas(others))

    def _delay_from_response(
        self, request: LeaseRequest, response: LeaseResponse, demand: Demand, base: float
    ) -> Delay:
        """Return what delays the next call of *demand*, and until when at least.

        The turns of other processes do not count, because these may leave.
        """
        name, _, group = response.waits_for.partition(" ")
        specs = (*request.quotas, *request.operator_quotas)
        turns = response.contenders * max((spec.interval for spec in specs), default=0)
        until = base + max(0, response.retry_in - turns) / SECOND
        if response.opens_in and not name:
            return Delay(base)
        if group:
            cause = f"the {demand.describe(group, self.local.quotas)} is used up"
        elif name:
            cause = f"the quota {parse_quotas([name])[0]} is used up"
        elif response.pause >= response.retry_in:
            cause = (
                "another process reports that the vendor has rate-limited calls or is unavailable,"
            )
        else:
            cause = "the limit store has lost data, or is new, and counts the quota as used up"
        return delay_until(until, cause, base, self.local.wall_time(until))

    def _learn_from_others(
        self, request: LeaseRequest, response: LeaseResponse, now: float
    ) -> None:
        """Tell the limiter of calls of other processes that the vendor accepted or rate-limited."""
        self.accepted -= request.accepted
        self.rejected -= request.rejected
        if self.last.epoch == response.epoch:
            accepted = response.accepted - self.last.accepted - request.accepted
            for _ in range(min(accepted, _MAX_FEEDBACK)):
                self.local.feedback.on_accepted()
            if response.rejected - self.last.rejected > request.rejected:
                self.local.on_rate_limited(now, response.pause / SECOND or None)

    def on_failure(
        self,
        request: LeaseRequest,
        demand: Demand,
        sent_at: float,
        now: float,
        error: StoreUnavailableError,
    ) -> bool:
        """Record that *request* failed with *error*; return whether there is an outage.

        The store may have applied it, so its slots are released and all calls in flight are
        reported again.
        """
        self.slots.release(request.first, demand, request.count)
        self.outage_log.failed_at = now
        self._renew_at = -math.inf
        due_at = max(self._due_at, now + request.heartbeat_due / SECOND)
        if not self.outage.on_failure(sent_at, now, due_at):
            return False
        if self.outage.fallback is None:
            self.slots.drop_leases()
            others = parse_quotas(_other_quotas(request, self.last))
            known = self.last if now < self._block_until else LeaseResponse()
            fallback = self.outage.start(
                now, [*self.local.quotas, *others], known, self._clock, self.local.wall_time
            )
            self.outage_log.on_outage(self.key, sent_at, error, fallback.description)
        return True


def _other_quotas(request: LeaseRequest, response: LeaseResponse) -> set[str]:
    """Return the names of the quotas that only other processes have configured."""
    known = {quota.name for quota in request.quotas}
    names = () if response.operator_quotas else response.quotas
    return {name for name in names if name not in known and " share:" not in name}
