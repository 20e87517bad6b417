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
from asyncclients.ratelimit.bucket import RATE_SAFETY, TokenBucket
from asyncclients.ratelimit.quota import Quota
from asyncclients.stores.clock import SECOND, StoreClock, micros
from asyncclients.stores.config import HEARTBEAT, PROBE_INTERVAL, SEND_GRACE, TTL
from asyncclients.stores.fallback import NO_MEMBERS, Membership
from asyncclients.stores.lease_book import MOST, LeaseBook
from asyncclients.stores.protocol import LeaseRequest, LeaseResponse, QuotaSpec
from asyncclients.stores.shares import NONE, Block, contains

if TYPE_CHECKING:
    from asyncclients.ratelimit.limiter import Limiter
    from asyncclients.stores.config import StoreConfig

_UNKNOWN_EPOCH = "?"
"""No ledger's name: what is in the log of the one that answered is older than it seems."""
_HUNGRY = 0.1
"""Seconds between two beats of a process that has no share."""
_EVEN = 1.25
"""The burst where calls are spaced evenly: a slot that is late by a little is made up for."""


class SyncState:
    """One scope's standing with the store.

    Attributes:
        clock: the store's clock.
        membership: who lives, as was last heard; nobody while this process is not counted.
        is_idle: the store was told that this process has sent nothing for a while.
        last_response_at: loop instant of the last answer; -inf before the first.
        heartbeat_at: loop instant of the next sign of life.
        unavailable_until: before this instant the vendor serves nobody, as it said.
        accepted, rejected: our calls that the vendor let in, or did not, of which the
            store has not heard.
        others_accepted, others_rejected: those of other processes, by the last answer.
        clock_suspect: the store's clock was set; what it granted meanwhile is not to be used.
    """

    def __init__(self, local: Limiter, slots: LeaseBook, terms: StoreConfig) -> None:
        self._local, self._slots, self._terms = local, slots, terms
        self._epoch = ""
        self._other_quotas: frozenset[str] = frozenset()
        self.clock = StoreClock()
        self.membership = NO_MEMBERS
        self.is_idle = False
        self._held: Block = NONE
        self._renew_at = -math.inf
        self.last_response_at = self.heartbeat_at = -math.inf
        self.accepted = self.rejected = 0
        self.unavailable_until = -math.inf
        self.others_accepted = self.others_rejected = 0
        self.clock_suspect = False
        self._seen: tuple[int, int] | None = None  # the ledger's counts

    def periods(self) -> list[float]:
        """The periods of the quotas, in seconds; never empty."""
        return [quota.period for quota in self._local.quotas] or [HEARTBEAT]

    def quotas(self) -> list[Quota]:
        """Return all quotas in force: this process's own, and those of other programs."""
        foreign = (name.split("/") for name in self._other_quotas)
        others = [Quota(int(limit), int(period) / SECOND) for limit, period in foreign]
        return [*self._local.quotas, *others]

    def due_at(self) -> float:
        """Return the loop instant at which the store is to be told of this process again."""
        return (
            min(self.heartbeat_at, self._renew_at) if self._slots.in_flight else self.heartbeat_at
        )

    def request(
        self,
        now: float,
        demand: int,
        priority: int,
        *,
        returns: bool,
        leave: bool,
        idle: bool,
        every: float,
    ) -> LeaseRequest:
        """What is to be said at *now*, by one who could use *demand* slots and beats *every* s."""
        slots, terms, shortest = self._slots, self._terms, min(self.periods())
        wanted = min(MOST, max(0, demand - len(slots.leases)))
        if len(slots.arrived) > MOST:
            wanted = 0  # first tell all that was used
        pause_until = self._local.paused_until if self.rejected else self.unavailable_until
        beat = self._beats(now, leave=leave, idle=idle, every=every)
        renews = beat or self._renews(now)
        return LeaseRequest(
            process=terms.process,
            epoch=self._known_epoch(now, returns=returns),
            new_epoch=uuid4().hex[:12],
            recovering=returns,
            # Who has spoken before, however long ago, knows that an empty store has forgotten.
            assume_spent=terms.assume_spent or self._epoch != "",
            quotas=self._paces(now),
            arrived=tuple(
                (number, micros(now - at)) for number, at in islice(slots.arrived.items(), MOST)
            ),
            in_flight=tuple(islice(slots.in_flight, MOST)) if renews else (),
            released=tuple(islice(slots.released, MOST)),
            first=slots.numbers(wanted),
            count=wanted,
            priority=int(priority),
            accepted=self.accepted,
            rejected=self.rejected,
            pause=micros(max(0.0, pause_until - now)),
            heartbeat=beat,
            goodbye=leave,
            idle=idle,
            share_held=self._held,
            heartbeat_due=micros(every),
            lease=micros(min(terms.lease, shortest / 4)),
            grace=micros(SEND_GRACE),
            ttl=micros(max(TTL, 3 * every)),
            min_retry=micros(min(0.25, max(0.005, shortest / 8))),
            recovery_hold=micros(max(self.periods())),
            detection_time=micros(PROBE_INTERVAL + 2 * terms.timeout + terms.lease + SEND_GRACE),
        )

    def _beats(self, now: float, *, leave: bool, idle: bool, every: float) -> bool:
        """Return whether a sign of life is due; at once when the process is no longer idle."""
        wakes = self.is_idle and not idle
        if leave or (now < self.heartbeat_at and not wakes):
            return False
        self.is_idle, self.heartbeat_at = idle, now + every
        self._renew_at = now + min(HEARTBEAT, *self.periods())
        return True

    def _renews(self, now: float) -> bool:
        """Return whether calls in flight are to be listed again: once a period at least."""
        if now < self._renew_at:
            return False
        self._renew_at = now + min(HEARTBEAT, *self.periods())
        return True

    def _known_epoch(self, now: float, *, returns: bool) -> str:
        """The ledger in which this process's calls of the last period are."""
        if self.clock_suspect:
            return _UNKNOWN_EPOCH
        longest = max(self.periods()) + SEND_GRACE + self._terms.lease
        if not returns and now - self.last_response_at > longest:
            return ""
        return self._epoch

    def _paces(self, now: float) -> tuple[QuotaSpec, ...]:
        state = self._local.snapshot(now)
        return tuple(
            _pace(quota, state.rate_factor, bursts=state.bursts) for quota in self._local.quotas
        )

    def apply(
        self, claim: LeaseRequest, grant: LeaseResponse, asked_at: float, heard_at: float
    ) -> float:
        """Take in the answer to *claim*; return the loop instant at which it was written."""
        self.last_response_at = heard_at
        self._count(claim, grant)
        self._note_share(claim, grant, asked_at, heard_at)
        self._check_epoch(claim.epoch, grant.epoch, heard_at)
        self._note_other_quotas(claim, grant)
        self._check_clock(claim, leapt=self.clock.leapt(asked_at, heard_at, grant.now))
        return self.clock.hear(asked_at, heard_at, grant.now)

    def _note_share(
        self, claim: LeaseRequest, grant: LeaseResponse, asked_at: float, heard_at: float
    ) -> None:
        if claim.goodbye:
            self.membership, self._held = NO_MEMBERS, NONE
        elif claim.heartbeat:
            self._held = (grant.start, grant.size)
            self.membership = Membership(
                peers=grant.peers,
                start=grant.start,
                size=grant.size,
                due_at=asked_at + claim.heartbeat_due / SECOND,
                until=asked_at + claim.ttl / SECOND,
                idle=claim.idle,
            )
            if not contains(self._held, claim.share_held):
                self.heartbeat_at = heard_at  # confirm it, so that others can have the rest
            elif not grant.size:
                self.heartbeat_at = min(self.heartbeat_at, heard_at + _HUNGRY)
        elif grant.hungry:
            self.heartbeat_at = heard_at

    def _check_clock(self, claim: LeaseRequest, *, leapt: bool) -> None:
        self.clock_suspect = leapt or (self.clock_suspect and claim.epoch != _UNKNOWN_EPOCH)
        if leapt:
            logger.warning(
                "limit store %s: its clock was set forward; the window counts as spent",
                self._terms.display_name,
            )

    def _count(self, claim: LeaseRequest, grant: LeaseResponse) -> None:
        self.accepted -= claim.accepted
        self.rejected -= claim.rejected
        if self._seen is None or grant.epoch != self._epoch:
            self._seen = (grant.accepted, grant.rejected)
            claim = replace(claim, accepted=0, rejected=0)
        admitted, refused = self._seen
        self._seen = (grant.accepted, grant.rejected)
        self.others_accepted = max(0, grant.accepted - admitted - claim.accepted)
        self.others_rejected = max(0, grant.rejected - refused - claim.rejected)

    def _check_epoch(self, known: str, epoch: str, now: float) -> None:
        if known not in {"", epoch, _UNKNOWN_EPOCH}:
            logger.warning(
                "limit store %s lost its data: the window counts as spent", self._terms.display_name
            )
        if epoch != self._epoch:
            self.heartbeat_at = now  # list what is in flight, and this process
        self._epoch = epoch

    def _note_other_quotas(self, claim: LeaseRequest, grant: LeaseResponse) -> None:
        strangers = frozenset(grant.quotas) - {quota.name for quota in claim.quotas}
        if strangers - self._other_quotas:
            self._other_quotas = strangers
            own, all_ = ", ".join(map(str, self._local.quotas)), ", ".join(map(str, self.quotas()))
            logger.warning(
                "another process configured other quotas for this credential: %s in all, %s here; "
                "all apply",
                *(all_, own),
            )
        self._other_quotas = strangers


def _pace(quota: Quota, share: float, *, bursts: bool) -> QuotaSpec:
    return QuotaSpec(
        limit=quota.limit,
        period=micros(quota.period),
        interval=micros(quota.period / quota.limit / RATE_SAFETY / share),
        burst=TokenBucket(quota, 0.0).full_burst if bursts else _EVEN,
    )
