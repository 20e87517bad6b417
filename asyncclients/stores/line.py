"""One pool's line to a store: the scopes that talk, and the end of all talks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from asyncclients.stores.limiter import SharedLimiter
from asyncclients.stores.talk import Talk
from asyncclients.stores.terms import Crowd

if TYPE_CHECKING:
    from asyncclients.limits.limiter import Limiter
    from asyncclients.limits.shared import Queue
    from asyncclients.stores.terms import Backend, Terms


class Line:
    """Implements `asyncclients.limits.shared.SharedLimits` over *backend*, on *terms*."""

    def __init__(self, backend: Backend, terms: Terms) -> None:
        self._backend, self.terms = backend, terms
        self._limiters: list[SharedLimiter] = []
        self._crowd = Crowd()
        self._closed = False

    def limiter(self, key: str, local: Limiter, queue: Queue) -> SharedLimiter:
        """The limiter of scope *key*; it obeys *local* as well and serves *queue*."""
        self._crowd.scopes += 1
        talk = Talk(key, local, queue, backend=self._backend, terms=self.terms, crowd=self._crowd)
        limiter = SharedLimiter(local, talk, self.terms.lease)
        self._limiters.append(limiter)
        return limiter

    async def aclose(self) -> None:
        """Give back what is held and close the line, in bounded time. Idempotent."""
        if self._closed:
            return
        self._closed = True
        await asyncio.gather(*(limiter.talk.aclose() for limiter in self._limiters))
        await self._backend.aclose()
