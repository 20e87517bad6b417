"""A push waits for a vendor that is unavailable, and asks it less and less often."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from asyncclients.backfill import push
from asyncclients.backfill.circuit_breaker import CircuitBreaker
from asyncclients.errors import BackfillStoppedError, ConnectError
from asyncclients.testing import virtual_time

AWAY = ConnectError("away", vendor="intouch", operation="tags.create", method="POST", path="/tags")


@pytest.mark.parametrize("in_flight", [1, 8, 64, 500])
async def test_push_recovers_from_short_outage(tmp_path: Path, in_flight: int) -> None:
    """An outage of a second costs seconds, however many calls were in flight."""
    loop = asyncio.get_running_loop()
    with virtual_time() as clock:
        began = loop.time()

        async def target(row: int) -> None:
            await asyncio.sleep(0.05)
            if 0.3 < loop.time() - began < 1.3:
                raise ConnectError("away")

        rows = range(40 * in_flight)
        report = await push(
            rows, target, state=tmp_path / "s", idempotent=True, concurrency=in_flight
        )
    assert report.done == 40 * in_flight
    assert clock.elapsed < 12


async def test_outage_probes_more_and_more_rarely() -> None:
    """A vendor that stays away for long is asked once a minute, not once a second."""
    probes: list[float] = []
    with virtual_time() as clock:
        outage = CircuitBreaker(1800.0)
        for _ in range(64):
            outage.on_failure(AWAY)

        async def probe() -> None:
            while True:
                async with outage.guard():
                    probes.append(clock.elapsed)
                    outage.on_failure(AWAY)

        with pytest.raises(BackfillStoppedError, match=re.escape(f"the last error: {AWAY}")):
            await asyncio.gather(*(probe() for _ in range(8)))
    assert 4 <= len([at for at in probes if at < 60]) <= 8
    assert len([at for at in probes if at > 600]) <= 1200 / 30
