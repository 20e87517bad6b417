"""Fair queueing of waiting calls between flows.

Start-time fair queueing (Goyal, Vin and Cheng, 1996): each call takes one turn in virtual
time, and the flow whose next turn starts first is served first. Idle flows accumulate no
credit.

Calls of one kind take the same from the same quotas (`Demand`). Each kind has a heap of the
flows that have waiters of it. A flow has one sequence of turns for all its kinds, so the
order between two kinds is that of their first waiters.
"""

from __future__ import annotations

import math
from collections import deque
from heapq import heappop, heappush, heapreplace
from typing import TYPE_CHECKING

from asyncclients.ratelimit.quota import ONE, Demand

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from asyncclients.ratelimit.slots import Permit

_IDLE_FLOWS = 64
"""Flows without a waiter that are kept before they are searched for removal."""


class Flow:
    """The waiters of one flow, and the start of its next turn in virtual time.

    Attributes:
        waiters: by kind, in order, each with its number; cancelled ones stay until their turn.
        waiting: number of waiters that are not cancelled.
        start: virtual time at which the next turn starts, a whole number.
        order: of two flows with the same start, the lower goes first.
        queued: number of heaps that the flow is in.
    """

    __slots__ = ("order", "queued", "start", "waiters", "waiting")

    def __init__(self) -> None:
        self.waiters: dict[Demand, deque[tuple[int, asyncio.Future[Permit]]]] = {}
        self.waiting = 0
        self.start = 0.0
        self.order = 0
        self.queued = 0


class Kind:
    """The waiters of one kind.

    Attributes:
        heap: the flows that have waiters, the next one first. A flow that took a turn in
            another kind has an entry with its earlier start.
        waiting: number of waiters that are not cancelled.
    """

    __slots__ = ("heap", "waiting")

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, str | None]] = []
        self.waiting = 0


class FlowQueue:
    """The waiters of one priority class, fair between flows. O(log flows) per call.

    Attributes:
        kinds: those that have waiters, cancelled ones included.
        waiting: number of waiters that are not cancelled.
    """

    __slots__ = ("_flows", "_number", "_order", "_queued", "_virtual_time", "kinds", "waiting")

    def __init__(self) -> None:
        self._flows: dict[str | None, Flow] = {}
        self.kinds: dict[Demand, Kind] = {}
        self._virtual_time = 0.0
        self._order = self._number = 0
        self._queued = 0  # flows that are in a heap
        self.waiting = 0

    @property
    def is_ordinary(self) -> bool:
        """Whether only calls that take one unit of the quotas of all calls wait."""
        return ONE in self.kinds and len(self.kinds) == 1

    def push(
        self,
        name: str | None,
        waiter: asyncio.Future[Permit],
        demand: Demand = ONE,
        *,
        front: bool,
    ) -> tuple[Flow, Kind]:
        """Add *waiter* at the end of flow *name*, or at its front; return where it is."""
        flow = self._flows.get(name)
        if flow is None:
            flow = self._flows[name] = Flow()
        kind = self.kinds.get(demand)
        if kind is None:
            kind = self.kinds[demand] = Kind()
        waiters = flow.waiters.get(demand)
        if waiters is None:
            waiters = flow.waiters[demand] = deque()
        self._number += 1
        if front:
            waiters.appendleft((-self._number, waiter))
        else:
            waiters.append((self._number, waiter))
        flow.waiting += 1
        kind.waiting += 1
        self.waiting += 1
        if len(self._flows) > 2 * self._queued + _IDLE_FLOWS:
            self._drop_idle_flows()
        if len(waiters) == 1:  # the flow is not in the heap of this kind
            if not flow.queued:
                self._queued += 1
                flow.start = max(flow.start, self._virtual_time)
                self._order += 1
                flow.order = self._order
            flow.queued += 1
            heappush(kind.heap, (flow.start, flow.order, name))
        return flow, kind

    def in_order(self) -> list[Demand]:
        """Return the kinds in the order of their first waiters."""
        if len(self.kinds) == 1:
            return [*self.kinds]
        turns: list[tuple[float, int, int, Demand]] = []
        for demand, kind in [*self.kinds.items()]:
            if (flow := self._first(demand, kind)) is not None:
                turns.append((flow.start, flow.order, flow.waiters[demand][0][0], demand))
        return [turn[-1] for turn in sorted(turns, key=lambda turn: turn[:3])]

    def _first(self, demand: Demand, kind: Kind) -> Flow | None:
        """Return the flow whose turn is next in *kind*; remove the kind if there is none."""
        heap = kind.heap
        while heap:
            _, order, name = heap[0]
            flow = self._flows[name]
            if order != flow.order:
                heapreplace(heap, (flow.start, flow.order, name))
                continue
            waiters = flow.waiters[demand]
            while waiters and waiters[0][1].done():
                waiters.popleft()
            if waiters:
                return flow
            heappop(heap)
            self._leave_heap(flow, demand)
            if not flow.queued:
                del self._flows[name]
        del self.kinds[demand]
        return None

    def _leave_heap(self, flow: Flow, demand: Demand) -> None:
        del flow.waiters[demand]
        flow.queued -= 1
        self._queued -= not flow.queued

    def pop(self, demand: Demand = ONE) -> asyncio.Future[Permit] | None:
        """Remove and return the next waiter of a kind; None if there is none."""
        kind = self.kinds.get(demand)
        if kind is None or (flow := self._first(demand, kind)) is None:
            return None
        waiters, heap = flow.waiters[demand], kind.heap
        waiter = waiters.popleft()[1]
        flow.waiting -= 1
        kind.waiting -= 1
        self.waiting -= 1
        # A flow whose kind was passed over has an earlier start; it takes one turn for that.
        self._virtual_time = start = max(self._virtual_time, flow.start)
        flow.start = start + 1.0
        self._order += 1
        flow.order = self._order
        if waiters:
            heapreplace(heap, (flow.start, flow.order, heap[0][2]))
            return waiter
        heappop(heap)
        self._leave_heap(flow, demand)
        if not heap:
            del self.kinds[demand]
            if not self.kinds:
                # No flow is waiting: forget the turns taken so far.
                self._flows.clear()
                self._virtual_time = start + 1.0
        return waiter

    def leave(self, flow: Flow, kind: Kind) -> None:
        """Count a cancelled waiter of *flow*; clear the queue if it was the last one."""
        flow.waiting -= 1
        kind.waiting -= 1
        self.waiting -= 1
        if not self.waiting:
            self.kinds.clear()
            self._flows.clear()
            self._queued = 0

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

    def same_kind_ahead(self, name: str | None, demand: Demand, *, front: bool = False) -> int:
        """Return how many waiters of its flow and kind would go before a new waiter."""
        flow = self._flows.get(name)
        return 0 if front or flow is None else len(flow.waiters.get(demand, ()))

    def waiting_of(self, name: str | None) -> int:
        """Return the number of waiters of flow *name*."""
        flow = self._flows.get(name)
        return 0 if flow is None else flow.waiting

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
