"""The store's side of the protocol: the log of one scope and the rules for granting slots.

This is the reference implementation, without I/O: `now` is an argument. `sqlite.py` stores a
`QuotaLog` in a file. `quota_log.lua` implements the same rules for Redis, with the constants
of `RULES` as an argument; a test compares the two. `protocol.py` explains leases, epochs,
heartbeats and the recovery hold, and why no quota is exceeded. The other rules:

* **Token bucket.** All processes share one virtual schedule (GCRA) for each quota. While
  interactive calls are expected, background calls are spaced evenly, so that a slot is never
  far away; bursts are left to interactive calls.
* **Claims.** A call of cost N needs N free slots at once, and cheaper calls would take each
  one as it becomes free. A waiting process with such a call therefore has a claim: calls that
  ask later leave its slots free. After it was served, its next claim counts when the other
  processes have had time to use as many slots.
* **Order.** A request names the best priority class that waits in its process. While an
  interactive call waits in any process, background calls get every tenth slot. Within a
  class, each process gets at most its share of the slots that are open. If there are none,
  the waiting processes take turns: each is told to ask again when it is next in line.
* **Quotas.** The quotas of all processes apply together, so the strictest one limits. A quota
  that nobody has reported for a while is dropped.
* **Control.** Quotas that an operator has set apply in place of the configured ones that are the
  same for all operations and days. The configured ones still decide for how long slots are
  logged, so that they can return.
"""

from __future__ import annotations

from bisect import insort
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from asyncclients.ratelimit.quota import BACKGROUND_EVERY
from asyncclients.stores.clock import micros
from asyncclients.stores.protocol import (
    UNKNOWN_EPOCH,
    LeaseRequest,
    LeaseResponse,
    QuotaSpec,
    decode_pause,
)
from asyncclients.stores.shares import NONE, UNIT, Block, fair_sizes, next_block


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The constants of the rules; durations in microseconds."""

    # a quota is dropped when nobody has reported it for this long and a period
    quota_ttl: int = 60_000_000
    # a clock that goes back further than this was set. A smaller step is the difference
    # between two servers of a cluster.
    clock_tolerance: int = 1_000_000
    # time without any request after which overdue members suggest an outage. In an outage no
    # process sends before it has passed, see `fallback.py`.
    max_gap: int = 1_250_000
    heartbeat_slack: int = 250_000  # allowed delay of a heartbeat
    settling_time: int = 1_000_000  # time after a process joined or left before blocks may grow
    queue_time: int = 100_000  # time after a slot opens for which a waiting process keeps its place
    yield_delay: int = 20_000  # delay of the class that yields, so that the other one asks first
    # background calls get one of this many slots in an interactive flood
    background_every: int = BACKGROUND_EVERY
    background_burst: float = 1.2  # burst of background calls while interactive calls are expected
    # longest time between two requests of a process that waits in a pause
    hold_retry: int = 1_000_000
    # time for which quotas that an operator has set are kept
    keep_control: int = 10 * 366 * 86_400_000_000
    # largest difference between the clocks of a process and of the vendor
    calendar_skew: int = 1_000_000
    # shortest time for which a log with a calendar quota keeps its slots, so that none is
    # counted twice
    calendar_memory: int = 10_000_000
    # periods after an interactive request in which another is expected
    interactive_periods: int = 10
    unit: int = UNIT  # size of the whole quota, see `shares.py`


RULES = Rules()
_SET = "set:"
"""Start of the names under which quotas set by an operator are kept."""


class QuotaState(msgspec.Struct, kw_only=True):
    """A quota in force.

    Attributes:
        reported_at: when a process last reported it.
        tat: its theoretical arrival time (GCRA).
        used: of a calendar quota, the units used in each window, by the window's start.
    """

    reported_at: int
    spec: QuotaSpec
    tat: int = 0
    used: dict[int, int] = {}

    def add_used(self, start: int, units: int) -> None:
        """Count *units* in the window that begins at *start*."""
        self.used[start] = max(0, self.used.get(start, 0) + units)

    def windows(self, request: LeaseRequest, wall: int) -> list[int]:
        """Return the starts of the windows in which a call sent at *wall* may arrive."""
        spec, windows = self.spec, [self.spec.start]
        if wall - RULES.calendar_skew < spec.start:
            windows.append(spec.previous)
        if wall + request.lease + request.grace + RULES.calendar_skew >= spec.next:
            windows.append(spec.next)
        return windows


class Claim(msgspec.Struct, kw_only=True):
    """The slots that later calls leave to a process which waits with an expensive call."""

    since: int  # instant from which it counts, and its place among other claims
    until: int  # instant at which it is lost
    priority: int  # class of the call
    cost: int  # slots that it needs
    groups: list[str]  # groups whose slots it needs next


class Member(msgspec.Struct, kw_only=True):
    """A process.

    Attributes:
        until: end of its membership.
        heartbeat_due: when its next request is due.
        idle: it has sent nothing lately.
        blocks: the blocks that it may believe to have.
        waits: for each priority class, when it loses its place in the queue; 0 if it does not wait.
        claim: its claim; None without one.
    """

    until: int = 0
    heartbeat_due: int = 0
    idle: bool = False
    blocks: list[Block] = []
    waits: tuple[int, int] = (0, 0)
    claim: Claim | None = None


class Opening(NamedTuple):
    """When the next call may be sent."""

    at: int
    quota: QuotaSpec | None = None  # the quota that delays it
    may_open_sooner: bool = False  # if a process reports an earlier arrival


Scores = dict[str, list[tuple[int, str]]]
"""The slots of each group with the latest arrivals of their calls, in order."""


class QuotaLog(msgspec.Struct, kw_only=True):
    """The log of one scope; `docs/many-processes.md` lists the fields.

    `log` maps a group to its slots, and a slot to the latest arrival of its call. A slot is named
    `r:PROCESS:NUMBER` while it is reserved, `f:` in flight, and `a:` when its call has arrived.
    Redis keeps the log in sorted sets, and the other fields as they are here.
    """

    updated_at: int = 0
    epoch: str = ""
    server: str = ""
    taken_over_at: int = 0
    spent_until: int = 0
    paused_until: int = 0
    accepted: int = 0
    rejected: int = 0
    since_background: int = 0
    members_changed_at: int = 0
    interactive_at: int = 0
    log: dict[str, dict[str, int]] = {}
    members: dict[str, Member] = {}
    quotas: dict[str, QuotaState] = {}
    vendor: str = ""
    operator_pause: str = ""
    operator_quotas: str = ""

    def apply(
        self, request: LeaseRequest, now: int, *, wall: int | None = None, server: str = ""
    ) -> LeaseResponse:
        """Apply *request*. Costs O(log n) per slot, plus loading and saving the log.

        *wall* is the wall clock of the store, if its clock *now* is another one. *server* has the
        log.
        """
        held = self._operator_pause_left(now if wall is None else wall)
        is_withheld = held > 0 or not self._is_obeyed(request)
        if is_withheld:
            request = replace(request, count=0)
        self.vendor = request.vendor or self.vendor
        self._check_server(request, now, server)
        self._check_clock(request, now)
        has_lost_data = self._check_epoch(request, now)
        self._update_quotas(request, now, has_lost_data=has_lost_data)
        self._book_slots(request, now)
        self._on_rate_limited(request, now)
        start, size = self._update_members(request, now)
        opens_in, retry_in, contenders, waits_for = self._grant(request, now)
        if is_withheld:
            retry_in = min(held, RULES.hold_retry) or request.min_retry
        return LeaseResponse(
            now=now,
            epoch=self.epoch,
            server=server,
            opens_in=tuple(opens_in),
            retry_in=retry_in,
            pause=max(0, self.paused_until - now),
            accepted=self.accepted,
            rejected=self.rejected,
            contenders=contenders,
            member_count=len(self.members),
            start=start,
            size=size,
            waits_for=waits_for,
            quotas=tuple(sorted(quota.spec.name for quota in self._in_force())),
            operator_pause=self.operator_pause,
            operator_quotas=self.operator_quotas,
            held=held,
        )

    def needed_for(self, wall: int) -> int:
        """Return the microseconds for which the log is needed if no process asks any more.

        It has what an operator has set, and the units used in calendar windows.
        """
        if self.operator_quotas:
            return RULES.keep_control
        ends = (quota.spec.next for quota in self.quotas.values() if quota.spec.calendar)
        return max(self._operator_pause_left(wall), max(ends, default=wall) - wall)

    def _operator_pause_left(self, wall: int) -> int:
        """Return for how long an operator wants no calls; forget a pause that is over."""
        pause = self.operator_pause
        held = max(0, micros(decode_pause(pause).until) - wall) if pause else 0
        self.operator_pause = pause if held else ""
        return held

    def _is_obeyed(self, request: LeaseRequest) -> bool:
        """Return whether the process obeys the quotas that an operator has set, if there are any."""
        return self.operator_quotas in {"", request.obeys}

    def _check_server(self, request: LeaseRequest, now: int, server: str) -> None:
        """Grant nothing for a while if another server process has the log now.

        It may lack the last requests.
        """
        if server != self.server:
            if self.server:
                self.taken_over_at = self.updated_at
                self._hold(now + request.takeover_time)
            self.server = server
        last_server, seen = request.seen
        elsewhere = last_server not in {"", server} and request.epoch == self.epoch != ""
        if elsewhere and seen > self.taken_over_at:
            self._hold(now + request.recovery_hold + request.takeover_time)

    def _check_clock(self, request: LeaseRequest, now: int) -> None:
        """Start a new log if the clock was set back; hold if others may have lost the store.

        They may have if they became overdue while nobody asked, or shortly before. A process
        that was overdue for longer was killed, or has lost the connection alone.
        """
        if now + RULES.clock_tolerance < self.updated_at:
            new = QuotaLog(
                spent_until=now + request.recovery_hold + request.detection_time,
                quotas={
                    name: replace(quota, reported_at=now)
                    for name, quota in self.quotas.items()
                    if quota.spec.calendar
                },
                vendor=self.vendor,
                operator_pause=self.operator_pause,
                operator_quotas=self.operator_quotas,
            )
            for field in self.__struct_fields__:
                setattr(self, field, getattr(new, field))
        elif now > self.updated_at + RULES.max_gap and any(
            self.updated_at - request.detection_time
            < member.heartbeat_due + RULES.heartbeat_slack
            < now
            for name, member in self.members.items()
            if name != request.process
        ):
            self._hold(now + request.detection_time)
        self.updated_at = now

    def _check_epoch(self, request: LeaseRequest, now: int) -> bool:
        """Name a new log, hold after lost data; return whether calls of the process are missing."""
        has_lost_data = request.epoch not in {"", self.epoch}
        if not self.epoch:
            self.epoch = request.new_epoch
            has_lost_data = has_lost_data or request.assume_spent
        if has_lost_data:
            self._hold(now + request.recovery_hold + request.detection_time)
        elif request.recovering:
            self._hold(now + request.detection_time)
        return has_lost_data and request.epoch != UNKNOWN_EPOCH

    def _hold(self, until: int) -> None:
        self.spent_until = max(self.spent_until, until)

    def _update_quotas(self, request: LeaseRequest, now: int, *, has_lost_data: bool) -> None:
        reported = {spec.name: spec for spec in request.quotas}
        is_obeyed = self._is_obeyed(request)
        if is_obeyed and self.operator_quotas:
            reported |= {_SET + spec.name: spec for spec in request.operator_quotas}
        for name, spec in reported.items():
            known = self.quotas.get(name)
            quota = self.quotas[name] = QuotaState(reported_at=now, spec=spec)
            if known is not None:
                quota.tat = known.tat
                used = known.used.items()
                quota.used = {start: units for start, units in used if start >= spec.previous}
            if spec.calendar and (known is None or has_lost_data):
                quota.add_used(spec.start, spec.used)
            if spec.calendar and known is not None:
                self._follow(known.spec, quota, request)
        for name, quota in list(self.quotas.items()):
            spec = quota.spec
            is_unset = name.startswith(_SET) and is_obeyed and name not in reported
            if is_unset or quota.reported_at + spec.period + RULES.quota_ttl < now:
                del self.quotas[name]
            elif spec.calendar and spec.next <= request.wall and spec.group in request.logs:
                # No process has named the new window yet: take it for one of the longest.
                skipped = (request.wall - spec.next) // spec.period
                start = spec.next + skipped * spec.period
                previous = start - spec.period if skipped else spec.start
                quota.spec = replace(spec, previous=previous, start=start, next=start + spec.period)
                self._follow(spec, quota, request)

    def _follow(self, known: QuotaSpec, quota: QuotaState, request: LeaseRequest) -> None:
        """Enter the current window, which follows that of *known* unless it is the same one.

        Calls that have not arrived yet may arrive in it. A process whose clock is a little
        late may still name the window before: it is not entered again.
        """
        spec = quota.spec
        skew, offset = RULES.calendar_skew, request.wall - self.updated_at
        if spec.next == known.start and request.wall + 2 * skew >= known.start:
            start, end = known.start, known.next
            quota.spec = replace(spec, previous=known.previous, start=start, next=end)
        elif spec.start > known.start:
            late = sum(
                slot.startswith("f")
                or (slot.startswith("r") and latest + offset + skew < spec.start)
                for slot, latest in self.log.get(spec.group, {}).items()
            )
            quota.add_used(spec.start, late)

    def _book_slots(self, request: LeaseRequest, now: int) -> None:
        process, logs = request.process, request.logs
        in_force = {"", *(quota.spec.group for quota in self.quotas.values())}
        self.log = {group: self.log.get(group, {}) for group in in_force}
        reports = [("a", number, now - age, groups) for number, age, groups in request.arrived]
        reports += [("f", number, now + request.grace, each) for number, each in request.in_flight]
        for status, number, latest, wanted in reports:
            for group in _groups_of(request, wanted):
                log = self.log[group]
                was_known = self._pop(log, process, number) or f"a:{process}:{number}" in log
                log[f"{status}:{process}:{number}"] = latest
                if not was_known:
                    self._count(request, group, latest if status == "a" else now, 1, now)
        for number in request.released:
            for group in logs:
                self._release(request, group, number, now)
        keep = RULES.calendar_memory if any(q.spec.calendar for q in self.quotas.values()) else 0
        for group in logs:
            specs = [q.spec for q in self.quotas.values() if q.spec.group == group]
            keep_for = max([keep, *(spec.period for spec in specs if not spec.calendar)])
            log = self.log[group]
            self.log[group] = {slot: at for slot, at in log.items() if at > now - keep_for}

    def _pop(self, log: dict[str, int], process: str, number: int) -> bool:
        """Remove the slot if it has not arrived; return whether it was there."""
        reserved = log.pop(f"r:{process}:{number}", None)
        return log.pop(f"f:{process}:{number}", reserved) is not None

    def _release(self, request: LeaseRequest, group: str, number: int, now: int) -> None:
        """Give back what a slot that was not used has taken from the quotas of *group*."""
        log = self.log[group]
        reserved_until = log.get(f"r:{request.process}:{number}")
        if not self._pop(log, request.process, number):
            return
        for quota in self._in_force(group):
            spec = quota.spec
            if not spec.calendar:
                quota.tat -= spec.interval
            elif reserved_until is not None:  # only if it is certain which window it was
                opened = reserved_until - request.lease - request.grace + request.wall - now
                if spec.start + 2 * RULES.calendar_skew <= opened < spec.next:
                    quota.add_used(spec.start, -1)

    @property
    def configured(self) -> tuple[str, ...]:
        """Names of the quotas that processes have configured."""
        return tuple(sorted(name for name in self.quotas if not name.startswith(_SET)))

    def _in_force(self, *groups: str) -> list[QuotaState]:
        """Return the quotas of *groups*, by default of all, that an operator has not replaced."""
        has_set = any(name.startswith(_SET) for name in self.quotas)
        return [
            quota
            for name, quota in sorted(self.quotas.items())
            if not has_set or name.startswith(_SET) or quota.spec.group or quota.spec.calendar
            if not groups or quota.spec.group in groups
        ]

    def _count(self, request: LeaseRequest, group: str, at: int, units: int, now: int) -> None:
        """Count *units* sent at *at* in all calendar windows in which they may arrive."""
        for quota in self._in_force(group):
            if quota.spec.calendar:
                for start in quota.windows(request, at + request.wall - now):
                    quota.add_used(start, units)

    def _on_rate_limited(self, request: LeaseRequest, now: int) -> None:
        self.accepted += request.accepted
        self.rejected += request.rejected
        if request.pause:
            self.paused_until = max(self.paused_until, now + request.pause)
            for quota in self._in_force():  # an empty bucket at the end of the pause
                full_at = self.paused_until + int((quota.spec.burst - 1) * quota.spec.interval)
                quota.tat = max(quota.tat, full_at)

    def _update_members(self, request: LeaseRequest, now: int) -> Block:
        """Renew the membership of the process, and return its next block.

        While the store recovers, no membership expires: the members may not have reached it.
        """
        is_recovering = self.spent_until > now
        members = {
            name: member
            for name, member in self.members.items()
            if member.until > now or is_recovering
        }
        for member in members.values():
            first, second = member.waits
            member.waits = first * (first > now), second * (second > now)
            if member.claim is not None and member.claim.until <= now:
                member.claim = None
        is_changed = len(members) < len(self.members)
        own = members.pop(request.process, None)
        if is_changed or (own is not None) == request.goodbye:  # it joins or leaves
            self.members_changed_at = now
        self.members = members
        if request.goodbye:
            return NONE
        block = self._next_block(request, now)
        own = members[request.process] = own or Member()
        own.until, own.heartbeat_due = now + request.ttl, now + request.heartbeat_due
        own.idle = request.idle
        own.blocks = [each for each in dict.fromkeys((request.block_held, block)) if each[1]]
        return block

    def _next_block(self, request: LeaseRequest, now: int) -> Block:
        others = self.members.values()
        fair, largest = fair_sizes(len(others) + 1)
        may_grow = not request.idle and now - self.members_changed_at >= RULES.settling_time
        return next_block(
            request.block_held,
            [block for member in others for block in member.blocks],
            fair=fair,
            limit=largest if may_grow else max(1, fair // 2),
            is_idle=request.idle,
            is_wanted=any(
                not each.idle and sum(b[1] for b in each.blocks) < fair for each in others
            ),
        )

    def _grant(self, request: LeaseRequest, now: int) -> tuple[list[int], int, int, str]:
        """Return when each call may be sent, when to ask again, contenders, and what delays it."""
        own, priority = self.members.get(request.process), request.priority
        if own is None:  # it has left
            return [], 0, 0, ""
        place, own.waits = own.waits[priority], (0, 0)
        if request.count <= 0:
            return [], 0, 0, ""
        if priority == 0:
            self.interactive_at = now
        waits = [member.waits for member in self.members.values()]
        places = [each[priority] for each in waits if each[priority]]
        has_other_class = any(each[1 - priority] for each in waits)
        is_background_due = self.since_background >= RULES.background_every - 1
        is_yielding = has_other_class and is_background_due == (priority == 0)
        contenders = len(places)
        most = 0 if is_yielding else self._fair_count(request, contenders)
        opens_in, (at, quota, may_open_sooner) = self._reserve(request, most, now)
        if opens_in and priority:  # a call of cost N counts as N background calls
            self.since_background = (1 - request.cost) * (RULES.background_every - 1)
        else:
            self.since_background += len(opens_in) * request.cost
        may_ask_at_once = 0 < most == len(opens_in) and not (contenders and most < request.count)
        retry_in = 0 if may_ask_at_once else max(0, at - request.lease - now)
        if may_open_sooner:  # by a lease and *grace*, if a call arrives at once
            soonest = at - request.grace - 2 * request.lease - now
            retry_in = min(retry_in, max(request.min_retry, soonest))
        has_claims = any(member.claim is not None for member in self.members.values())
        has_turns = request.cost == 1 and not has_claims and not has_other_class
        if has_turns and not may_ask_at_once:  # the slots before are those of the others
            has_place = place and not opens_in
            ahead = sum(until < place for until in places) if has_place else contenders
            retry_in += ahead * self._longest_interval(request)
        retry_in += RULES.yield_delay if is_yielding else 0
        keeps_until = max(at, now + retry_in) + RULES.queue_time
        is_waiting = len(opens_in) < request.count
        if is_waiting:
            own.waits = (0, keeps_until) if priority else (keeps_until, 0)
        if request.cost > 1:
            group = quota.group if quota else ""
            self._update_claim(request, len(opens_in), contenders, keeps_until, group)
        return opens_in, retry_in, contenders, quota.name if quota and is_waiting else ""

    def _update_claim(
        self, request: LeaseRequest, granted: int, contenders: int, keeps_until: int, group: str
    ) -> None:
        """Keep the claim of a process that waits; delay the next one of a process that was served."""
        own, now = self.members[request.process], self.updated_at
        is_waiting = granted < request.count
        since = own.claim.since if own.claim is not None else now
        if granted:
            turns = granted * request.cost * contenders
            since = now + turns * self._longest_interval(request)
        own.claim = None
        if is_waiting or since > now:
            own.claim = Claim(
                since=since,
                until=max(since, keeps_until) if is_waiting else since,
                priority=request.priority,
                cost=request.cost if is_waiting else 0,
                groups=[group] if group else ["", *request.groups],
            )

    def _claimed(self, request: LeaseRequest, now: int) -> dict[str, int]:
        """Return the slots of each group that *request* has to leave free for earlier claims."""
        own = self.members[request.process].claim
        before = own.since if own is not None else now + 1
        claimed: dict[str, int] = {}
        for process, member in self.members.items():
            claim = member.claim
            if claim is None or process == request.process or claim.priority > request.priority:
                continue
            if claim.since <= now and claim.since < before:
                for group in claim.groups:
                    claimed[group] = claimed.get(group, 0) + claim.cost
        return claimed

    def _applying(self, request: LeaseRequest) -> list[QuotaState]:
        """Return the quotas that apply to the calls that *request* asks for."""
        return self._in_force(*_groups_of(request, request.groups))

    def _longest_interval(self, request: LeaseRequest) -> int:
        return max((quota.spec.interval for quota in self._applying(request)), default=0)

    def _reserve(self, request: LeaseRequest, most: int, now: int) -> tuple[list[int], Opening]:
        """Reserve slots for up to *most* calls; return when they open, and the next opening."""
        groups = _groups_of(request, request.groups)
        scores = {
            each: sorted((at, slot) for slot, at in self.log[each].items()) for each in groups
        }
        claimed = self._claimed(request, now)
        opens_in: list[int] = []
        held_for = request.lease + request.grace
        opening = self._next_opening(request, scores, claimed, now)
        while len(opens_in) < most and opening.at <= now + request.lease:
            at, first = opening.at, request.first + len(opens_in) * request.cost
            for group in groups:
                for number in range(first, first + request.cost):
                    slot, latest = f"r:{request.process}:{number}", at + held_for
                    self.log[group][slot] = latest
                    insort(scores[group], (latest, slot))
                self._count(request, group, at, request.cost, now)
            for quota in self._applying(request):
                quota.tat = max(quota.tat, at) + request.cost * quota.spec.interval
            opens_in.append(at - now)
            opening = self._next_opening(request, scores, claimed, now)
        return opens_in, opening

    def _fair_count(self, request: LeaseRequest, contenders: int) -> int:
        """Return how many calls the process may send, so that *contenders* get as many slots."""
        most = request.count
        for quota in self._applying(request):
            if not quota.spec.calendar:
                open_slots = quota.spec.burst + request.lease / quota.spec.interval
                fair = open_slots / (contenders + 1) / request.cost
                most = min(most, max(1, int(fair)))
        return most

    def _next_opening(
        self, request: LeaseRequest, scores: Scores, claimed: dict[str, int], now: int
    ) -> Opening:
        """Return when the next call of *request* may be sent."""
        opening, quotas = (
            Opening(max(now, self.spent_until, self.paused_until)),
            self._applying(request),
        )
        for quota in quotas:
            spec = quota.spec
            if spec.calendar:
                continue
            slots, ahead = scores[spec.group], claimed.get(spec.group, 0)
            needed = min(spec.limit, request.cost + ahead)
            if len(slots) + needed > spec.limit:
                latest, slot = slots[needed - spec.limit - 1]
                if latest + spec.period > opening.at:
                    opening = Opening(latest + spec.period, spec, not slot.startswith("a"))
            expected_until = self.interactive_at + RULES.interactive_periods * spec.period
            is_spaced = request.priority and expected_until > now
            burst = min(spec.burst, RULES.background_burst) if is_spaced else spec.burst
            # A cost above the burst waits for a full bucket.
            tolerance = int((burst - min(request.cost, burst)) * spec.interval)
            earliest = quota.tat + ahead * spec.interval - tolerance
            if earliest > opening.at:
                opening = Opening(earliest, spec)
        calendar = [quota for quota in quotas if quota.spec.calendar]
        is_open = False
        while not is_open:
            is_open = True
            for quota in calendar:
                at = _calendar_opening(quota, request, opening.at, now)
                if at > opening.at:
                    opening, is_open = Opening(at, quota.spec), False
        return opening


def _calendar_opening(quota: QuotaState, request: LeaseRequest, at: int, now: int) -> int:
    """Return when *quota* permits a call, from *at* on.

    Calls of the next window are left to the request that names it.
    """
    spec, offset, skew = quota.spec, request.wall - now, RULES.calendar_skew
    full = [
        start
        for start in quota.windows(request, at + offset)
        if quota.used.get(start, 0) + request.cost > spec.limit
    ]
    next_request = now + request.lease + 1  # which names the new window
    if spec.start in full or spec.next in full:
        return max(at, spec.next + skew - offset, next_request)
    if spec.previous in full:
        return max(at, spec.start + skew - offset)
    return max(at, next_request) if at + offset >= spec.next else at


def _groups_of(request: LeaseRequest, groups: tuple[str, ...]) -> tuple[str, ...]:
    """Return "" and those of *groups* of which the process has quotas."""
    return ("", *(group for group in groups if group in request.logs))
