"""One quota, many processes: the rules of the shared log.

This is the reference: plain values, `now` is an argument. `sqlite.py` keeps a
`Ledger` in a file; `script.py` says the same in Lua, for Redis, and a test
holds the two against each other. Instants and durations are whole microseconds
of the store's own clock, so that processes need not agree on the time.

A process sends one `Claim` at a time and gets a `Grant`. The rules:

1. **Two phases.** A slot is *reserved* first, `p:<process>:<number>` in the
   log, and *settled* when it is known by when the call has arrived,
   `s:<process>:<number>`. The score is the arrival bound. A reservation's score
   is the latest send plus `grace`; a call without an answer is renewed at
   each beat. So the slots of a process that was killed end by themselves.
2. **Window.** The next slot opens when the limit-th latest score is one period
   old: then fewer than `limit` calls can have arrived within a period.
3. **Lease.** A slot may be booked up to `lease` before it opens, and must be
   used no later than `lease` after. Hence no round trip between the opening
   and the send, and many slots in one round trip where many are open.
4. **Pacing** is common as well: one virtual schedule (GCRA) for each quota. Where
   interactive calls come, bursts are theirs, and background work is spaced evenly.
5. **Order.** A process says the best class that waits in it. While an
   interactive call waits anywhere, background gets every tenth slot only. Of
   one class, each process gets at most its share of what is open.
6. **Quotas.** Every program's quotas hold, as long as it is heard of: the
   stricter wins.
7. **Lost data.** The ledger has a name, its *epoch*. A process that knows
   another one makes the window count as spent: an empty store is no empty
   window. A process that comes back after an outage lists what it sent
   meanwhile, and nothing is granted until all the others have noticed as well.
   The same where a sign of life was due of another and none came from anybody: the
   ledger was out of reach, and who speaks first may be new and know nothing of it.
   An idle process is due less often, and says when.
8. **Shares.** Each process is told its block of the quota, for the time when the store
   is down, see `shares.py`. The ledger keeps what a process said it holds and what it
   was told last, since an answer may be lost, and gives neither to another.
9. **Clocks.** Only the store's own counts. Where it was set back, what is in the
   log lies in its future: the ledger begins anew with a spent window. Where it was
   set forward the processes notice, and name no ledger that there is.
"""

from __future__ import annotations

import math
from bisect import insort

import msgspec

from asyncclients.stores.protocol import LeaseRequest, LeaseResponse, QuotaSpec
from asyncclients.stores.shares import NONE, Block, fair_sizes, next_block

_FORGET_QUOTA = 60_000_000
"""A quota of which nobody spoke for this long, plus its period, is no longer in force."""
_SLIP = 1_000_000
"""A clock that goes back by less than this was not set: it is another server's of a cluster."""
_SILENT = 1_250_000
"""Who lives is heard of sooner. Nobody sends alone before a window and more has passed."""
_SLACK = 250_000
"""How much later than announced a beat may come."""
_STEADY = 1_000_000
"""How long after a process came or went the others' shares may grow."""
_HUNGRY = 1_000_000
"""How long the others are asked to beat soon, for one that has no share."""
_CLAIM = 100_000
"""How long past its opening a slot is left to the process that waits for it first."""
_YIELD = 20_000
"""How much later than the better class the other one asks."""
_BACKGROUND_EVERY = 10
_EVEN = 1.2
"""The burst of background work while interactive calls come, so that a slot is never far."""
_RECENT = 10
"""For how many periods after an interactive call another is expected."""


class QuotaState(msgspec.Struct, kw_only=True):
    """A quota in force: when it was last spoken of, and where its schedule stands."""

    seen: int
    quota: QuotaSpec
    tat: int = 0


class Member(msgspec.Struct, kw_only=True, array_like=True):
    """A live process: until when, when its next beat is due, and its blocks of the quota."""

    until: int
    due: int
    idle: bool
    blocks: list[Block]


class QuotaLog(msgspec.Struct, kw_only=True):
    """The state of one scope at instant `at`. `log` maps a slot to its score."""

    at: int = 0
    epoch: str = ""
    spent_until: int = 0
    pause: int = 0
    accepted: int = 0
    rejected: int = 0
    since_background: int = 0
    changed: int = 0
    hungry: int = 0
    interactive_at: int = 0
    log: dict[str, int] = {}
    members: dict[str, Member] = {}
    interactive: dict[str, int] = {}
    background: dict[str, int] = {}
    quotas: dict[str, QuotaState] = {}

    def apply(self, claim: LeaseRequest, now: int) -> LeaseResponse:
        """Take *claim* in and answer it. Costs O(log n) a slot beside the load and save."""
        self._check_clock(claim, now)
        self._check_epoch(claim, now)
        self._update_quotas(claim, now)
        self._book_slots(claim, now)
        self._on_rate_limited(claim, now)
        live, (start, size) = self._update_members(claim, now)
        opens, wait, rivals = self._grant(claim, now)
        return LeaseResponse(
            now=now,
            epoch=self.epoch,
            opens_in=tuple(opens),
            retry_in=wait,
            pause=max(0, self.pause - now),
            accepted=self.accepted,
            rejected=self.rejected,
            contenders=rivals,
            peers=live,
            start=start,
            size=size,
            hungry=int(self.hungry > now),
            quotas=tuple(sorted(self.quotas)),
        )

    def _check_clock(self, claim: LeaseRequest, now: int) -> None:
        if now + _SLIP < self.at:
            fresh = QuotaLog(spent_until=now + claim.recovery_hold + claim.detection_time)
            for field in self.__struct_fields__:
                setattr(self, field, getattr(fresh, field))
        elif now > self.at + _SILENT and any(
            member.due + _SLACK < now
            for name, member in self.members.items()
            if name != claim.process
        ):
            self.spent_until = max(self.spent_until, now + claim.detection_time)
        self.at = now

    def _check_epoch(self, claim: LeaseRequest, now: int) -> None:
        stranger = claim.epoch not in {"", self.epoch}
        if not self.epoch:
            self.epoch = claim.new_epoch
            stranger = stranger or claim.assume_spent
        if stranger:
            self.spent_until = max(
                self.spent_until, now + claim.recovery_hold + claim.detection_time
            )
        elif claim.recovering:
            self.spent_until = max(self.spent_until, now + claim.detection_time)

    def _update_quotas(self, claim: LeaseRequest, now: int) -> None:
        for quota in claim.quotas:
            known = self.quotas.get(quota.name)
            due = known.tat if known else 0
            self.quotas[quota.name] = QuotaState(seen=now, quota=quota, tat=due)
        for name, paced in list(self.quotas.items()):
            if paced.seen + paced.quota.period + _FORGET_QUOTA < now:
                del self.quotas[name]

    def _book_slots(self, claim: LeaseRequest, now: int) -> None:
        for number, age in claim.arrived:
            self.log.pop(f"p:{claim.process}:{number}", None)
            self.log[f"s:{claim.process}:{number}"] = now - age
        for number in claim.in_flight:
            self.log[f"p:{claim.process}:{number}"] = now + claim.grace
        for number in claim.released:
            if self.log.pop(f"p:{claim.process}:{number}", None) is not None:
                for paced in self.quotas.values():
                    paced.tat -= paced.quota.interval
        longest = max((paced.quota.period for paced in self.quotas.values()), default=0)
        self.log = {slot: score for slot, score in self.log.items() if score > now - longest}

    def _on_rate_limited(self, claim: LeaseRequest, now: int) -> None:
        self.accepted += claim.accepted
        self.rejected += claim.rejected
        if not claim.pause:
            return
        self.pause = max(self.pause, now + claim.pause)
        for paced in self.quotas.values():
            quota = paced.quota
            paced.tat = max(paced.tat, self.pause + int((quota.burst - 1) * quota.interval))

    def _update_members(self, claim: LeaseRequest, now: int) -> tuple[int, Block]:
        if not (claim.heartbeat or claim.goodbye):
            return 0, NONE
        living = {name: each for name, each in self.members.items() if each.until > now}
        known = living.pop(claim.process, None) is not None
        if known == claim.goodbye or len(living) + known < len(self.members):
            self.changed = now
        self.members = living
        if claim.goodbye:
            return len(living), NONE
        block = self._next_block(claim, now)
        living[claim.process] = Member(
            until=now + claim.ttl,
            due=now + claim.heartbeat_due,
            idle=claim.idle,
            blocks=[each for each in dict.fromkeys((claim.share_held, block)) if each[1]],
        )
        without = any(not member.blocks for member in living.values()) or not block[1]
        self.hungry = now + _HUNGRY if without else 0
        return len(living), block

    def _next_block(self, claim: LeaseRequest, now: int) -> Block:
        others = self.members.values()
        fair, most = fair_sizes(len(others) + 1)
        steady = not claim.idle and now - self.changed >= _STEADY
        return next_block(
            claim.share_held,
            [block for member in others for block in member.blocks],
            fair=fair,
            limit=most if steady else max(1, fair // 2),
            is_idle=claim.idle,
            is_wanted=any(
                sum(size for _, size in member.blocks) < fair
                for member in others
                if not member.idle
            ),
        )

    def _grant(self, claim: LeaseRequest, now: int) -> tuple[list[int], int, int]:
        self._forget_claims(claim.process, now)
        if claim.count <= 0:
            return [], 0, 0
        if claim.priority == 0:
            self.interactive_at = now
        classes = self.interactive, self.background
        own, other = classes[claim.priority], classes[1 - claim.priority]
        overdue = self.since_background >= _BACKGROUND_EVERY - 1
        yields = bool(other) and overdue == (claim.priority == 0)
        most = 0 if yields else self._share(claim, len(own))
        scores = sorted((score, slot) for slot, score in self.log.items())
        opens: list[int] = []
        at, open_end = self._opening(scores, claim.priority, now)
        while len(opens) < most and at <= now + claim.lease:
            slot = f"p:{claim.process}:{claim.first + len(opens)}"
            self.log[slot] = at + claim.lease + claim.grace
            insort(scores, (self.log[slot], slot))
            for paced in self.quotas.values():
                paced.tat = max(paced.tat, at) + paced.quota.interval
            opens.append(at - now)
            at, open_end = self._opening(scores, claim.priority, now)
        self.since_background = (
            0 if opens and claim.priority else self.since_background + len(opens)
        )
        wait = 0 if 0 < most == len(opens) else max(0, at - claim.lease - now)
        if open_end:  # it may open sooner, by what the reservation was taken to the safe side
            soonest = at - claim.grace - 2 * claim.lease - now
            wait = min(wait, max(claim.min_retry, soonest))
        wait += _YIELD if yields else 0
        if len(opens) < claim.count:
            own[claim.process] = max(at, now + wait) + _CLAIM
        return opens, wait, len(own.keys() - {claim.process})

    def _forget_claims(self, me: str, now: int) -> None:
        """Drop the claims that have run out, and those of *me*, who claims anew."""
        for waiting in (self.interactive, self.background):
            for name in [name for name, until in waiting.items() if until <= now]:
                del waiting[name]
            waiting.pop(me, None)

    def _share(self, claim: LeaseRequest, rivals: int) -> int:
        room = math.inf
        for paced in self.quotas.values():
            room = min(room, paced.quota.burst + claim.lease / paced.quota.interval)
        return (
            claim.count if room == math.inf else min(claim.count, max(1, int(room / (rivals + 1))))
        )

    def _opening(self, scores: list[tuple[int, str]], priority: int, now: int) -> tuple[int, bool]:
        """When the next slot opens, and whether an answer may yet make that sooner."""
        at, open_end = max(now, self.spent_until, self.pause), False
        for paced in self.quotas.values():
            quota = paced.quota
            if len(scores) >= quota.limit:
                score, slot = scores[-quota.limit]
                if score + quota.period > at:
                    at, open_end = score + quota.period, slot.startswith("p")
            expected = self.interactive_at + _RECENT * quota.period > now
            burst = min(quota.burst, _EVEN) if priority and expected else quota.burst
            due = paced.tat - int((burst - 1) * quota.interval)
            if due > at:
                at, open_end = due, False
        return at, open_end
