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
    from asyncclients.ratelimit.headers import RateLimitInfo
    from asyncclients.ratelimit.limiter import Limiter, LimiterState
    from asyncclients.ratelimit.quota import Priority, Quota
    from asyncclients.ratelimit.window import Permit


class LimiterProtocol(Protocol):
    """How many calls may be sent, and when; see `Limiter` for what each answer means."""

    @property
    def quotas(self) -> tuple[Quota, ...]: ...
    def next_permit_at(self, now: float, reserve: int = 0, *, spaced: bool = False) -> float: ...
    def acquire(self, now: float) -> Permit: ...
    def on_response(self, permit: Permit, now: float, signal: RateLimitInfo | None) -> None: ...
    def on_no_response(self, permit: Permit, now: float) -> None: ...
    def cancel(self, permit: Permit, now: float) -> None: ...
    def on_rate_limited(
        self, now: float, retry_after: float | None, permit: Permit | None = None
    ) -> None: ...
    def nth_permit_at(self, calls: int, now: float) -> float: ...
    def add(self, quota: Quota, now: float) -> None: ...
    def is_idle(self, now: float) -> bool: ...
    def snapshot(self, now: float) -> LimiterState: ...


class BacklogProtocol(Protocol):
    """What a shared limiter asks of its scheduler."""

    def backlog(self) -> tuple[int, Priority]:
        """How many calls of the best waiting class could go now, and which class that is."""
        ...

    def dispatch(self) -> None:
        """Something changed: look again."""
        ...

    def fail(self, error: AsyncClientsError) -> None:
        """No call can ever go: end those that wait with *error*."""
        ...


class SharedLimiterFactory(Protocol):
    """One pool's line to a store."""

    def limiter(
        self, key: str, local: Limiter, queue: BacklogProtocol, *, vendor: str = ""
    ) -> LimiterProtocol:
        """The limiter of scope *key*; it obeys *local* as well and serves *queue*.

        *vendor* names the scope in log lines.
        """
        ...

    def forget(self, limiter: LimiterProtocol) -> None:
        """Drop *limiter*, which `limiter` returned and which is idle."""
        ...

    async def aclose(self) -> None:
        """Give back what is held and close the line, in bounded time. Idempotent."""
        ...


class LimitStore(Protocol):
    """What `SessionPool(limits=...)` takes. It is bound to no loop and survives a fork."""

    def open(self, *, cold: bool) -> SharedLimiterFactory:
        """A line for one pool; called inside the running loop.

        *cold*: where the store knows nothing of a scope, its window counts as spent.
        """
        ...
