"""What one process knows of a scope's ledger, and what it says to it.

Builds each claim from the slots, the local limiter and the demand, and takes
each grant in. `now` is an argument; nothing here waits.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING
from uuid import uuid4

from msgspec.structs import replace

from asyncclients.core.events import logger
from asyncclients.limits.pacing import PACE, Pacer
from asyncclients.limits.quota import Quota
from asyncclients.stores.claim import Claim, Grant, PacedQuota
from asyncclients.stores.clock import SECOND, StoreClock, micros
from asyncclients.stores.outage import NOBODY, Census
from asyncclients.stores.shares import NONE, Block, contains
from asyncclients.stores.slots import MOST, Slots
from asyncclients.stores.terms import BEAT, GRACE, LIVE, PROBE

if TYPE_CHECKING:
    from asyncclients.limits.limiter import Limiter
    from asyncclients.stores.terms import Terms

_DOUBT = "?"
"""No ledger's name: what is in the log of the one that answered is older than it seems."""
_HUNGRY = 0.1
"""Seconds between two beats of a process that has no share."""
_EVEN = 1.25
"""The burst where calls are spaced evenly: a slot that is late by a little is made up for."""


class Account:
    """One scope's standing with the store.

    Attributes:
        clock: the store's clock.
        census: who lives, as was last heard; nobody while this process is not counted.
        is_idle: the store was told that this process has sent nothing for a while.
        heard_at: loop instant of the last answer; -inf before the first.
        beat_at: loop instant of the next sign of life.
        unavailable_until: before this instant the vendor serves nobody, as it said.
        admitted, refused: our calls that the vendor let in, or did not, of which the
            store has not heard.
        others_admitted, others_refused: those of other processes, by the last answer.
        doubts: the store's clock was set; what it granted meanwhile is not to be used.
    """

    def __init__(self, local: Limiter, slots: Slots, terms: Terms) -> None:
        self._local, self._slots, self._terms = local, slots, terms
        self._epoch = ""
        self._strangers: frozenset[str] = frozenset()
        self.clock = StoreClock()
        self.census = NOBODY
        self.is_idle = False
        self._held: Block = NONE
        self._renew_at = -math.inf
        self.heard_at = self.beat_at = -math.inf
        self.admitted = self.refused = 0
        self.unavailable_until = -math.inf
        self.others_admitted = self.others_refused = 0
        self.doubts = False
        self._seen: tuple[int, int] | None = None  # the ledger's counts

    def periods(self) -> list[float]:
        """The periods of the quotas, in seconds; never empty."""
        return [quota.period for quota in self._local.quotas] or [BEAT]

    def quotas(self) -> list[Quota]:
        """Return all quotas in force: this process's own, and those of other programs."""
        foreign = (name.split("/") for name in self._strangers)
        others = [Quota(int(limit), int(period) / SECOND) for limit, period in foreign]
        return [*self._local.quotas, *others]

    def due_at(self) -> float:
        """Return the loop instant at which the store is to be told of this process again."""
        return min(self.beat_at, self._renew_at) if self._slots.in_flight else self.beat_at

    def claim(
        self,
        now: float,
        demand: int,
        priority: int,
        *,
        returns: bool,
        leave: bool,
        idle: bool,
        every: float,
    ) -> Claim:
        """What is to be said at *now*, by one who could use *demand* slots and beats *every* s."""
        slots, terms, shortest = self._slots, self._terms, min(self.periods())
        wanted = min(MOST, max(0, demand - len(slots.leases)))
        if len(slots.settled) > MOST:
            wanted = 0  # first tell all that was used
        pause_until = self._local.paused_until if self.refused else self.unavailable_until
        beat = self._beats(now, leave=leave, idle=idle, every=every)
        renews = beat or self._renews(now)
        return Claim(
            me=terms.me,
            epoch=self._known_epoch(now, returns=returns),
            fresh=uuid4().hex[:12],
            returns=returns,
            # Who has spoken before, however long ago, knows that an empty store has forgotten.
            cold=terms.cold or self._epoch != "",
            quotas=self._paces(now),
            settled=tuple(
                (number, micros(now - at)) for number, at in islice(slots.settled.items(), MOST)
            ),
            renewed=tuple(islice(slots.in_flight, MOST)) if renews else (),
            freed=tuple(islice(slots.freed, MOST)),
            first=slots.numbers(wanted),
            wanted=wanted,
            priority=int(priority),
            admitted=self.admitted,
            refused=self.refused,
            pause=micros(max(0.0, pause_until - now)),
            beat=beat,
            leave=leave,
            idle=idle,
            held=self._held,
            due=micros(every),
            lease=micros(min(terms.lease, shortest / 4)),
            grace=micros(GRACE),
            live=micros(max(LIVE, 3 * every)),
            poll=micros(min(0.25, max(0.005, shortest / 8))),
            spent=micros(max(self.periods())),
            notice=micros(PROBE + 2 * terms.timeout + terms.lease + GRACE),
        )

    def _beats(self, now: float, *, leave: bool, idle: bool, every: float) -> bool:
        """Return whether a sign of life is due; at once when the process is no longer idle."""
        wakes = self.is_idle and not idle
        if leave or (now < self.beat_at and not wakes):
            return False
        self.is_idle, self.beat_at = idle, now + every
        self._renew_at = now + min(BEAT, *self.periods())
        return True

    def _renews(self, now: float) -> bool:
        """Return whether calls in flight are to be listed again: once a period at least."""
        if now < self._renew_at:
            return False
        self._renew_at = now + min(BEAT, *self.periods())
        return True

    def _known_epoch(self, now: float, *, returns: bool) -> str:
        """The ledger in which this process's calls of the last period are."""
        if self.doubts:
            return _DOUBT
        longest = max(self.periods()) + GRACE + self._terms.lease
        if not returns and now - self.heard_at > longest:
            return ""
        return self._epoch

    def _paces(self, now: float) -> tuple[PacedQuota, ...]:
        state = self._local.snapshot(now)
        return tuple(
            _pace(quota, state.rate_share, bursts=state.bursts) for quota in self._local.quotas
        )

    def hear(self, claim: Claim, grant: Grant, asked_at: float, heard_at: float) -> float:
        """Take in the answer to *claim*; return the loop instant at which it was written."""
        self.heard_at = heard_at
        self._count(claim, grant)
        self._note_share(claim, grant, asked_at, heard_at)
        self._recognise(claim.epoch, grant.epoch, heard_at)
        self._note_strangers(claim, grant)
        self._doubt(claim, leapt=self.clock.leapt(asked_at, heard_at, grant.now))
        return self.clock.hear(asked_at, heard_at, grant.now)

    def _note_share(self, claim: Claim, grant: Grant, asked_at: float, heard_at: float) -> None:
        if claim.leave:
            self.census, self._held = NOBODY, NONE
        elif claim.beat:
            self._held = (grant.start, grant.size)
            self.census = Census(
                live=grant.live,
                start=grant.start,
                size=grant.size,
                due_at=asked_at + claim.due / SECOND,
                until=asked_at + claim.live / SECOND,
                idle=claim.idle,
            )
            if not contains(self._held, claim.held):
                self.beat_at = heard_at  # confirm it, so that others can have the rest
            elif not grant.size:
                self.beat_at = min(self.beat_at, heard_at + _HUNGRY)
        elif grant.hungry:
            self.beat_at = heard_at

    def _doubt(self, claim: Claim, *, leapt: bool) -> None:
        self.doubts = leapt or (self.doubts and claim.epoch != _DOUBT)
        if leapt:
            logger.warning(
                "limit store %s: its clock was set forward; the window counts as spent",
                self._terms.store,
            )

    def _count(self, claim: Claim, grant: Grant) -> None:
        self.admitted -= claim.admitted
        self.refused -= claim.refused
        if self._seen is None or grant.epoch != self._epoch:
            self._seen = (grant.admitted, grant.refused)
            claim = replace(claim, admitted=0, refused=0)
        admitted, refused = self._seen
        self._seen = (grant.admitted, grant.refused)
        self.others_admitted = max(0, grant.admitted - admitted - claim.admitted)
        self.others_refused = max(0, grant.refused - refused - claim.refused)

    def _recognise(self, known: str, epoch: str, now: float) -> None:
        if known not in {"", epoch, _DOUBT}:
            logger.warning(
                "limit store %s lost its data: the window counts as spent", self._terms.store
            )
        if epoch != self._epoch:
            self.beat_at = now  # list what is in flight, and this process
        self._epoch = epoch

    def _note_strangers(self, claim: Claim, grant: Grant) -> None:
        strangers = frozenset(grant.quotas) - {quota.name for quota in claim.quotas}
        if strangers - self._strangers:
            self._strangers = strangers
            own, all_ = ", ".join(map(str, self._local.quotas)), ", ".join(map(str, self.quotas()))
            logger.warning(
                "another process configured other quotas for this credential: %s in all, %s here; "
                "all apply",
                *(all_, own),
            )
        self._strangers = strangers


def _pace(quota: Quota, share: float, *, bursts: bool) -> PacedQuota:
    return PacedQuota(
        limit=quota.limit,
        period=micros(quota.period),
        interval=micros(quota.period / quota.limit / PACE / share),
        burst=Pacer(quota, 0.0).full_burst if bursts else _EVEN,
    )
