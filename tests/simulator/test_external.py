"""The limiter's estimate of external usage, with realistic latencies."""

from __future__ import annotations

import math
from random import Random

import pytest
from msgspec.structs import replace

from asyncclients.ratelimit.headers import RateLimitInfo
from asyncclients.ratelimit.limiter import Limiter
from asyncclients.ratelimit.quota import Quota
from asyncclients.simulator import LATENCIES, SERVERS
from asyncclients.simulator.simulation import Simulation

TWO, HUNDRED = Quota(2, 1.0), Quota(100, 60.0)
RATE = 0.8
SECONDS, LEARNED = 1800.0, 600.0


class Shared(Simulation):
    """A simulation in which others use the quota at random instants, and answers say what remains."""

    def __init__(
        self,
        quota: Quota,
        server: str,
        latency: str,
        rate: float,
        *,
        until: float = SECONDS,
        is_reported: bool = True,
    ) -> None:
        random = Random(f"{server} {latency}")
        limiter = Limiter([quota])
        super().__init__(
            limiter,
            SERVERS[server](quota, random),
            LATENCIES[latency],
            workers=50,
            interactive=0.0,
            retry_after=True,
            random=random,
        )
        self.quota, self.learning, self.rate, self.until = quota, limiter, rate, until
        self.is_reported = is_reported
        self.accepted = self.rejected = 0
        self.seen: list[float] = []
        if rate:
            self.loop.start(self._send_others())

    async def _send_others(self) -> None:
        await self.loop.sleep_until(0.0)
        while (now := self.loop.time()) <= self.until:
            accepted = self.server.admit(now)
            if now > LEARNED:
                self.accepted += accepted
                self.rejected += not accepted
            await self.loop.sleep_until(now + self.random.expovariate(self.rate))

    def _response(self, now: float) -> RateLimitInfo:
        if now > LEARNED:
            self.seen.append(self.learning.external.rate)
        is_rejected = not self.server.admit(now)
        wait = math.ceil(self.server.reset_after(now))
        info = RateLimitInfo(is_rate_limited=is_rejected, retry_after=wait if is_rejected else None)
        if self.is_reported:
            remaining = 0 if is_rejected else self.server.remaining(now)
            info = replace(info, limit=self.quota.limit, remaining=remaining, reset=wait)
        return info


@pytest.mark.parametrize("server", ["sliding-log", "fixed-window", "two-counter"])
@pytest.mark.parametrize("latency", ["wan", "slow"])
def test_external_usage_is_estimated_and_kept(server: str, latency: str) -> None:
    """0.8 external calls a second are estimated within 15 %; less than a tenth of them is rejected."""
    simulation = Shared(HUNDRED, server, latency, RATE)
    record = simulation.run(SECONDS)
    truth = simulation.accepted / (SECONDS - LEARNED)
    assert sum(simulation.seen) / len(simulation.seen) == pytest.approx(truth, rel=0.15)
    assert simulation.rejected < 0.1 * (simulation.accepted + simulation.rejected)
    ours = sum(at > LEARNED for at in record.accepted_at) / (SECONDS - LEARNED)
    assert ours + truth > 0.85 * HUNDRED.rate


@pytest.mark.parametrize("is_reported", [True, False])
@pytest.mark.parametrize(
    ("server", "least"), [("sliding-log", 0.6), ("fixed-window", 0.2), ("token-bucket", 0.3)]
)
@pytest.mark.parametrize("latency", ["fast", "slow"])
def test_external_usage_of_two_slots_is_estimated(
    server: str, least: float, latency: str, is_reported: bool
) -> None:
    """At 2 per 1 s, 0.8 calls a second of others are seen as documented, also without reports."""
    simulation = Shared(TWO, server, latency, RATE, is_reported=is_reported)
    record = simulation.run(SECONDS)
    assert least * RATE < sum(simulation.seen) / len(simulation.seen) < 1.25 * RATE
    ours = sum(at > LEARNED for at in record.accepted_at) / (SECONDS - LEARNED)
    assert ours > 0.7
    assert ours + simulation.accepted / (SECONDS - LEARNED) > 1.2


@pytest.mark.parametrize("is_reported", [True, False])
@pytest.mark.parametrize("latency", ["fast", "slow"])
@pytest.mark.parametrize("server", ["counting-log", "small-bucket", "two-counter"])
def test_external_usage_of_two_slots_is_zero_without_others(
    server: str, latency: str, is_reported: bool
) -> None:
    """At 2 per 1 s neither a small bucket nor two counters are mistaken for other clients."""
    simulation = Shared(TWO, server, latency, 0.0, is_reported=is_reported)
    simulation.run(SECONDS)
    assert set(simulation.seen) == {0.0}


@pytest.mark.parametrize("server", ["sliding-log", "fixed-window", "token-bucket"])
def test_external_usage_is_zero_if_the_quota_is_lower_than_configured(server: str) -> None:
    """A vendor that allows 1 per 2 s in place of 2 per 1 s is found to: the rate falls to it."""
    simulation = Shared(TWO, server, "wan", 0.0, is_reported=False)
    simulation.server = SERVERS[server](Quota(30, 60.0), Random(0))
    record = simulation.run(SECONDS)
    assert set(simulation.seen) == {0.0}
    assert sum(at > LEARNED for at in record.rejected_at) < 0.05 * len(record.accepted_at)
    assert sum(at > LEARNED for at in record.accepted_at) / (SECONDS - LEARNED) > 0.45


def test_external_usage_of_two_slots_ends_when_others_leave() -> None:
    """Without reports it is known two minutes after the last rejection that others have left."""
    simulation = Shared(TWO, "sliding-log", "wan", RATE, until=1200.0, is_reported=False)
    record = simulation.run(2400.0)
    assert simulation.learning.external.rate == 0.0
    early, late = ([a for a in record.accepted_at if at < a < at + 300] for at in (900.0, 2100.0))
    assert len(late) > 1.2 * len(early)


@pytest.mark.parametrize("server", ["sliding-log", "fixed-window", "token-bucket", "small-bucket"])
@pytest.mark.parametrize("latency", ["fast", "wan", "slow"])
def test_external_usage_is_zero_without_others(server: str, latency: str) -> None:
    """Responses that report the remaining quota cost no use of it."""
    simulation = Shared(HUNDRED, server, latency, 0.0)
    record = simulation.run(SECONDS)
    assert set(simulation.seen) == {0.0}
    ours = sum(at > LEARNED for at in record.accepted_at) / (SECONDS - LEARNED)
    assert ours > 0.985 * HUNDRED.rate


@pytest.mark.parametrize("server", ["sliding-log", "fixed-window", "token-bucket"])
def test_external_usage_ends_when_others_leave(server: str) -> None:
    """After twenty minutes with others and ten without, the whole quota is used again."""
    simulation = Shared(HUNDRED, server, "wan", RATE, until=1200.0)
    record = simulation.run(2400.0)
    ours = sum(at > 1800.0 for at in record.accepted_at) / 600.0
    assert ours > 0.985 * HUNDRED.rate
    assert sum(at > 1800.0 for at in record.rejected_at) <= 2
