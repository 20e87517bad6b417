"""The store's side of the protocol: the log of one scope and the rules for granting slots.

This is the reference implementation, without I/O: `now` is an argument. `sqlite.py` stores a
`QuotaLog` in a file. `quota_log.lua` implements the same rules for Redis, with the constants
of `RULES` as an argument; a test compares the two. `protocol.py` explains leases, epochs,
heartbeats and the recovery hold, and why no quota is exceeded. The other rules:

* **Token bucket.** All processes share one virtual schedule (GCRA) for each quota. While
  interactive calls are expected, background calls are spaced evenly, so that a slot is never
  far away; bursts are left to interactive calls.
* **Order.** A request names the best priority class that waits in its process. While an
  interactive call waits in any process, background calls get every tenth slot. Within a
  class, each process gets at most its share of the slots that are open.
* **Quotas.** The quotas of all processes apply together, so the strictest one limits. A quota
  that nobody has reported for a while is dropped.
"""

from __future__ import annotations

from bisect import insort

import msgspec

from asyncclients.stores.protocol import LeaseRequest, LeaseResponse, QuotaSpec
from asyncclients.stores.shares import NONE, UNIT, Block, fair_sizes, next_block


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The constants of the rules; durations in microseconds.

    Attributes:
        quota_ttl: a quota is dropped when nobody has reported it for this long and a period.
        clock_tolerance: a clock that goes back further than this was set. A smaller step is
            the difference between two servers of a cluster.
        max_gap: longest time between two requests while members are connected. It exceeds a
            heartbeat; in an outage no process sends before a window and more has passed.
        heartbeat_slack: allowed delay of a heartbeat.
        settling_time: time after a process joined or left before blocks may grow.
        share_wait: time for which others send early heartbeats for a process without a block.
        queue_time: time after a slot opens for which a waiting process keeps its place.
        yield_delay: delay of the class that yields, so that the other one asks first.
        background_every: background calls get one of this many slots in an interactive flood.
        background_burst: burst of background calls while interactive calls are expected.
        interactive_periods: periods after an interactive request in which another is expected.
        unit: size of the whole quota, see `shares.py`.
    """

    quota_ttl: int = 60_000_000
    clock_tolerance: int = 1_000_000
    max_gap: int = 1_250_000
    heartbeat_slack: int = 250_000
    settling_time: int = 1_000_000
    share_wait: int = 1_000_000
    queue_time: int = 100_000
    yield_delay: int = 20_000
    background_every: int = 10
    background_burst: float = 1.2
    interactive_periods: int = 10
    unit: int = UNIT


RULES = Rules()


class QuotaState(msgspec.Struct, kw_only=True):
    """A quota in force: when it was last reported, and its theoretical arrival time (GCRA)."""

    reported_at: int
    spec: QuotaSpec
    tat: int = 0

    def earliest(self, burst: float) -> int:
        """Return when the token bucket permits another call."""
        return self.tat - int((burst - 1) * self.spec.interval)


class Member(msgspec.Struct, kw_only=True, array_like=True):
    """A process: the end of its membership, its next heartbeat, and its blocks of the quota."""

    until: int
    heartbeat_due: int
    idle: bool
    blocks: list[Block]


class QuotaLog(msgspec.Struct, kw_only=True):
    """The log of one scope; `protocol.py` lists the fields under "Keys in Redis".

    `log` maps a slot to the latest arrival of its call. `interactive` and `background` map a
    waiting process to the instant at which it loses its place in the queue.
    """

    updated_at: int = 0
    epoch: str = ""
    spent_until: int = 0
    paused_until: int = 0
    accepted: int = 0
    rejected: int = 0
    since_background: int = 0
    members_changed_at: int = 0
    share_wanted_until: int = 0
    interactive_at: int = 0
    log: dict[str, int] = {}
    members: dict[str, Member] = {}
    interactive: dict[str, int] = {}
    background: dict[str, int] = {}
    quotas: dict[str, QuotaState] = {}

    def apply(self, request: LeaseRequest, now: int) -> LeaseResponse:
        """Apply *request*. Costs O(log n) per slot, plus loading and saving the log."""
        self._check_clock(request, now)
        self._check_epoch(request, now)
        self._update_quotas(request, now)
        self._book_slots(request, now)
        self._on_rate_limited(request, now)
        member_count, (start, size) = self._update_members(request, now)
        opens_in, retry_in, contenders = self._grant(request, now)
        return LeaseResponse(
            now=now,
            epoch=self.epoch,
            opens_in=tuple(opens_in),
            retry_in=retry_in,
            pause=max(0, self.paused_until - now),
            accepted=self.accepted,
            rejected=self.rejected,
            contenders=contenders,
            member_count=member_count,
            start=start,
            size=size,
            share_wanted=int(self.share_wanted_until > now),
            quotas=tuple(sorted(self.quotas)),
        )

    def _check_clock(self, request: LeaseRequest, now: int) -> None:
        """Start a new log if the clock was set back; hold if others may have lost the store."""
        if now + RULES.clock_tolerance < self.updated_at:
            hold = request.recovery_hold + request.detection_time
            empty = QuotaLog(spent_until=now + hold)
            for field in self.__struct_fields__:
                setattr(self, field, getattr(empty, field))
        elif now > self.updated_at + RULES.max_gap and any(
            member.heartbeat_due + RULES.heartbeat_slack < now
            for name, member in self.members.items()
            if name != request.process
        ):
            self._hold(now + request.detection_time)
        self.updated_at = now

    def _check_epoch(self, request: LeaseRequest, now: int) -> None:
        lost_data = request.epoch not in {"", self.epoch}
        if not self.epoch:
            self.epoch = request.new_epoch
            lost_data = lost_data or request.assume_spent
        if lost_data:
            self._hold(now + request.recovery_hold + request.detection_time)
        elif request.recovering:
            self._hold(now + request.detection_time)

    def _hold(self, until: int) -> None:
        self.spent_until = max(self.spent_until, until)

    def _update_quotas(self, request: LeaseRequest, now: int) -> None:
        for spec in request.quotas:
            known = self.quotas.get(spec.name)
            tat = known.tat if known else 0
            self.quotas[spec.name] = QuotaState(reported_at=now, spec=spec, tat=tat)
        for name, quota in list(self.quotas.items()):
            if quota.reported_at + quota.spec.period + RULES.quota_ttl < now:
                del self.quotas[name]

    def _book_slots(self, request: LeaseRequest, now: int) -> None:
        for number, age in request.arrived:
            self.log.pop(f"r:{request.process}:{number}", None)
            self.log[f"a:{request.process}:{number}"] = now - age
        for number in request.in_flight:
            self.log[f"r:{request.process}:{number}"] = now + request.grace
        for number in request.released:
            if self.log.pop(f"r:{request.process}:{number}", None) is not None:
                for quota in self.quotas.values():
                    quota.tat -= quota.spec.interval
        longest = max((quota.spec.period for quota in self.quotas.values()), default=0)
        self.log = {slot: score for slot, score in self.log.items() if score > now - longest}

    def _on_rate_limited(self, request: LeaseRequest, now: int) -> None:
        self.accepted += request.accepted
        self.rejected += request.rejected
        if not request.pause:
            return
        self.paused_until = max(self.paused_until, now + request.pause)
        for quota in self.quotas.values():  # an empty bucket at the end of the pause
            spec = quota.spec
            full_at = self.paused_until + int((spec.burst - 1) * spec.interval)
            quota.tat = max(quota.tat, full_at)

    def _update_members(self, request: LeaseRequest, now: int) -> tuple[int, Block]:
        """Return the number of members and the block of the process."""
        if not (request.heartbeat or request.goodbye):
            return 0, NONE
        members = {name: member for name, member in self.members.items() if member.until > now}
        is_member = members.pop(request.process, None) is not None
        if is_member == request.goodbye or len(members) + is_member < len(self.members):
            self.members_changed_at = now
        self.members = members
        if request.goodbye:
            return len(members), NONE
        block = self._next_block(request, now)
        members[request.process] = Member(
            until=now + request.ttl,
            heartbeat_due=now + request.heartbeat_due,
            idle=request.idle,
            blocks=[each for each in dict.fromkeys((request.share_held, block)) if each[1]],
        )
        is_wanted = any(not member.blocks for member in members.values()) or not block[1]
        self.share_wanted_until = now + RULES.share_wait if is_wanted else 0
        return len(members), block

    def _next_block(self, request: LeaseRequest, now: int) -> Block:
        others = self.members.values()
        fair, largest = fair_sizes(len(others) + 1)
        may_grow = not request.idle and now - self.members_changed_at >= RULES.settling_time
        return next_block(
            request.share_held,
            [block for member in others for block in member.blocks],
            fair=fair,
            limit=largest if may_grow else max(1, fair // 2),
            is_idle=request.idle,
            is_wanted=any(
                sum(size for _, size in member.blocks) < fair
                for member in others
                if not member.idle
            ),
        )

    def _grant(self, request: LeaseRequest, now: int) -> tuple[list[int], int, int]:
        """Return when each granted slot opens, when to ask again, and the contenders."""
        self._drop_waiting(request.process, now)
        if request.count <= 0:
            return [], 0, 0
        if request.priority == 0:
            self.interactive_at = now
        classes = self.interactive, self.background
        own, other = classes[request.priority], classes[1 - request.priority]
        is_background_due = self.since_background >= RULES.background_every - 1
        yields = bool(other) and is_background_due == (request.priority == 0)
        contenders = len(own)
        most = 0 if yields else self._fair_count(request, contenders)
        opens_in, at, may_open_sooner = self._reserve(request, most, now)
        if opens_in and request.priority:
            self.since_background = 0
        else:
            self.since_background += len(opens_in)
        retry_in = 0 if 0 < most == len(opens_in) else max(0, at - request.lease - now)
        if may_open_sooner:  # by the time that was added to the reservation for safety
            soonest = at - request.grace - 2 * request.lease - now
            retry_in = min(retry_in, max(request.min_retry, soonest))
        retry_in += RULES.yield_delay if yields else 0
        if len(opens_in) < request.count:
            own[request.process] = max(at, now + retry_in) + RULES.queue_time
        return opens_in, retry_in, contenders

    def _reserve(self, request: LeaseRequest, most: int, now: int) -> tuple[list[int], int, bool]:
        """Reserve up to *most* slots; return when they open, and `_next_opening` after them."""
        scores = sorted((score, slot) for slot, score in self.log.items())
        opens_in: list[int] = []
        at, may_open_sooner = self._next_opening(scores, request.priority, now)
        while len(opens_in) < most and at <= now + request.lease:
            slot = f"r:{request.process}:{request.first + len(opens_in)}"
            self.log[slot] = at + request.lease + request.grace
            insort(scores, (self.log[slot], slot))
            for quota in self.quotas.values():
                quota.tat = max(quota.tat, at) + quota.spec.interval
            opens_in.append(at - now)
            at, may_open_sooner = self._next_opening(scores, request.priority, now)
        return opens_in, at, may_open_sooner

    def _drop_waiting(self, process: str, now: int) -> None:
        """Drop waiting processes whose time is over, and *process*, which this request renews."""
        for waiting in (self.interactive, self.background):
            for name in [name for name, until in waiting.items() if until <= now]:
                del waiting[name]
            waiting.pop(process, None)

    def _fair_count(self, request: LeaseRequest, contenders: int) -> int:
        """Return how many slots the process may get, so that *contenders* get as many."""
        most = request.count
        for quota in self.quotas.values():
            open_slots = quota.spec.burst + request.lease / quota.spec.interval
            most = min(most, max(1, int(open_slots / (contenders + 1))))
        return most

    def _next_opening(
        self, scores: list[tuple[int, str]], priority: int, now: int
    ) -> tuple[int, bool]:
        """Return when the next slot opens, and whether a report may make that sooner."""
        at, may_open_sooner = max(now, self.spent_until, self.paused_until), False
        for quota in self.quotas.values():
            spec = quota.spec
            if len(scores) >= spec.limit:
                score, slot = scores[-spec.limit]
                if score + spec.period > at:
                    at, may_open_sooner = score + spec.period, slot.startswith("r")
            is_spaced = (
                priority and self.interactive_at + RULES.interactive_periods * spec.period > now
            )
            burst = min(spec.burst, RULES.background_burst) if is_spaced else spec.burst
            if quota.earliest(burst) > at:
                at, may_open_sooner = quota.earliest(burst), False
        return at, may_open_sooner
