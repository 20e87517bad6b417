"""Simulate a configuration in virtual time.

    report = simulate(Quota(2, 1.0), server="sliding-log", latency="wan")
    print(draw_text(report))

Scheduler and limiter are those of real calls. Servers and networks are models: `SERVERS`,
`LATENCIES`.
"""

from __future__ import annotations

from asyncclients.simulator.drawing import draw_image, draw_text
from asyncclients.simulator.models import LATENCIES, SERVERS, Latency
from asyncclients.simulator.report import SimulationReport
from asyncclients.simulator.simulation import simulate

__all__ = [
    "LATENCIES",
    "SERVERS",
    "Latency",
    "SimulationReport",
    "draw_image",
    "draw_text",
    "simulate",
]
