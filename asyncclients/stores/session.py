"""One pool's line to a store: the scopes that talk, and the end of all talks."""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING

from asyncclients.stores.config import ScopeCount
from asyncclients.stores.lease_client import LeaseClient
from asyncclients.stores.limiter import SharedLimiter
from asyncclients.stores.outage_log import OutageLog

if TYPE_CHECKING:
    from asyncclients.ratelimit.limiter import Limiter
    from asyncclients.ratelimit.protocol import BacklogProtocol, LimiterProtocol
    from asyncclients.stores.config import Backend, StoreConfig


class StoreSession:
    """Implements `asyncclients.ratelimit.protocol.SharedLimits` over *backend*, on *terms*."""

    def __init__(self, backend: Backend, terms: StoreConfig) -> None:
        self._backend, self.terms = backend, terms
        self._limiters: dict[LimiterProtocol, SharedLimiter] = {}
        self._first_slot = 1
        self._leaving: set[asyncio.Task[None]] = set()
        self._crowd = ScopeCount()
        self._closing = asyncio.Lock()
        self._log = OutageLog(terms)
        self._closed = False

    def limiter(
        self, key: str, local: Limiter, queue: BacklogProtocol, *, vendor: str = ""
    ) -> SharedLimiter:
        """The limiter of scope *key*; it obeys *local* as well and serves *queue*."""
        self._crowd.scopes += 1
        self._log.add(key, vendor)
        talk = LeaseClient(
            key,
            local,
            queue,
            backend=self._backend,
            terms=self.terms,
            crowd=self._crowd,
            first_slot=self._first_slot,
            log=self._log,
        )
        limiter = SharedLimiter(local, talk, self.terms.lease)
        self._limiters[limiter] = limiter
        return limiter

    def forget(self, limiter: LimiterProtocol) -> None:
        """Drop *limiter*, which is idle."""
        self._crowd.scopes -= 1
        talk = self._limiters[limiter].lease_client
        self._log.remove(talk.key)
        leaving = asyncio.get_running_loop().create_task(talk.aclose(), context=Context())
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        # The store may remember its slots: numbers are not given again.
        self._first_slot = max(self._first_slot, self._limiters.pop(limiter).slots.numbers(0))

    async def aclose(self) -> None:
        """Give back what is held and close the line, in bounded time. Idempotent."""
        async with self._closing:
            if self._closed:
                return
            talks = (limiter.lease_client.aclose() for limiter in self._limiters.values())
            ends = await asyncio.gather(*talks, *self._leaving, return_exceptions=True)
            await self._backend.aclose()
            self._closed = True
        for end in ends:
            if end is not None:
                raise end
