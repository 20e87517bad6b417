"""From `totango.touchpoints` on a command line to the method that is meant.

`vendor.resource` is its list for a pull, and for a push the first of `create`,
`upsert_many`, `upsert`, `insert` that it has; `vendor.resource.method` is that one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, get_type_hints

import asyncclients
from asyncclients.core.client import VendorClient
from asyncclients.core.endpoint import Resource, endpoint_of
from asyncclients.core.pool import SessionPool

CLIENTS = {
    "intouch": "IntouchClient",
    "totango": "TotangoClient",
    "intempt": "IntemptClient",
    "emma": "EmmaClient",
    "digital_onboarding": "DigitalOnboardingClient",
}
_WRITES = ("create", "upsert_many", "upsert", "insert", "add_record")


class Clients:
    """The clients of one pool, each made from the environment when first named."""

    def __init__(self, pool: SessionPool) -> None:
        self._pool = pool
        self._made: dict[str, VendorClient] = {}

    def _client(self, vendor: str) -> VendorClient:
        if vendor not in self._made:
            self._made[vendor] = getattr(asyncclients, CLIENTS[vendor]).from_env(self._pool)
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
        found = getattr(client, resource, None)
        if not isinstance(found, Resource):
            names = sorted(
                name for name, held in vars(client).items() if isinstance(held, Resource)
            )
            raise ValueError(f"{vendor} has no {resource!r}; it has: {', '.join(names)}")
        wanted = (verb,) if verb else verbs
        for each in wanted:
            method: Callable[..., Any] | None = getattr(found, each, None)
            if method is not None and endpoint_of(method) is not None:
                return method
        methods = ", ".join(_operations(found))
        raise ValueError(f"{vendor}.{resource} has no {' or '.join(wanted)}; it has: {methods}")

    def list_of(self, name: str, query: Mapping[str, str]) -> Any:
        """What `vendor.resource.list(...)` returns, oldest first unless *query* says otherwise."""
        method = self.method(name, ("list",))
        parameters = inspect.signature(method).parameters
        if "sort_by" in parameters:
            query = {"sort_by": "created_at", **query}
        return _bind(method, query)()

    def write(self, name: str, bound: Mapping[str, str]) -> Write:
        """The operation that takes the rows of a push, its other arguments *bound*."""
        method = _bind(self.method(name, _WRITES), bound)
        free = [
            parameter
            for parameter in inspect.signature(method).parameters.values()
            if parameter.default is parameter.empty and parameter.name not in bound
        ]
        if not free:
            raise ValueError(f"{name} takes nothing that a row could be")
        if len(free) > 1:
            names = ", ".join(parameter.name for parameter in free[:-1])
            raise ValueError(f"{name} also takes {names}: give --with NAME=VALUE for each")
        plain = method.func if isinstance(method, partial) else method
        name = free[0].name
        return Write(method, name, text=get_type_hints(plain)[name] is str)


class Write(NamedTuple):
    """An operation that takes one argument for a row.

    Attributes:
        call: the operation.
        name: of the argument.
        text: it takes a text: the column of that name.
    """

    call: Callable[[Any], Any]
    name: str
    text: bool


def _bind(method: Callable[..., Any], arguments: Mapping[str, str]) -> Callable[..., Any]:
    parameters = inspect.signature(method).parameters
    for name in arguments:
        if name not in parameters:
            raise ValueError(f"there is no argument {name!r}; there are: {', '.join(parameters)}")
    if not arguments:
        return method
    return partial(method, **{name: _value(text) for name, text in arguments.items()})


def _value(text: str) -> Any:
    return int(text) if text.isdecimal() and len(text) < 10 else text


def _operations(resource: Resource) -> list[str]:
    return [
        name
        for name in dir(resource)
        if not name.startswith("_") and endpoint_of(getattr(resource, name)) is not None
    ]
