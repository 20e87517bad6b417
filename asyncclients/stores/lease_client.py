"""Sends the requests of one scope to a store, in the background; `lease_state.py` decides.

A request is sent when a call needs a slot, when there is something to report (at once if it
concerns other processes), and as a heartbeat, which shows the store that this process still runs.
No call hangs, whatever a backend raises.
"""

from __future__ import annotations

import asyncio
import math
from contextvars import Context
from typing import TYPE_CHECKING

from asyncclients.errors import ConfigurationError, error_text
from asyncclients.ratelimit.quota import ONE, Demand
from asyncclients.ratelimit.timer import Timer
from asyncclients.stores.clock import SECOND
from asyncclients.stores.protocol import LeaseRequest, StoreUnavailableError

if TYPE_CHECKING:
    from asyncclients.ratelimit.protocol import BacklogProtocol, ControlCallback
    from asyncclients.stores.lease_state import LeaseState
    from asyncclients.stores.protocol import Backend

_RETRY_AFTER_ERROR = 0.05
"""Seconds until the next request if one was cancelled from outside or met a bug."""


class LeaseClient:
    """Sends requests for *state* to *backend*, and wakes *queue*, the calls that wait.

    *on_control* is called when an operator's settings change.
    """

    def __init__(
        self,
        state: LeaseState,
        queue: BacklogProtocol,
        backend: Backend,
        on_control: ControlCallback | None = None,
    ) -> None:
        self.state, self._queue, self._backend = state, queue, backend
        self._on_control = on_control
        self._loop = asyncio.get_running_loop()
        state.used_at = self._loop.time()
        self._timer = Timer(self._loop, self._start)
        self._lapse_timer = Timer(self._loop, self._start)
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    # --- When to send a request -----------------------------------------------------

    def request_slots(self, now: float, demand: Demand = ONE) -> None:
        """Request slots when that is of use.

        At once if slots are to be released, which may be granted again, or if calls of a better
        class wait than at the last request.
        """
        state = self.state
        is_urgent = state.slots.released or self._queue.backlog()[1] < state.last_priority
        self.send_request_at(now if is_urgent else state.wait(demand, now).until, now)

    def report(self, now: float) -> None:
        """Send a request before the reports are late."""
        self.send_request_at(now + self.state.report_delay(), now)

    def on_sent(self, now: float) -> None:
        """Record that a call is sent."""
        self.state.used_at = now
        if not self.state.slots.leases:
            self._lapse_timer.cancel()
        self.report(now)

    def send_request_at(self, at: float, now: float) -> None:
        """Send a request at *at*, unless one is sent earlier."""
        if self._task is not None or self._closed:
            return  # `_plan` looks again when the response is in
        if at <= now:
            self._start()
        else:
            self._timer.set(at)

    def is_at_rest(self) -> bool:
        """Return whether no request is under way or due."""
        return self._task is None and self.state.is_at_rest()

    def _start(self) -> None:
        self._timer.cancel()
        self._lapse_timer.cancel()
        if self._task is None:
            # In a context of its own: it serves all calls, not the one that came first.
            self._task = self._loop.create_task(self._run(), context=Context())
            self._task.add_done_callback(self._on_done)

    async def _run(self) -> None:
        await self._exchange()
        self._task = None
        self._plan(self._loop.time())
        self._queue.dispatch()

    def _plan(self, now: float) -> None:
        """Set the timers for the next request that is due without another event."""
        leases = self.state.slots.leases
        if leases and not self._closed and not self.state.outage.failures:
            self._lapse_timer.set(leases[-1].lapses_at)
        at = self.state.next_request_at(now, self._queue.backlog()[0])
        if at < math.inf:
            self.send_request_at(at, now)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        """Try again soon if the task was cancelled from outside or failed: calls may wait."""
        if self._task is task:
            self._task = None
        error = None if task.cancelled() else task.exception()
        now, retry_in = self._loop.time(), max(self.state.urgent_delay(), _RETRY_AFTER_ERROR)
        if error is not None:
            self.state.outage_log.on_bug(self.state.key, now, error, retry_in)
        if (task.cancelled() or error is not None) and not self._closed:
            self._timer.set(now + retry_in)

    # --- Requests -------------------------------------------------------------------

    async def _exchange(self, *, goodbye: bool = False) -> None:
        state, slots, sent_at = self.state, self.state.slots, self._loop.time()
        waiting, priority, demand = self._queue.backlog()
        request = state.request(sent_at, waiting, priority, demand, goodbye=goodbye)
        arrived = {number: slots.arrived[number] for number, *_ in request.arrived}
        try:
            response = await self._backend.apply(state.key, request)
            slots.acknowledge(arrived, request.released)
            control = state.control
            state.apply(request, response, demand, sent_at, self._loop.time())
            if self._on_control is not None and state.control != control:
                self._on_control(control, state.control, response.held / SECOND)
            self._queue.refuse_late()
        except StoreUnavailableError as error:
            self._on_failure(request, demand, sent_at, error)
        except ConfigurationError as error:  # fatal on first contact, an outage afterwards
            if state.outage_log.has_worked:
                reason = StoreUnavailableError(error.message, error.advice or "")
                self._on_failure(request, demand, sent_at, reason)
            else:
                slots.released.clear()
                self._queue.fail_waiting(error)
        except BaseException as error:  # from a driver, or a bug: no call may hang on it
            slots.drop_leases()
            is_cancelled = isinstance(error, asyncio.CancelledError) and _is_task_cancelled()
            if is_cancelled or isinstance(error, (KeyboardInterrupt, SystemExit)):
                slots.release(request.first, demand, request.count)
                raise
            reason = StoreUnavailableError(f"{type(error).__name__}: {error_text(error)}"[:200])
            self._on_failure(request, demand, sent_at, reason)

    def _on_failure(
        self, request: LeaseRequest, demand: Demand, sent_at: float, error: StoreUnavailableError
    ) -> None:
        state = self.state
        is_outage = state.on_failure(request, demand, sent_at, self._loop.time(), error)
        if is_outage and not state.outage_log.has_worked and state.config.when_down == "safe_share":
            # It never responded, so nothing is known about other processes.
            advice = error.advice or "Start it or correct its address"
            self._queue.fail_waiting(
                ConfigurationError(
                    f"the shared limit store {state.config.display_name} could not be reached: "
                    f"{error}",
                    advice=f"{advice}; when_down='local' sends without it",
                )
            )

    async def aclose(self) -> None:
        """Send the last report and leave; in bounded time, whatever the store does."""
        self._closed = True
        self._timer.cancel()
        self._lapse_timer.cancel()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        self.state.slots.drop_leases()
        if self.state.last_response_at > -math.inf and self.state.outage.fallback is None:
            await self._exchange(goodbye=True)


def _is_task_cancelled() -> bool:
    """Return whether the running task was cancelled, not a task of the driver."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
