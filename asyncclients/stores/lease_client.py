"""A process's side of the protocol for one scope; see `protocol.py`.

* `LeaseBook` holds the slots and what has to be reported about them.
* `SyncState` builds requests and applies responses. It does not wait: `now` is an argument.
* `LeaseClient` decides when to send a request, sends it in the background, and handles failures.

A request is sent when a call needs a slot, when there is something to report (at once if it
concerns other processes), and as a heartbeat if there was none for a while. No call hangs,
whatever a backend raises.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from contextvars import Context
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

from asyncclients.errors import ConfigurationError, error_text
from asyncclients.ratelimit.control import NO_CONTROL, Control, ControlChange, clock_time
from asyncclients.ratelimit.limiter import Delay, quota_delay
from asyncclients.ratelimit.quota import ONE, Demand, Priority
from asyncclients.ratelimit.slots import RATE_SAFETY, TokenBucket
from asyncclients.ratelimit.timer import Timer
from asyncclients.stores.clock import SECOND, StoreClock, micros
from asyncclients.stores.fallback import NO_MEMBERS, Membership, OutageState
from asyncclients.stores.protocol import (
    HEARTBEAT,
    PROBE_INTERVAL,
    SEND_GRACE,
    TTL,
    UNKNOWN_EPOCH,
    LeaseRequest,
    LeaseResponse,
    QuotaSpec,
    StoreUnavailableError,
    decode_pause,
    decode_quotas,
    parse_quotas,
)
from asyncclients.stores.shares import NONE, Block, contains

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from asyncclients.ratelimit.limiter import Limiter
    from asyncclients.ratelimit.protocol import BacklogProtocol
    from asyncclients.ratelimit.quota import Quota
    from asyncclients.stores.config import StoreConfig
    from asyncclients.stores.fallback import OutageLog
    from asyncclients.stores.protocol import Backend

_MAX_SLOTS = 512
"""Slots of each kind in one request; the rest is sent with the next one."""
_NO_SHARE_HEARTBEAT = 0.1
"""Seconds to the second request of a process that has no block; doubled after each, up to `HEARTBEAT`."""
_FEW = 4
"""Processes up to which each sends a heartbeat every second."""
_HEARTBEAT_OF_MANY = 1.95
"""Seconds between heartbeats of more: the response shows an operator's change within two."""
_SPACED_BURST = 1.25
"""Burst where calls are spaced evenly: a call that is slightly late does not delay the next."""
_RETRY_AFTER_ERROR = 0.05
"""Seconds until the next request if one was cancelled from outside or met a bug."""
_MAX_FEEDBACK = 5000
"""Accepted calls of other processes that one response reports to the limiter."""
_IDLE_TIMEOUT = 60.0
"""Seconds without calls after which a process counts as idle."""
_IDLE_HEARTBEAT = 10.0
_MAX_HEARTBEAT = 120.0
_CROWD = 100
"""Scopes or processes above which heartbeats are sent less often, to save the store work."""


class Lease(NamedTuple):
    """The slots of one call, to be used from `usable_at` until `lapses_at`, in loop time.

    *number* is that of the first slot, and *demand* is what the call takes.
    """

    usable_at: float
    lapses_at: float
    number: int
    demand: Demand = ONE


class Wait(NamedTuple):
    """When the next request for a demand is sent.

    Attributes:
        until: loop instant of the request.
        name: the name of the quota that decides.
        delay: that quota, and when it opens at the earliest.
    """

    until: float
    name: str
    delay: Delay

    @property
    def group(self) -> str:
        """The group of that quota."""
        return self.name.partition(" ")[2]


class Reports(NamedTuple):
    """The reports on slots in a `LeaseRequest`, with demands in place of their groups.

    Attributes:
        demands: those of the slots in the other fields, which have indexes in them.
        arrived: slot number, seconds since the arrival, demand.
        in_flight: slot number, demand.
        released: slot numbers.
    """

    demands: tuple[Demand, ...]
    arrived: tuple[tuple[int, float, int], ...]
    in_flight: tuple[tuple[int, int], ...]
    released: tuple[int, ...]


class LeaseBook:
    """The slots of one process for one scope, and what the store does not know about them yet.

    A report stays here until the store has responded, so that a request can be repeated. A
    call of cost N has N slots with consecutive numbers.

    Args:
        first: number of the first slot.

    Attributes:
        leases: slots that are held and not used, the earliest first.
        in_flight: used slots whose calls may not have arrived yet.
        arrived: used slots and the latest arrival of their calls, to be reported.
        released: slots that will not be used, to be reported.
    """

    __slots__ = ("_demands", "_next", "arrived", "in_flight", "leases", "released")

    def __init__(self, first: int = 1) -> None:
        self._next = first
        self.leases: deque[Lease] = deque()
        self.in_flight: set[int] = set()
        self.arrived: dict[int, float] = {}
        self.released: set[int] = set()
        self._demands: dict[int, Demand] = {}  # of the slots above, where it is not ONE

    def reserve_numbers(self, count: int) -> int:
        """Reserve *count* slot numbers and return the first."""
        first = self._next
        self._next += count
        return first

    def first_lease(self, now: float, demand: Demand = ONE) -> Lease | None:
        """Return the earliest lease for *demand* that has not lapsed; release those that have."""
        while self.leases and self.leases[0].lapses_at < now:
            lapsed = self.leases.popleft()
            self.abandon(lapsed.number, lapsed.demand)
        return next((each for each in self.leases if each.demand is demand), None)

    def max_calls(self, demand: Demand) -> int:
        """Return for how many calls one request may ask; 0 while many arrivals are unreported."""
        return 0 if len(self.arrived) > _MAX_SLOTS else max(1, _MAX_SLOTS // demand.cost)

    def held(self, demand: Demand) -> int:
        """Return the number of leases for *demand*."""
        return sum(lease.demand is demand for lease in self.leases)

    def expire(self, now: float, longest: float) -> None:
        """Release lapsed leases, and drop arrivals that are older than the *longest* window."""
        self.first_lease(now)
        if len(self.arrived) > _MAX_SLOTS:
            old = [number for number, at in self.arrived.items() if at <= now - longest]
            for number in old:
                del self.arrived[number]
                self._demands.pop(number, None)

    def consume(self, demand: Demand = ONE) -> int:
        """Use the first lease for *demand*, or slots without a lease in an outage.

        Returns the number of the first slot.
        """
        for index, lease in enumerate(self.leases):
            if lease.demand is demand:
                del self.leases[index]
                number = lease.number
                break
        else:
            number = self.reserve_numbers(demand.cost)
        slots = range(number, number + demand.cost)
        self.in_flight.update(slots)
        if demand is not ONE:
            self._demands.update(dict.fromkeys(slots, demand))
        return number

    def report_arrival(self, number: int, demand: Demand, arrived_by: float) -> None:
        """Record that the call of slot *number* arrives by *arrived_by*; infinity if unknown."""
        if arrived_by < math.inf:
            slots = range(number, number + demand.cost)
            self.in_flight.difference_update(slots)
            self.arrived.update(dict.fromkeys(slots, arrived_by))

    def release(self, number: int, demand: Demand) -> None:
        """Record that the call of slot *number* was not sent."""
        for slot in range(number, number + demand.cost):
            self.in_flight.discard(slot)
            self.arrived.pop(slot, None)
            self.released.add(slot)

    def abandon(self, number: int, demand: Demand, count: int = 1) -> None:
        """Record that the slots of *count* calls from *number* on will not be used."""
        slots = range(number, number + count * demand.cost)
        self.released.update(slots)
        if demand is not ONE:
            self._demands.update(dict.fromkeys(slots, demand))

    def drop_leases(self) -> None:
        """Release all slots that are held and not used."""
        for lease in self.leases:
            self.abandon(lease.number, lease.demand)
        self.leases.clear()

    def forget_released(self) -> None:
        """Drop the released slots: no store knows of them."""
        self._acknowledge_released(self.released)

    def has_unreported(self) -> bool:
        """Return whether there is something to report."""
        return bool(self.arrived or self.released)

    def reports(self, now: float, *, renews: bool) -> Reports:
        """Return what is due, with the calls in flight if the request *renews* them."""
        demands: dict[Demand, int] = {}

        def index(number: int) -> int:
            return demands.setdefault(self._demands.get(number, ONE), len(demands))

        arrived = islice(self.arrived.items(), _MAX_SLOTS)
        released = tuple(islice(self.released, _MAX_SLOTS))
        for number in released:
            index(number)
        return Reports(
            arrived=tuple((number, now - at, index(number)) for number, at in arrived),
            in_flight=tuple((number, index(number)) for number in self.in_flight if renews),
            released=released,
            demands=tuple(demands),
        )

    def snapshot(self, arrived: Iterable[tuple[int, int, int]]) -> dict[int, float]:
        """Return the arrivals that a request reports, for `acknowledge`."""
        return {number: self.arrived[number] for number, *_ in arrived}

    def acknowledge(self, arrived: dict[int, float], released: set[int]) -> None:
        """Drop what the store knows now; arrivals that changed since stay."""
        self._acknowledge_released(released)
        for number, arrived_by in arrived.items():
            if self.arrived.get(number) == arrived_by:
                del self.arrived[number]
                self._demands.pop(number, None)

    def _acknowledge_released(self, released: set[int]) -> None:
        if self._demands:
            for number in released & self.released:
                self._demands.pop(number, None)
        self.released = self.released - released


class SyncState:
    """One process's knowledge of a scope's log, and its reports.

    Attributes:
        clock: the store's clock.
        membership: according to the last response; `NO_MEMBERS` while this process is none.
        is_idle: the last request reported that this process is idle.
        last_response_at: loop instant of the last response; -inf before the first.
        heartbeat_at: loop instant of the next request at the latest.
        unavailable_until: loop instant until which the vendor announced to be unavailable.
        accepted, rejected: calls of this process that the store does not know of.
        others_accepted, others_rejected: calls of other processes, from the last response.
        clock_suspect: the store's clock was set forward; leases granted since are not used.
        configured: the quotas of this process, which an operator's quotas may replace.
        control: what an operator has set, according to the last response.
        held_until: loop instant until which an operator wants no calls.
    """

    def __init__(
        self, key: str, local: Limiter, slots: LeaseBook, config: StoreConfig, log: OutageLog
    ) -> None:
        self._key, self._local, self._slots = key, local, slots
        self._config, self._log = config, log
        self._epoch: str = ""
        self._seen = ("", 0)
        self._other_quotas: frozenset[str] = frozenset()
        self.clock = StoreClock()
        self.membership = NO_MEMBERS
        self.is_idle = False
        self._share_held: Block = NONE
        self._share_retry = _NO_SHARE_HEARTBEAT
        self._renew_at = -math.inf
        self.last_response_at = self.heartbeat_at = -math.inf
        self.accepted = self.rejected = 0
        self.unavailable_until = -math.inf
        self.others_accepted = self.others_rejected = 0
        self.clock_suspect = False
        self._totals: tuple[int, int] | None = None  # accepted and rejected, of all processes
        self.configured = local.quotas
        self.control = NO_CONTROL
        self.held_until = -math.inf
        self._control_text: tuple[str, str] = ("", "")

    def periods(self) -> list[float]:
        """Return the periods of the sliding quotas in seconds; never empty."""
        quotas = (*self._local.quotas, *self.configured)
        return [quota.period for quota in quotas if not quota.unit] or [HEARTBEAT]

    @property
    def heartbeat_interval(self) -> float:
        """Seconds between two requests of a process that sends calls, at most."""
        members = self.membership.member_count
        interval = HEARTBEAT if members <= _FEW else _HEARTBEAT_OF_MANY
        return min(_MAX_HEARTBEAT, max(interval, HEARTBEAT * members / _CROWD))

    def quotas(self) -> list[Quota]:
        """Return the quotas of this process and those that others have configured."""
        return [*self._local.quotas, *parse_quotas(self._other_quotas)]

    def due_at(self) -> float:
        """Return the loop instant at which a heartbeat, or a report of calls in flight, is due."""
        if self._slots.in_flight:
            return min(self.heartbeat_at, self._renew_at)
        return self.heartbeat_at

    # --- Requests -------------------------------------------------------------------

    def request(
        self,
        now: float,
        count: int,
        priority: int,
        demand: Demand,
        *,
        recovering: bool,
        goodbye: bool,
        idle: bool,
        interval: float,
    ) -> LeaseRequest:
        """Return a request for up to *count* calls of *demand*."""
        slots, config, shortest = self._slots, self._config, min(self.periods())
        count = min(slots.max_calls(demand), max(0, count - slots.held(demand)))
        reports = self._due_reports(now, interval, idle=idle)
        return LeaseRequest(
            process=config.process,
            epoch=self._reported_epoch(now, recovering=recovering),
            seen=self._seen,
            new_epoch=uuid4().hex[:12],
            recovering=recovering,
            assume_spent=self._assumes_spent,
            wall=micros(self._local.wall_time(now)),
            quotas=self._specs(self.configured, now, (demand, *reports.demands)),
            kinds=tuple(map(self._groups, reports.demands)),
            arrived=tuple((n, micros(age), kind) for n, age, kind in reports.arrived),
            in_flight=reports.in_flight,
            released=reports.released,
            first=slots.reserve_numbers(count * demand.cost),
            count=count,
            cost=demand.cost,
            groups=self._groups(demand),
            priority=int(priority),
            accepted=self.accepted,
            rejected=self.rejected,
            pause=micros(max(0.0, self._paused_until() - now)),
            goodbye=goodbye,
            idle=idle,
            share_held=self._share_held,
            heartbeat_due=micros(interval),
            lease=micros(min(config.lease, shortest / 4)),
            grace=micros(SEND_GRACE),
            ttl=micros(max(TTL, 3 * interval)),
            min_retry=micros(min(0.25, max(0.005, shortest / 8))),
            recovery_hold=micros(max(self.periods())),
            detection_time=self._micros_until_seen(PROBE_INTERVAL),
            takeover_time=self._micros_until_seen(max(PROBE_INTERVAL, self.heartbeat_interval)),
            vendor=self._log.vendor(self._key),
            operator_quotas=self._specs(self.control.set_quotas, now),
        )

    def _micros_until_seen(self, interval: float) -> int:
        """Return the time in which a process that asks every *interval* seconds has a response.

        The slots that it was granted before are over then, too.
        """
        return micros(interval + 2 * self._config.timeout + self._config.lease + SEND_GRACE)

    @property
    def _assumes_spent(self) -> bool:
        """True if a new log has lost data: this process has been in contact, or is told so."""
        return self._config.assume_spent or self._epoch != ""

    def _paused_until(self) -> float:
        return self._local.paused_until if self.rejected else self.unavailable_until

    def _due_reports(self, now: float, interval: float, *, idle: bool) -> Reports:
        """Return what is due to be reported, and schedule the next request."""
        self.is_idle, self.heartbeat_at = idle, now + interval
        renews = now >= self._renew_at
        if renews:
            self._renew_at = now + self.renewal_interval(interval)
        return self._slots.reports(now, renews=renews)

    def renewal_interval(self, interval: float) -> float:
        """Return the seconds between two reports of a call in flight; *interval* of a heartbeat."""
        shortest = min(self.periods())
        return min(interval, max(min(HEARTBEAT, shortest), shortest / 2))

    def report_all_again(self) -> None:
        """Let the next request report the calls in flight: the store may not know of them."""
        self._renew_at = -math.inf

    def _reported_epoch(self, now: float, *, recovering: bool) -> str:
        """Return the epoch that contains this process's calls of the last period; "" for none."""
        if self.clock_suspect:
            return UNKNOWN_EPOCH
        longest = max((quota.period for quota in self._local.quotas), default=HEARTBEAT)
        longest += SEND_GRACE + self._config.lease
        if not recovering and now - self.last_response_at > longest:
            return ""
        return self._epoch

    def _groups(self, demand: Demand) -> tuple[str, ...]:
        """Return the groups of quotas that apply to calls of *demand*, besides ""."""
        groups = dict.fromkeys(group for group, _ in demand.quotas(self._local.quotas) if group)
        return tuple(groups)

    def _specs(
        self, quotas: Sequence[Quota], now: float, demands: Iterable[Demand] = ()
    ) -> tuple[QuotaSpec, ...]:
        """Return *quotas*, and the shares of those in force that *demands* take."""
        state = self._local.snapshot(now)
        found = {(quota.group, quota): None for quota in quotas}
        for demand in demands:
            taken = demand.quotas(self._local.quotas)
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
        wall = self._local.wall_time(now)
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
            end=micros(end),
            used=self._local.used(group, quota, now),
        )

    # --- Responses ------------------------------------------------------------------

    def apply(
        self, request: LeaseRequest, response: LeaseResponse, sent_at: float, received_at: float
    ) -> float:
        """Apply *response* to *request*; return the loop instant of `response.now`."""
        self.last_response_at = received_at
        self._update_counts(request, response)
        self._update_share(request, response, sent_at, received_at)
        self._check_epoch(request, response, received_at)
        self._check_quotas(request, response)
        self._update_control(response, received_at)
        self._check_clock(
            request, received_at, jumped=self.clock.jumped(sent_at, received_at, response.now)
        )
        return self.clock.update(sent_at, received_at, response.now)

    def _update_counts(self, request: LeaseRequest, response: LeaseResponse) -> None:
        self.accepted -= request.accepted
        self.rejected -= request.rejected
        totals = response.accepted, response.rejected
        self.others_accepted = self.others_rejected = 0
        if self._totals is not None and response.epoch == self._epoch:
            accepted, rejected = self._totals
            self.others_accepted = max(0, totals[0] - accepted - request.accepted)
            self.others_rejected = max(0, totals[1] - rejected - request.rejected)
        self._totals = totals

    def _update_share(
        self, request: LeaseRequest, response: LeaseResponse, sent_at: float, received_at: float
    ) -> None:
        if request.goodbye:
            self.membership, self._share_held = NO_MEMBERS, NONE
            return
        self._share_held = (response.start, response.size)
        self.membership = Membership(
            member_count=response.member_count,
            start=response.start,
            size=response.size,
            due_at=received_at + request.heartbeat_due / SECOND,
            until=sent_at + request.ttl / SECOND,
        )
        if not contains(self._share_held, request.share_held):
            self.heartbeat_at = received_at  # confirm it, so that others can get the rest
        elif response.size or request.idle:
            self._share_retry = _NO_SHARE_HEARTBEAT
        else:
            self.heartbeat_at = min(self.heartbeat_at, received_at + self._share_retry)
            self._share_retry = min(2 * self._share_retry, HEARTBEAT)

    def _check_epoch(self, request: LeaseRequest, response: LeaseResponse, now: float) -> None:
        if request.epoch not in {"", response.epoch, UNKNOWN_EPOCH}:
            advice = "Check whether it was restarted, emptied or replaced, or evicts keys"
            self._log.reset(self._key, now, "it lost its data", request, advice)
        elif request.seen[0] not in {"", response.server} and response.epoch == self._epoch:
            self._log.taken_over(self._key, now, request)
        self._seen = response.server, response.now
        if response.epoch != self._epoch and self._epoch:
            self.report_all_again()
            self.heartbeat_at = now
        self._epoch = response.epoch

    def _check_clock(self, request: LeaseRequest, now: float, *, jumped: bool) -> None:
        self.clock_suspect = jumped or (self.clock_suspect and request.epoch != UNKNOWN_EPOCH)
        if jumped:
            advice = "Check the time service of its host"
            self._log.reset(self._key, now, "its clock was set forward", request, advice)

    def _update_control(self, response: LeaseResponse, now: float) -> None:
        self.held_until = now + response.held / SECOND if response.held else -math.inf
        text = response.operator_pause, response.operator_quotas
        if text == self._control_text:
            return
        pause, quotas = text
        control = Control(
            pause=decode_pause(pause) if pause else None,
            quotas=decode_quotas(quotas) if quotas else None,
        )
        if control.quotas != self.control.quotas:
            self._local.replace(control.in_force(self.configured), now)
        self.control, self._control_text = control, text

    def add(self, quota: Quota, now: float) -> None:
        """Configure *quota* as well."""
        self.configured = (*self.configured, quota)
        if self.control.quotas is None:
            self._local.add(quota, now)

    def _check_quotas(self, request: LeaseRequest, response: LeaseResponse) -> None:
        known = {quota.name for quota in request.quotas}
        others = frozenset(response.quotas if not response.operator_quotas else ()) - known
        others = frozenset(name for name in others if " share:" not in name)
        if others - self._other_quotas:
            self._log.differ(self._key, self.configured, parse_quotas(others))
        self._other_quotas = others


class LeaseClient:
    """Sends the requests of one scope to a store, in the background.

    Args:
        key: one-way name of the scope.
        local: this process's limiter: its quotas, and the rate it has learned.
        queue: the calls that wait.
        backend: the store.
        config: how it is used.
        log: the scopes of the pool.
        on_control: called when an operator's settings change.
        first_slot: number of the first slot.

    Attributes:
        slots: slots that are held, and reports that are due.
        outage: failed requests, and the limit in an outage.
        contenders: other processes that waited in the same priority class.
    """

    def __init__(
        self,
        key: str,
        local: Limiter,
        queue: BacklogProtocol,
        *,
        backend: Backend,
        config: StoreConfig,
        log: OutageLog,
        on_control: Callable[[ControlChange], None] | None = None,
        first_slot: int = 1,
    ) -> None:
        self.key, self._local, self._queue = key, local, queue
        self._backend, self._config, self._log = backend, config, log
        self._on_control = on_control
        self.slots = LeaseBook(first_slot)
        self._sync = SyncState(key, local, self.slots, config, log)
        self.outage = OutageState(config)
        self.contenders = 0
        self._asked_priority = 0
        self._random = Random(config.process)  # noqa: S311 - a different one in each process
        self._loop = asyncio.get_running_loop()
        self._waits: dict[Demand, Wait] = {}
        self._used_at = self._loop.time()
        self._timer = Timer(self._loop, self._start)
        self._lapse_timer = Timer(self._loop, self._start)
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    # --- Called by the limiter ------------------------------------------------------

    def request_slots(self, now: float, demand: Demand = ONE) -> None:
        """Request slots; at once if slots are to be released, which may be granted again."""
        is_urgent = self.slots.released or self._queue.backlog()[1] < self._asked_priority
        self._wake_at(now if is_urgent else self.wait(demand, now).until, now)

    def wait(self, demand: Demand, now: float) -> Wait:
        """Return when the store may grant slots of *demand*, by its last response."""
        wait = self._waits.get(demand)
        return wait if wait is not None and wait.until > now else Wait(now, "", Delay(now))

    def report(self, now: float) -> None:
        """Send a report in time."""
        self._wake_at(now + self._report_delay(), now)

    def on_sent(self, now: float) -> None:
        """Record that a call is sent."""
        self._used_at = now
        if not self.slots.leases:
            self._lapse_timer.cancel()
        self.report(now)

    def on_rate_limited(self, now: float) -> None:
        """Report at once that the vendor rate-limited a call: it concerns all processes."""
        self._sync.rejected += 1
        self._wake_at(now, now)

    def on_unavailable(self, now: float) -> None:
        """Report at once that the vendor is unavailable, and for how long: all processes pause."""
        self._sync.unavailable_until = self._local.paused_until
        self._wake_at(now, now)

    def on_accepted(self) -> None:
        """Record that the vendor accepted a call."""
        self._sync.accepted += 1

    def opens_at(self, now: float, demand: Demand = ONE) -> float:
        """Return the earliest instant at which the store may grant another slot."""
        until = self.wait(demand, now).until
        return until + self._config.lease if until > now else now

    @property
    def held_until(self) -> float:
        """Loop instant until which an operator wants no calls; -inf for no pause."""
        return self._sync.held_until

    def pause(self) -> Delay:
        """Return the delay by an operator's pause, which has ended or never was if not *until* later."""
        name = str(self.control.pause or "paused by an operator")
        remedy = "`asyncclients limits resume` ends the pause"
        return Delay(self.held_until, name, advice=remedy, name=name, remedy=remedy)

    @property
    def unasked_store(self) -> str:
        """The store's name if it has not responded for this scope yet, else empty."""
        return self._config.display_name if self._sync.last_response_at == -math.inf else ""

    @property
    def control(self) -> Control:
        """What an operator has set, according to the last response."""
        return self._sync.control

    @property
    def configured(self) -> tuple[Quota, ...]:
        """The quotas of this process, which an operator's quotas may replace."""
        return self._sync.configured

    def add(self, quota: Quota, now: float) -> None:
        """Configure *quota* as well."""
        self._sync.add(quota, now)

    def is_at_rest(self) -> bool:
        """True if nothing is held or to be reported, and the store knows that this is idle."""
        is_active_member = self._sync.membership.member_count > 0 and not self._sync.is_idle
        slots = self.slots
        return not (
            self._task is not None
            or self.outage.failures
            or is_active_member
            or slots.leases
            or slots.in_flight
            or slots.has_unreported()
        )

    # --- When to send a request -----------------------------------------------------

    def _report_delay(self) -> float:
        """Return the seconds after which the reports that are due must be sent at the latest.

        An arrival makes its slot open a period later, so there is time. A slot that was not
        used may be granted to others at once.
        """
        if self.slots.released or self._sync.rejected or self._sync.clock_suspect:
            return self._urgent_delay()
        if self.slots.arrived:
            return max(0.005, min(self._sync.periods()) / 20)
        return self._sync.renewal_interval(self._sync.heartbeat_interval)

    def _urgent_delay(self) -> float:
        return min(0.25, max(0.005, min(self._sync.periods()) / 20))

    def _is_active(self, now: float) -> bool:
        if self.slots.in_flight or self._queue.backlog()[0]:
            return True
        return now < self._used_at + _IDLE_TIMEOUT * min(1.0, _CROWD / max(1, self._log.scopes))

    def _heartbeat_interval(self, *, idle: bool) -> float:
        """Return the seconds between two requests, at most."""
        if self.outage.failures:
            return HEARTBEAT
        if idle:
            return min(_MAX_HEARTBEAT, _IDLE_HEARTBEAT * max(1.0, self._log.scopes / _CROWD))
        return self._sync.heartbeat_interval

    def _wake_at(self, at: float, now: float) -> None:
        if self._task is not None or self._closed:
            return  # `_plan` looks again when the response is in
        if at <= now:
            self._start()
        else:
            self._timer.set(at)

    def _start(self) -> None:
        self._timer.cancel()
        self._lapse_timer.cancel()
        if self._task is None:
            # In a context of its own: it serves all calls, not the one that came first.
            self._task = self._loop.create_task(self._run(), context=Context())
            self._task.add_done_callback(self._on_done)

    def _plan(self, now: float) -> None:
        """Set the timer for the next request that is due without another event."""
        slots = self.slots
        at = self.outage.probe_at()
        if at == math.inf:
            if slots.has_unreported() or self._sync.rejected or self._sync.clock_suspect:
                at = now + self._report_delay()
            at = min(at, self._sync.due_at())
            if slots.leases and not self._closed:
                self._lapse_timer.set(slots.leases[-1].lapses_at)
        is_member = not self.outage.failures and self._sync.membership.member_count > 0
        if at < math.inf and (
            is_member or slots.leases or slots.has_unreported() or self._is_active(now)
        ):
            self._wake_at(at, now)

    # --- Requests -------------------------------------------------------------------

    async def _run(self) -> None:
        await self._exchange()
        self._task = None
        self._plan(self._loop.time())
        self._queue.dispatch()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        """Try again soon if the task was cancelled from outside or failed: calls may wait."""
        if self._task is task:
            self._task = None
        error = None if task.cancelled() else task.exception()
        now, retry_in = self._loop.time(), max(self._urgent_delay(), _RETRY_AFTER_ERROR)
        if error is not None:
            self._log.bug(self.key, now, error, retry_in)
        if (task.cancelled() or error is not None) and not self._closed:
            self._timer.set(now + retry_in)

    async def _exchange(self, *, goodbye: bool = False) -> None:
        sent_at = self._loop.time()
        sync, slots = self._sync, self.slots
        slots.expire(sent_at, max(sync.periods()))
        count, priority, demand = self._queue.backlog()
        if goodbye or self.outage.fallback is not None:
            count = 0  # in an outage the request is a heartbeat only
        shares_from = sync.last_response_at + max(sync.periods())
        idle = not self._is_active(sent_at)
        request = sync.request(
            sent_at,
            count,
            priority,
            demand,
            recovering=self.outage.others_may_be_sending(sent_at, shares_from),
            goodbye=goodbye,
            idle=idle,
            interval=self._heartbeat_interval(idle=idle),
        )
        arrived = slots.snapshot(request.arrived)
        try:
            response = await self._backend.apply(self.key, request)
            slots.acknowledge(arrived, set(request.released))
            self._on_response(request, response, demand, sent_at)
        except StoreUnavailableError as error:
            self._on_outage(request, demand, sent_at, str(error), error.advice)
        except ConfigurationError as error:
            self._on_configuration_error(request, demand, sent_at, error)
        except BaseException as error:  # from a driver, or a bug: no call may hang on it
            slots.drop_leases()
            is_cancelled = isinstance(error, asyncio.CancelledError) and _is_task_cancelled()
            if is_cancelled or isinstance(error, (KeyboardInterrupt, SystemExit)):
                slots.abandon(request.first, demand, request.count)
                raise
            reason = f"{type(error).__name__}: {error_text(error)}"[:200]
            self._on_outage(request, demand, sent_at, reason, "")

    def _on_configuration_error(
        self, request: LeaseRequest, demand: Demand, sent_at: float, error: ConfigurationError
    ) -> None:
        """Treat it as fatal on first contact, and as an outage afterwards."""
        if self._log.has_worked:
            self._on_outage(request, demand, sent_at, error.message, error.advice or "")
            return
        self.slots.forget_released()
        self._queue.fail(error)

    def _on_outage(
        self, request: LeaseRequest, demand: Demand, sent_at: float, reason: str, advice: str
    ) -> None:
        now, sync = self._loop.time(), self._sync
        self.slots.abandon(request.first, demand, request.count)
        self._log.failed_at = now
        sync.report_all_again()
        due_at = max(sync.membership.due_at, now + request.heartbeat_due / SECOND)
        if not self.outage.on_failure(sent_at, now, due_at):
            return
        if not self._log.has_worked and self._config.when_down == "safe_share":
            self._queue.fail(_unreachable(self._config.display_name, reason, advice))
        if self.outage.fallback is None:
            self.slots.drop_leases()
            fallback = self.outage.start(
                now, sync.quotas(), sync.membership, sync.clock, self._local.wall_time
            )
            self._log.begin(self.key, sent_at, reason, advice, fallback.description)

    def _on_response(
        self, request: LeaseRequest, response: LeaseResponse, demand: Demand, sent_at: float
    ) -> None:
        received_at, before = self._loop.time(), self._sync.control
        base = self._sync.apply(request, response, sent_at, received_at)
        if self._on_control is not None and self._sync.control != before:
            held_for = response.held / SECOND
            self._on_control(
                ControlChange(before=before, now=self._sync.control, held_for=held_for)
            )
        lease = request.lease / SECOND
        for offset, opens_in in enumerate(response.opens_in):
            usable_at, number = base + opens_in / SECOND, request.first + offset * request.cost
            self.slots.leases.append(Lease(usable_at, usable_at + lease, number, demand))
        if self._sync.clock_suspect:
            self.slots.drop_leases()
        until = base + response.retry_in / SECOND
        if response.contenders:  # jitter: not all at once, nor always in the same order
            until += self._random.random() * lease / 2
        self._waits = {each: wait for each, wait in self._waits.items() if wait.until > received_at}
        delay = self._delay_of(request, response, demand, base)
        self._waits[demand] = Wait(until, response.waits_for, delay)
        self.contenders, self._asked_priority = response.contenders, request.priority
        self._log.on_response(received_at, ends_outage=self.outage.fallback is not None)
        self.outage.stop()
        for _ in range(min(self._sync.others_accepted, _MAX_FEEDBACK)):
            self._local.feedback.on_accepted()
        if self._sync.others_rejected:
            self._local.on_rate_limited(received_at, response.pause / SECOND or None)
        self._refuse_late(request, demand)

    def _delay_of(
        self, request: LeaseRequest, response: LeaseResponse, demand: Demand, base: float
    ) -> Delay:
        """Return what delays the next call of *demand* at least, and until when.

        The turns of other processes are not in it: they may leave.
        """
        name, _, group = response.waits_for.partition(" ")
        specs = (*request.quotas, *request.operator_quotas)
        turns = response.contenders * max((spec.interval for spec in specs), default=0)
        until = base + max(0, response.retry_in - turns) / SECOND
        if response.opens_in and not name:
            return Delay(base)
        if not name:
            at = clock_time(self._local.wall_time(until))
            is_paused = response.pause >= response.retry_in
            cause = (
                "another process reports that the vendor has rate-limited calls or is unavailable,"
                if is_paused
                else "the limit store has lost data, or is new, and counts the quota as used up"
            )
            return Delay(until, f"{cause} until {at}", name=cause)
        named = f"quota {parse_quotas([name])[0]}"
        if group:
            named = demand.describe(group, self._local.quotas)
        return quota_delay(f"the {named}", until, base, self._local.wall_time(until))

    def _refuse_late(self, request: LeaseRequest, demand: Demand) -> None:
        """Fail the waiting calls that cannot meet their deadline, according to a response.

        What delays a call of *demand* by a quota of all calls delays those that cost more as
        well, and what delays an interactive call, background calls.
        """
        wait = self._waits[demand]

        def applies(priority: Priority, other: Demand) -> bool:
            is_delayed = other is demand or (not wait.group and other.cost >= demand.cost)
            return is_delayed and priority >= request.priority and not self.slots.held(other)

        self._queue.refuse_late(self.pause(), lambda _priority, _demand: True)
        self._queue.refuse_late(wait.delay, applies)

    async def aclose(self) -> None:
        """Send the last report and leave; in bounded time, whatever the store does."""
        self._closed = True
        self._timer.cancel()
        self._lapse_timer.cancel()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        self.slots.drop_leases()
        if self._sync.last_response_at > -math.inf and self.outage.fallback is None:
            await self._exchange(goodbye=True)


def _is_task_cancelled() -> bool:
    """True if the running task was cancelled, not a task of the driver."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _unreachable(store: str, reason: str, advice: str) -> ConfigurationError:
    """Return the error for a store that never responded: nothing is known about other processes."""
    advice = advice or "Start it or correct its address"
    return ConfigurationError(
        f"the shared limit store {store} could not be reached: {reason}",
        advice=f"{advice}; when_down='local' sends without it",
    )
