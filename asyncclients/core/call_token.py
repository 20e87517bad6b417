"""The access token of one call: taken, put in at the send, renewed once where it is refused."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from asyncclients.core.auth import Header, Token, is_invalid_token_response
from asyncclients.core.endpoint import NoResponse, Outcome, Response
from asyncclients.core.error_mapping import redacted_excerpt
from asyncclients.errors import (
    AsyncClientsError,
    DeadlineExceededError,
    TokenError,
    TokenRejectedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncclients.core.tokens import TokenCache
    from asyncclients.secret import Secret

TOKEN_EXPIRED = NoResponse("no", TokenError, "had its access token expire while it waited")
"""Nothing was sent, and the permit is free again: the credential is to be fetched anew."""


class CallToken:
    """What one call knows of its token.

    Attributes:
        used: the token that was put in last, or is about to be.
    """

    __slots__ = ("_cache", "_deadline_at", "_expired", "_renewed", "used")

    def __init__(self, cache: TokenCache, deadline_at: float) -> None:
        self._cache, self._deadline_at = cache, deadline_at
        self._renewed = self._expired = False
        self.used: Token | None = None

    async def ensure(self) -> None:
        """Have a token.

        Raises:
            TokenError: there is none to be had.
            DeadlineExceededError: there is none before the deadline.
        """
        now = asyncio.get_running_loop().time()
        self.used = self._cache.current(now) or await self._fetch(now)

    async def _fetch(self, now: float) -> Token:
        deadline_at = self._deadline_at
        try:
            async with asyncio.timeout_at(None if deadline_at == math.inf else deadline_at):
                return await self._cache.get(now)
        except AsyncClientsError:
            raise
        except TimeoutError:
            pass
        raise DeadlineExceededError(
            "got no access token before its deadline",
            advice="Allow a longer deadline: asking for a token is a request of its own",
        )

    def header(self, now: float) -> Header | None:
        """The token at *now*, which may be another's by then; an old one only once."""
        found = self._cache.current(now) or (self.used if self._expired else None)
        self.used = found
        return None if found is None else ("Authorization", found.authorization)

    async def handle_401(self, outcome: Outcome, secrets: Callable[[], tuple[Secret, ...]]) -> bool:
        """Does *outcome* reject the token, so that the call is sent once more with a new one?

        Raises:
            TokenRejectedError: it rejects the new one as well.
        """
        if outcome is TOKEN_EXPIRED:
            self._expired = True
            return True
        if not isinstance(outcome, Response) or outcome.status != 401 or self.used is None:
            return False
        if not is_invalid_token_response(outcome.status, outcome.headers, outcome.body):
            return False
        await self._cache.invalidate(self.used)
        if not self._renewed:
            self._renewed = True
            return True
        error = TokenRejectedError(
            "refused a token that it had just issued",
            status=401,
            excerpt=redacted_excerpt(outcome.body, secrets()),
            advice="Check that the client is enabled for this API, and the clocks",
        )
        self._cache.remember_failure(error, asyncio.get_running_loop().time())
        raise error
