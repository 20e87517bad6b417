"""Fair queueing of waiting calls between flows.

Start-time fair queueing (Goyal, Vin and Cheng, 1996): each call takes one turn in virtual
time, and the flow whose next turn starts first is served first. Idle flows accumulate no
credit.
"""

from __future__ import annotations

import math
from collections import deque
from heapq import heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from asyncclients.ratelimit.slots import Permit

_IDLE_FLOWS = 64
"""Flows without a waiter that are kept before they are searched for removal."""


class Flow:
    """The waiters of one flow, and the start of its next turn in virtual time.

    Attributes:
        waiters: in order; cancelled ones stay until their turn.
        waiting: number of waiters that are not cancelled.
        start: virtual time at which the next turn starts, a whole number.
        order: of two flows with the same start, the lower goes first.
        queued: whether the flow is in the heap of its queue.
    """

    __slots__ = ("order", "queued", "start", "waiters", "waiting")

    def __init__(self) -> None:
        self.waiters: deque[asyncio.Future[Permit]] = deque()
        self.waiting = 0
        self.start = 0.0
        self.order = 0
        self.queued = False


class FlowQueue:
    """The waiters of one priority class, fair between flows. O(log flows) per call.

    Attributes:
        heap: the flows that have waiters, the next one first.
        waiting: number of waiters that are not cancelled.
    """

    __slots__ = ("_flows", "_order", "_virtual_time", "heap", "waiting")

    def __init__(self) -> None:
        self._flows: dict[str | None, Flow] = {}
        self.heap: list[tuple[float, int, str | None]] = []
        self._virtual_time = 0.0
        self._order = 0
        self.waiting = 0

    def push(self, name: str | None, waiter: asyncio.Future[Permit], *, front: bool) -> Flow:
        """Add *waiter* at the end of flow *name*, or at its front; return the flow."""
        flow = self._flows.get(name)
        if flow is None:
            flow = self._flows[name] = Flow()
        (flow.waiters.appendleft if front else flow.waiters.append)(waiter)
        flow.waiting += 1
        self.waiting += 1
        if len(self._flows) > 2 * len(self.heap) + _IDLE_FLOWS:
            self._drop_idle_flows()
        if not flow.queued:
            flow.start = max(flow.start, self._virtual_time)
            self._enqueue(name, flow)
        return flow

    def _enqueue(self, name: str | None, flow: Flow) -> None:
        flow.queued = True
        self._order += 1
        flow.order = self._order
        heappush(self.heap, (flow.start, flow.order, name))

    def pop(self) -> asyncio.Future[Permit] | None:
        """Remove and return the next waiter that is not cancelled; None if there is none."""
        while self.heap:
            start, _, name = heappop(self.heap)
            flow = self._flows[name]
            flow.queued = False
            waiter = self._next_waiter(flow)
            if waiter is None:
                del self._flows[name]
                continue
            flow.waiting -= 1
            self.waiting -= 1
            self._virtual_time, flow.start = start, start + 1.0
            if flow.waiters:
                self._enqueue(name, flow)
            elif not self.heap:
                # No flow is waiting: forget the turns taken so far.
                self._flows.clear()
                self._virtual_time = start + 1.0
            return waiter
        return None

    def leave(self, flow: Flow) -> None:
        """Count a cancelled waiter of *flow*; clear the queue if it was the last one."""
        flow.waiting -= 1
        self.waiting -= 1
        if not self.waiting:
            self.heap.clear()
            self._flows.clear()

    def ahead(self, name: str | None, *, front: bool = False) -> int:
        """Return how many waiters would go before a new waiter of flow *name*."""
        flow = self._flows.get(name)
        own, start, order = 0, self._virtual_time, math.inf
        if flow is not None:
            own = 0 if front else flow.waiting
            start = flow.start if flow.queued else max(flow.start, start)
            order = flow.order if flow.queued else order
        count, turn = own, start + own
        for other in self._flows.values():
            if other is flow or not other.waiting:
                continue
            # Of two turns that start at the same time, the flow that was queued first wins.
            wins_tie = (-other.start, other.order) < (-start, order)
            count += min(other.waiting, max(0, int(turn - other.start) + wins_tie))
        return count

    def is_waiting(self, name: str | None) -> bool:
        """Return whether a waiter of flow *name* is in the queue."""
        flow = self._flows.get(name)
        return flow is not None and flow.waiting > 0

    def contending(self, name: str | None, calls: int, planned: Mapping[str | None, int]) -> int:
        """Return how many calls of other flows go before the last of *calls* of flow *name*.

        A flow that waits has *planned* calls left; one without a plan has always more.
        """
        return sum(
            min(calls, planned.get(other, calls))
            for other, flow in self._flows.items()
            if flow.waiting and other != name
        )

    def _drop_idle_flows(self) -> None:
        """Drop flows without a waiter whose turns are all in the past."""
        self._flows = {
            name: flow
            for name, flow in self._flows.items()
            if flow.waiters or flow.queued or flow.start > self._virtual_time
        }

    @staticmethod
    def _next_waiter(flow: Flow) -> asyncio.Future[Permit] | None:
        while flow.waiters:
            waiter = flow.waiters.popleft()
            if not waiter.done():
                return waiter
        return None
