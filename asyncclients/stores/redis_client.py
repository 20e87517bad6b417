"""redis-py, tamed: nothing is repeated, nothing takes longer than its bound.

redis-py repeats commands by default, and a repeated script counts twice. After
a timeout or a cancelled command it closes the connection, so that no answer
reaches the wrong question.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from asyncclients.errors import ConfigurationError
from asyncclients.secret import Secret
from asyncclients.stores.terms import StoreSilentError

try:
    import redis.asyncio as redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import (
        AuthenticationError,
        AuthorizationError,
        MovedError,
        NoPermissionError,
        RedisError,
        ResponseError,
    )
except ImportError as missing:  # pragma: no cover - the test group has it
    raise ImportError(
        "asyncclients.stores.redis needs redis-py: install asyncclients[redis]"
    ) from missing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TIMEOUT = 0.5
"""Seconds for one command, connecting included."""
_REFUSALS = (AuthenticationError, AuthorizationError, NoPermissionError)


def place(url: Secret) -> str:
    """Where *url* points, without user, password and query."""
    try:
        parts = urlsplit(url.reveal())
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "at an unreadable address"
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


def connector(url: str | Secret) -> Callable[[], redis.Redis]:
    """Makes clients for *url* that repeat nothing and wait for nothing without bound.

    Raises:
        ConfigurationError: if *url* is none that redis-py understands.
    """
    url = Secret(url)
    if not _known(url):
        raise ConfigurationError(
            "the address of the shared store is no redis://, rediss:// or unix:// URL",
            advice="Give it as redis://host:6379/0, or rediss:// for TLS",
        )

    def connect() -> redis.Redis:
        return redis.Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
            url.reveal(),
            retry=Retry(NoBackoff(), 0),
            retry_on_timeout=False,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            health_check_interval=0,
        )

    if not _makes(connect):
        raise ConfigurationError(
            f"the address of the shared store {place(url)} has a query that redis-py cannot use",
            advice="Leave out what follows the question mark, or see redis-py's `from_url`",
        )
    return connect


def _makes(connect: Callable[[], redis.Redis]) -> bool:
    """Can a connection be made, not opened? An unknown option in the query shows only then."""
    try:
        connect().connection_pool.make_connection()  # type: ignore[no-untyped-call]
    except (TypeError, ValueError, RedisError):
        return False
    return True


def _known(url: Secret) -> bool:
    """Is *url* of a form that leads somewhere? redis-py takes a name for database 0."""
    try:
        parts = urlsplit(url.reveal())
        _ = parts.port
    except ValueError:
        return False
    if parts.scheme == "unix":
        return bool(parts.path)
    number = parts.path.strip("/")
    return (
        parts.scheme in {"redis", "rediss"}
        and bool(parts.hostname or number)
        and (not number or number.isdecimal())
    )


async def bounded(store: str, command: Callable[[], Awaitable[Any]]) -> Any:
    """The answer to *command*, within the bound.

    Raises:
        StoreSilentError: none came, or none that helps.
        ConfigurationError: the store refuses us.
    """
    try:
        async with asyncio.timeout(TIMEOUT):
            return await command()
    except _REFUSALS:
        raise refused(store) from None
    except MovedError:
        raise ConfigurationError(
            f"the shared store {store} is one node of a cluster, and has a part of the keys only",
            advice="Give the address of a single server, or of one that takes all keys for the cluster",
        ) from None
    except ResponseError as refusal:
        if str(refusal).startswith(("NOAUTH", "WRONGPASS", "NOPERM")):
            raise refused(store) from None
        if "unknown command" in str(refusal):  # HELLO: servers know it from version 6 on
            raise too_old(store, "5 or older") from None
        raise StoreSilentError(f"{type(refusal).__name__}: {str(refusal)[:100]}") from None
    except (RedisError, OSError, TimeoutError) as failure:
        raise StoreSilentError(type(failure).__name__) from None


def refused(store: str) -> ConfigurationError:
    """The store wants another password, or gives this user too few rights."""
    return ConfigurationError(
        f"the shared store {store} refuses the login, or a command",
        advice="Correct user and password in its URL; the user needs EVALSHA, EVAL, SCRIPT "
        "LOAD and INFO, and the keys' prefix",
    )


def too_old(store: str, version: str) -> ConfigurationError:
    """The server does not know what is needed."""
    return ConfigurationError(
        f"the shared store {store} is version {version}, which is too old",
        advice="Use Redis 6.2 or later, or Valkey",
    )
