"""Quotas shared through Redis or Valkey; needs the extra `asyncclients[redis]`.

`docs/many-processes.md` lists the keys and their content. A store that cannot work as configured
is a `ConfigurationError` at first use; any other failure is an outage (`fallback.py`).
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from contextlib import suppress
from importlib.resources import files
from typing import Any

import msgspec

from asyncclients.arguments import check_type
from asyncclients.secret import Secret
from asyncclients.stores.clock import SECOND
from asyncclients.stores.config import StoreConfig, WhenDown
from asyncclients.stores.control import ScopeLimits, scope_limits
from asyncclients.stores.protocol import LeaseRequest, LeaseResponse, StoreUnavailableError
from asyncclients.stores.quota_log import RULES, QuotaLog
from asyncclients.stores.redis_client import (
    Address,
    Script,
    check_server,
    close,
    create_client,
    node_name,
    parse_address,
    with_timeout,
)
from asyncclients.stores.redis_tokens import RedisTokens
from asyncclients.stores.session import SharedLimits

__all__ = ["RedisLimits", "RedisTokens"]

_MAX_COMMANDS = 16
"""Commands in flight to one server at a time: with ten thousand scopes, the others wait."""
_SCAN_COUNT = 1000
_SCAN_TIMEOUT = 10.0
"""Seconds to find all scopes among the keys of a server."""
_encode = msgspec.json.Encoder().encode
_RULES = _encode(RULES)
_EMPTY = msgspec.msgpack.encode(QuotaLog())
_decode_response = msgspec.msgpack.Decoder(LeaseResponse).decode
_decode_state = msgspec.msgpack.Decoder(QuotaLog).decode


def script_keys(prefix: str, scope: str, request: LeaseRequest) -> list[str]:
    """Return the keys of *scope* for *request*, in the order in which the script expects them."""
    names = "state", "log", *(f"log:{group}" for group in request.logs[1:])
    return [redis_key(prefix, scope, name) for name in names]


def redis_key(prefix: str, scope: str, name: str) -> str:
    """Return the key *name* of *scope*."""
    return f"{prefix}:v4:{{{scope}}}:{name}"


def script_arguments(request: LeaseRequest) -> list[bytes]:
    """Return the script's arguments: *request*, the constants of `quota_log.py`, an empty log."""
    return [_encode(request), _RULES, _EMPTY]


def load_script(name: str = "quota_log.lua") -> str:
    """Return the source of the script *name*."""
    return files(__name__.rpartition(".")[0]).joinpath(name).read_text("utf-8")


class RedisLimits(SharedLimits):
    """Shares quotas between all processes that use the same Redis and *prefix*.

    Args:
        url: `redis://`, `rediss://` (TLS) or `unix://`, as redis-py reads it;
            `redis+sentinel://host1:26379,host2:26379/NAME` for the primary that Sentinel knows
            as NAME, with the same user and password for both; `redis+cluster://host1,host2` as
            with *cluster*. `rediss+sentinel://` and `rediss+cluster://` use TLS.
        cluster: the server is a node of a Redis or Valkey cluster. *url* may name several of
            them; the others are found through any that responds.
        when_down: what each process sends in an outage: its share of the quota
            (`safe_share`), nothing (`pause`), or what its own limiter allows (`local`, up to
            the quota times the number of processes).
        lease: seconds for which a process may hold a slot before it uses it. Longer: fewer
            round trips; shorter: a more urgent call of another process gets a slot sooner.
        prefix: first part of every key.

    Raises:
        ConfigurationError: for an invalid argument. A wrong password or a server that is too
            old raises it at the first call.
    """

    def __init__(
        self,
        url: str | Secret,
        *,
        cluster: bool = False,
        when_down: WhenDown = "safe_share",
        lease: float = 0.1,
        prefix: str = "asyncclients",
    ) -> None:
        url = Secret(url)
        check_type("cluster", cluster, bool, "cluster=True")
        check_type("prefix", prefix, str, "prefix='asyncclients'")
        self._address, self._prefix = parse_address(url, cluster=cluster), prefix
        self._config = StoreConfig(
            display_name=str(self._address),
            when_down=when_down,
            lease=lease,
            timeout=self._address.timeout,
        )

    def backend(self) -> RedisBackend:
        """Return a connection, for one pool or for `LimitsControl`."""
        return RedisBackend(self._address, self._prefix)

    _connect = backend


class _Lane:
    """The commands to one node: some in flight at a time, the others wait."""

    def __init__(self) -> None:
        self.semaphore = asyncio.Semaphore(_MAX_COMMANDS)
        self.failure = StoreUnavailableError("no response")  # the last one


class RedisBackend:
    """The quota logs of all scopes in one Redis, or in the nodes of one cluster."""

    def __init__(self, address: Address, prefix: str) -> None:
        self._client = create_client(address)
        self._address, self._prefix = address, prefix
        self._script = Script(load_script())
        self._control_script = Script(load_script("control.lua"))
        self._server_check: asyncio.Task[None] | None = None
        self._lanes: defaultdict[str, _Lane] = defaultdict(_Lane)

    async def apply(self, key: str, request: LeaseRequest) -> LeaseResponse:
        """Apply *request*, see `Backend.apply`.

        If a command queued before this one for the same node fails, this one fails too, without
        being sent.
        """
        keys, arguments = script_keys(self._prefix, key, request), script_arguments(request)
        lane = self._lanes[node_name(self._client, keys[0])]
        failure = lane.failure
        async with lane.semaphore:
            if lane.failure is not failure:
                raise StoreUnavailableError(str(lane.failure), lane.failure.advice)
            try:
                reply = await with_timeout(self._address, lambda: self._run(keys, arguments))
            except StoreUnavailableError as error:
                lane.failure = error
                raise
        return decode_reply(reply)

    async def scopes(self) -> list[ScopeLimits]:
        """Return all scopes in the store, see `ControlBackend`."""
        names = await with_timeout(self._address, self._scope_names, _SCAN_TIMEOUT)
        replies = await asyncio.gather(*map(self._control, names))
        found: list[ScopeLimits] = []
        for name, ((seconds, micros), state) in zip(names, replies, strict=True):
            with suppress(msgspec.DecodeError, TypeError):  # another program wrote it; it expired
                now = int(seconds) * SECOND + int(micros)
                found.append(scope_limits(name, _decode_state(state), now))
        return found

    async def _scope_names(self) -> set[str]:
        pattern = redis_key(_escape(self._prefix), "*", "state")
        before, after = map(len, redis_key(self._prefix, "\n", "state").split("\n"))
        client: Any = self._client  # redis-py leaves the type open
        found = client.scan_iter(match=pattern, count=_SCAN_COUNT)
        return {key.decode()[before:-after] async for key in found}

    async def set_control(self, scope: str, vendor: str, field: str, value: str) -> None:
        """Set what an operator wants for *scope*, see `ControlBackend`."""
        await self._control(scope, field, value, vendor, RULES.keep_control // 1000, _EMPTY)

    async def _control(self, scope: str, *change: str | int | bytes) -> Any:
        keys = [redis_key(self._prefix, scope, "state")]
        async with self._lanes[node_name(self._client, keys[0])].semaphore:
            return await with_timeout(
                self._address, lambda: self._control_script.run(self._client, keys, change)
            )

    async def _run(self, keys: list[str], arguments: list[bytes]) -> Any:
        check = self._server_check
        if check is None or (check.done() and (check.cancelled() or check.exception() is not None)):
            check = asyncio.create_task(check_server(self._client, str(self._address)))
            self._server_check = check
        await asyncio.shield(check)
        return await self._script.run(self._client, keys, arguments)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._server_check is not None:
            self._server_check.cancel()
            await asyncio.gather(self._server_check, return_exceptions=True)
        await close(self._client)


def _escape(text: str) -> str:
    """Return the pattern of SCAN that matches *text* literally."""
    return re.sub(r"([][*?^\\-])", r"\\\1", text)


def decode_reply(reply: Any) -> LeaseResponse:
    """Return the script's *reply* as a response.

    Raises:
        StoreUnavailableError: it is not a response.
    """
    try:
        return _decode_response(reply)
    except (msgspec.DecodeError, TypeError):
        raise StoreUnavailableError(
            "its reply is not a lease response", "Check that Redis or Valkey responds there"
        ) from None
