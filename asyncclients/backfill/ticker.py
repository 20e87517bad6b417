"""Tells somebody, about once a second, how a run is going."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from asyncclients.backfill.report import Progress
from asyncclients.core.events import Callback

_EVERY = 1.0


@asynccontextmanager
async def reporting_progress(
    look: Callable[[], Progress], tell: Callable[[Progress], None] | None
) -> AsyncGenerator[None]:
    """Give *tell* what *look* sees, every second and at the end of the block."""
    if tell is None:
        yield
        return
    report = Callback(tell)
    ticker = asyncio.create_task(_tick(look, report))
    try:
        yield
    finally:
        ticker.cancel()
        report(look())


async def _tick(look: Callable[[], Progress], report: Callback[Progress]) -> None:
    while True:
        await asyncio.sleep(_EVERY)
        report(look())
