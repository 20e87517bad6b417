"""Models of the network and of the server's rate limit.

A round trip has a floor and an excess. The floor is divided between the two directions in
one proportion for the whole run, because routes differ but stay; the excess is divided at
random for every call, because queues grow and shrink.

The servers are the models of `sandbox/limits.py`. They share no code with the client's
limiter, which learns about them from their responses alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncclients.sandbox.limits import FixedWindow, SlidingLog, TokenBucket, TwoCounter

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from asyncclients.ratelimit.quota import Quota
    from asyncclients.sandbox.limits import ServerLimit


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """A model of network and server; all durations in seconds.

    The excess of a round trip over *floor* is exponential with mean *excess*, or, if
    *sigma* is given, log-normal with median *excess*. The server works for *work_floor*
    and an exponential time with mean *work_excess*.
    """

    floor: float
    excess: float
    sigma: float | None = None
    work_floor: float
    work_excess: float

    def draw(self, random: Random, split: float) -> tuple[float, float, float]:
        """Return the seconds of one call to the server, at work there, and back.

        *split* is the share of the floor on the way to the server.
        """
        if self.sigma is None:
            excess = random.expovariate(1 / self.excess)
        else:
            excess = random.lognormvariate(math.log(self.excess), self.sigma)
        there = random.random()
        work = self.work_floor + random.expovariate(1 / self.work_excess)
        up = self.floor * split + excess * there
        down = self.floor * (1 - split) + excess * (1 - there)
        return up, work, down


LATENCIES = {
    "fast": Latency(floor=0.040, excess=0.020, work_floor=0.020, work_excess=0.030),
    "wan": Latency(floor=0.080, excess=0.030, sigma=0.8, work_floor=0.020, work_excess=0.030),
    "slow": Latency(floor=0.040, excess=0.020, work_floor=0.200, work_excess=0.400),
}
"""A nearby data centre, a server on another continent, and a vendor that works long."""


SERVERS: dict[str, Callable[[Quota, Random], ServerLimit]] = {
    "sliding-log": lambda quota, _: SlidingLog(quota.limit, quota.period),
    "counting-log": lambda quota, _: SlidingLog(quota.limit, quota.period, count_rejected=True),
    "fixed-window": lambda quota, random: FixedWindow(
        quota.limit, quota.period, phase=random.random() * quota.period
    ),
    "token-bucket": lambda quota, _: TokenBucket(quota.limit, quota.period),
    "small-bucket": lambda quota, _: TokenBucket(
        quota.limit, quota.period, capacity=max(1.2, quota.limit / 10)
    ),
    "two-counter": lambda quota, random: TwoCounter(
        quota.limit, quota.period, phase=random.random() * quota.period
    ),
}
"""`counting-log` counts rejected calls as well; `small-bucket` holds a tenth of the limit."""
