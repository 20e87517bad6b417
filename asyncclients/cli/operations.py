"""From `totango.touchpoints` on a command line to the method it names, with its arguments.

`vendor.resource` is its list for a pull, and for a push the first of `create`,
`upsert_many`, `upsert`, `insert`, `add_record` that it has; `vendor.resource.method` is that one.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import msgspec

import asyncclients
from asyncclients.core.client import VendorClient
from asyncclients.core.codec import from_plain
from asyncclients.core.endpoint import Resource, endpoint_of
from asyncclients.core.pool import SessionPool
from asyncclients.paging import Paginator

CLIENTS = {
    "intouch": "IntouchClient",
    "totango": "TotangoClient",
    "intempt": "IntemptClient",
    "emma": "EmmaClient",
    "digital_onboarding": "DigitalOnboardingClient",
}
_READS = ("list", "list_items", "latest")
_WRITES = ("create", "upsert_many", "upsert", "insert", "add_record")
_SCALARS = {str, int, float}


class Clients:
    """The clients of one pool, each made from the environment when first named.

    Without a pool they have no credentials and never send anything: names and
    arguments can be checked with them before credentials are required.
    """

    def __init__(self, pool: SessionPool | None = None) -> None:
        self._pool = pool
        self._made: dict[str, VendorClient] = {}

    def _client(self, vendor: str) -> VendorClient:
        if vendor not in self._made:
            cls: type[VendorClient] = getattr(asyncclients, CLIENTS[vendor])
            if self._pool is None:
                placeholders = dict.fromkeys(cls.vendor.environment.values(), "placeholder")
                self._made[vendor] = cls.from_env(SessionPool(), placeholders)
            else:
                self._made[vendor] = cls.from_env(self._pool)
        return self._made[vendor]

    def method(self, name: str, verbs: Sequence[str]) -> Callable[..., Any]:
        """The method that *name* means; the first of *verbs* where it names none.

        Raises:
            ValueError: there is no such thing; says what there is.
        """
        vendor, _, rest = name.partition(".")
        if vendor not in CLIENTS:
            raise ValueError(f"there is no vendor {vendor!r}; there are: {', '.join(CLIENTS)}")
        client = self._client(vendor)
        resource, _, verb = rest.partition(".")
        found = vars(client).get(resource)
        if not isinstance(found, Resource):
            names = sorted(
                name for name, held in vars(client).items() if isinstance(held, Resource)
            )
            raise ValueError(f"{vendor} has no {resource!r}; it has: {', '.join(names)}")
        methods = _operations(found)
        wanted = (verb,) if verb else verbs
        for each in wanted:
            if each in methods:
                return methods[each]
        raise ValueError(
            f"{vendor}.{resource} has no {' or '.join(wanted)}; it has: {', '.join(methods)}"
        )

    def read(self, name: str, query: Mapping[str, Any]) -> Callable[[], Any]:
        """What makes the list *name* with the arguments *query*; oldest first by default.

        Raises:
            ValueError: it is no list, or its arguments are wrong or missing.
        """
        method = self.method(name, _READS)
        if get_origin(get_type_hints(method)["return"]) not in (Paginator, list):
            raise ValueError(f"{name} is not a list that can be pulled")
        parameters = inspect.signature(method).parameters
        arguments = _typed(name, method, query, "--query", [*parameters])
        missing = [
            parameter.name
            for parameter in parameters.values()
            if parameter.default is parameter.empty and parameter.name not in arguments
        ]
        if missing:
            given = " ".join(f"--query {each}=VALUE" for each in missing)
            raise ValueError(f"{name} needs {' and '.join(missing)}: give {given}")
        if "sort_by" in parameters:
            arguments = {"sort_by": "created_at", **arguments}
        return partial(method, **arguments)

    def write(self, name: str, bound: Mapping[str, Any]) -> Write:
        """The operation that takes the rows of a push, its other arguments *bound*.

        Raises:
            ValueError: no argument is left for the row, or more than one, or *bound* is wrong.
        """
        method = self.method(name, _WRITES)
        parameters = inspect.signature(method).parameters
        required = [each.name for each in parameters.values() if each.default is each.empty]
        endpoint = endpoint_of(method)
        if not required or endpoint is None or endpoint.method == "GET":
            raise ValueError(f"{name} takes nothing that a row could be")
        arguments = _typed(name, method, bound, "--with", [*parameters])
        free = [each for each in required if each not in arguments]
        if not free:
            raise ValueError(
                f"--with gives every argument of {name}; "
                f"leave out the one that each row is for, as {required[-1]}"
            )
        if len(free) > 1:
            others = ", ".join(free[:-1])
            raise ValueError(f"{name} also takes {others}: give --with NAME=VALUE for each")
        (row,) = free
        # The row is the first argument of what remains, so what stands before it goes by place.
        before = [*parameters][: [*parameters].index(row)]
        places = [arguments.pop(each) for each in before]
        call = partial(method, *places, **arguments) if bound else method
        hint = get_type_hints(method)[row]
        if not _takes_row(hint):
            raise ValueError(f"{name} takes nothing that a row could be: {row} is no row")
        return Write(call, row, hint if _members(hint) <= _SCALARS else None)


class Write(NamedTuple):
    """An operation that takes one argument for a row.

    Attributes:
        call: the operation.
        name: of the argument.
        scalar: the type of the argument where it is a text or a number, which is taken from
            the column of that name; None where it is the row itself.
    """

    call: Callable[[Any], Any]
    name: str
    scalar: Any = None

    def value(self, row: Mapping[str, Any]) -> Any:
        """The argument from *row*, where it is a scalar.

        Raises:
            ValueError: the row lacks it, or it is of another type.
        """
        value = row.get(self.name)
        if value is None or value == "":
            raise ValueError(f"has no {self.name}")
        if isinstance(value, str):
            return value_of(value, self.scalar)
        return value


def value_of(given: Any, hint: Any) -> Any:
    """*given* as the annotation *hint* has it: a text stays exactly as it is where it may be one.

    Raises:
        ValueError: it does not fit.
    """
    if isinstance(given, str):
        return _value_of_text(given, hint)
    try:
        return from_plain(given, _json_type(hint))
    except msgspec.ValidationError:
        raise ValueError(f"must be {_names(hint)}, not {given!r}") from None


def _value_of_text(text: str, hint: Any) -> Any:
    members = _members(hint)
    if str in members:
        return text
    choices = [choice for member in members for choice in get_args(member) if _is_choice(member)]
    if choices:
        if text not in choices:
            raise ValueError(f"must be {' or '.join(map(str, choices))}, not {text!r}")
        return text
    try:
        return from_plain(text, hint, strict=False)
    except msgspec.ValidationError:
        pass
    try:
        return from_plain(msgspec.json.decode(text), _json_type(hint))
    except (msgspec.MsgspecError, ValueError):
        raise ValueError(f"must be {_names(hint)}, not {text!r}") from None


def _names(hint: Any) -> str:
    return " or ".join(sorted(getattr(member, "__name__", "JSON") for member in _members(hint)))


def _members(hint: Any) -> set[Any]:
    """The types that *hint* allows, None and UNSET left out."""
    several = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return {*several} - {type(None), msgspec.UnsetType}


def _takes_row(hint: Any) -> bool:
    """Is *hint* a struct, an object, a list of them, or a value of one column?"""
    kind: Any = get_origin(hint) or hint
    several = isinstance(kind, type) and issubclass(kind, Iterable)
    return several or hasattr(hint, "__struct_fields__") or _members(hint) <= _SCALARS


def _is_choice(hint: Any) -> bool:
    return get_origin(hint) is Literal


def _json_type(hint: Any) -> Any:
    """*hint*, where `Mapping` is a `dict` and `Sequence` a `list`."""
    (member, *_) = _members(hint)
    abstract = {Mapping: dict, Sequence: list}
    return abstract.get(get_origin(member), hint)


def _typed(
    name: str,
    method: Callable[..., Any],
    given: Mapping[str, Any],
    option: str,
    known: Sequence[str],
) -> dict[str, Any]:
    """The arguments *given* for *method*, each by its annotation."""
    hints = get_type_hints(method)
    typed: dict[str, Any] = {}
    for argument, value in given.items():
        if argument not in known:
            raise ValueError(
                f"{option} {argument}: {name} has no argument {argument!r}; "
                f"it has: {', '.join(known) or 'none'}"
            )
        try:
            typed[argument] = value_of(value, hints[argument])
        except ValueError as bad:
            raise ValueError(f"{option} {argument}: {bad}") from None
    return typed


def _operations(resource: Resource) -> dict[str, Callable[..., Any]]:
    return {
        name: method
        for name in dir(resource)
        if not name.startswith("_") and endpoint_of(method := getattr(resource, name)) is not None
    }
