"""Tells somebody, about once a second, how a run is going."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from asyncclients.backfill.report import Progress

_EVERY = 1.0


@asynccontextmanager
async def ticking(
    look: Callable[[], Progress], tell: Callable[[Progress], None] | None
) -> AsyncGenerator[None]:
    """Give *tell* what *look* sees, every second and at the end of the block."""
    if tell is None:
        yield
        return
    ticker = asyncio.create_task(_tick(look, tell))
    try:
        yield
    finally:
        ticker.cancel()
        tell(look())


async def _tick(look: Callable[[], Progress], tell: Callable[[Progress], None]) -> None:
    while True:
        await asyncio.sleep(_EVERY)
        tell(look())
