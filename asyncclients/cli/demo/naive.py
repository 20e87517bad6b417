"""The client that most programs begin with: aiohttp, a semaphore, and `Retry-After`.

It reads the same list as the demo's backfill of Intouch and sends the same web requests, to a
mock vendor of its own with the same limit and latency. It is not killed.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp

from asyncclients.cli.demo.records import ASKED_AT
from asyncclients.sandbox import Sandbox

_CONCURRENCY = 10
_WAIT = 1.0
"""Seconds to wait after a 429 without `Retry-After`: Intouch sends none."""


class NaiveClient:
    """Reads the contacts of Intouch from the mock vendor *sandbox*."""

    def __init__(self, session: aiohttp.ClientSession, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._session = session
        self._semaphore = asyncio.Semaphore(_CONCURRENCY)

    async def pull(self) -> None:
        """Read all contacts."""
        first = await self._page(1)
        await asyncio.gather(*map(self._page, range(2, first["last_page"] + 1)))

    async def _page(self, number: int) -> Any:
        async with self._semaphore:
            return await self._get(f"contacts?page={number}&sort_by=created_at", {})

    async def contact(self, uuid: str) -> Any:
        """Return one contact, for a web request."""
        asked_at = str(asyncio.get_running_loop().time())
        return await self._get(f"contacts/{uuid}", {ASKED_AT: asked_at})

    async def _get(self, path: str, headers: dict[str, str]) -> Any:
        url = self.sandbox.url("intouch") + path
        headers = {"x-api-key": self.sandbox.environ["INTOUCH_API_KEY"], **headers}
        while True:
            async with self._session.get(url, headers=headers) as response:
                if response.status != 429:
                    response.raise_for_status()
                    return await response.json()
                wait = float(response.headers.get("Retry-After", _WAIT))
            await asyncio.sleep(wait)
