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
from asyncclients.stores.claim import Claim, Grant, PacedQuota
from asyncclients.stores.clock import SECOND, StoreClock, micros
from asyncclients.stores.outage import NOBODY, Census
from asyncclients.stores.slots import MOST, Slots
from asyncclients.stores.terms import BEAT, GRACE, LIVE, PROBE

if TYPE_CHECKING:
    from asyncclients.limits.limiter import Limiter
    from asyncclients.limits.quota import Quota
    from asyncclients.stores.terms import Terms

_DOUBT = "?"
"""No ledger's name: what is in the log of the one that answered is older than it seems."""
_EVEN = 1.25
"""The burst where calls are spaced evenly: a slot that is late by a little is made up for."""


class Account:
    """One scope's standing with the store.

    Attributes:
        clock: the store's clock.
        census: who lives, as was last heard; nobody while this process is not counted.
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
        self.heard_at = self.beat_at = -math.inf
        self.admitted = self.refused = 0
        self.unavailable_until = -math.inf
        self.others_admitted = self.others_refused = 0
        self.doubts = False
        self._seen: tuple[int, int] | None = None  # the ledger's counts

    def periods(self) -> list[float]:
        """The periods of the quotas, in seconds; never empty."""
        return [quota.period for quota in self._local.quotas] or [BEAT]

    def claim(self, now: float, demand: int, priority: int, *, returns: bool, leave: bool) -> Claim:
        """What is to be said at *now*, by one who could use *demand* slots."""
        slots, terms, shortest = self._slots, self._terms, min(self.periods())
        wanted = min(MOST, max(0, demand - len(slots.leases)))
        if len(slots.settled) > MOST:
            wanted = 0  # first tell all that was used
        beat = self._beats(now, leave=leave)
        pause_until = self._local.paused_until if self.refused else self.unavailable_until
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
            renewed=tuple(islice(slots.in_flight, MOST)) if beat else (),
            freed=tuple(islice(slots.freed, MOST)),
            first=slots.numbers(wanted),
            wanted=wanted,
            priority=int(priority),
            admitted=self.admitted,
            refused=self.refused,
            pause=micros(max(0.0, pause_until - now)),
            beat=beat,
            leave=leave,
            lease=micros(min(terms.lease, shortest / 4)),
            grace=micros(GRACE),
            live=micros(LIVE),
            poll=micros(min(0.25, max(0.005, shortest / 8))),
            spent=micros(max(self.periods())),
            notice=micros(PROBE + 2 * terms.timeout + terms.lease + GRACE),
        )

    def _beats(self, now: float, *, leave: bool) -> bool:
        """Is a sign of life due? A call in flight is renewed once a period at least."""
        if leave or now < self.beat_at:
            return False
        self.beat_at = now + (min(BEAT, *self.periods()) if self._slots.in_flight else BEAT)
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
        if claim.beat:
            self.census = Census(
                live=grant.live,
                rank=grant.rank,
                stable=grant.stable / SECOND,
                heard_at=heard_at,
            )
        elif claim.leave:
            self.census = NOBODY
        self._recognise(claim.epoch, grant.epoch, heard_at)
        self._note_strangers(claim, grant)
        self._doubt(claim, leapt=self.clock.leapt(asked_at, heard_at, grant.now))
        return self.clock.hear(asked_at, heard_at, grant.now)

    def _doubt(self, claim: Claim, *, leapt: bool) -> None:
        self.doubts = leapt or (self.doubts and claim.epoch != _DOUBT)
        if leapt:
            logger.warning(
                "the shared limit store's clock was set forward; the window counts as spent"
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
            logger.warning("the shared limit store lost its data; the window counts as spent")
        if epoch != self._epoch:
            self.beat_at = now  # list what is in flight, and this process
        self._epoch = epoch

    def _note_strangers(self, claim: Claim, grant: Grant) -> None:
        strangers = frozenset(grant.quotas) - {quota.name for quota in claim.quotas}
        if strangers - self._strangers:
            logger.warning(
                "another program obeys other quotas for this credential (calls/microseconds: %s); "
                "all of them hold, so the stricter wins",
                ", ".join(sorted(strangers)),
            )
        self._strangers = strangers


def _pace(quota: Quota, share: float, *, bursts: bool) -> PacedQuota:
    return PacedQuota(
        limit=quota.limit,
        period=micros(quota.period),
        interval=micros(quota.period / quota.limit / PACE / share),
        burst=Pacer(quota, 0.0).full_burst if bursts else _EVEN,
    )
