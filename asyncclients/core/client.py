"""What every vendor's client is: credentials and options around one dispatcher.

Immutable. `with_options` makes a sibling that shares scope, quota and token.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, Unpack, overload

import msgspec

from asyncclients.base_url import check_base_url
from asyncclients.core.auth import problem_of
from asyncclients.core.dispatch import Dispatcher
from asyncclients.core.endpoint import Options
from asyncclients.core.explain import Explanation, explain
from asyncclients.core.freeform import free_request
from asyncclients.core.settings import OptionFields
from asyncclients.core.vendor import Vendor
from asyncclients.errors import ConfigurationError
from asyncclients.limits.priority import Priority
from asyncclients.secret import Environment, Secret

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from asyncclients.core.auth import Login
    from asyncclients.core.pool import SessionPool
    from asyncclients.core.scope import ScopeStats
    from asyncclients.limits.quota import Quota

T = TypeVar("T")


class VendorClient:
    """Base of the five clients; a subclass says who the vendor is and adds resources.

    Args:
        pool: the pool whose sessions and quotas it uses.
        login: the credential.
        base_url: where requests go.
        quotas: replaces the vendor's own; an empty sequence means no limit.
        max_in_flight: requests at the same time; None takes the vendor's.
    """

    facts: ClassVar[Vendor]
    """The vendor, as data."""

    def __init__(
        self,
        pool: SessionPool,
        login: Login | None = None,
        *,
        base_url: str | Secret | None = None,
        quotas: Sequence[Quota] | None = None,
        max_in_flight: int | None = None,
    ) -> None:
        if login is None:
            raise TypeError(f"{type(self).__name__} needs its credential")
        vendor = self.facts
        if problem := problem_of(login):
            raise ConfigurationError(
                f"the credential {problem}",
                vendor=vendor.name,
                advice=f"Look at {' and '.join(vendor.environment.values())}",
            )
        self.base_url = check_base_url(vendor.base_url if base_url is None else base_url)
        self._pool = pool
        own = vendor.quotas if quotas is None else tuple(quotas)
        max_in_flight = _check_in_flight(max_in_flight) or vendor.max_in_flight
        self._scope = pool.handle(vendor, self.base_url, login, own, max_in_flight)
        self._options = Options()
        self._attach(
            Dispatcher(
                self._scope,
                vendor,
                login,
                self.base_url,
                settings=pool.settings,
                options=self._options,
                account=self._account_name(),
            )
        )

    @classmethod
    def from_env(
        cls, pool: SessionPool, environ: Mapping[str, str] | None = None, **arguments: Any
    ) -> Self:
        """A client from environment variables; see the vendor's page for their names.

        *arguments* are further ones of the constructor, such as `quotas`.

        Raises:
            ConfigurationError: naming each variable that is missing.
        """
        variables = Environment(os.environ if environ is None else environ)
        environ = None
        found: dict[str, Any] = dict(_read_environment(cls.facts, variables))
        return cls(pool, **(found | arguments))

    def _attach(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._add_resources(dispatcher)

    def _account_name(self) -> str:
        """The account's own name; empty where only the credential tells accounts apart."""
        return ""

    def _add_resources(self, dispatcher: Dispatcher) -> None:
        """Make the resources, each with `dispatcher.send`."""
        raise NotImplementedError

    def with_options(self, **options: Unpack[OptionFields]) -> Self:
        """The same client with other defaults: any field of `Options`."""
        # Not copy.copy: it goes by way of pickle, which a client refuses.
        sibling = object.__new__(type(self))
        vars(sibling).update(vars(self))
        sibling._options = msgspec.structs.replace(self._options, **options)
        sibling._attach(self._dispatcher.with_options(sibling._options))
        return sibling

    def eta(self, calls: int = 1) -> float:
        """Seconds until *calls* more calls could have been sent.

        Counts what is queued before them and, in a pool with a shared store,
        what other processes hold.
        """
        return self._scope().eta(calls, Priority(self._options.priority))

    def explain(self) -> Explanation:
        """Why a call made now would wait, and for how long; print it."""
        now = self._pool.bind().time()
        return explain(self._scope(), Priority(self._options.priority), now)

    def stats(self) -> ScopeStats:
        """A snapshot of this client's scope."""
        return self._scope().stats(self._pool.bind().time())

    @overload
    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        form: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        idempotent: bool | None = None,
    ) -> Any: ...
    @overload
    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        form: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        response_type: type[T],
        idempotent: bool | None = None,
    ) -> T: ...
    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        form: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        response_type: Any = Any,
        idempotent: bool | None = None,
    ) -> Any:
        """Call what has no method here yet, under the same quota, retry and errors.

        Args:
            method: HTTP method.
            path: relative to the base, with or without a leading slash.
            params: query parameters; None values are left out.
            json: body as JSON.
            form: body as a form.
            headers: further request headers.
            response_type: what the reply decodes to; `type(None)` ignores it.
            idempotent: whether it may be repeated; by default as its method says.

        Raises:
            ValueError: for a path that leads elsewhere, or both *json* and *form*.
        """
        call = free_request(
            method,
            path,
            params=params,
            json=json,
            form=form,
            headers=headers,
            returns=response_type,
            idempotent=idempotent,
        )
        return await self._dispatcher.send(call)

    def __repr__(self) -> str:
        # A traceback with locals shows also a client whose constructor failed.
        return f"<{type(self).__name__} {vars(self).get('base_url', 'not set up')}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError(f"a {type(self).__name__} holds a credential and cannot be pickled")


def _read_environment(vendor: Vendor, environ: Environment) -> dict[str, Secret | str]:
    """Constructor arguments from the variables that *vendor* names."""
    missing = [name for name in vendor.environment.values() if name not in environ]
    if missing:
        raise ConfigurationError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set",
            vendor=vendor.name,
            advice=f"Set {', '.join(missing)} in the environment",
        )
    found: dict[str, Secret | str] = {}
    for argument, name in vendor.environment.items():
        found[argument] = environ.secret(name)
    for argument, name in vendor.settings.items():
        if name in environ:
            found[argument] = environ.setting(name)
    name = f"{vendor.name.upper()}_BASE_URL"
    if name in environ:
        found["base_url"] = check_base_url(environ.secret(name), name)
    return found


def _check_in_flight(max_in_flight: int | None) -> int | None:
    if max_in_flight is not None and max_in_flight < 1:
        raise ConfigurationError(
            f"max_in_flight must be at least 1, not {max_in_flight!r}",
            advice="Leave it out for no limit of its own",
        )
    return max_in_flight
