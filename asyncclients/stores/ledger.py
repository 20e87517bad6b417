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
   another one, or sent calls that are in no ledger, makes the window count as
   spent. Two processes never take an empty store for an empty window.
"""

from __future__ import annotations

import math
from bisect import insort

import msgspec

_FORGET_QUOTA = 60_000_000
"""A quota of which nobody spoke for this long, plus its period, is no longer in force."""
_CLAIM = 100_000
"""How long past its opening a slot is left to the process that waits for it first."""
_YIELD = 20_000
"""How much later than the better class the other one asks."""
_BACKGROUND_EVERY = 10
_EVEN = 1.2
"""The burst of background work while interactive calls come, so that a slot is never far."""
_RECENT = 10
"""For how many periods after an interactive call another is expected."""


class PacedQuota(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A quota with the pace that its process has learned: `burst` calls, then one an `interval`."""

    limit: int
    period: int
    interval: int
    burst: float

    @property
    def name(self) -> str:
        return f"{self.limit}/{self.period}"


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What one process tells and asks. Numbers name its slots and are never used twice.

    Attributes:
        me: the process.
        epoch: the ledger that it knows; empty for none; anything else: it has
            sent calls that are in no ledger.
        fresh: name of the ledger, if a new one has to be begun.
        cold: a new ledger begins with a spent window.
        quotas: what it obeys.
        settled: number, and how long ago the call had arrived (may be negative).
        renewed: slots in flight without an answer.
        freed: slots that were not used and will not be.
        first: number of the first slot that may be granted.
        wanted: how many slots it could use at once.
        priority: 0 interactive, 1 background.
        refusals: refusals by the vendor since the last claim.
        pause: for how long they say to wait.
        beat: count me among the living.
        leave: and now no longer.
        lease, grace, live, poll, spent: durations that the rules speak of; *poll*
            is when to ask again where an answer can change the outlook, *spent* how
            long a ledger that lost its past grants nothing.
    """

    me: str
    epoch: str
    fresh: str
    cold: bool
    quotas: tuple[PacedQuota, ...]
    settled: tuple[tuple[int, int], ...]
    renewed: tuple[int, ...]
    freed: tuple[int, ...]
    first: int
    wanted: int
    priority: int
    refusals: int
    pause: int
    beat: bool
    leave: bool
    lease: int
    grace: int
    live: int
    poll: int
    spent: int


class Grant(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What the store answers.

    Attributes:
        now: the store's clock.
        epoch: the name of the ledger.
        opens: how long from *now* each granted slot opens; numbers count from `Claim.first`.
        wait: how long from *now* it is worth while to ask again.
        pause: how long the vendor wants nothing.
        refusals: refusals so far, by whomever.
        rivals: other processes that wait in the same class.
        live: processes alive; 0 where the claim was no beat.
        rank: how many of them come before the asker.
        stable: how long since one came or went.
        quotas: names of all quotas in force.
    """

    now: int
    epoch: str
    opens: tuple[int, ...]
    wait: int
    pause: int
    refusals: int
    rivals: int
    live: int
    rank: int
    stable: int
    quotas: tuple[str, ...]


class Paced(msgspec.Struct, kw_only=True):
    """A quota in force: when it was last spoken of, and where its schedule stands."""

    seen: int
    quota: PacedQuota
    due: int = 0


class Ledger(msgspec.Struct, kw_only=True):
    """The state of one scope. `log` maps a slot to its score."""

    epoch: str = ""
    spent: int = 0
    pause: int = 0
    refusals: int = 0
    since_background: int = 0
    changed: int = 0
    interactive_at: int = 0
    log: dict[str, int] = {}
    live: dict[str, int] = {}
    interactive: dict[str, int] = {}
    background: dict[str, int] = {}
    quotas: dict[str, Paced] = {}

    def exchange(self, claim: Claim, now: int) -> Grant:
        """Take *claim* in and answer it. Costs O(log n) a slot beside the load and save."""
        self._recognise(claim, now)
        self._spoken(claim, now)
        self._account(claim, now)
        self._hear_refusals(claim, now)
        live, rank = self._count_living(claim, now)
        opens, wait, rivals = self._grant(claim, now)
        return Grant(
            now=now,
            epoch=self.epoch,
            opens=tuple(opens),
            wait=wait,
            pause=max(0, self.pause - now),
            refusals=self.refusals,
            rivals=rivals,
            live=live,
            rank=rank,
            stable=now - self.changed,
            quotas=tuple(sorted(self.quotas)),
        )

    def _recognise(self, claim: Claim, now: int) -> None:
        stranger = claim.epoch not in {"", self.epoch}
        if not self.epoch:
            self.epoch = claim.fresh
            stranger = stranger or claim.cold
        if stranger:
            self.spent = max(self.spent, now + claim.spent)

    def _spoken(self, claim: Claim, now: int) -> None:
        for quota in claim.quotas:
            known = self.quotas.get(quota.name)
            due = known.due if known else 0
            self.quotas[quota.name] = Paced(seen=now, quota=quota, due=due)
        for name, paced in list(self.quotas.items()):
            if paced.seen + paced.quota.period + _FORGET_QUOTA < now:
                del self.quotas[name]

    def _account(self, claim: Claim, now: int) -> None:
        for number, age in claim.settled:
            self.log.pop(f"p:{claim.me}:{number}", None)
            self.log[f"s:{claim.me}:{number}"] = now - age
        for number in claim.renewed:
            self.log[f"p:{claim.me}:{number}"] = now + claim.grace
        for number in claim.freed:
            if self.log.pop(f"p:{claim.me}:{number}", None) is not None:
                for paced in self.quotas.values():
                    paced.due -= paced.quota.interval
        longest = max((paced.quota.period for paced in self.quotas.values()), default=0)
        self.log = {slot: score for slot, score in self.log.items() if score > now - longest}

    def _hear_refusals(self, claim: Claim, now: int) -> None:
        if not claim.refusals:
            return
        self.refusals += claim.refusals
        self.pause = max(self.pause, now + claim.pause)
        for paced in self.quotas.values():
            quota = paced.quota
            paced.due = max(paced.due, self.pause + int((quota.burst - 1) * quota.interval))

    def _count_living(self, claim: Claim, now: int) -> tuple[int, int]:
        if not (claim.beat or claim.leave):
            return 0, 0
        before = self.live.keys()
        living = {name: until for name, until in self.live.items() if until > now}
        living.pop(claim.me, None)
        if not claim.leave:
            living[claim.me] = now + claim.live
        if living.keys() != before:
            self.changed = now
        self.live = living
        return len(living), sum(name < claim.me for name in living)

    def _grant(self, claim: Claim, now: int) -> tuple[list[int], int, int]:
        classes = self.interactive, self.background
        for waiting in classes:
            for name in [name for name, until in waiting.items() if until <= now]:
                del waiting[name]
            waiting.pop(claim.me, None)
        if claim.wanted <= 0:
            return [], 0, 0
        if claim.priority == 0:
            self.interactive_at = now
        own, other = classes[claim.priority], classes[1 - claim.priority]
        overdue = self.since_background >= _BACKGROUND_EVERY - 1
        yields = bool(other) and overdue == (claim.priority == 0)
        most = 0 if yields else self._share(claim, len(own))
        scores = sorted((score, slot) for slot, score in self.log.items())
        opens: list[int] = []
        at, open_end = self._opening(scores, claim.priority, now)
        while len(opens) < most and at <= now + claim.lease:
            slot = f"p:{claim.me}:{claim.first + len(opens)}"
            self.log[slot] = at + claim.lease + claim.grace
            insort(scores, (self.log[slot], slot))
            for paced in self.quotas.values():
                paced.due = max(paced.due, at) + paced.quota.interval
            opens.append(at - now)
            at, open_end = self._opening(scores, claim.priority, now)
        self.since_background = (
            0 if opens and claim.priority else self.since_background + len(opens)
        )
        wait = 0 if 0 < most == len(opens) else max(0, at - claim.lease - now)
        wait = min(wait, claim.poll) if open_end else wait
        wait += _YIELD if yields else 0
        if len(opens) < claim.wanted:
            own[claim.me] = max(at, now + wait) + _CLAIM
        return opens, wait, len(own.keys() - {claim.me})

    def _share(self, claim: Claim, rivals: int) -> int:
        room = math.inf
        for paced in self.quotas.values():
            room = min(room, paced.quota.burst + claim.lease / paced.quota.interval)
        return (
            claim.wanted
            if room == math.inf
            else min(claim.wanted, max(1, int(room / (rivals + 1))))
        )

    def _opening(self, scores: list[tuple[int, str]], priority: int, now: int) -> tuple[int, bool]:
        """When the next slot opens, and whether an answer may yet make that sooner."""
        at, open_end = max(now, self.spent, self.pause), False
        for paced in self.quotas.values():
            quota = paced.quota
            if len(scores) >= quota.limit:
                score, slot = scores[-quota.limit]
                if score + quota.period > at:
                    at, open_end = score + quota.period, slot.startswith("p")
            expected = self.interactive_at + _RECENT * quota.period > now
            burst = min(quota.burst, _EVEN) if priority and expected else quota.burst
            due = paced.due - int((burst - 1) * quota.interval)
            if due > at:
                at, open_end = due, False
        return at, open_end
