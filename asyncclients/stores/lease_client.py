"""The talk of one scope with the store: one claim at a time, in the background.

A claim goes out when slots are wanted, when there is news that others wait for,
and as a sign of life, less often when the process is idle. A claim may be repeated: numbers that were asked for in
vain are freed. Whatever a store raises, no call hangs on it: see `silence.py`.
"""

from __future__ import annotations

import asyncio
import math
from contextvars import Context
from random import Random
from typing import TYPE_CHECKING

from asyncclients.core.events import logger
from asyncclients.errors import ConfigurationError, error_text
from asyncclients.ratelimit.timer import Timer
from asyncclients.stores.clock import SECOND
from asyncclients.stores.config import StoreUnavailableError
from asyncclients.stores.lease_book import Lease, LeaseBook
from asyncclients.stores.outage_state import OutageState
from asyncclients.stores.protocol import LeaseRequest, LeaseResponse
from asyncclients.stores.sync_state import SyncState

if TYPE_CHECKING:
    from asyncclients.ratelimit.limiter import Limiter
    from asyncclients.ratelimit.protocol import BacklogProtocol
    from asyncclients.stores.config import Backend, ScopeCount, StoreConfig
    from asyncclients.stores.outage_log import OutageLog

_AFTER_ERROR = 0.05
"""Seconds after which the store is asked again when the talk was ended from outside."""
_MOST_LESSONS = 5000
"""Calls of others from which one answer teaches: more teach nothing new."""


class LeaseClient:
    """What is said to the store, and heard from it, for one scope.

    Args:
        key: one-way name of the scope.
        backend: the store.
        terms: how it is used.
        local: this process's limiter: its quotas, and the pace it has learned.
        queue: who waits.

    Attributes:
        slots: what is held, and what the store has yet to hear.
        outage: what may be sent without the store.
        contenders: other processes that waited in the same class, lately.
    """

    def __init__(
        self,
        key: str,
        local: Limiter,
        queue: BacklogProtocol,
        *,
        backend: Backend,
        terms: StoreConfig,
        crowd: ScopeCount,
        log: OutageLog,
        first_slot: int = 1,
    ) -> None:
        self.key, self._local, self._queue = key, local, queue
        self._backend, self._terms, self._crowd = backend, terms, crowd
        self._log = log
        self.slots = LeaseBook(first_slot)
        self._loop = asyncio.get_running_loop()
        self._sync = SyncState(local, self.slots, terms)
        self.outage = OutageState(self._sync, terms)
        self._random = Random(terms.process)  # noqa: S311 - a different one in each process
        self._ask_at = -math.inf
        self._used_at = self._loop.time()
        self._timer = Timer(self._loop, self._start)
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.contenders = 0

    # --- What the limiter asks ------------------------------------------------------

    def request_slots(self, now: float) -> None:
        """Slots are wanted. Those that we give back may be ours again at once."""
        self._wake_at(now if self.slots.released else max(now, self._ask_at), now)

    def report(self, now: float, *, urgent: bool = False) -> None:
        """There is something to tell."""
        self._wake_at(now if urgent else now + self._flush(), now)

    def on_sent(self, now: float) -> None:
        """A call is sent."""
        self._used_at = now

    def on_rate_limited(self, now: float) -> None:
        """The vendor refused a call: that concerns all."""
        self._sync.rejected += 1
        self.report(now, urgent=True)

    def unavailable(self, now: float) -> None:
        """The vendor is unavailable and says for how long: all processes pause."""
        self._sync.unavailable_until = self._local.paused_until
        self.report(now, urgent=True)

    def on_accepted(self) -> None:
        """The vendor let a call in: that teaches all."""
        self._sync.accepted += 1

    def opens_at(self, now: float) -> float:
        """The earliest instant at which the store may give another slot."""
        return now if self._ask_at <= now else self._ask_at + self._terms.lease

    def is_at_rest(self) -> bool:
        """True if the store answers, knows all, and was told that this process is idle."""
        counted = self._sync.membership.peers > 0 and not self._sync.is_idle
        busy = self._task is not None or self.outage.failures or counted
        slots = self.slots
        return not (busy or slots.leases or slots.in_flight or slots.has_unreported())

    # --- When to talk ---------------------------------------------------------------

    def _flush(self) -> float:
        return min(0.25, max(0.005, min(self._sync.periods()) / 20))

    def _active(self, now: float) -> bool:
        return bool(
            self.slots.in_flight
            or self._queue.backlog()[0]
            or now < self._used_at + self._crowd.idle_timeout()
        )

    def _wake_at(self, at: float, now: float) -> None:
        if self._task is not None or self._closed:
            return  # what is due is looked up again when the answer is in
        if at <= now:
            self._start()
        else:
            self._timer.set(at)

    def _start(self) -> None:
        self._timer.cancel()
        if self._task is None:
            # In a context of its own: it serves all calls, not the one that came first.
            self._task = self._loop.create_task(self._run(), context=Context())
            self._task.add_done_callback(self._ended)

    def _plan(self, now: float) -> None:
        """Set the timer for what has to be said next, if nobody asks for more."""
        slots = self.slots
        at = self.outage.probe_at()
        if at == math.inf:
            if slots.has_unreported() or self._sync.rejected or self._sync.clock_suspect:
                at = now + self._flush()
            if slots.leases:
                at = min(at, slots.leases[-1].lapses_at)
            at = min(at, self._sync.due_at())
        counted = not self.outage.failures and self._sync.membership.peers > 0
        if at < math.inf and (
            self._active(now) or slots.has_unreported() or slots.leases or counted
        ):
            self._wake_at(at, now)

    # --- The talk -------------------------------------------------------------------

    async def _run(self) -> None:
        await self._exchange()
        self._task = None
        now = self._loop.time()
        self._plan(now)
        self._queue.dispatch()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Where the talk was ended from outside, or by an error, calls still wait: try again soon."""
        if self._task is task:
            self._task = None
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.error("the exchange with the limit store failed", exc_info=error)
        if (task.cancelled() or error is not None) and not self._closed:
            self._timer.set(self._loop.time() + max(self._flush(), _AFTER_ERROR))

    async def _exchange(self, *, leave: bool = False) -> None:
        asked_at = self._loop.time()
        account, slots = self._sync, self.slots
        slots.expire(asked_at, max(account.periods()))
        demand, priority = self._queue.backlog()
        if leave or self.outage.fallback is not None:
            demand = 0  # a silent store is asked for a sign of life only
        returns = self.outage.others_may_be_sending(asked_at)
        idle = not self._active(asked_at)
        claim = account.request(
            asked_at,
            demand,
            priority,
            returns=returns,
            leave=leave,
            idle=idle,
            every=self._crowd.beat(idle=idle, live=account.membership.peers),
        )
        told = slots.snapshot(claim.arrived)
        try:
            grant = await self._backend.apply(self.key, claim)
            slots.acknowledge(told, set(claim.released))
            self._on_response(claim, grant, asked_at)
        except StoreUnavailableError as why:
            self._on_outage(claim, asked_at, str(why), why.advice)
        except ConfigurationError as error:
            self._refused(claim, asked_at, error)
        except BaseException as failure:  # of a driver, or of ours: no call may hang on it
            slots.drop_leases()
            ended = isinstance(failure, asyncio.CancelledError) and _is_cancelled()
            if ended or isinstance(failure, (KeyboardInterrupt, SystemExit)):
                slots.released.update(range(claim.first, claim.first + claim.count))
                raise
            self._on_outage(
                claim, asked_at, f"{type(failure).__name__}: {error_text(failure)}"[:200]
            )

    def _refused(self, claim: LeaseRequest, asked_at: float, error: ConfigurationError) -> None:
        """Configuration error: fatal on first contact, an outage afterwards."""
        if self._log.has_worked:
            self._on_outage(claim, asked_at, error.message, error.advice or "")
            return
        self.slots.released.clear()
        self._queue.fail(error)

    def _on_outage(self, claim: LeaseRequest, asked_at: float, why: str, advice: str = "") -> None:
        now = self._loop.time()
        self.slots.released.update(range(claim.first, claim.first + claim.count))
        self._sync.heartbeat_at = now
        if not self.outage.on_failure(now):
            return
        if not self._log.has_worked and self._terms.when_down == "safe_share":
            self._queue.fail(_unreachable(self._terms.display_name, why, advice))
        if self.outage.fallback is None:
            self.slots.drop_leases()
            share = self.outage.start(now)
            self._log.begin(self.key, asked_at, why, advice, share.outlook)

    def _on_response(self, claim: LeaseRequest, grant: LeaseResponse, asked_at: float) -> None:
        heard_at = self._loop.time()
        base = self._sync.apply(claim, grant, asked_at, heard_at)
        lease = claim.lease / SECOND
        for offset, opens in enumerate(grant.opens_in):
            usable_at = base + opens / SECOND
            self.slots.leases.append(Lease(usable_at, usable_at + lease, claim.first + offset))
        if self._sync.clock_suspect:
            self.slots.drop_leases()
        self._ask_at = base + grant.retry_in / SECOND
        if grant.contenders:  # not all at the same instant, nor always in the same order
            self._ask_at += self._random.random() * lease / 2
        self.contenders = grant.contenders
        self.outage.stop()
        self._log.end(heard_at)
        self._learn(heard_at, grant.pause / SECOND)

    def _learn(self, now: float, pause: float) -> None:
        """What other processes met belongs to the quota, so to all."""
        feedback, account = self._local.feedback, self._sync
        for _ in range(min(account.others_accepted, _MOST_LESSONS)):
            feedback.on_success()
        if account.others_rejected:
            self._local.on_rate_limited(now, pause or None)

    async def aclose(self) -> None:
        """Tell the last news and leave; in bounded time, whatever the store does."""
        self._closed = True
        self._timer.cancel()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        self.slots.drop_leases()
        if self._sync.last_response_at > -math.inf and self.outage.fallback is None:
            await self._exchange(leave=True)


def _is_cancelled() -> bool:
    """True if the running task was cancelled; else a `CancelledError` is the driver's own."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _unreachable(store: str, why: str, advice: str) -> ConfigurationError:
    """The store never answered, so the usage of other processes is unknown."""
    advice = advice or "Start it or correct its address"
    return ConfigurationError(
        f"the shared limit store {store} could not be reached: {why}",
        advice=f"{advice}; when_down='local' sends without it",
    )
