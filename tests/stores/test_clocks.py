"""Only the store's clock counts, and setting it exceeds no quota."""

from __future__ import annotations

import asyncio

import pytest

from asyncclients.ratelimit.quota import Quota
from asyncclients.sandbox.limits import SlidingLog
from tests.support.shared_quota import SharedQuotaSimulation, most_in

TWO = Quota(2, 1.0)
TWENTY = Quota(20, 10.0)


@pytest.mark.virtual_time
@pytest.mark.parametrize("step", [-86_400.0, -30.0, 30.0, 86_400.0])
@pytest.mark.parametrize("quota", [TWO, TWENTY])
async def test_store_clock_set_forward_or_back_exceeds_no_quota(
    quota: Quota, step: float, caplog: pytest.LogCaptureFixture
) -> None:
    """The clock is set by half a minute or a day: no call too many, a warning, full use later."""
    world = SharedQuotaSimulation(SlidingLog(quota.limit, quota.period), quota)
    for _ in range(4):
        world.start().work(4)
    loop = asyncio.get_running_loop()
    await asyncio.sleep(3.5 * quota.period + 7.7)
    world.store.ahead = step
    since = loop.time() + quota.period + 4
    await asyncio.sleep(5 * quota.period + 10)
    used = world.admitted(since, loop.time()) / (quota.rate * (loop.time() - since))
    await world.stop()
    assert most_in(quota.period, world.arrivals) <= quota.limit
    assert used >= 0.9
    assert "the window counts as spent" in caplog.text
