"""The values of a call: the endpoint, the request built from it, and the outcome.

An [`Endpoint`][asyncclients.core.endpoint.Endpoint] is one row of a vendor's manual.
`endpoint.request(...)` returns a `Request`; sending it gives an outcome: a `Response`, or a
`NoResponse` with the certainty that nothing was sent, or without. The structs of each call are not
tracked by the garbage collector (`gc=False`): they are never part of a cycle.

A value in a path is percent-encoded to exactly one segment (RFC 3986 §2.1, §3.3), so that
`../admin` cannot leave it; a value that cannot be a segment is rejected.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, Protocol, TypeVar, cast
from urllib.parse import quote

import msgspec

from asyncclients.arguments import PositiveInt, check_value, did_you_mean, shown
from asyncclients.errors import AsyncClientsError, InvalidValueError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=msgspec.Struct)

IDEMPOTENT = frozenset({"GET", "PUT", "DELETE"})
"""Methods that are idempotent, of those that vendors use."""
_ONE = 1
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Request(msgspec.Struct, Generic[T_co], frozen=True, kw_only=True, gc=False):
    """One request, before it is encoded.

    Attributes:
        endpoint: its endpoint.
        path: relative to the base URL, with encoded parameters.
        params: query parameters; None and UNSET values are left out.
        body: the object to encode; None for no body.
        idempotent: whether this request may be retried.
        headers: further headers.
        argument: the struct to check before anything is sent; None for no check.
    """

    endpoint: Endpoint[T_co]
    path: str
    params: Mapping[str, Any] | None = None
    body: Any = None
    idempotent: bool = False
    headers: Mapping[str, str] | None = None
    argument: msgspec.Struct | None = None


class Endpoint(msgspec.Struct, Generic[T_co], frozen=True):
    """One operation of a vendor, as its manual describes it.

    Attributes:
        operation: `resource.method`, as in `contacts.create`.
        method: HTTP method.
        path: relative to the base URL, with `{placeholders}`.
        returns: type of the decoded response; `type(None)` if it has no content.
        idempotent: whether sending it twice has the effect of sending it once; by default whether
            its method is idempotent (RFC 9110 §9.2.2).
        idempotency_note: the reason for `idempotent` if it does not follow from the method.
        encoding: of the body.
        expects: the one status that means success; None for any 2xx.
        max_batch_size: most rows that its method takes as one list; 0 if it takes one row.
        reader: returns the result from the decoded body, or from None for an empty one, if its
            JSON has another form than `returns`. It raises ValueError for what is no result.
        result_fields: JSON fields of a result, for an endpoint that has a `reader` (by default
            those of `returns`) or returns `Response` (by default any): a body with `error` and
            none of them is an error.
        takes: the struct that its method takes; None if it takes other arguments.
        cost: units of each quota that a call takes, at least 1.

    Raises:
        ConfigurationError: *cost* is no whole number of at least 1.
    """

    operation: str
    method: Literal["GET", "POST", "PUT", "DELETE", "PATCH"]
    path: str
    returns: type[T_co]
    idempotent: bool = cast("bool", None)
    idempotency_note: str = ""
    encoding: Literal["json", "form"] = "json"
    expects: int | None = None
    max_batch_size: int = 0
    reader: Callable[[Any], T_co] | None = None
    result_fields: frozenset[str] | None = None
    takes: type[msgspec.Struct] | None = None
    cost: int = 1

    def __post_init__(self) -> None:
        if cast("bool | None", self.idempotent) is None:
            msgspec.structs.force_setattr(self, "idempotent", self.method in IDEMPOTENT)
        if self.cost is not _ONE:
            check_value("cost", self.cost, PositiveInt)

    @property
    def placeholders(self) -> tuple[str, ...]:
        """The keywords that `request` needs, in the order of the path."""
        return tuple(_PLACEHOLDER.findall(self.path))

    def request(
        self,
        *,
        body: Any = None,
        params: Mapping[str, Any] | None = None,
        idempotent: bool | None = None,
        headers: Mapping[str, str] | None = None,
        argument: msgspec.Struct | None = None,
        **path: str,
    ) -> Request[T_co]:
        """Return a request of this endpoint.

        *argument* is the struct that the caller gave, to be checked before anything is sent; by
        default *body*, if that is a struct.

        Raises:
            InvalidValueError: *argument* is no struct of the type that the method takes.
            ValueError: a path parameter is empty, a dot segment, or has control characters.
            TypeError: a path parameter is missing or unknown.
        """
        argument = body if argument is None else argument
        if self.takes is not None and not isinstance(argument, self.takes):
            self.check_argument_type(argument)
        filled = expand(self.path, path) if path or "{" in self.path else self.path
        return Request(
            endpoint=self,
            path=filled,
            params=params,
            body=body,
            idempotent=self.idempotent if idempotent is None else idempotent,
            headers=headers,
            argument=argument if isinstance(argument, msgspec.Struct) else None,
        )

    def check_argument_type(
        self, argument: object, takes: type[msgspec.Struct] | None = None
    ) -> None:
        """Check that *argument* is a struct of the type *takes*, by default that of the endpoint.

        Raises:
            InvalidValueError: it is not.
        """
        takes = takes or self.takes
        if takes is None or isinstance(argument, takes):
            return
        fields = msgspec.structs.fields(takes)
        names = [field.name for field in fields if field.required] or [fields[0].name]
        raise self._wrong(
            f"takes a {takes.__name__}, not {shown(argument)}",
            f"{takes.__name__}({', '.join(f'{name}=...' for name in names)})",
        )

    def as_structs(self, name: str, value: object, kind: type[S]) -> list[S]:
        """Return *value*, the argument *name*, as a list of structs of one *kind*.

        Raises:
            InvalidValueError: it is no list of them.
        """
        is_list = isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))
        items: list[Any] = [*cast("Iterable[Any]", value)] if is_list else [None]
        if not all(isinstance(item, kind) for item in items):
            raise self._wrong(
                f"{name} must be a list of {kind.__name__}, not {shown(cast('Any', value))}",
                f"[{kind.__name__}(...), ...]",
            )
        return items

    def as_object(self, name: str, value: object) -> dict[str, Any]:
        """Return *value*, the argument *name*, as a dict.

        Raises:
            InvalidValueError: it is no mapping.
        """
        if not isinstance(value, Mapping):
            form = f"{name}={{'field': 'value'}}"
            raise self._wrong(f"{name} must be a mapping, not {shown(value)}", form)
        return dict(cast("Mapping[str, Any]", value))

    def _wrong(self, message: str, form: str) -> InvalidValueError:
        return InvalidValueError(
            message, operation=self.operation, method=self.method, advice=f"Write it as in {form}"
        )


class Response(msgspec.Struct, frozen=True, gc=False):
    """A complete response; the body is decompressed."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        # A body may echo a credential, and a traceback may print this value.
        return f"<Response {self.status}, {len(self.body)} bytes>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class NoResponse(msgspec.Struct, frozen=True):
    """No usable response.

    Attributes:
        sent: `no` only if it is certain that nothing was sent.
        error: class of the error to raise.
        why: the failure, without credentials.
        advice: what to do.
        final: whether a retry cannot help.
    """

    sent: Literal["no", "maybe"]
    error: type[AsyncClientsError]
    why: str
    advice: str = ""
    final: bool = False


Outcome = Response | NoResponse


class Send(Protocol):
    """Make one call. A resource gets this from its client."""

    def __call__(self, request: Request[T], /) -> Coroutine[Any, Any, T]: ...


class Resource:
    """A group of operations of one vendor. It holds `send`, not the client."""

    def __init__(self, send: Send) -> None:
        self._send = send

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


def operation(endpoint: Endpoint[Any]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Set `endpoint` as an attribute of a method that calls it; `endpoint_of` reads it."""

    def decorate(method: Callable[P, R]) -> Callable[P, R]:
        method.endpoint = endpoint  # type: ignore[attr-defined]
        return method

    return decorate


def endpoint_of(method: Callable[..., Any]) -> Endpoint[Any] | None:
    """Return the endpoint of *method*, a `partial` of it included; None if it has none."""
    while isinstance(method, partial):
        method = method.func
    found: Endpoint[Any] | None = getattr(method, "endpoint", None)
    return found if isinstance(found, Endpoint) else None


def operations_of(owner: object) -> frozenset[str]:
    """Return the operations of a client or resource: those of its methods and of its modules.

    A module's are those of the endpoints that are its global names, as in an endpoint table.
    """
    kinds = type(owner).__mro__
    modules = {kind.__module__ for kind in kinds}.intersection(sys.modules)
    values = [value for name in modules for value in vars(sys.modules[name]).values()]
    methods = [value for kind in kinds for value in vars(kind).values()]
    endpoints = [*values, *map(endpoint_of, filter(callable, methods))]
    return frozenset(each.operation for each in endpoints if isinstance(each, Endpoint))


def expand(template: str, values: Mapping[str, str]) -> str:
    """Return *template* with each placeholder replaced by its value, as one segment.

    Raises:
        ValueError: a value cannot be a segment.
        TypeError: a value is missing or unknown.
    """
    names = _PLACEHOLDER.findall(template)
    if set(names) != set(values):
        raise TypeError(f"{template} takes {sorted(names)}, got {sorted(values)}")
    return _PLACEHOLDER.sub(lambda match: encode_segment(values[match[1]], match[1]), template)


def encode_segment(value: object, name: str = "id") -> str:
    """Return *value* percent-encoded as exactly one path segment; *name* is for the error.

    Raises:
        ValueError: for an empty value, `.`, `..`, or control characters.
    """
    text = "" if value is None else str(value)
    if text in ("", ".", ".."):
        given = repr(text) if value is not None else "None"
        raise ValueError(f"{name} must not be {given}: it would change the path")
    if _CONTROL.search(text):
        raise ValueError(f"{name} must not contain control characters: {text!r}")
    return quote(text, safe="")


# --- The structs that users fill in ------------------------------------------


class _FieldsMeta(msgspec.StructMeta):
    # Hidden from type checkers, which would take its signature for that of each struct.
    if not TYPE_CHECKING:

        def __call__(self, *values: object, **fields: object) -> object:
            try:
                return super().__call__(*values, **fields)
            except TypeError:
                problem = _problem(self, values, fields)
                if not problem:
                    raise
            raise TypeError(problem)


def _problem(
    cls: type[msgspec.Struct], values: tuple[object, ...], fields: dict[str, object]
) -> str:
    """Return what is wrong with the arguments of *cls*; empty if their names are right."""
    known = cls.__struct_fields__
    for name in fields:
        if name not in known:
            hint = did_you_mean(name, known)
            return f"{cls.__name__} has no field {name!r}{hint}; it has: {', '.join(known)}"
    required = [field.name for field in msgspec.structs.fields(cls) if field.required]
    if values:
        name = next(iter(required or known))
        return f"{cls.__name__} takes its fields by name, as in {cls.__name__}({name}=...)"
    missing = [name for name in required if name not in fields]
    return f"{cls.__name__} needs {' and '.join(map(repr, missing))}" if missing else ""


class Fields(msgspec.Struct, metaclass=_FieldsMeta, frozen=True, kw_only=True):
    """Base of a struct whose fields a user gives by name.

    A wrong field is named with the right ones. The message of msgspec, `Unexpected keyword
    argument 'mail'`, has neither the struct nor its fields.

    Raises:
        TypeError: a field is unknown or missing.
    """


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """Base of a struct that a method makes of its arguments; errors name its fields alone."""

    label = ""
