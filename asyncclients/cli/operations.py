"""Find the method and arguments for a name on the command line, such as `totango.touchpoints`.

`vendor.resource.method` names a method. `vendor.resource` means its list for a pull, and for a
push its first method of `create`, `upsert_many`, `upsert`, `insert` and `add_record`.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import msgspec

import asyncclients
from asyncclients.arguments import did_you_mean
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
    """The clients of one pool, each created from the environment at its first use.

    Without a pool they have placeholder credentials and send nothing: they check names and
    arguments before credentials are required. What is wrong raises `ValueError`.
    """

    def __init__(self, pool: SessionPool | None = None) -> None:
        self._pool = pool
        self._made: dict[str, VendorClient] = {}

    def client(self, vendor: str) -> VendorClient:
        """Return the client of *vendor*."""
        if vendor not in self._made:
            cls: type[VendorClient] = getattr(asyncclients, CLIENTS[vendor])
            names = cls.vendor.environment.values()
            environ = dict.fromkeys(names, "placeholder") if self._pool is None else None
            self._made[vendor] = cls.from_env(self._pool or SessionPool(), environ)
        return self._made[vendor]

    def _method(self, name: str, verbs: Sequence[str]) -> Callable[..., Any]:
        """Return the method of *name*, or the first of *verbs* if it names only a resource."""
        vendor, _, rest = name.partition(".")
        resource, _, verb = rest.partition(".")
        methods = _operations(self._resource(vendor, resource))
        wanted = (verb,) if verb else verbs
        for each in wanted:
            if each in methods:
                return methods[each]
        raise ValueError(
            f"{vendor}.{resource} has no {' or '.join(wanted)}{did_you_mean(verb, methods)}; "
            f"it has: {', '.join(methods)}"
        )

    def resource(self, name: str) -> Resource:
        """Return the resource *name*, as the target of a sync."""
        vendor, _, resource = name.partition(".")
        if "." in resource:
            raise ValueError(f"a sync needs a resource without a method, not {name}")
        return self._resource(vendor, resource)

    def _resource(self, vendor: str, resource: str) -> Resource:
        if vendor not in CLIENTS:
            raise ValueError(
                f"there is no vendor {vendor!r}{did_you_mean(vendor, CLIENTS)}; write "
                f"VENDOR.RESOURCE, as in intouch.contacts; there are: {', '.join(CLIENTS)}"
            )
        held = vars(self.client(vendor))
        resources: dict[str, Resource] = {
            name: held[name] for name in sorted(held) if isinstance(held[name], Resource)
        }
        if resource not in resources:
            problem = f"has no {resource!r}{did_you_mean(resource, resources)}"
            if not resource:
                problem = f"needs a resource, as in {vendor}.{next(iter(resources))}"
            raise ValueError(f"{vendor} {problem}; it has: {', '.join(resources)}")
        return resources[resource]

    def read(self, name: str, query: Mapping[str, Any]) -> Callable[[], Any]:
        """Return a function that creates the list *name* with *query*, by default oldest first."""
        method = self._method(name, _READS)
        if get_origin(get_type_hints(method)["return"]) not in (Paginator, list):
            raise ValueError(f"{name} is not a list that can be pulled")
        parameters = inspect.signature(method).parameters
        arguments = _typed(name, method, query, "--query")
        missing = [each for each in _required(method) if each not in arguments]
        if missing:
            given = " ".join(f"--query {each}=VALUE" for each in missing)
            raise ValueError(f"{name} needs {' and '.join(missing)}: give {given}")
        if "sort_by" in parameters:
            arguments = {"sort_by": "created_at", **arguments}
        read = partial(method, **arguments)
        if isinstance(source := read(), Coroutine):
            source.close()  # a list in pages has checked its arguments, and sends nothing yet
        return read

    def write(self, name: str, bound: Mapping[str, Any]) -> Write:
        """Return the operation for the rows of a push, with its other arguments *bound*."""
        method = self._method(name, _WRITES)
        required, endpoint = _required(method), endpoint_of(method)
        if not required or endpoint is None or endpoint.method == "GET":
            raise ValueError(f"{name} has no argument for a row")
        arguments = _typed(name, method, bound, "--with")
        free = [each for each in required if each not in arguments]
        if not free:
            raise ValueError(
                f"--with gives every argument of {name}; "
                f"omit the one that a row provides, such as {required[-1]}"
            )
        if len(free) > 1:
            others = ", ".join(free[:-1])
            raise ValueError(f"{name} also takes {others}: give --with NAME=VALUE for each")
        (row,) = free
        # The row is passed as the first argument, so those before it are bound by position.
        parameters = [*inspect.signature(method).parameters]
        before = parameters[: parameters.index(row)]
        places = [arguments.pop(each) for each in before]
        call = partial(method, *places, **arguments) if bound else method
        hint = get_type_hints(method)[row]
        if not _takes_row(hint):
            raise ValueError(f"{name} has no argument for a row: {row} has another type")
        return Write(call, row, hint if _members(hint) <= _SCALARS else None)


class Write(NamedTuple):
    """An operation with one argument *name* for a row.

    If the argument is text or a number, *scalar* is its type, and the column *name* has its value.
    """

    call: Callable[[Any], Any]
    name: str
    scalar: Any = None

    def value(self, row: Mapping[str, Any]) -> Any:
        """Return the scalar argument from *row*."""
        value = row.get(self.name)
        if value is None or value == "":
            raise ValueError(f"has no {self.name}")
        return value_of(value, self.scalar) if isinstance(value, str) else value


def value_of(given: Any, hint: Any) -> Any:
    """Return *given* as a value of the type *hint*; text is unchanged if *hint* allows text."""
    members, is_text = _members(hint), isinstance(given, str)
    literals = [member for member in members if get_origin(member) is Literal]
    choices = [str(choice) for literal in literals for choice in get_args(literal)]
    if is_text and (str in members or given in choices):
        return given
    with suppress(msgspec.ValidationError):
        return from_plain(given, hint, strict=not is_text)
    if is_text:
        with suppress(msgspec.MsgspecError, ValueError):
            return from_plain(msgspec.json.decode(given), hint)
    names = choices or sorted(getattr(member, "__name__", "JSON") for member in members)
    raise ValueError(
        f"must be {' or '.join(names)}, not {given!r}{did_you_mean(str(given), choices)}"
    )


def _members(hint: Any) -> set[Any]:
    """Return the types that *hint* allows, without None and UNSET."""
    several = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return {*several} - {type(None), msgspec.UnsetType}


def _takes_row(hint: Any) -> bool:
    """True if *hint* is a struct, an object, a list of them, or a scalar."""
    kind: Any = get_origin(hint) or hint
    several = isinstance(kind, type) and issubclass(kind, Iterable)
    return several or hasattr(hint, "__struct_fields__") or _members(hint) <= _SCALARS


def _required(method: Callable[..., Any]) -> list[str]:
    """Return the names of the arguments of *method* without a default."""
    parameters = inspect.signature(method).parameters.values()
    return [each.name for each in parameters if each.default is each.empty]


def _typed(
    name: str, method: Callable[..., Any], given: Mapping[str, Any], option: str
) -> dict[str, Any]:
    """Return the arguments *given* for *method*, converted by its annotations."""
    hints, known = get_type_hints(method), [*inspect.signature(method).parameters]
    typed: dict[str, Any] = {}
    for argument, value in given.items():
        if argument not in known:
            raise ValueError(
                f"{option} {argument}: {name} has no argument {argument!r}"
                f"{did_you_mean(argument, known)}; it has: {', '.join(known) or 'none'}"
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
