"""One access token, shared by all calls of one credential.

Lazy: a token is asked for when a call needs one, and again when it has expired
or the vendor said that *this very token* is invalid. In the last part of its
life a call that uses it has the next one asked for, and does not wait for that.
One caller's need starts the request; it runs in a task of its own, so that a
cancelled caller does not take down those who wait with it. A failure is
remembered for a moment only, so that a thousand waiting calls fail once and not
one after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Protocol, TypeVar

from asyncclients.core.auth import Token
from asyncclients.core.events import logger
from asyncclients.errors import AsyncClientsError, ClientClosedError, TokenError, error_text

FAILURE_REMEMBERED = 5.0
"""Seconds for which a failed refresh answers further calls as well."""

T = TypeVar("T")
Fetch = Callable[[], Awaitable[Token]]


class TokenStore(Protocol):
    """Where tokens are kept beyond this process. Failing must not stop a call."""

    async def load(self, key: str, now: float) -> Token | None:
        """The token kept under *key*, if it is still good at *now*; None: ask for one.

        While another process asks for one a store may wait for that, in bounded time.
        """
        ...

    async def save(self, key: str, token: Token, now: float) -> None:
        """Keep *token* under *key* until it expires."""
        ...

    async def drop(self, key: str, token: Token) -> None:
        """Forget *token* if it is the one kept under *key*."""
        ...

    async def release(self, key: str) -> None:
        """The token that `load` left to this process to ask for was not to be had."""
        ...


class TokenCache:
    """The current token of one credential.

    Args:
        key: one-way name of the credential, for the store.
        fetch: asks the vendor for a new token; raises `TokenError`.
        store: shared with other processes, None for none.
    """

    def __init__(self, key: str, fetch: Fetch, store: TokenStore | None = None) -> None:
        self._key, self._fetch, self._store = key, fetch, store
        self._token: Token | None = None
        self._task: asyncio.Task[Token] | None = None
        self._failure: TokenError | None = None
        self._failed_at = 0.0
        self._rejected: Token | None = None
        self.refreshes = 0

    def current(self, now: float) -> Token | None:
        """The token in hand, None if there is none that is good at *now*."""
        token = self._token
        if token is None or now >= token.expires_at:
            return None
        if now >= token.refresh_at and self._task is None and not self._failed(now):
            self._start()
        return token

    @property
    def is_refreshing(self) -> bool:
        """True while a new token is asked for."""
        return self._task is not None

    def _failed(self, now: float) -> bool:
        return self._failure is not None and now < self._failed_at + FAILURE_REMEMBERED

    def _start(self) -> asyncio.Task[Token]:
        # In a context of its own: it serves all, so it must not inherit one caller's lane.
        task = asyncio.create_task(self._refresh(), name="asyncclients token", context=Context())
        task.add_done_callback(self._refreshed)
        self._task = task
        return task

    async def get(self, now: float) -> Token:
        """A token that is good at *now*.

        Raises:
            TokenError: if none can be had.
        """
        token = self.current(now)
        if token is not None:
            return token
        if self._task is None and self._failure is not None and self._failed(now):
            raise self._failure.with_facts()
        task = self._task or self._start()
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if not task.cancelled() or (caller is not None and caller.cancelling()):
                raise
        raise ClientClosedError(
            "the pool was closed while a token was asked for",
            advice="Close the pool after its last call",
        )

    async def invalidate(self, token: Token) -> None:
        """The vendor refused *token*: drop it, unless another took its place already."""
        if self._token is token:
            self._token = None
        if self._rejected is not token:
            self._rejected = token
            if self._store is not None:
                await _tried(self._store.drop(self._key, token))

    def remember_failure(self, failure: TokenError, now: float) -> None:
        """A fresh token was refused: do not ask for the next one right away."""
        self._failure, self._failed_at = failure, now

    async def _refresh(self) -> Token:
        loop = asyncio.get_running_loop()
        if self._store is not None:
            kept = await _tried(self._store.load(self._key, loop.time()))
            if kept is not None and not self._is_old(kept):
                return kept
        self.refreshes += 1
        try:
            token = await self._fetch()
        except BaseException:
            if self._store is not None:
                await asyncio.shield(_tried(self._store.release(self._key)))
            raise
        if self._store is not None:
            await _tried(self._store.save(self._key, token, loop.time()))
        return token

    def _is_old(self, token: Token) -> bool:
        """Is it the one that was rejected, or the one that is to be replaced?"""
        olds = (self._rejected, self._token)
        return any(old is not None and old.value == token.value for old in olds)

    def _refreshed(self, task: asyncio.Task[Token]) -> None:
        self._task = None
        if task.cancelled():
            return
        failure = task.exception()
        if failure is None:
            self._token, self._failure = task.result(), None
        elif isinstance(failure, TokenError):
            self.remember_failure(failure, task.get_loop().time())

    async def aclose(self) -> None:
        """Stop a refresh under way; those who wait for it are cancelled with it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


async def _tried(step: Awaitable[T]) -> T | None:
    """The result of a *step* of the store; None where it failed, which must not stop a call."""
    try:
        return await step
    except AsyncClientsError:
        raise  # said on purpose, as of a store that cannot be used at all
    except Exception as failure:  # noqa: BLE001 - of a driver
        logger.warning(
            "the token store failed, this process goes on without it: %s: %s",
            type(failure).__name__,
            error_text(failure),
        )
        return None
