"""The values that one call is made of.

An [`Endpoint`][asyncclients.core.endpoint.Endpoint] is one row of a vendor's
manual. `endpoint.request(...)` makes a `Request`, the transport makes an outcome of
it: a `Response`, or a `NoResponse` that knows whether anything was sent. All
are plain frozen values; nothing here does anything. Those of each call are left
out of Python's collector's walks (`gc=False`): they are never part of a circle.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextvars import ContextVar
from functools import partial
from types import NoneType
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    NamedTuple,
    ParamSpec,
    Protocol,
    TypeVar,
)

import msgspec

from asyncclients.arguments import check_count, check_headers, check_seconds, check_type
from asyncclients.core.path_template import expand, placeholders
from asyncclients.errors import AsyncClientsError
from asyncclients.ratelimit.quota import Priority

if TYPE_CHECKING:
    from asyncclients.ratelimit.quota import Quota

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
P = ParamSpec("P")
R = TypeVar("R")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How calls are made, as opposed to what they say.

    Attributes:
        priority: strict class in the queue.
        timeout: seconds for one attempt, from its permit to the end of its
            reply; None takes the pool's.
        deadline: seconds for the whole call, queueing and retries included;
            None waits as long as it takes.
        max_attempts: requests per call at the most, from 1; None takes the
            retry policy's.
        flow: calls of one flow share one turn in the queue with each other
            flow of the same priority; None is a flow of its own.
        retry_unsafe: repeat also operations whose repetition may do the thing twice.
        headers: further request headers; they never replace the credential.
    """

    priority: Priority = Priority.INTERACTIVE
    timeout: float | None = None
    deadline: float | None = None
    max_attempts: int | None = None
    flow: str | None = None
    retry_unsafe: bool = False
    headers: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        for name in ("timeout", "deadline"):
            if (seconds := getattr(self, name)) is not None:
                advice = (
                    f"As in with_options({name}=30.0); leave it out to wait as long as it takes"
                )
                check_seconds(name, seconds, advice=advice)
        if self.max_attempts is not None:
            advice = "It counts the first attempt too: use max_attempts=1 to never retry"
            check_count("max_attempts", self.max_attempts, advice=advice)
        # A number would be in a class of its own: neither interactive nor background.
        check_type("priority", self.priority, Priority, "priority=Priority.BACKGROUND")
        check_type("flow", self.flow, (str, NoneType), "flow='nightly'")
        check_type("retry_unsafe", self.retry_unsafe, bool, "retry_unsafe=True")
        if self.headers is not None:
            check_headers(self.headers)


class OutgoingRequest(NamedTuple):
    """A request that has its permit and is about to go out.

    Attributes:
        scope: one-way name of its origin and credential.
        quotas: what its scope allows.
        idempotent: may it be repeated?
    """

    scope: str
    quotas: tuple[Quota, ...]
    idempotent: bool


class SendHook(Protocol):
    """Hears of each request that the code under it puts on the wire."""

    def before_send(self, request: OutgoingRequest, /) -> Awaitable[None] | None:
        """*request* goes out when this, and what it returns, is done; not if it raises."""

    def on_rate_limited(self) -> None:
        """The vendor refused the last one by rate."""


class CallContext(NamedTuple):
    """What surrounding code asks of the calls under it."""

    priority: Priority
    flow: str | None
    hook: SendHook | None = None


_lane: ContextVar[CallContext | None] = ContextVar("asyncclients_lane", default=None)
current_call_context = _lane.get


class call_context:  # noqa: N801 - used as a statement, like those of contextlib
    """Make every call inside the block at least as patient as *priority*.

    Backfills run the caller's own coroutines this way: whatever client they
    use, their calls wait behind interactive ones, share *flow*'s turn, and
    tell *watch* before anything leaves.
    """

    __slots__ = ("_lane", "_token")

    def __init__(
        self, priority: Priority, flow: str | None = None, watch: SendHook | None = None
    ) -> None:
        self._lane = CallContext(priority, flow, watch)

    def __enter__(self) -> None:
        self._token = _lane.set(self._lane)

    def __exit__(self, *_: object) -> None:
        _lane.reset(self._token)


class Request(msgspec.Struct, Generic[T_co], frozen=True, kw_only=True, gc=False):
    """One call, ready to be sent.

    Attributes:
        endpoint: the row it came from.
        path: relative to the vendor's base, each parameter encoded.
        params: query parameters; None and UNSET values are left out.
        body: the object that becomes the body, None for no body.
        idempotent: may this very call be repeated?
        headers: of this call alone.
    """

    endpoint: Endpoint[T_co]
    path: str
    params: Mapping[str, Any] | None = None
    body: Any = None
    idempotent: bool = False
    headers: Mapping[str, str] | None = None


class Endpoint(msgspec.Struct, Generic[T_co], frozen=True):
    """One operation of a vendor, as its manual has it.

    Attributes:
        operation: `resource.method`, as in `contacts.create`.
        method: HTTP method.
        path: relative to the vendor's base, with `{placeholders}`.
        returns: what the reply decodes to; `type(None)` where the reply
            carries nothing.
        idempotent: whether a repetition leaves the vendor in the same state.
        idempotency_note: the reason for `idempotent` where its method does not say it.
        encoding: how the body travels.
        expects: the one status that means success; None for any 2xx.
        documented: whether the vendor's document prints this method and path.
        max_batch_size: how many rows its method takes at most, as one list; 0 where it
            takes one row.
        result_fields: where it returns `Response`, the JSON fields of a result: a body
            with `error` and none of them is an error; None to accept any body.
    """

    operation: str
    method: Literal["GET", "POST", "PUT", "DELETE", "PATCH"]
    path: str
    returns: type[T_co]
    idempotent: bool
    idempotency_note: str = ""
    encoding: Literal["json", "form"] = "json"
    expects: int | None = None
    documented: bool = True
    max_batch_size: int = 0
    result_fields: frozenset[str] | None = None

    @property
    def placeholders(self) -> tuple[str, ...]:
        """The names that `request` wants as keywords, in path order."""
        return placeholders(self.path)

    def request(
        self,
        *,
        body: Any = None,
        params: Mapping[str, Any] | None = None,
        idempotent: bool | None = None,
        headers: Mapping[str, str] | None = None,
        **path: str,
    ) -> Request[T_co]:
        """A request of this endpoint.

        Raises:
            ValueError: a path parameter is empty, a dot segment, or has
                control characters.
            TypeError: a path parameter is missing or unknown.
        """
        filled = expand(self.path, path) if path or "{" in self.path else self.path
        return Request(
            endpoint=self,
            path=filled,
            params=params,
            body=body,
            idempotent=self.idempotent if idempotent is None else idempotent,
            headers=headers,
        )


class Response(msgspec.Struct, frozen=True, gc=False):
    """An answer, whole: its status, its headers, its body (decompressed)."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        # A body may echo a credential, and a traceback may print this value.
        return f"<Response {self.status}, {len(self.body)} bytes>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class NoResponse(msgspec.Struct, frozen=True):
    """No usable answer.

    Attributes:
        sent: `no` only where it is certain that nothing left this machine.
        error: the class that stands for what happened.
        why: in words, free of credentials.
        advice: what to do about it.
        final: repeating cannot help.
    """

    sent: Literal["no", "maybe"]
    error: type[AsyncClientsError]
    why: str
    advice: str = ""
    final: bool = False


Outcome = Response | NoResponse


class Send(Protocol):
    """What a resource needs of its client: a way to make one call."""

    def __call__(self, request: Request[T], /) -> Coroutine[Any, Any, T]: ...


class Resource:
    """A group of operations of one vendor; holds a way to send, not the client."""

    def __init__(self, send: Send) -> None:
        self._send = send

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


def operation(endpoint: Endpoint[Any]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Note on a method which endpoint it calls; the method itself is unchanged."""

    def note(method: Callable[P, R]) -> Callable[P, R]:
        method.endpoint = endpoint  # type: ignore[attr-defined]
        return method

    return note


def endpoint_of(method: Callable[..., Any]) -> Endpoint[Any] | None:
    """The endpoint that *method* was noted with, also where arguments are bound by `partial`."""
    while isinstance(method, partial):
        method = method.func
    found: Endpoint[Any] | None = getattr(method, "endpoint", None)
    return found if isinstance(found, Endpoint) else None
