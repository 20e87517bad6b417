"""The limiter's estimate of external usage, with realistic latencies."""

from __future__ import annotations

import math
from random import Random

import pytest

from asyncclients.ratelimit.headers import RateLimitInfo
from asyncclients.ratelimit.limiter import Limiter
from asyncclients.ratelimit.quota import Quota
from asyncclients.simulator import LATENCIES, SERVERS
from asyncclients.simulator.world import Call, Simulation

HUNDRED = Quota(100, 60.0)
RATE = 0.8
SECONDS, LEARNED = 1800.0, 600.0


class Shared(Simulation):
    """A world in which others use the quota at random instants, and answers say what remains."""

    def __init__(
        self, limiter: Limiter, server: str, latency: str, rate: float, until: float = SECONDS
    ) -> None:
        random = Random(f"{server} {latency}")
        super().__init__(
            limiter,
            SERVERS[server](HUNDRED, random),
            LATENCIES[latency],
            workers=50,
            interactive=0.0,
            retry_after=True,
            random=random,
        )
        self.limiter, self.rate, self.until = limiter, rate, until
        self.let_in = self.refused = 0
        self.seen: list[float] = []
        if rate:
            self._later(0.0, self._other)

    def _other(self, now: float) -> None:
        if now > self.until:
            return
        admitted = self.server.admit(now)
        if now > LEARNED:
            self.let_in += admitted
            self.refused += not admitted
        self._later(now + self.random.expovariate(self.rate), self._other)

    def _arrive(self, now: float, call: Call, work: float, down: float) -> None:
        if not self.server.admit(now):
            self.record.refused_at.append(now)
            wait = math.ceil(self.server.reset_after(now))
            signal = RateLimitInfo(
                is_rate_limited=True, retry_after=wait, limit=HUNDRED.limit, remaining=0
            )
        else:
            self.record.admitted_at.append(now)
            remaining, reset = self.server.remaining(now), math.ceil(self.server.reset_after(now))
            signal = RateLimitInfo(limit=HUNDRED.limit, remaining=remaining, reset=reset)
        self._later(
            now + (0.0 if signal.is_rate_limited else work) + down, self._answer, call, signal
        )

    def _answer(self, now: float, call: Call, signal: RateLimitInfo | None) -> None:
        super()._answer(now, call, signal)
        if now > LEARNED:
            self.seen.append(self.limiter.external_rate)


@pytest.mark.parametrize("server", ["sliding-log", "fixed-window", "two-counter"])
@pytest.mark.parametrize("latency", ["wan", "slow"])
def test_external_usage_is_estimated_and_kept(server: str, latency: str) -> None:
    """0.8 external calls a second are estimated within 15 %; less than a tenth of them is rejected."""
    world = Shared(Limiter([HUNDRED]), server, latency, RATE)
    record = world.run(SECONDS)
    truth = world.let_in / (SECONDS - LEARNED)
    assert sum(world.seen) / len(world.seen) == pytest.approx(truth, rel=0.15)
    assert world.refused < 0.1 * (world.let_in + world.refused)
    ours = sum(at > LEARNED for at in record.admitted_at) / (SECONDS - LEARNED)
    assert ours + truth > 0.85 * HUNDRED.rate


@pytest.mark.parametrize("server", ["sliding-log", "fixed-window", "token-bucket", "small-bucket"])
@pytest.mark.parametrize("latency", ["fast", "wan", "slow"])
def test_external_usage_is_zero_without_others(server: str, latency: str) -> None:
    """Responses that report the remaining quota cost no use of it."""
    world = Shared(Limiter([HUNDRED]), server, latency, 0.0)
    record = world.run(SECONDS)
    assert set(world.seen) == {0.0}
    ours = sum(at > LEARNED for at in record.admitted_at) / (SECONDS - LEARNED)
    assert ours > 0.985 * HUNDRED.rate


@pytest.mark.parametrize("server", ["sliding-log", "fixed-window", "token-bucket"])
def test_external_usage_ends_when_others_leave(server: str) -> None:
    """After twenty minutes with others and ten without, the whole quota is used again."""
    world = Shared(Limiter([HUNDRED]), server, "wan", RATE, until=1200.0)
    record = world.run(2400.0)
    ours = sum(at > 1800.0 for at in record.admitted_at) / 600.0
    assert ours > 0.985 * HUNDRED.rate
    assert sum(at > 1800.0 for at in record.refused_at) <= 2
