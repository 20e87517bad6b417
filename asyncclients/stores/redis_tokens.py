"""Access tokens shared through Redis or Valkey: one process requests a token, all use it.

Opt-in, because everyone who can read this Redis can use the tokens. A token is stored under a
one-way hash of its credential and expires from Redis when it expires at the vendor.

A process that finds no token, or one that is due for renewal, takes a short lock and requests
a new token; the others wait, at most until the lock expires. Each lock has a higher number (a
fencing token) than the one before, and a token replaces only one with a lower number: a
process that was suspended cannot overwrite its successor's token. While the store is down, or
rejects a password that it accepted before, each process requests its own token, so no call
fails. The outage and its end are logged once.

`PREFIX:{KEY}:token` is a hash of the token's `value`, the instants `expires` and `refresh` in
microseconds since 1970, and `fence`, the number of its lock. `:lock` is the number of the lock, and
`:fence` the last such number. KEY is the vendor and a one-way hash of the credential.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, cast

from asyncclients.arguments import check_type
from asyncclients.core.auth import Token, bearer, token_text
from asyncclients.core.events import logger
from asyncclients.errors import ConfigurationError
from asyncclients.secret import Secret
from asyncclients.stores.clock import SECOND, micros
from asyncclients.stores.config import token_scope
from asyncclients.stores.protocol import StoreUnavailableError
from asyncclients.stores.redis_client import (
    Script,
    close,
    create_client,
    parse_address,
    with_timeout,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOCK = 10.0
"""Seconds until another process requests a token as well."""
_POLL_INTERVAL = 0.05
"""Seconds between two checks for another process's token."""

_CLOCK = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
"""
_LOAD = Script(
    _CLOCK
    + """
local token = redis.call('HMGET', KEYS[1], 'value', 'expires', 'refresh')
if token[1] and tonumber(token[2]) > now and tonumber(token[3]) > now then
  return {token[1], token[2] - now, token[3] - now}
end
if redis.call('EXISTS', KEYS[2]) == 1 then return 'wait' end
local fence = redis.call('INCR', KEYS[3])
redis.call('PEXPIRE', KEYS[3], 864000000)
redis.call('SET', KEYS[2], fence, 'PX', ARGV[1])
return fence
"""
)
_SAVE = Script(
    _CLOCK
    + """
local fence, last = tonumber(ARGV[1]), tonumber(redis.call('HGET', KEYS[1], 'fence') or 0)
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
if fence < last then return 0 end
redis.call('HSET', KEYS[1], 'value', ARGV[2], 'fence', ARGV[1],
  'expires', now + ARGV[3], 'refresh', now + ARGV[4])
redis.call('PEXPIRE', KEYS[1], math.ceil(ARGV[3] / 1000))
return 1
"""
)
_DROP = Script("""
if redis.call('HGET', KEYS[1], 'value') == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'value')
end
return 1
""")
_RELEASE = Script("if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end")


class RedisTokens:
    """Shares access tokens between all processes that use the same Redis and *prefix*.

    Args:
        url, cluster: as in `RedisLimits`.
        prefix: first part of every key.

    Raises:
        ConfigurationError: for an invalid URL, and at first use if the store rejects the login
            or a command. Once the store has worked, neither makes a call fail.
    """

    _store = "at an unusable address"

    def __init__(
        self, url: str | Secret, *, cluster: bool = False, prefix: str = "asyncclients"
    ) -> None:
        url = Secret(url)
        check_type("cluster", cluster, bool, "cluster=True")
        check_type("prefix", prefix, str, "prefix='asyncclients'")
        self._prefix = prefix
        self._address = parse_address(url, cluster=cluster)
        self._store = str(self._address)
        self._fences: dict[str, str] = {}
        self._undropped: dict[str, set[str]] = {}
        self._has_worked = self._is_down = False

    def __repr__(self) -> str:
        return f"<RedisTokens {self._store}>"

    async def load(self, key: str, now: float) -> Token | None:
        """Return the token stored under *key*; None if this process is to request one."""
        for value in [*self._undropped.get(key, ())]:
            await self._drop(key, value)
        for _ in range(math.ceil(_LOCK / _POLL_INTERVAL) + 1):
            reply = await self._try(_LOAD, key, [str(round(_LOCK * 1000))])
            if isinstance(reply, list):
                value, expires, refresh = cast("tuple[bytes, int, int]", reply)
                text = token_text(value.decode(errors="replace"))
                if text is None:  # written by another program
                    return None
                return bearer(text, now + expires / SECOND, now + refresh / SECOND)
            if isinstance(reply, int):
                self._fences[key] = str(reply)
            if reply != b"wait":
                return None
            await asyncio.sleep(_POLL_INTERVAL)
            now += _POLL_INTERVAL
        return None

    async def save(self, key: str, token: Token, now: float) -> None:
        """Store *token* until it expires, unless a later one is stored."""
        expires_in = token.expires_at - now
        if expires_in <= 0:
            return
        refresh_in = min(token.refresh_at - now, expires_in)
        fence = self._fences.pop(key, "0")
        times = [str(micros(expires_in)), str(micros(refresh_in))]
        await self._try(_SAVE, key, [fence, token.value.reveal(), *times])

    async def drop(self, key: str, token: Token) -> None:
        """Delete *token* if it is the one stored under *key*."""
        await self._drop(key, token.value.reveal())

    async def _drop(self, key: str, value: str) -> None:
        """Delete *value* now, or before the next `load` if the store is down."""
        pending = self._undropped.setdefault(key, set())
        pending.add(value)
        if await self._try(_DROP, key, [value]) is not None:
            pending.discard(value)

    async def release(self, key: str) -> None:
        """Let another process request a token."""
        fence = self._fences.pop(key, None)
        if fence is not None:
            await self._try(_RELEASE, key, [fence])

    async def _try(self, script: Script, key: str, arguments: Sequence[str]) -> Any:
        """Return the result of *script*; None while the store is down.

        Raises:
            ConfigurationError: the store has never worked and cannot work as configured.
        """
        client = create_client(self._address)  # needed once in the lifetime of a token
        names = [f"{self._prefix}:{{{key}}}:{part}" for part in ("token", "lock", "fence")]
        try:
            result = await with_timeout(self._address, lambda: script.run(client, names, arguments))
        except (StoreUnavailableError, ConfigurationError) as error:
            if isinstance(error, ConfigurationError) and not self._has_worked:
                raise
            reason = error.message if isinstance(error, ConfigurationError) else str(error)
            if not self._is_down:
                self._is_down = True
                logger.warning(
                    "%s: token store %s unusable: %s. Each process requests tokens alone until it "
                    "is back. %s",
                    *(token_scope(key), self._store, reason, error.advice or ""),
                )
            return None
        finally:
            await close(client)
        self._has_worked = True
        if self._is_down:
            self._is_down = False
            logger.warning("%s: token store %s is usable again", token_scope(key), self._store)
        return result
