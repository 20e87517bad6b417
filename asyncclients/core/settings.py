"""What calls have in common: all calls of a pool, and all calls of a client."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Any, TypedDict

import msgspec
from msgspec.structs import force_setattr
from multidict import istr

from asyncclients.core.auth import Header, HeaderLogin, Login
from asyncclients.core.endpoint import CallContext, Options
from asyncclients.core.events import Callback
from asyncclients.core.retry import RetryPolicy
from asyncclients.core.scope import Scope
from asyncclients.core.vendor import Vendor
from asyncclients.ratelimit.quota import Priority
from asyncclients.ratelimit.scheduler import PermitRequest


class OptionFields(TypedDict, total=False):
    """The fields of `Options`, for those who give some of them."""

    priority: Priority
    timeout: float | None
    deadline: float | None
    max_attempts: int | None
    flow: str | None
    retry_unsafe: bool
    headers: Mapping[str, str] | None


class PoolConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the pool lays down for all calls."""

    timeout: float
    retry: RetryPolicy
    max_response_bytes: int
    listeners: tuple[Callback[Any], ...] = ()


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What one client lays down for its calls.

    Attributes:
        scope: finds or opens what all clients of the credential share.
        vendor: the vendor, as data.
        login: the credential, None for none.
        base_url: where requests go, with a slash at its end.
        pool: the pool's.
        options: the client's.
        account: the account's own name, where the vendor has one besides the credential.
        timeout: seconds for one attempt.
        credential: the header that carries the login; None where none does.
        default_request: the place in the queue of a call without a deadline and a lane.
    """

    scope: Callable[[], Scope]
    vendor: Vendor
    login: Login | None
    base_url: str
    pool: PoolConfig
    options: Options
    account: str = ""
    timeout: float = 0.0
    credential: Header | None = None
    default_request: PermitRequest | None = None

    def __post_init__(self) -> None:
        # What follows from the rest is found out here and not by each call.
        login, options = self.login, self.options
        force_setattr(self, "timeout", options.timeout or self.pool.timeout)
        header = (istr(login.header), login.value) if isinstance(login, HeaderLogin) else None
        force_setattr(self, "credential", header)  # also None: a copy may have another login
        usual = PermitRequest(options.priority, options.flow) if options.deadline is None else None
        force_setattr(self, "default_request", usual)

    @property
    def policy(self) -> RetryPolicy:
        """The pool's retry policy, as far as the client's options leave it alone."""
        policy, most = self.pool.retry, self.options.max_attempts
        if most is None:
            return policy
        return msgspec.structs.replace(policy, max_attempts=most)

    def permit_request(self, lane: CallContext | None) -> PermitRequest:
        """The place in the queue that the options and the surrounding *lane* ask for."""
        options = self.options
        priority, flow, deadline_at = options.priority, options.flow, math.inf
        if options.deadline is not None:
            deadline_at = asyncio.get_running_loop().time() + options.deadline
        if lane is not None:
            priority, flow = max(priority, lane.priority), flow or lane.flow
        return PermitRequest(priority, flow, deadline_at)
