"""Quotas shared through Redis or Valkey; needs the extra `asyncclients[redis]`.

The rules are in `ledger.py`, the script in `script.py`. Rules of this file:

* No command is repeated by the library: a repeated script would count twice
  (redis-py repeats by default). Every command has a bounded time.
* After a timeout or a cancelled command its connection is closed, so that no
  answer reaches the wrong question.
* What cannot work, now or later, is a `ConfigurationError` at first use.
  Everything else is a silent store, see `outage.py`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec

from asyncclients.core.events import logger
from asyncclients.errors import ConfigurationError
from asyncclients.stores.ledger import Claim, Grant
from asyncclients.stores.line import Line
from asyncclients.stores.script import SCRIPT, keys
from asyncclients.stores.terms import StoreSilentError, Terms, WhenDown, check_terms

try:
    import redis.asyncio as redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import (
        AuthenticationError,
        AuthorizationError,
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

_TIMEOUT = 0.5
_OLDEST = (6, 2)
_encode = msgspec.json.Encoder().encode
_REFUSALS = (AuthenticationError, AuthorizationError, NoPermissionError)


class RedisLimits:
    """Shares quotas between all processes that use the same Redis and *prefix*.

    Args:
        url: `redis://`, `rediss://` or `unix://`, as redis-py reads it.
        when_down: while the store is silent, each process sends its share of
            the quota (`safe_share`), nothing (`pause`), or what its own limiter
            allows (`local`, up to the quota times the number of processes).
        lease: seconds for which a process may hold a slot before it uses it. Longer: fewer
            round trips; shorter: a slot is sooner free for another's more urgent call.
        prefix: begins the name of every key.

    Raises:
        ConfigurationError: for an unusable argument. A store that refuses the
            password or is too old raises it at the first call.
    """

    def __init__(
        self,
        url: str,
        *,
        when_down: WhenDown = "safe_share",
        lease: float = 0.1,
        prefix: str = "asyncclients",
    ) -> None:
        check_terms(when_down, lease)
        self._connect = connector(url)
        self._store = place(url)
        self._when_down: WhenDown = when_down
        self._lease, self._prefix = lease, prefix

    def __repr__(self) -> str:
        return f"<RedisLimits {self._store} when_down={self._when_down!r}>"

    def open(self, *, cold: bool = False) -> Line:
        """A line for one pool."""
        terms = Terms(
            me=uuid4().hex[:12],
            store=self._store,
            when_down=self._when_down,
            lease=self._lease,
            timeout=_TIMEOUT,
            cold=cold,
        )
        return Line(RedisLedgers(self._connect(), self._store, self._prefix), terms)


class RedisLedgers:
    """Ledgers in Redis."""

    def __init__(self, client: redis.Redis, store: str, prefix: str) -> None:
        self._client, self._store, self._prefix = client, store, prefix
        self._script = client.register_script(SCRIPT)
        self._greeting: asyncio.Task[None] | None = None

    async def exchange(self, key: str, claim: Claim) -> Grant:
        """See `Backend.exchange`."""
        names = keys(self._prefix, key)
        payload = _encode(claim)
        answer = await bounded(self._store, lambda: self._ask(names, payload))
        now, epoch, *rest, quotas = answer
        return msgspec.convert(
            (now, epoch.decode(), *rest, [name.decode() for name in quotas]), Grant
        )

    async def _ask(self, names: list[str], payload: bytes) -> Any:
        if self._greeting is None or (self._greeting.done() and not _went_well(self._greeting)):
            self._greeting = asyncio.create_task(greet(self._client, self._store))
        await asyncio.shield(self._greeting)
        return await self._script(keys=names, args=[payload])

    async def aclose(self) -> None:
        """Close the connections."""
        if self._greeting is not None:
            self._greeting.cancel()
            await asyncio.gather(self._greeting, return_exceptions=True)
        await self._client.aclose()


def _went_well(task: asyncio.Task[None]) -> bool:
    return not task.cancelled() and task.exception() is None


def place(url: str) -> str:
    """Where *url* points, without user, password and query."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


def connector(url: str) -> Callable[[], redis.Redis]:
    """Makes clients for *url* that repeat nothing and wait for nothing without bound.

    Raises:
        ConfigurationError: if *url* is none that redis-py understands.
    """
    try:
        parts = urlsplit(url)
        known = parts.scheme in {"redis", "rediss", "unix"} and (parts.hostname or parts.path)
        _ = parts.port
    except ValueError:
        known = False
    if not known:
        raise ConfigurationError(
            "the address of the shared store is no redis://, rediss:// or unix:// URL",
            advice="Give it as redis://host:6379/0, or rediss:// for TLS",
        )

    def connect() -> redis.Redis:
        return redis.Redis.from_url(
            url,
            retry=Retry(NoBackoff(), 0),
            retry_on_timeout=False,
            socket_timeout=_TIMEOUT,
            socket_connect_timeout=_TIMEOUT,
            health_check_interval=0,
        )

    return connect


async def bounded(store: str, command: Callable[[], Awaitable[Any]]) -> Any:
    """The answer to *command*, within the bound.

    Raises:
        StoreSilentError: none came, or none that helps.
        ConfigurationError: the store refuses us.
    """
    try:
        async with asyncio.timeout(_TIMEOUT):
            return await command()
    except _REFUSALS:
        raise refused(store) from None
    except ResponseError as refusal:
        if str(refusal).startswith(("NOAUTH", "WRONGPASS", "NOPERM")):
            raise refused(store) from None
        raise StoreSilentError(str(refusal)[:120]) from None
    except (RedisError, OSError, TimeoutError) as failure:
        raise StoreSilentError(type(failure).__name__) from None


def refused(store: str) -> ConfigurationError:
    """The store wants another password, or gives this user too few rights."""
    return ConfigurationError(
        f"the shared store {store} refuses the login, or a command",
        advice="Correct user and password in its URL; the user needs EVALSHA, EVAL, SCRIPT "
        "LOAD and INFO, and the keys' prefix",
    )


async def greet(client: redis.Redis, store: str) -> None:
    """Look at the server once.

    Raises:
        ConfigurationError: if it is too old.
    """
    facts = await client.info("server", "memory")
    version = str(facts.get("redis_version", ""))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers < _OLDEST:
        raise ConfigurationError(
            f"the shared store {store} is version {version}, which is too old",
            advice="Use Redis 6.2 or later, or Valkey",
        )
    policy = str(facts.get("maxmemory_policy", "noeviction"))
    if facts.get("maxmemory", 0) and policy != "noeviction":
        logger.warning(
            "the shared store %s may evict keys (maxmemory-policy %s): a quota whose log is "
            "evicted pauses for a whole period; set noeviction or give it a server of its own",
            store,
            policy,
        )
