"""Access tokens that processes share, under the names that the world knows them by."""

from __future__ import annotations

from asyncclients.core.auth import Token
from asyncclients.stores.file_tokens import FileTokens

from .store import Names


class Tokens:
    """Implements `asyncclients.core.tokens.TokenStore`."""

    def __init__(self, kept: FileTokens, names: Names) -> None:
        self._kept, self._names = kept, names

    async def load(self, key: str, now: float) -> Token | None:
        """See `FileTokens`, as for the rest."""
        return await self._kept.load(self._names[key], now)

    async def save(self, key: str, token: Token, now: float) -> None:
        """Keep *token*."""
        await self._kept.save(self._names[key], token, now)

    async def drop(self, key: str, token: Token) -> None:
        """Forget *token*."""
        await self._kept.drop(self._names[key], token)

    async def release(self, key: str) -> None:
        """Nothing to do."""
        await self._kept.release(self._names[key])
