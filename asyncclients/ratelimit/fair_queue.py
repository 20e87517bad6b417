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
from collections import defaultdict, deque
from heapq import heappop, heappush, heapreplace
from typing import TYPE_CHECKING

from asyncclients.ratelimit.quota import ONE, Demand

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from asyncclients.ratelimit.slots import Permit

_IDLE_FLOWS = 64
"""Flows that are kept before those without a waiter are searched for removal."""


class Flow:
    """The waiters of one flow, and the start of its next turn in virtual time.

    Attributes:
        waiters: by kind, in order, each with its number; cancelled ones stay until their turn.
        waiting: number of waiters that are not cancelled.
        start: virtual time at which the next turn starts, a whole number.
        order: of two flows with the same start, the lower goes first.
    """

    __slots__ = ("order", "start", "waiters", "waiting")

    def __init__(self) -> None:
        self.waiters = defaultdict[Demand, deque[tuple[int, "asyncio.Future[Permit]"]]](deque)
        self.waiting = self.order = 0
        self.start = 0.0


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

    def __init__(self) -> None:
        self._flows: dict[str | None, Flow] = {}
        self.kinds = defaultdict[Demand, Kind](Kind)
        self._virtual_time = 0.0
        self._order = self._number = self.waiting = 0
        self._most_flows = _IDLE_FLOWS

    @property
    def is_ordinary(self) -> bool:
        """Whether only calls that take one unit of the quotas of all calls wait."""
        return ONE in self.kinds and len(self.kinds) == 1

    def push(
        self, name: str | None, waiter: asyncio.Future[Permit], demand: Demand = ONE, *, front: bool
    ) -> tuple[Flow, Kind]:
        """Add *waiter* at the end of flow *name*, or at its front; return where it is."""
        if len(self._flows) >= self._most_flows:
            self._drop_idle_flows()
        if (flow := self._flows.get(name)) is None:
            flow = self._flows[name] = Flow()
        kind, waiters = self.kinds[demand], flow.waiters[demand]
        if not waiters:  # the flow is not in the heap of this kind
            if len(flow.waiters) == 1:
                flow.start = max(flow.start, self._virtual_time)
                self._order += 1
                flow.order = self._order
            heappush(kind.heap, (flow.start, flow.order, name))
        self._number += 1
        if front:
            waiters.appendleft((-self._number, waiter))
        else:
            waiters.append((self._number, waiter))
        self._count(flow, kind, 1)
        return flow, kind

    def _count(self, flow: Flow, kind: Kind, waiters: int) -> None:
        flow.waiting += waiters
        kind.waiting += waiters
        self.waiting += waiters

    def in_order(self) -> list[Demand]:
        """Return the kinds in the order of their first waiters."""
        if len(self.kinds) == 1:
            return [*self.kinds]
        turns: dict[Demand, tuple[float, int, int]] = {}
        for demand, kind in [*self.kinds.items()]:
            if (flow := self._first(demand, kind)) is not None:
                turns[demand] = flow.start, flow.order, flow.waiters[demand][0][0]
        return sorted(turns, key=turns.__getitem__)

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
            del flow.waiters[demand]
            if not flow.waiters:
                del self._flows[name]
        del self.kinds[demand]
        return None

    def pop(self, demand: Demand = ONE) -> asyncio.Future[Permit] | None:
        """Remove and return the next waiter of a kind; None if there is none."""
        kind = self.kinds.get(demand)
        if kind is None or (flow := self._first(demand, kind)) is None:
            return None
        waiters, heap = flow.waiters[demand], kind.heap
        waiter = waiters.popleft()[1]
        self._count(flow, kind, -1)
        # A flow whose kind was passed over has an earlier start; it takes one turn for that.
        self._virtual_time = start = max(self._virtual_time, flow.start)
        flow.start = start + 1.0
        self._order += 1
        flow.order = self._order
        if waiters:
            heapreplace(heap, (flow.start, flow.order, heap[0][2]))
            return waiter
        heappop(heap)
        del flow.waiters[demand]
        if not heap:
            del self.kinds[demand]
            if not self.kinds:
                # No flow is waiting: forget the turns taken so far.
                self._flows.clear()
                self._virtual_time = start + 1.0
        return waiter

    def leave(self, flow: Flow, kind: Kind) -> None:
        """Count a cancelled waiter of *flow*; clear the queue if it was the last one."""
        self._count(flow, kind, -1)
        if not self.waiting:
            self.kinds.clear()
            self._flows.clear()

    def ahead(self, name: str | None, *, front: bool = False) -> int:
        """Return how many waiters would go before a new waiter of flow *name*."""
        flow = self._flows.get(name)
        own = 0 if front else self.waiting_of(name)
        start, order = self._virtual_time, math.inf
        if flow is not None and flow.waiters:
            start, order = flow.start, flow.order
        elif flow is not None:
            start = max(flow.start, start)
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
            if flow.waiters or flow.start > self._virtual_time
        }
        self._most_flows = 2 * len(self._flows) + _IDLE_FLOWS
