"""Quotas shared through Redis or Valkey; needs the extra `asyncclients[redis]`.

The rules are in `ledger.py`, the script in `script.py`. What cannot work, now or
later, is a `ConfigurationError` at first use; everything else is a silent
store, see `outage.py`. Tokens are in `redis_tokens.py`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec

from asyncclients.arguments import check_type
from asyncclients.secret import Secret
from asyncclients.stores.config import (
    StoreConfig,
    StoreUnavailableError,
    WhenDown,
    check_store_options,
)
from asyncclients.stores.protocol import LeaseRequest, LeaseResponse
from asyncclients.stores.redis_client import (
    TIMEOUT,
    Script,
    check_server,
    connector,
    display_url,
    with_timeout,
)
from asyncclients.stores.redis_tokens import RedisTokens
from asyncclients.stores.script import keys, load_script
from asyncclients.stores.session import StoreSession

if TYPE_CHECKING:
    import redis.asyncio as redis

__all__ = ["RedisLimits", "RedisTokens"]

_AT_ONCE = 16
"""Commands on their way at a time: ten thousand scopes take turns."""
_encode = msgspec.json.Encoder().encode


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
        url: str | Secret,
        *,
        when_down: WhenDown = "safe_share",
        lease: float = 0.1,
        prefix: str = "asyncclients",
    ) -> None:
        url = Secret(url)
        check_type("prefix", prefix, str, "prefix='asyncclients'")
        self._store = display_url(url)
        self._when_down: WhenDown = when_down
        check_store_options(when_down, lease)
        self._connect = connector(url)
        self._lease, self._prefix = lease, prefix

    def __repr__(self) -> str:
        return f"<RedisLimits {self._store} when_down={self._when_down!r}>"

    def open(self, *, cold: bool = False) -> StoreSession:
        """A line for one pool."""
        terms = StoreConfig(
            process=uuid4().hex[:12],
            display_name=self._store,
            when_down=self._when_down,
            lease=self._lease,
            timeout=TIMEOUT,
            assume_spent=cold,
        )
        return StoreSession(RedisBackend(self._connect(), self._store, self._prefix), terms)


class RedisBackend:
    """Ledgers in Redis."""

    def __init__(self, client: redis.Redis, store: str, prefix: str) -> None:
        self._client, self._store, self._prefix = client, store, prefix
        self._script = Script(load_script())
        self._greeting: asyncio.Task[None] | None = None
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._failures = 0

    async def apply(self, key: str, claim: LeaseRequest) -> LeaseResponse:
        """See `Backend.exchange`. Who waits behind a command that fails fails with it."""
        names = keys(self._prefix, key)
        payload = _encode(claim)
        failures = self._failures
        async with self._turns:
            if failures != self._failures:
                raise StoreUnavailableError("a command before this one got no answer")
            try:
                answer = await with_timeout(self._store, lambda: self._ask(names, payload))
            except StoreUnavailableError:
                self._failures += 1
                raise
        try:
            now, epoch, *rest, quotas = answer
            fields = (now, epoch.decode(), *rest, [name.decode() for name in quotas])
            return msgspec.convert(fields, LeaseResponse)
        except (msgspec.ValidationError, TypeError, ValueError, AttributeError):
            raise StoreUnavailableError("it answered nonsense") from None

    async def _ask(self, names: list[str], payload: bytes) -> Any:
        if self._greeting is None or (self._greeting.done() and not _went_well(self._greeting)):
            self._greeting = asyncio.create_task(check_server(self._client, self._store))
        await asyncio.shield(self._greeting)
        return await self._script.run(self._client, names, [payload])

    async def aclose(self) -> None:
        """Close the connections."""
        if self._greeting is not None:
            self._greeting.cancel()
            await asyncio.gather(self._greeting, return_exceptions=True)
        await self._client.aclose()


def _went_well(task: asyncio.Task[None]) -> bool:
    return not task.cancelled() and task.exception() is None
