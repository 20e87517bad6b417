"""The limiter with each kind of server; short runs, a seed or two.

`benchmarks/rate_limits.py` holds the full matrix. The floors here are a little below
its targets, since a short run is mostly learning.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from asyncclients.errors import ConfigurationError
from asyncclients.ratelimit.headers import RateLimitInfo
from asyncclients.ratelimit.limiter import Limiter
from asyncclients.ratelimit.quota import ONE, Demand, Quota
from asyncclients.ratelimit.slots import Permit
from asyncclients.simulator import LATENCIES, SERVERS, draw_image, draw_text, simulate
from asyncclients.simulator.simulation import Simulation

TWO, HUNDRED = Quota(2, 1.0), Quota(100, 60.0)
LOGS = ("sliding-log", "counting-log", "fixed-window", "token-bucket")


@pytest.mark.parametrize("server", LOGS)
@pytest.mark.parametrize("latency", ["fast", "wan", "slow"])
@pytest.mark.parametrize("quota", [TWO, HUNDRED])
def test_exact_is_never_rejected(quota: Quota, server: str, latency: str) -> None:
    """No server that counts by window rejects a call, and no window exceeds the limit."""
    report = simulate(
        quota, server=server, latency=latency, seconds=5 * quota.period + 60, admission="exact"
    )
    assert report.rejected == 0
    assert report.most_in_window <= quota.limit
    assert report.calls > 50


@pytest.mark.sweep
@pytest.mark.parametrize("server", LOGS)
@pytest.mark.parametrize("latency", ["fast", "wan", "slow"])
@pytest.mark.parametrize("quota", [TWO, HUNDRED])
def test_exact_is_never_rejected_long(quota: Quota, server: str, latency: str) -> None:
    """The same over 1,000 seeds."""
    for seed in range(1000):
        report = simulate(
            quota, server=server, latency=latency, seconds=180.0, admission="exact", seed=seed
        )
        assert report.rejected == 0, f"seed {seed}"


@pytest.mark.parametrize(
    ("quota", "server", "latency", "use", "rejected"),
    [
        (TWO, "sliding-log", "fast", 0.945, 0.003),
        (TWO, "sliding-log", "wan", 0.92, 0.004),
        (TWO, "sliding-log", "slow", 0.88, 0.004),
        (TWO, "counting-log", "wan", 0.92, 0.004),
        (TWO, "small-bucket", "fast", 0.935, 0.004),
        (TWO, "two-counter", "fast", 0.475, 0.015),
        (HUNDRED, "sliding-log", "wan", 0.995, 0.0),
        (HUNDRED, "sliding-log", "slow", 0.99, 0.001),
        (HUNDRED, "small-bucket", "wan", 0.99, 0.002),
        (HUNDRED, "two-counter", "fast", 0.97, 0.01),
    ],
)
def test_adaptive_uses_the_quota(
    quota: Quota, server: str, latency: str, use: float, rejected: float
) -> None:
    """A backlog gets nearly all that the server allows; almost no call is rejected."""
    report = simulate(quota, server=server, latency=latency, seconds=1200.0, seed=1)
    assert report.quota_use >= use
    assert report.rejected_late <= rejected


@pytest.mark.parametrize("latency", ["fast", "wan", "slow"])
def test_adaptive_learns_a_bucket(latency: str) -> None:
    """With a bucket of N, use grows to 99 % and more."""
    report = simulate(TWO, server="token-bucket", latency=latency, seconds=3600.0)
    assert report.rejected == 0
    late = sum(at >= 1800.0 for at in report.accepted_at)
    assert late >= 0.99 * 2 * 1800


def test_adaptive_probes_a_log_rarely() -> None:
    """A log rejects one call, then one after twice the time: three in an hour."""
    report = simulate(TWO, server="sliding-log", latency="fast", seconds=3600.0)
    assert report.rejected <= 4
    assert report.quota_use >= 0.949


def test_adaptive_handles_429_without_retry_after() -> None:
    """The use is the same, and no more calls are rejected."""
    report = simulate(TWO, server="two-counter", seconds=900.0, retry_after=False)
    assert report.quota_use >= 0.475
    assert report.rejected_late <= 0.015


@pytest.mark.parametrize("latency", ["fast", "wan", "slow"])
@pytest.mark.parametrize("quota", [TWO, HUNDRED])
def test_interactive_call_waits_at_most_one_slot(quota: Quota, latency: str) -> None:
    """Beside a saturating backlog, 99 of 100 wait at most one slot interval and 80 ms.

    The target is 50 ms, and met in the mean over seeds (`benchmarks/rate_limits.py`).
    """
    report = simulate(quota, latency=latency, seconds=7200.0, interactive=0.1)
    assert report.wait_p99 <= quota.period / quota.limit + 0.08
    assert report.quota_use >= 0.84


def test_simulation_gives_background_its_share() -> None:
    """If interactive calls exceed the quota, one grant in ten is background, as in a pool."""
    random = Random(0)
    world = Simulation(
        Limiter((TWO,)),
        SERVERS["sliding-log"](TWO, random),
        LATENCIES["fast"],
        workers=5,
        interactive=3.0,
        retry_after=True,
        random=random,
    )
    record = world.run(600.0)
    background = len(record.accepted_at) - len(record.waits)
    assert background == pytest.approx(0.1 * len(record.accepted_at), abs=8)
    assert world.scheduler.queued()["interactive"] > 500
    assert world.scheduler.queued()["background"] <= 5


def test_simulation_retries_a_rejected_call_first() -> None:
    """A rejected interactive call is sent again before later ones."""
    report = simulate(TWO, server="two-counter", seconds=600.0, interactive=0.5)
    assert report.rejected > 10
    assert report.wait_max < 10


def test_simulation_depends_on_its_seed_only() -> None:
    """The same seed gives the same run, another seed another."""
    runs = [simulate(TWO, seconds=60.0, seed=seed) for seed in (3, 3, 4)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


class Greedy:
    """A limiter that grants every permit at once."""

    quotas = (TWO,)

    def next_permit_at(
        self, now: float, demand: Demand = ONE, *, reserve: int = 0, spaced: bool = False
    ) -> float:
        return now

    def acquire(self, now: float, demand: Demand = ONE) -> Permit:
        return Permit(1, now)

    def on_response(self, permit: Permit, now: float, info: RateLimitInfo | None) -> None:
        return None


def test_servers_reject_an_unlimited_client() -> None:
    """A client without a limiter is rejected most of the time."""
    for server in (*LOGS, "small-bucket", "two-counter"):
        report = simulate(TWO, server=server, seconds=30.0, client=Greedy())
        assert report.rejected_share > 0.8
        assert len(report.accepted_at) <= 2 * 31


@pytest.mark.parametrize(
    "wrong",
    [
        {"server": "leaky"},
        {"latency": "moon"},
        {"seconds": 0.0},
        {"seconds": float("inf")},
        {"workers": 0},
        {"interactive": -1.0},
    ],
)
def test_simulate_rejects_invalid_arguments(wrong: dict[str, Any]) -> None:
    """Unknown models and runs without length are configuration errors that list the known ones."""
    with pytest.raises(ConfigurationError) as error:
        simulate(TWO, **wrong)
    assert error.value.advice


@pytest.mark.parametrize(
    "quota", [Quota.calendar(10, "day"), Quota(2, 1.0, operations=("tags.*",)), (2, 1.0)]
)
def test_simulate_rejects_quotas_that_it_cannot_model(quota: Any) -> None:
    """A calendar quota is not simulated as a window of 25 hours, nor one of operations at all."""
    with pytest.raises(ConfigurationError) as error:
        simulate(quota)
    assert "not " in error.value.message
    assert "Quota(100, 60.0)" in str(error.value.advice)


def test_draw_text_shows_all_figures() -> None:
    """Quota, server, limit, fill, rejections and figures are in the text, within its width."""
    report = simulate(TWO, server="two-counter", seconds=120.0, interactive=0.1)
    text = draw_text(report, width=40)
    for part in (
        "2 per 1 s",
        "two-counter",
        "█",
        "x",
        f"{report.calls} calls",
        "rejected",
        "waited",
    ):
        assert part in text
    assert len(text.splitlines()) == 14
    bars = [line for line in text.splitlines() if "│" in line]
    assert {len(line) for line in bars} == {48}


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_draw_image_writes_the_format_of_its_suffix(tmp_path: Path, suffix: str) -> None:
    """The suffix selects the format of the file."""
    pytest.importorskip("matplotlib")
    path = tmp_path / f"run.{suffix}"
    draw_image(simulate(TWO, seconds=60.0), path)
    assert (b"PNG" if suffix == "png" else b"<svg") in path.read_bytes()


def test_draw_image_names_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without matplotlib, the error names the extra to install."""
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ConfigurationError, match=r"asyncclients\[plot\]"):
        draw_image(simulate(TWO, seconds=10.0), tmp_path / "run.png")
