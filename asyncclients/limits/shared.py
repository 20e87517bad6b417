"""Where the limits of many processes meet: what a scheduler asks of a limiter, whoever keeps it.

The limiter of `limiter.py` is one process's own. A store (`asyncclients.stores`)
puts a shared one in its place, with the same questions and answers. Questions
are answered at once, from what this process holds; the store is asked in the
background, and the scheduler is pumped when something came of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from asyncclients.errors import AsyncClientsError
    from asyncclients.limits.limiter import Limiter, LimiterState
    from asyncclients.limits.permit import Permit
    from asyncclients.limits.priority import Priority
    from asyncclients.limits.quota import Quota
    from asyncclients.limits.ratelimit_headers import Signal


class Admission(Protocol):
    """How many calls may be sent, and when; see `Limiter` for what each answer means."""

    @property
    def quotas(self) -> tuple[Quota, ...]: ...
    def ready_at(self, now: float, spare: int = 0, *, even: bool = False) -> float: ...
    def take(self, now: float) -> Permit: ...
    def answered(self, permit: Permit, now: float, signal: Signal | None) -> None: ...
    def lost(self, permit: Permit, now: float) -> None: ...
    def returned(self, permit: Permit, now: float) -> None: ...
    def refused(
        self, now: float, retry_after: float | None, permit: Permit | None = None
    ) -> None: ...
    def earliest(self, calls: int, now: float) -> float: ...
    def add(self, quota: Quota, now: float) -> None: ...
    def is_idle(self, now: float) -> bool: ...
    def snapshot(self, now: float) -> LimiterState: ...


class Queue(Protocol):
    """What a shared limiter asks of its scheduler."""

    def demand(self) -> tuple[int, Priority]:
        """How many calls of the best waiting class could go now, and which class that is."""
        ...

    def pump(self) -> None:
        """Something changed: look again."""
        ...

    def fail(self, error: AsyncClientsError) -> None:
        """No call can ever go: end those that wait with *error*."""
        ...


class SharedLimits(Protocol):
    """One pool's line to a store."""

    def limiter(self, key: str, local: Limiter, queue: Queue, *, vendor: str = "") -> Admission:
        """The limiter of scope *key*; it obeys *local* as well and serves *queue*.

        *vendor* names the scope in log lines.
        """
        ...

    def forget(self, limiter: Admission) -> None:
        """Drop *limiter*, which `limiter` returned and which is idle."""
        ...

    async def aclose(self) -> None:
        """Give back what is held and close the line, in bounded time. Idempotent."""
        ...


class LimitStore(Protocol):
    """What `SessionPool(limits=...)` takes. It is bound to no loop and survives a fork."""

    def open(self, *, cold: bool) -> SharedLimits:
        """A line for one pool; called inside the running loop.

        *cold*: where the store knows nothing of a scope, its window counts as spent.
        """
        ...
