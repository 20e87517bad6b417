"""How long a request travels, is worked on, and travels back.

A round trip has a floor and an excess. The floor is split between the two
directions in one proportion for the whole run (routes differ, and stay), the
excess in a new random proportion for every call (queues come and go).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """A model of network and server; all durations in seconds.

    The excess of a round trip over *floor* is exponential with mean *excess*,
    or, where *sigma* is given, log-normal with median *excess*.
    """

    floor: float
    excess: float
    sigma: float | None = None
    work_floor: float
    work_excess: float

    def draw(self, random: Random, split: float) -> tuple[float, float, float]:
        """One call: seconds to the server, at work there, and back."""
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
"""The named models: a near data centre, across the world, a vendor that works long."""
