"""The scopes of one pool on one store, and what all stores have in common."""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING
from uuid import uuid4

from msgspec.structs import replace

from asyncclients.stores.config import StoreConfig
from asyncclients.stores.fallback import OutageLog
from asyncclients.stores.lease_client import LeaseClient
from asyncclients.stores.lease_state import LeaseState
from asyncclients.stores.limiter import SharedLimiter

if TYPE_CHECKING:
    from asyncclients.ratelimit.limiter import Limiter
    from asyncclients.ratelimit.protocol import BacklogProtocol, ControlCallback, LimiterProtocol
    from asyncclients.stores.protocol import Backend


class SharedLimits:
    """A store as a program names it. It is bound to no event loop and survives a fork."""

    _config = StoreConfig(display_name="at an unusable address")  # until the address is checked

    def __repr__(self) -> str:
        config = self._config
        return f"<{type(self).__name__} {config.display_name} when_down={config.when_down!r}>"

    @property
    def display_name(self) -> str:
        """The address of the store, without credentials."""
        return self._config.display_name

    def _connect(self) -> Backend:
        raise NotImplementedError

    def open(self, *, assume_spent: bool = False) -> StoreSession:
        """Return a session for one pool; *assume_spent*: a new log starts with a spent window."""
        config = replace(self._config, process=uuid4().hex[:12], assume_spent=assume_spent)
        return StoreSession(self._connect(), config)


class StoreSession:
    """Implements `asyncclients.ratelimit.protocol.SharedLimiterFactory` over *backend*."""

    def __init__(self, backend: Backend, config: StoreConfig) -> None:
        self._backend, self.config = backend, config
        self._limiters: dict[LimiterProtocol, SharedLimiter] = {}
        self._first_slot = 1
        self._leaving: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Lock()
        self._log = OutageLog(config)
        self._closed = False

    def limiter(
        self,
        key: str,
        local: Limiter,
        queue: BacklogProtocol,
        *,
        vendor: str = "",
        on_control: ControlCallback | None = None,
    ) -> SharedLimiter:
        """Return a limiter for scope *key* that obeys *local* as well and serves *queue*."""
        self._log.vendors[key] = vendor
        state = LeaseState(key, local, self.config, self._log, self._first_slot)
        limiter = SharedLimiter(local, LeaseClient(state, queue, self._backend, on_control))
        self._limiters[limiter] = limiter
        return limiter

    def forget(self, limiter: LimiterProtocol) -> None:
        """Drop *limiter*, which is idle."""
        client = self._limiters.pop(limiter).client
        self._log.vendors.pop(client.state.key, None)
        leaving = asyncio.get_running_loop().create_task(client.aclose(), context=Context())
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        # The store may remember its slots, so their numbers are not used again.
        self._first_slot = max(self._first_slot, client.state.slots.reserve_numbers(0))

    async def aclose(self) -> None:
        """Give back all slots and close the store, in bounded time. Idempotent."""
        async with self._closing:
            if self._closed:
                return
            closing = (limiter.client.aclose() for limiter in self._limiters.values())
            results = await asyncio.gather(*closing, *self._leaving, return_exceptions=True)
            await self._backend.aclose()
            self._closed = True
        for result in results:
            if result is not None:
                raise result
