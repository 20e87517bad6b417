"""Access tokens shared through Redis or Valkey: one process asks, all use the token.

Opt-in: whoever can read this Redis can use the tokens. A token is kept under a
one-way hash of its credential and leaves Redis when it expires.

Who finds no token, or one that is to be renewed, takes a short lock and asks
for it; the others wait for that, and for no longer than the lock lives. Each
lock has a number higher than the last, and a token is written only over one
with a lower number: a process that was stopped and comes back late cannot
overwrite its successor's token. While the store is down, or refuses what it accepted
before (a password was changed), each process asks for a token of its own: failing
must not stop a call. That is logged once, and so is the recovery.
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
from asyncclients.stores.config import StoreUnavailableError
from asyncclients.stores.redis_client import Script, connector, display_url, with_timeout

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
_LOAD = Script(
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
_SAVE = Script(
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
        url: `redis://`, `rediss://` or `unix://`, as redis-py reads it.
        prefix: begins the name of every key.

    Raises:
        ConfigurationError: for an unusable URL, and at first use if the store refuses the
            login or a command. After it has worked, neither stops a call.
    """

    def __init__(self, url: str | Secret, *, prefix: str = "asyncclients") -> None:
        url = Secret(url)
        check_type("prefix", prefix, str, "prefix='asyncclients'")
        self._store, self._prefix = display_url(url), prefix
        self._connect = connector(url)
        self._fences: dict[str, str] = {}
        self._undropped: dict[str, set[str]] = {}
        self._has_worked = self._is_down = False

    def __repr__(self) -> str:
        return f"<RedisTokens {self._store}>"

    async def load(self, key: str, now: float) -> Token | None:
        """The token kept under *key*; None: this process is to ask for one."""
        for value in [*self._undropped.get(key, ())]:
            await self._drop(key, value)
        for _ in range(math.ceil(_LOCK / _LOOK) + 1):
            answer = await self._try(_LOAD, key, [str(round(_LOCK * 1000))])
            if isinstance(answer, list):
                value, expires, refresh = cast("tuple[bytes, int, int]", answer)
                text = token_text(value.decode(errors="replace"))
                if text is None:  # not a token: another program wrote it
                    return None
                return bearer(text, now + expires / SECOND, now + refresh / SECOND)
            if isinstance(answer, int):
                self._fences[key] = str(answer)
            if answer != b"wait":
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
        await self._drop(key, token.value.reveal())

    async def _drop(self, key: str, value: str) -> None:
        """Forget *value* now, or before the next `load` if the store is down now."""
        waiting = self._undropped.setdefault(key, set())
        waiting.add(value)
        if await self._try(_DROP, key, [value]) is not None:
            waiting.discard(value)

    async def release(self, key: str) -> None:
        """Let another process ask for a token."""
        fence = self._fences.pop(key, None)
        if fence is not None:
            await self._try(_RELEASE, key, [fence])

    async def _try(self, script: Script, key: str, arguments: Sequence[str]) -> Any:
        """Return what *script* returns; None while the store is down.

        Raises:
            ConfigurationError: the store has never worked, and cannot as configured.
        """
        try:
            result = await self._run(script, key, arguments)
        except StoreUnavailableError as why:
            self._failed(str(why), why.advice)
            return None
        except ConfigurationError as error:
            if not self._has_worked:
                raise
            self._failed(error.message, error.advice or "")
            return None
        self._has_worked = True
        if self._is_down:
            self._is_down = False
            logger.warning("token store %s is usable again", self._store)
        return result

    def _failed(self, why: str, advice: str) -> None:
        if not self._is_down:
            self._is_down = True
            logger.warning(
                "token store %s unusable: %s. Each process requests tokens alone until it is "
                "back. %s",
                *(self._store, why, advice),
            )

    async def _run(self, script: Script, key: str, arguments: Sequence[str]) -> Any:
        # A connection for each: it is needed once in the life of a token.
        client = self._connect()
        names = [f"{self._prefix}:{{{key}}}:{part}" for part in ("token", "lock", "fence")]
        try:
            return await with_timeout(self._store, lambda: script.run(client, names, arguments))
        finally:
            await client.aclose()
