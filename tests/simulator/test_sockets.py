"""The matrix over real sockets: a pool gives the results of the simulator.

`benchmarks/rate_limits.py --sockets` holds the whole table beside its targets.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from asyncclients.ratelimit.quota import Quota
from asyncclients.simulator import LATENCIES, SERVERS, SimulationReport, simulate
from asyncclients.testing.clock import run_virtual
from tests.support.socket_simulation import SocketSimulation

TWO, HUNDRED, HUNDRED_EIGHTY = Quota(2, 1.0), Quota(100, 60.0), Quota(180, 60.0)
LOGS = ("sliding-log", "counting-log", "fixed-window", "token-bucket")
CELLS = tuple(itertools.product((TWO, HUNDRED, HUNDRED_EIGHTY), SERVERS, LATENCIES))


def over_sockets(
    quota: Quota, server: str, latency: str, seconds: float, **how: Any
) -> SimulationReport:
    """One run: pool, client, aiohttp, a server.

    A run in which the kernel delivered bytes late, as on a busy machine, is repeated: its times
    are not those that were drawn.
    """
    tries = 4
    while True:
        world = SocketSimulation(quota, server=server, latency=latency, **how)
        report = run_virtual(world.run(seconds))
        tries -= 1
        if world.late == 0 or tries == 0:
            return report


def same_luck(quota: Quota, server: str, latency: str, seconds: float) -> None:
    """Assert that sockets and simulator come to the same, with the same luck."""
    real = over_sockets(quota, server, latency, seconds)
    model = simulate(quota, server=server, latency=latency, seconds=seconds)
    # If rejections change the pace, a send may shift by microseconds, which changes later calls.
    assert real.quota_use == pytest.approx(model.quota_use, abs=0.01)
    assert real.rejected_share == pytest.approx(model.rejected_share, abs=0.005)
    assert real.calls == pytest.approx(model.calls, rel=0.01)


@pytest.mark.parametrize(
    ("quota", "server", "latency"),
    [
        (TWO, "sliding-log", "wan"),
        (TWO, "small-bucket", "fast"),
        (TWO, "two-counter", "slow"),
        (HUNDRED, "fixed-window", "slow"),
        (HUNDRED_EIGHTY, "counting-log", "fast"),
    ],
)
def test_pool_agrees_with_the_simulator(quota: Quota, server: str, latency: str) -> None:
    """In six minutes, use, rejections and calls equal those of the simulator."""
    same_luck(quota, server, latency, 360.0)


@pytest.mark.sweep
@pytest.mark.parametrize(("quota", "server", "latency"), CELLS)
def test_pool_agrees_with_the_simulator_long(quota: Quota, server: str, latency: str) -> None:
    """The same for an hour, in all of the matrix."""
    same_luck(quota, server, latency, 3600.0)


@pytest.mark.parametrize("server", LOGS)
def test_exact_pool_is_never_rejected(server: str) -> None:
    """No server that counts by window rejects a call, and no window exceeds the limit."""
    report = over_sockets(TWO, server, "wan", 120.0, admission="exact")
    assert report.rejected == 0
    assert report.most_in_window <= TWO.limit
    assert report.calls > 150


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("quota", "server", "latency"), [cell for cell in CELLS if cell[1] in LOGS]
)
def test_exact_pool_is_never_rejected_long(quota: Quota, server: str, latency: str) -> None:
    """The same in all of the matrix, over 20 seeds."""
    for seed in range(20):
        report = over_sockets(
            quota, server, latency, 3 * quota.period + 60, admission="exact", seed=seed
        )
        assert report.rejected == 0, f"seed {seed}"


def test_interactive_call_waits_at_most_one_slot() -> None:
    """Beside a saturating backlog, 99 of 100 wait at most one slot interval and 80 ms."""
    report = over_sockets(TWO, "sliding-log", "slow", 1200.0, interactive=0.1)
    assert len(report.accepted_at) > 0.8 * TWO.rate * 1200.0
    assert report.wait_p99 <= TWO.period / TWO.limit + 0.08
