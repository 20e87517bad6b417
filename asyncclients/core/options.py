"""How calls are made: the options of a client, and the context that surrounds a call."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import NoneType
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypedDict

import msgspec

from asyncclients.arguments import (
    PositiveInt,
    QuotaShare,
    check_headers,
    check_seconds,
    check_type,
    check_value,
)
from asyncclients.ratelimit.quota import ONE, Demand, Priority, Share

if TYPE_CHECKING:
    from collections.abc import Generator

    from asyncclients.ratelimit.scheduler import Scheduler


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How the calls of a client are made.

    Attributes:
        priority: strict class in the queue.
        timeout: seconds for one attempt, from its permit to the end of its response;
            None for the pool's.
        deadline: seconds for the whole call, queueing and retries included; None for no limit.
        max_attempts: most requests per call, from 1; None for the retry policy's.
        share: most of every quota that these calls take, above 0 and at most 1, rounded down to
            whole calls and at least one; what is left stays free for other calls, even if it is
            unused. Clients with the same share and *flow* have it together. None for all.
        flow: name of a flow. Flows of the same priority take turns in the queue;
            calls of one flow share its turn. None is a flow of its own.
        retry_unsafe: also retry operations that are not idempotent, at the risk of duplicates.
        headers: further request headers; they never replace the credential.
    """

    priority: Priority = Priority.INTERACTIVE
    timeout: float | None = None
    deadline: float | None = None
    max_attempts: int | None = None
    flow: str | None = None
    retry_unsafe: bool = False
    headers: Mapping[str, str] | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        for name in ("timeout", "deadline"):
            if (seconds := getattr(self, name)) is not None:
                advice = f"As in with_options({name}=30.0); leave it out for no limit of your own"
                check_seconds(name, seconds, advice=advice)
        advice = "It counts the first attempt too: use max_attempts=1 to never retry"
        check_value("max_attempts", self.max_attempts, PositiveInt | None, advice=advice)
        # A plain number would be a priority class of its own.
        check_type("priority", self.priority, Priority, "priority=Priority.BACKGROUND")
        check_type("flow", self.flow, (str, NoneType), "flow='nightly'")
        check_type("retry_unsafe", self.retry_unsafe, bool, "retry_unsafe=True")
        if self.headers is not None:
            check_headers(self.headers)
        check_value("share", self.share, QuotaShare | None)


class OptionFields(TypedDict, total=False):
    """The fields of `Options`, for type checkers: the keywords of `with_options`."""

    priority: Priority
    timeout: float | None
    deadline: float | None
    max_attempts: int | None
    flow: str | None
    retry_unsafe: bool
    headers: Mapping[str, str] | None
    share: float | None


class OutgoingRequest(NamedTuple):
    """A request that has its permit and is about to be sent; *scope* is a one-way name."""

    scope: str
    scheduler: Scheduler
    idempotent: bool
    demand: Demand = ONE


class SendHook(Protocol):
    """Is called for each request that the code inside a `call_context` sends."""

    def before_send(self, request: OutgoingRequest, /) -> Awaitable[None] | None:
        """Called before *request* is sent; a result is awaited. If it raises, nothing is sent."""

    def on_rate_limited(self) -> None:
        """Called when the vendor has rejected the last request with a 429."""


class CallContext(NamedTuple):
    """Priority, flow, hook and share that surrounding code sets for the calls made inside it."""

    priority: Priority
    flow: str | None
    hook: SendHook | None = None
    share: Share | None = None


_context: ContextVar[CallContext | None] = ContextVar("asyncclients_context", default=None)
current_call_context = _context.get


@contextmanager
def call_context(
    priority: Priority,
    flow: str | None = None,
    hook: SendHook | None = None,
    *,
    share: float | None = None,
) -> Generator[None]:
    """Give the calls inside the block at most *priority*, the flow *flow*, *hook* and *share*.

    *share* is at most that part of every quota, for all calls of *flow* together; a block inside
    another one keeps its share, unless its own is smaller. Backfills run the user's coroutines
    inside one: whichever client these use, their calls wait behind interactive ones, share the
    turn of *flow*, and call *hook*.
    """
    outer = _context.get()
    shares = [] if share is None else [Share(flow or "", share)]
    if outer is not None and outer.share is not None:
        shares.insert(0, outer.share)
    part = min(shares, key=lambda each: each.fraction, default=None)
    token = _context.set(CallContext(priority, flow, hook, part))
    try:
        yield
    finally:
        _context.reset(token)
