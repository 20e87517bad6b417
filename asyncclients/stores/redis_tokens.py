"""Access tokens shared through Redis or Valkey: one process asks, all use the token.

Opt-in: whoever can read this Redis can use the tokens. A token is kept under a
one-way hash of its credential and leaves Redis when it expires.

Who finds no token, or one that is to be renewed, takes a short lock and asks
for it; the others wait for that, and for no longer than the lock lives. Each
lock has a number higher than the last, and a token is written only over one
with a lower number: a process that was stopped and comes back late cannot
overwrite its successor's token. Where the store is silent each process asks
for a token of its own: failing must not stop a call.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, cast

from asyncclients.core.auth import Token, bearer
from asyncclients.core.events import logger
from asyncclients.secret import Secret
from asyncclients.stores.clock import SECOND, micros
from asyncclients.stores.redis_client import bounded, connector, place
from asyncclients.stores.terms import StoreSilentError

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOCK = 10.0
"""Seconds for which one process may take to get a token before another tries as well."""
_LOOK = 0.05
"""Seconds between two looks for another's token."""

_CLOCK = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local function text(number) return string.format('%.0f', number) end
"""
_LOAD = (
    _CLOCK
    + """
local kept = redis.call('HMGET', KEYS[1], 'value', 'expires', 'refresh')
local good = kept[1] and tonumber(kept[2]) > now
if good and tonumber(kept[3]) > now then
  return {kept[1], tonumber(kept[2]) - now, tonumber(kept[3]) - now}
end
if redis.call('EXISTS', KEYS[2]) == 1 then return 'wait' end
local fence = redis.call('INCR', KEYS[3])
redis.call('PEXPIRE', KEYS[3], 864000000)
redis.call('SET', KEYS[2], text(fence), 'PX', ARGV[1])
return fence
"""
)
_SAVE = (
    _CLOCK
    + """
local fence, last = tonumber(ARGV[1]), tonumber(redis.call('HGET', KEYS[1], 'fence') or 0)
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
if fence < last then return 0 end
redis.call('HSET', KEYS[1], 'value', ARGV[2], 'fence', ARGV[1],
  'expires', text(now + ARGV[3]), 'refresh', text(now + ARGV[4]))
redis.call('PEXPIRE', KEYS[1], text(math.ceil(ARGV[3] / 1000)))
return 1
"""
)
_DROP = """
if redis.call('HGET', KEYS[1], 'value') == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'value')
end
"""
_RELEASE = "if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end"


class RedisTokens:
    """Shares access tokens between all processes that use the same Redis and *prefix*.

    Args:
        url: `redis://`, `rediss://` or `unix://`, as redis-py reads it.
        prefix: begins the name of every key.

    Raises:
        ConfigurationError: for an unusable URL, and at first use where the login is refused.
    """

    def __init__(self, url: str | Secret, *, prefix: str = "asyncclients") -> None:
        url = Secret(url)
        self._store, self._prefix = place(url), prefix
        self._connect = connector(url)
        self._fences: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<RedisTokens {self._store}>"

    async def load(self, key: str, now: float) -> Token | None:
        """The token kept under *key*; None: this process is to ask for one."""
        try:
            return await self._load(key, now)
        except StoreSilentError as why:
            logger.warning("the shared token store is silent (%s): asking for a token alone", why)
            return None

    async def _load(self, key: str, now: float) -> Token | None:
        for _ in range(math.ceil(_LOCK / _LOOK) + 1):
            answer = await self._run(_LOAD, key, [str(round(_LOCK * 1000))])
            if isinstance(answer, list):
                value, expires, refresh = cast("tuple[bytes, int, int]", answer)
                return bearer(
                    Secret(value.decode()), now + expires / SECOND, now + refresh / SECOND
                )
            if isinstance(answer, int):
                self._fences[key] = str(answer)
                return None
            await asyncio.sleep(_LOOK)
            now += _LOOK
        return None

    async def save(self, key: str, token: Token, now: float) -> None:
        """Keep *token* until it expires, unless a later one is kept already."""
        lives, fresh = token.expires_at - now, token.refresh_at - now
        if lives <= 0:
            return
        fresh = min(fresh, lives)
        fence = self._fences.pop(key, "0")
        times = [str(micros(lives)), str(micros(fresh))]
        await self._try(_SAVE, key, [fence, token.value.reveal(), *times])

    async def drop(self, key: str, token: Token) -> None:
        """Forget *token* if it is the one kept under *key*."""
        await self._try(_DROP, key, [token.value.reveal()])

    async def release(self, key: str) -> None:
        """Let another process ask for a token."""
        fence = self._fences.pop(key, None)
        if fence is not None:
            await self._try(_RELEASE, key, [fence])

    async def _try(self, script: str, key: str, arguments: Sequence[str]) -> None:
        try:
            await self._run(script, key, arguments)
        except StoreSilentError as why:
            logger.warning("the shared token store is silent (%s)", why)

    async def _run(self, script: str, key: str, arguments: Sequence[str]) -> Any:
        # A connection for each: it is needed once in the life of a token.
        client = self._connect()
        names = [f"{self._prefix}:{{{key}}}:{part}" for part in ("token", "lock", "fence")]
        try:
            run = client.register_script(script)
            return await bounded(self._store, lambda: run(keys=names, args=list(arguments)))
        finally:
            await client.aclose()
