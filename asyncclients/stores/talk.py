"""The talk of one scope with the store: one claim at a time, in the background.

A claim goes out when slots are wanted, when there is news that others wait for,
and as a sign of life. The first failure is asked again at once, since it may be
a stale connection; the second begins an outage, which ends with the first
answer. A claim may be repeated: numbers that were asked for in vain are freed.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextvars import Context
from itertools import islice
from random import Random
from typing import TYPE_CHECKING
from uuid import uuid4

from asyncclients.core.events import logger
from asyncclients.core.pacing import PACE, Pacer
from asyncclients.errors import ConfigurationError
from asyncclients.stores.claim import Claim, Grant, PacedQuota
from asyncclients.stores.clock import SECOND, StoreClock, micros
from asyncclients.stores.outage import Census, Everything, Nothing, Share, share_of
from asyncclients.stores.slots import MOST, Lease, Slots
from asyncclients.stores.terms import BEAT, GRACE, LINGER, LIVE, PROBE, StoreSilentError

if TYPE_CHECKING:
    from asyncclients.core.limiter import Limiter
    from asyncclients.core.quota import Quota
    from asyncclients.core.shared import Queue
    from asyncclients.stores.terms import Backend, Terms


class Talk:
    """What is said to the store, and heard from it, for one scope.

    Args:
        key: one-way name of the scope.
        backend: the store.
        terms: how it is used.
        local: this process's limiter: its quotas, and the pace it has learned.
        slots: what is held and what is to be told.
        queue: who waits.
        heard: called with each answer, before the queue is pumped.

    Attributes:
        share: what may be sent without the store; None while it answers.
        rivals: other processes that waited in the same class, lately.
        refusals: refusals by the vendor that the store has not heard of.
    """

    def __init__(
        self,
        key: str,
        local: Limiter,
        slots: Slots,
        queue: Queue,
        *,
        backend: Backend,
        terms: Terms,
        heard: Callable[[Grant, int, float], None],
    ) -> None:
        self._key, self._local, self._slots, self._queue = key, local, slots, queue
        self._backend, self._terms, self._on_heard = backend, terms, heard
        self._loop = asyncio.get_running_loop()
        self._clock = StoreClock()
        self._census = Census(live=0, rank=0, stable=0.0, heard_at=-math.inf)
        self._random = Random(terms.me)  # noqa: S311 - a different one in each process
        self._epoch = ""
        self._strangers: frozenset[str] = frozenset()
        self._failures = 0
        self._heard_at = self._failed_at = -math.inf
        self._ask_at = self._beat_at = -math.inf
        self._used_at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.share: Share | None = None
        self.rivals = 0
        self.refusals = 0

    # --- What the limiter asks ------------------------------------------------------

    def ask(self, now: float) -> None:
        """Slots are wanted."""
        self._wake_at(max(now, self._ask_at), now)

    def report(self, now: float, *, urgent: bool = False) -> None:
        """There is something to tell."""
        self._wake_at(now if urgent else now + self._flush(), now)

    def used(self, now: float) -> None:
        """A call is sent."""
        self._used_at = now

    def probed(self, now: float) -> bool:
        """Was the store asked in vain a moment ago?"""
        return now < self._failed_at + PROBE + 2 * self._terms.timeout

    def opens_at(self, now: float) -> float:
        """The earliest instant at which the store may give another slot."""
        return now if self._ask_at <= now else self._ask_at + self._terms.lease

    # --- When to talk ---------------------------------------------------------------

    def _periods(self) -> list[float]:
        return [quota.period for quota in self._local.quotas] or [BEAT]

    def _flush(self) -> float:
        return min(0.25, max(0.005, min(self._periods()) / 20))

    def _active(self, now: float) -> bool:
        return bool(
            self._slots.in_flight or self._queue.demand()[0] or now < self._used_at + LINGER
        )

    def _wake_at(self, at: float, now: float) -> None:
        if self._task is not None or self._closed:
            return  # what is due is looked up again when the answer is in
        if at <= now:
            self._start()
        elif self._timer is None or self._timer.when() > at:
            self._stop_timer()
            self._timer = self._loop.call_at(at, self._start)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> None:
        self._stop_timer()
        if self._task is None:
            # In a context of its own: it serves all calls, not the one that came first.
            self._task = self._loop.create_task(self._run(), context=Context())

    def _plan(self, now: float) -> None:
        """Set the timer for what has to be said next, if nobody asks for more."""
        slots = self._slots
        at = math.inf
        if self.share is not None or self._failures:
            at = self._failed_at + (PROBE if self._failures > 1 else 0.0)
        else:
            if slots.news() or self.refusals:
                at = now + self._flush()
            if slots.leases:
                at = min(at, slots.leases[-1].lapses_at)
            at = min(at, self._beat_at)
        if at < math.inf and (self._active(now) or slots.news() or slots.leases):
            self._wake_at(at, now)

    # --- The talk -------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._exchange()
        finally:
            self._task = None
        now = self._loop.time()
        self._plan(now)
        self._queue.pump()

    async def _exchange(self, *, leave: bool = False) -> None:
        asked_at = self._loop.time()
        claim = self._claim(asked_at, leave=leave)
        settled = dict(islice(self._slots.settled.items(), len(claim.settled)))
        try:
            grant = await self._backend.exchange(self._key, claim)
        except StoreSilentError as why:
            self._missed(claim, why)
        except ConfigurationError as error:
            self._slots.freed.clear()
            self._queue.fail(error)
        else:
            self._slots.told(settled, set(claim.freed))
            self.refusals -= claim.refusals
            self._hear(claim, grant, asked_at)

    def _claim(self, now: float, *, leave: bool) -> Claim:
        slots, terms = self._slots, self._terms
        slots.tidy(now, max(self._periods()))
        wanted, priority = self._queue.demand()
        wanted = min(MOST, max(0, wanted - len(slots.leases)))
        if leave or len(slots.settled) > MOST:
            wanted = 0  # first tell all that was used
        beat = now >= self._beat_at and not leave
        if beat:
            renew = min(BEAT, *self._periods()) if slots.in_flight else BEAT
            self._beat_at = now + renew
        paused = max(0.0, self._local.paused_until - now)
        return Claim(
            me=terms.me,
            epoch=self._known_epoch(now),
            fresh=uuid4().hex[:12],
            returns=self._returns(now),
            cold=terms.cold,
            quotas=self._paces(now),
            settled=tuple(
                (number, micros(now - at)) for number, at in islice(slots.settled.items(), MOST)
            ),
            renewed=tuple(islice(slots.in_flight, MOST)) if beat else (),
            freed=tuple(islice(slots.freed, MOST)),
            first=slots.numbers(wanted),
            wanted=wanted,
            priority=int(priority),
            refusals=self.refusals,
            pause=micros(paused) if self.refusals else 0,
            beat=beat,
            leave=leave,
            lease=micros(min(terms.lease, min(self._periods()) / 4)),
            grace=micros(GRACE),
            live=micros(LIVE),
            poll=micros(min(0.25, max(0.005, min(self._periods()) / 8))),
            spent=micros(max(self._periods())),
            notice=micros(PROBE + 2 * terms.timeout + terms.lease + GRACE),
        )

    def _known_epoch(self, now: float) -> str:
        """The ledger in which this process's calls of the last period are."""
        longest = max(self._periods()) + GRACE + self._terms.lease
        if self.share is None and now - self._heard_at > longest:
            return ""
        return self._epoch

    def _returns(self, now: float) -> bool:
        """May others send right now, until they notice that the store is back?"""
        if self.share is None or self._terms.when_down == "pause":
            return False
        return self._terms.when_down == "local" or now > self._heard_at + max(self._periods())

    def _paces(self, now: float) -> tuple[PacedQuota, ...]:
        state = self._local.snapshot(now)
        return tuple(_pace(quota, state.rate_share, state.bursts) for quota in self._local.quotas)

    def _missed(self, claim: Claim, why: StoreSilentError) -> None:
        now = self._failed_at = self._loop.time()
        self._failures += 1
        self._slots.freed.update(range(claim.first, claim.first + claim.wanted))
        self._beat_at = now
        if self._failures == 1:
            return
        if self._heard_at == -math.inf and self._terms.when_down == "safe_share":
            self._queue.fail(_unreachable(self._terms.store, why))
        if self.share is None:
            self._slots.drop_leases()
            self.share = self._alone(now)
            logger.warning(
                "the shared limit store is silent (%s); until it answers, %s",
                why,
                self.share.outlook,
            )

    def _alone(self, now: float) -> Share:
        if self._terms.when_down == "local":
            return Everything()
        if self._terms.when_down == "pause":
            return Nothing()
        over_by = now + self._terms.lease + GRACE
        return share_of(self._local.quotas, self._census, self._clock, now, over_by)

    def _hear(self, claim: Claim, grant: Grant, asked_at: float) -> None:
        heard_at = self._heard_at = self._loop.time()
        base = self._clock.hear(asked_at, heard_at, grant.now)
        lease = claim.lease / SECOND
        for offset, opens in enumerate(grant.opens):
            usable_at = base + opens / SECOND
            self._slots.leases.append(Lease(usable_at, usable_at + lease, claim.first + offset))
        self._ask_at = base + grant.wait / SECOND
        if grant.rivals:  # not all at the same instant, nor always in the same order
            self._ask_at += self._random.random() * lease / 2
        self.rivals = grant.rivals
        if claim.beat:
            self._census = Census(
                live=grant.live,
                rank=grant.rank,
                stable=grant.stable / SECOND,
                heard_at=heard_at,
            )
        self._recognise(grant.epoch, heard_at)
        self._note_strangers(claim, grant)
        self._on_heard(grant, claim.refusals, heard_at)

    def _recognise(self, epoch: str, now: float) -> None:
        if self.share is not None:
            logger.warning("the shared limit store answers again")
        elif self._epoch not in {"", epoch} and now - self._heard_at < max(self._periods()):
            logger.warning("the shared limit store lost its data; the window counts as spent")
        if epoch != self._epoch:
            self._beat_at = now  # list what is in flight, and this process
        self._epoch = epoch
        self.share = None
        self._failures = 0

    def _note_strangers(self, claim: Claim, grant: Grant) -> None:
        strangers = frozenset(grant.quotas) - {quota.name for quota in claim.quotas}
        if strangers - self._strangers:
            logger.warning(
                "another program obeys other quotas for this credential (calls/microseconds: %s); "
                "all of them hold, so the stricter wins",
                ", ".join(sorted(strangers)),
            )
        self._strangers = strangers

    async def aclose(self) -> None:
        """Tell the last news and leave; in bounded time, whatever the store does."""
        self._closed = True
        self._stop_timer()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        self._slots.drop_leases()
        if self._epoch and self.share is None:
            await self._exchange(leave=True)


def _pace(quota: Quota, share: float, bursts: bool) -> PacedQuota:
    return PacedQuota(
        limit=quota.limit,
        period=micros(quota.period),
        interval=micros(quota.period / quota.limit / PACE / share),
        burst=Pacer(quota, 0.0).full_burst if bursts else 1.0,
    )


def _unreachable(store: str, why: StoreSilentError) -> ConfigurationError:
    """The store never answered: nobody knows what others send."""
    return ConfigurationError(
        f"the shared limit store {store} could not be reached: {why}",
        advice="Start it or correct its address; when_down='local' sends without it",
    )
