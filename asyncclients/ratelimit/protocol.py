"""The interfaces between scheduler, limiter and limit store.

`Limiter` serves one process. A limit store (`asyncclients.stores`) replaces it by a
limiter whose quota is shared between processes, with the same methods. Each method
returns at once, from what this process holds; the store is asked in the background, and
calls `dispatch` of the scheduler when something has changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

from asyncclients.ratelimit.quota import ONE, Demand, Priority

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncclients.errors import AsyncClientsError
    from asyncclients.ratelimit.control import Control
    from asyncclients.ratelimit.headers import RateLimitInfo
    from asyncclients.ratelimit.limiter import Delay, Limiter, LimiterState
    from asyncclients.ratelimit.quota import Quota
    from asyncclients.ratelimit.slots import Permit


ControlCallback: TypeAlias = "Callable[[Control, Control, float], None]"


class LimiterProtocol(Protocol):
    """The methods of a limiter that a scheduler uses; see `Limiter`."""

    @property
    def quotas(self) -> tuple[Quota, ...]: ...
    @property
    def configured(self) -> tuple[Quota, ...]: ...
    @property
    def by_operation(self) -> bool: ...
    def kind_of(self, demand: Demand) -> Demand: ...
    def openings(
        self, now: float, demand: Demand = ONE, *, reserve: int = 0, spaced: bool = False
    ) -> dict[str, float]: ...
    def next_permit_at(
        self, now: float, demand: Demand = ONE, *, reserve: int = 0, spaced: bool = False
    ) -> float: ...
    def acquire(self, now: float, demand: Demand = ONE) -> Permit: ...
    def on_response(self, permit: Permit, now: float, info: RateLimitInfo | None) -> None: ...
    def on_no_response(self, permit: Permit, now: float, *, was_sent: bool = True) -> None: ...
    def on_rate_limited(
        self, now: float, retry_after: float | None, permit: Permit | None = None
    ) -> None: ...
    def nth_permit_at(
        self, calls: int, now: float, demand: Demand = ONE, priority: Priority = Priority.BACKGROUND
    ) -> float: ...
    def delay(
        self, now: float, demand: Demand = ONE, priority: Priority = Priority.BACKGROUND
    ) -> Delay: ...
    def add(self, quota: Quota, now: float) -> None: ...
    def is_idle(self, now: float) -> bool: ...
    def snapshot(self, now: float) -> LimiterState: ...


class BacklogProtocol(Protocol):
    """The methods of a scheduler that a shared limiter uses; see `Scheduler`."""

    def backlog(self) -> tuple[int, Priority, Demand]: ...
    def dispatch(self) -> None: ...
    def refuse_late(self) -> None: ...
    def fail_waiting(self, error: AsyncClientsError) -> None: ...


class SharedLimiterFactory(Protocol):
    """One pool's connection to a limit store."""

    def limiter(
        self,
        key: str,
        local: Limiter,
        queue: BacklogProtocol,
        *,
        vendor: str = "",
        on_control: ControlCallback | None = None,
    ) -> LimiterProtocol:
        """Return the limiter of scope *key*. It obeys *local* as well, and serves *queue*.

        *vendor* names the scope in log lines and in the store. *on_control* is called when an
        operator pauses the scope, resumes it or sets its quotas: with the settings before and
        now, and the seconds until the pause ends.
        """
        ...

    def forget(self, limiter: LimiterProtocol) -> None:
        """Drop *limiter*, which `limiter` returned and which is idle."""

    async def aclose(self) -> None:
        """Give back all held slots and close the connection, in bounded time. Idempotent."""


class LimitStore(Protocol):
    """The type of `SessionPool(limits=...)`. It is bound to no event loop and survives a fork."""

    def open(self, *, assume_spent: bool) -> SharedLimiterFactory:
        """Return the connection of one pool; called inside the running loop.

        *assume_spent*: a scope that the store does not know starts with its quota spent.
        """
        ...
