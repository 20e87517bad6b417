"""Who waits, fair between flows; and how many interactive calls to expect.

Start-time fair queueing (Goyal, Vin and Cheng, 1996): the flow whose turn began
earliest goes first, each call costs one turn, and a flow that was idle gets no
credit for it. Arithmetic only; `scheduler.py` decides.
"""

from __future__ import annotations

import math
from collections import deque
from heapq import heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from asyncclients.ratelimit.window import Permit

_IDLE_FLOWS = 64
"""How many flows without a waiter are remembered at least."""


class Flow:
    """Waiters of one flow, and when its next turn begins in virtual time.

    Attributes:
        waiters: in order, those that gave up included until their turn comes.
        waiting: those that still wait.
        start: when the next turn begins, a whole number.
        order: among flows whose turns begin at the same instant, lower goes first.
    """

    __slots__ = ("order", "queued", "start", "waiters", "waiting")

    def __init__(self) -> None:
        self.waiters: deque[asyncio.Future[Permit]] = deque()
        self.waiting = 0
        self.start = 0.0
        self.order = 0
        self.queued = False


class FlowQueue:
    """The waiters of one class, fair between flows. O(log flows) a call.

    Attributes:
        heap: the flows that have someone in line, the one whose turn is next first.
        waiting: calls that still wait.
    """

    __slots__ = ("_flows", "_order", "_turn", "heap", "waiting")

    def __init__(self) -> None:
        self._flows: dict[str | None, Flow] = {}
        self.heap: list[tuple[float, int, str | None]] = []
        self._turn = 0.0
        self._order = 0
        self.waiting = 0

    def push(self, flow: str | None, waiter: asyncio.Future[Permit], *, front: bool) -> Flow:
        """Add *waiter* at the end of its flow, or at its front; return its flow."""
        line = self._flows.get(flow)
        if line is None:
            line = self._flows[flow] = Flow()
        (line.waiters.appendleft if front else line.waiters.append)(waiter)
        line.waiting += 1
        self.waiting += 1
        if len(self._flows) > 2 * len(self.heap) + _IDLE_FLOWS:
            self._forget_idle()
        if not line.queued:
            line.start = max(line.start, self._turn)
            self._enqueue(flow, line)
        return line

    def _enqueue(self, flow: str | None, line: Flow) -> None:
        line.queued = True
        self._order += 1
        line.order = self._order
        heappush(self.heap, (line.start, line.order, flow))

    def pop(self) -> asyncio.Future[Permit] | None:
        """The next waiter that still waits; None when there is none (and the queue is empty)."""
        while self.heap:
            start, _, flow = heappop(self.heap)
            line = self._flows[flow]
            line.queued = False
            waiter = self._next(line)
            if waiter is None:
                del self._flows[flow]
                continue
            line.waiting -= 1
            self._turn, line.start = start, start + 1.0
            if line.waiters:
                self._enqueue(flow, line)
            elif not self.heap:
                # Nobody competes any more: turns taken so far are forgotten.
                self._flows.clear()
                self._turn = start + 1.0
            return waiter
        return None

    def leave(self, line: Flow) -> None:
        """A waiter of *line* gave up: where it was the last, nobody is in line any more."""
        line.waiting -= 1
        self.waiting -= 1
        if not self.waiting:
            self.heap.clear()
            self._flows.clear()

    def ahead(self, flow: str | None, *, front: bool = False) -> int:
        """How many of those that wait would go before one that *flow* added now."""
        line = self._flows.get(flow)
        own, start, order = 0, self._turn, math.inf
        if line is not None:
            own = 0 if front else line.waiting
            start = line.start if line.queued else max(line.start, start)
            order = line.order if line.queued else order
        count, turn = own, start + own
        for other in self._flows.values():
            if other is line or not other.waiting:
                continue
            # A turn that begins at the same instant goes first where it was in line first.
            first = (-other.start, other.order) < (-start, order)
            count += min(other.waiting, max(0, int(turn - other.start) + first))
        return count

    def _forget_idle(self) -> None:
        """Drop flows that have no waiter and no turn to make up for."""
        self._flows = {
            flow: line
            for flow, line in self._flows.items()
            if line.waiters or line.queued or line.start > self._turn
        }

    @staticmethod
    def _next(line: Flow) -> asyncio.Future[Permit] | None:
        while line.waiters:
            waiter = line.waiters.popleft()
            if not waiter.done():
                return waiter
        return None
