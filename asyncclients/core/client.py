"""The base class of every vendor's client.

A client is immutable: `with_options` returns another one that shares scope, quota and token.
"""

from __future__ import annotations

import os
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from inspect import Parameter, Signature, iscoroutinefunction, signature
from pathlib import Path
from types import MethodType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Concatenate,
    Generic,
    ParamSpec,
    Protocol,
    Self,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
    overload,
)

import msgspec

from asyncclients.arguments import (
    PositiveInt,
    check_text,
    check_type,
    check_value,
    did_you_mean,
    kind_of,
)
from asyncclients.base_url import check_base_url, wrap_userinfo
from asyncclients.core.auth import problem_of, problem_with
from asyncclients.core.call import ClientConfig
from asyncclients.core.endpoint import Resource, operations_of
from asyncclients.core.explain import Explanation, explain
from asyncclients.core.options import OptionFields, Options
from asyncclients.core.pool import SessionPool
from asyncclients.core.prepare import RAW_OPERATION, raw_request
from asyncclients.core.vendor import Vendor
from asyncclients.errors import ConfigurationError
from asyncclients.ratelimit.quota import Demand, Quota, check_quotas
from asyncclients.secret import FilePath, RotatingSecret, Secret, sealed, sealed_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from asyncclients.core.auth import Login
    from asyncclients.core.endpoint import Send
    from asyncclients.core.scope import ScopeStats

T = TypeVar("T")
C = TypeVar("C")
C_co = TypeVar("C_co", covariant=True)
P = ParamSpec("P")


class RequestFields(TypedDict, total=False):
    """Keywords of `VendorClient.request`, for type checkers."""

    params: Mapping[str, Any] | None
    json: Any
    form: Mapping[str, Any] | None
    headers: Mapping[str, str] | None
    idempotent: bool | None
    cost: int


class EnvironmentFactory(Protocol[P, C_co]):
    """The type of `from_env`: the parameters of a constructor, and an environment."""

    def __call__(
        self,
        pool: SessionPool,
        environ: Mapping[str, str] | None = None,
        *_: P.args,
        **given: P.kwargs,
    ) -> C_co: ...


class FromEnvironment(Generic[P]):
    """Makes `from_env` of a client from its constructor: `from_env = FromEnvironment(__init__)`.

    Python and type checkers then see exactly the keywords of the constructor. Each is optional.
    """

    def __init__(self, init: Callable[Concatenate[Any, SessionPool, P], None]) -> None:
        del init  # for type checkers; a subclass has a constructor of its own

    def __get__(self, instance: object, owner: type[C]) -> EnvironmentFactory[P, C]:
        kind, others = (
            Parameter.POSITIONAL_OR_KEYWORD,
            signature(owner.__init__).parameters.values(),
        )
        own = [Parameter("cls", kind), Parameter("pool", kind, annotation="SessionPool")]
        own.append(Parameter("environ", kind, default=None, annotation="Mapping[str, str] | None"))
        keywords = [p.replace(default=None) for p in others if p.kind is Parameter.KEYWORD_ONLY]
        keywords += [p for p in others if p.kind is Parameter.VAR_KEYWORD]
        shown = Signature([*own, *keywords])

        def from_env(
            cls: type[VendorClient],
            pool: SessionPool,
            environ: Mapping[str, str] | None = None,
            **given: Any,
        ) -> VendorClient:
            """Create a client from the variables of its vendor; the vendor's page has their names.

            An argument replaces its variable. *environ* replaces the environment of the process.

            Raises:
                ConfigurationError: naming each variable that is missing.
            """
            variables, environ = sealed_environment(environ), None
            given |= {name: sealed(given[name]) for name in cls.vendor.environment if name in given}
            if "base_url" in given:
                given["base_url"] = wrap_userinfo(given["base_url"])
            shown.bind(cls, pool, **given)  # raises TypeError for an unknown keyword
            given = {name: value for name, value in given.items() if value is not None}
            check_pool(pool)
            return cls(pool, **_read_environment(cls, variables, given), **given)

        vars(from_env).update(__signature__=shown)
        return cast("EnvironmentFactory[P, C]", MethodType(from_env, owner))


class VendorClient:
    """Base class of the clients; a subclass names its vendor and adds the resources.

    Args:
        pool: the pool whose sessions and quotas it uses.
        login: the credential.
        base_url: replaces the vendor's own.
        quotas: replaces the vendor's own; an empty sequence means no limit.
        max_in_flight: most requests at the same time; None for the vendor's.
        quota_key: clients with the same origin and key share one quota, as two API keys of
            one account do; sessions and tokens stay apart. None for a key of the credential.
    """

    vendor: ClassVar[Vendor]
    """The description of the vendor."""

    def __init__(
        self,
        pool: SessionPool,
        login: Login,
        *,
        base_url: str | Secret | None = None,
        quotas: Sequence[Quota] | None = None,
        max_in_flight: int | None = None,
        quota_key: str | None = None,
    ) -> None:
        check_pool(pool)
        vendor = self.vendor
        if problem := problem_of(login):
            raise ConfigurationError(
                f"the credential {problem}",
                vendor=vendor.name,
                advice=f"Look at {' and '.join(vendor.environment.values())}",
            )
        self.base_url = check_base_url(vendor.base_url if base_url is None else base_url)
        self._pool = pool
        own = check_quotas(vendor.quotas if quotas is None else quotas)
        most = vendor.max_in_flight if max_in_flight is None else max_in_flight
        check_value("max_in_flight", most, PositiveInt | None)
        if quota_key is not None:
            check_text("quota_key", quota_key, "quota_key='account 4711'")

        def configure(quotas: tuple[Quota, ...]) -> None:
            scope = pool.handle(vendor, self.base_url, login, quotas, most, quota_key=quota_key)
            self._configure(
                ClientConfig(
                    scope=scope,
                    vendor=vendor,
                    login=login,
                    base_url=self.base_url,
                    pool=pool.config,
                    options=Options(),
                    quotas=quotas,
                    account=self._account_name(),
                )
            )

        configure(own)
        # The operations are those of the resources, which need a configuration.
        if (named := self._named(own)) != own:
            configure(named)

    from_env: FromEnvironment[...] = FromEnvironment(__init__)

    def _configure(self, config: ClientConfig) -> None:
        self._config = config
        self._add_resources(config.send)

    def _account_name(self) -> str:
        """Return the account's name; empty if accounts differ by their credential only."""
        return ""

    def _add_resources(self, send: Send) -> None:
        """Create the resources, each with *send*."""
        raise NotImplementedError

    def _operations(self) -> frozenset[str]:
        """Return all operations; empty if the endpoints of a resource are not known."""
        own = operations_of(self)
        resources = [each for each in vars(self).values() if isinstance(each, Resource)]
        found = [operations_of(each) for each in resources] or [own]
        return frozenset({RAW_OPERATION}).union(own, *found) if all(found) else frozenset()

    def _named(self, quotas: tuple[Quota, ...]) -> tuple[Quota, ...]:
        """Return *quotas* with the vendor's name removed from their patterns."""
        return tuple(
            replace(quota, operations=tuple(map(self._operation_pattern, quota.operations)))
            for quota in quotas
        )

    def _operation_pattern(self, pattern: str, where: str = ", a pattern of a quota") -> str:
        """Return *pattern* without the vendor's name.

        Raises:
            ConfigurationError: it matches no operation.
        """
        known = self._operations()
        short = pattern.removeprefix(f"{self.vendor.name}.")
        for each in (pattern, short):
            if not known or any(fnmatchcase(name, each) for name in known):
                return each
        names = known.union(f"{name.partition('.')[0]}.*" for name in known if "*" in short)
        raise ConfigurationError(
            f"no operation matches {pattern!r}{where}{did_you_mean(short, sorted(names))}",
            vendor=self.vendor.name,
            advice=f"There are: {', '.join(sorted(known))}",
        )

    def with_options(self, **options: Unpack[OptionFields]) -> Self:
        """Return the same client with other options: any fields of `Options`."""
        # copy.copy would pickle the client, which is not allowed.
        sibling = object.__new__(type(self))
        vars(sibling).update(vars(self))
        own = msgspec.structs.replace(self._config.options, **options)
        sibling._configure(msgspec.structs.replace(self._config, options=own))
        return sibling

    def eta(self, calls: int = 1) -> float:
        """Return the seconds until *calls* more calls (from 1) could have been sent.

        Counts the calls queued before them and, with a shared store, those of other
        processes.
        """
        check_value("calls", calls, PositiveInt)
        scope = self._config.scope()
        demand = scope.scheduler.limiter.kind_of(Demand(share=self._config.share))
        return scope.scheduler.eta(calls, self._config.options.priority, demand)

    def explain(self, operation: str = "", *, cost: int = 1) -> Explanation:
        """Return why a call made now would wait, and how long; as text with `print`.

        Args:
            operation: of the call, as in `contacts.create`, for quotas that depend on it.
            cost: units of each quota that the call takes.

        Raises:
            ConfigurationError: for an unknown operation, or a cost that a quota never allows.
        """
        check_value("cost", cost, PositiveInt)
        operation = self._operation_pattern(operation, "") if operation else ""
        demand = Demand(cost, operation, self._config.share)
        now = self._pool.bind().time()
        return explain(self._config.scope(), self._config.options.priority, now, demand)

    def stats(self) -> ScopeStats:
        """Return a snapshot of this client's scope."""
        return self._config.scope().stats(self._pool.bind().time())

    @overload
    async def request(self, method: str, path: str, **others: Unpack[RequestFields]) -> Any: ...
    @overload
    async def request(
        self, method: str, path: str, *, response_type: type[T], **others: Unpack[RequestFields]
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
        cost: int = 1,
    ) -> Any:
        """Call an endpoint that has no method, with the same quota, retries and errors.

        Args:
            method: HTTP method.
            path: relative to the base URL, with or without a leading slash.
            params: query parameters; those that are None are left out.
            json: body as JSON.
            form: body as a form.
            headers: further request headers.
            response_type: type of the decoded response; `type(None)` ignores it.
            idempotent: whether it may be retried; by default, if its method is idempotent.
            cost: units of each quota that the call takes.

        Raises:
            ConfigurationError: *cost* is no whole number from 1 to the limit of each quota.
            ValueError: for a path that leads elsewhere, or both *json* and *form*.
        """
        request = raw_request(
            method,
            path,
            params=params,
            json=json,
            form=form,
            headers=headers,
            returns=response_type,
            idempotent=idempotent,
            cost=cost,
        )
        return await self._config.send(request)

    def __repr__(self) -> str:
        # A traceback with locals may show a client whose constructor failed.
        return f"<{type(self).__name__} {vars(self).get('base_url', 'not set up')}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError(f"a {type(self).__name__} holds a credential and cannot be pickled")


def check_pool(pool: object) -> None:
    """Check that *pool* is a `SessionPool`; the error shows its type only, as it may be a key."""
    if not isinstance(pool, SessionPool):
        raise ConfigurationError(
            f"a client's first argument must be a SessionPool, not {kind_of(pool)}",
            advice="Write it as in `async with SessionPool() as pool:`, and lend it an aiohttp "
            "session with SessionPool(session=session)",
        )


def read_credential(
    vendor: Vendor, name: str, given: Secret | None, file: FilePath | None = None
) -> Secret:
    """Return the credential of argument *name*: *given*, text or a function, or that in *file*.

    Raises:
        ConfigurationError: it cannot be a credential; the error does not show it.
    """
    # Its value is of any type, and must not become a local variable: a traceback would show it.
    secret = Secret(cast("str", None)) if given is None else given
    advice = f"Write it as in {name}='...', or set {vendor.environment[name]}"
    if file is not None:
        if given is not None:
            raise ConfigurationError(
                f"{name} and {name}_file are both given", vendor=vendor.name, advice="Give one"
            )
        name, advice = f"{name}_file", "The file must hold the credential and nothing else"
        secret = RotatingSecret(partial(_read_file, name, file))
    elif iscoroutinefunction(secret.reveal()):
        raise ConfigurationError(
            f"{name} must be text, or a function that returns text and is not a coroutine function",
            vendor=vendor.name,
            advice=f"Write it as in {name}=read_key; it runs in a thread, so it may block",
        )
    elif callable(secret.reveal()):
        secret = RotatingSecret(cast("Any", secret.reveal()))
    if problem := problem_with(secret):
        raise ConfigurationError(f"{name} {problem}", vendor=vendor.name, advice=advice)
    return secret


def _read_file(argument: str, path: FilePath) -> Secret:
    """Return the content of *path* without line ends at its end."""
    check_type(argument, path, (str, os.PathLike), f"{argument}='/run/secrets/key'")
    try:
        return Secret(Path(path).read_text("utf-8").rstrip("\r\n"))
    except OSError as failure:
        problem = failure.strerror or type(failure).__name__
    except ValueError:
        problem = "it is not UTF-8 text"  # the exception holds the content
    raise ConfigurationError(
        f"{argument} {os.fspath(path)!r} could not be read: {problem}",
        advice="The file must hold the credential and nothing else",
    )


def _read_environment(
    cls: type[VendorClient], environ: Mapping[str, Secret] | None, given: Collection[str]
) -> dict[str, Any]:
    """Return constructor arguments from the variables of *cls*, except those *given*."""
    if environ is None:
        raise ConfigurationError(
            "environ must be a mapping from names of variables to values",
            advice="Leave it out for the environment of the process, os.environ",
        )
    vendor, found = cls.vendor, dict[str, Any]()
    missing: list[str] = []
    for argument, name in vendor.environment.items():
        file = f"{argument}_file"
        if argument in given or file in given:
            continue
        if file in (cls.__init__.__kwdefaults__ or {}) and f"{name}_FILE" in environ:
            found[file] = environ[f"{name}_FILE"].reveal()
        if name in environ:
            found[argument] = environ[name]
        elif file not in found:
            missing.append(name)
    if missing:
        raise ConfigurationError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set",
            vendor=vendor.name,
            advice=f"Set {', '.join(missing)} in the environment",
        )
    prefix = vendor.name.upper()
    for argument, name in {**vendor.settings, "quota_key": f"{prefix}_QUOTA_KEY"}.items():
        if name in environ and argument not in given:
            found[argument] = environ[name].reveal()
    if (name := f"{prefix}_BASE_URL") in environ and "base_url" not in given:
        found["base_url"] = check_base_url(environ[name], name)
    return found
