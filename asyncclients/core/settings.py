"""What calls have in common: all calls of a pool, and all calls of a client."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import TypedDict

import msgspec

from asyncclients.core.auth import Login
from asyncclients.core.endpoint import Lane, Options
from asyncclients.core.events import Listener
from asyncclients.core.retry import RetryPolicy
from asyncclients.core.scope import Scope
from asyncclients.core.vendor import Vendor
from asyncclients.limits.priority import Priority
from asyncclients.limits.scheduler import Ticket


class OptionFields(TypedDict, total=False):
    """The fields of `Options`, for those who give some of them."""

    priority: Priority
    timeout: float | None
    deadline: float | None
    max_attempts: int | None
    flow: str | None
    retry_unsafe: bool
    headers: Mapping[str, str] | None


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the pool lays down for all calls."""

    timeout: float
    retry: RetryPolicy
    max_response_bytes: int
    listeners: tuple[Listener, ...] = ()


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What one client lays down for its calls.

    Attributes:
        scope: finds or opens what all clients of the credential share.
        vendor: the vendor, as data.
        login: the credential, None for none.
        base_url: where requests go, with a slash at its end.
        settings: the pool's.
        options: the client's.
    """

    scope: Callable[[], Scope]
    vendor: Vendor
    login: Login | None
    base_url: str
    settings: Settings
    options: Options

    @property
    def policy(self) -> RetryPolicy:
        """The pool's retry policy, as far as the client's options leave it alone."""
        policy, most = self.settings.retry, self.options.max_attempts
        if most is None:
            return policy
        return msgspec.structs.replace(policy, max_attempts=most, max_requests=most)

    @property
    def timeout(self) -> float:
        """Seconds for one attempt."""
        return self.options.timeout or self.settings.timeout

    def ticket(self, lane: Lane | None) -> Ticket:
        """The place in the queue that the options and the surrounding *lane* ask for."""
        options = self.options
        priority, flow, deadline_at = options.priority, options.flow, math.inf
        if options.deadline is not None:
            deadline_at = asyncio.get_running_loop().time() + options.deadline
        if lane is not None:
            priority, flow = max(priority, lane.priority), flow or lane.flow
        return Ticket(priority, flow, deadline_at)
