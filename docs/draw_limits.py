"""Draw `_static/plot-*.svg`: what a rate limit costs clients.

The build of the documentation calls `draw()`; `python docs/draw_limits.py` does the same. The
arrivals are those of the simulator and its models, with a fixed seed; the comparison has the
figures of `benchmarks/rate_limits.py`.
"""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from random import Random
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from asyncclients import Quota
from asyncclients.simulator import LATENCIES, SERVERS, SimulationReport, simulate
from asyncclients.simulator.report import Record
from asyncclients.testing.clock import run_virtual

STATIC = Path(__file__).parent / "_static"
_RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "rate-limits.json"
_QUOTA, _SERVER, _LATENCY = Quota(2, 1.0), "sliding-log", "wan"
_WORKERS, _SECONDS = 10, 30
_ACCEPTED, _REJECTED, _OTHERS = "#2563eb", "#dc2626", "#94a3b8"
_STYLE = {"svg.hashsalt": "asyncclients", "svg.fonttype": "none"}
"""Makes the drawings deterministic, and their text text."""


def naive() -> SimulationReport:
    """Simulate workers that send at once, and wait for the `Retry-After` of their own 429s."""
    random = Random(0)
    record = run_virtual(_naive(random))
    return record.report(
        _QUOTA, _SERVER, _LATENCY, workers=_WORKERS, seconds=float(_SECONDS), seed=0
    )


async def _naive(random: Random) -> Record:
    loop, record = asyncio.get_running_loop(), Record()
    server, route, split = SERVERS[_SERVER](_QUOTA, random), LATENCIES[_LATENCY], random.random()

    async def work() -> None:
        while True:
            up, work, down = route.draw(random, split)
            await asyncio.sleep(up)
            now = loop.time()
            if server.admit(now):
                record.accepted_at.append(now)
                await asyncio.sleep(work + down)
            else:
                record.rejected_at.append(now)
                await asyncio.sleep(down + math.ceil(server.reset_after(now)))

    workers = [asyncio.create_task(work()) for _ in range(_WORKERS)]
    await asyncio.wait(workers, timeout=_SECONDS)
    for worker in workers:
        worker.cancel()
    return record


def ours() -> SimulationReport:
    """Simulate our limiter with the same number of workers."""
    return simulate(
        _QUOTA, server=_SERVER, latency=_LATENCY, workers=_WORKERS, seconds=float(_SECONDS)
    )


def draw_arrivals(path: Path) -> None:
    """Draw the arrivals of both clients in each second, with the limit."""
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    panels: Any = figure.subplots(2, sharex=True, sharey=True)
    runs = (("Semaphore and Retry-After", naive()), ("asyncclients", ours()))
    for axes, (name, report) in zip(panels, runs, strict=True):
        seconds = range(_SECONDS)
        accepted, rejected = (
            [sum(int(at) == second for at in instants) for second in seconds]
            for instants in (report.accepted_at, report.rejected_at)
        )
        middles = [second + 0.5 for second in seconds]
        axes.bar(middles, accepted, 0.8, color=_ACCEPTED, label="accepted")
        axes.bar(middles, rejected, 0.8, bottom=accepted, color=_REJECTED, label="429")
        axes.axhline(_QUOTA.limit, color="black", linewidth=1, linestyle="--", label="limit")
        axes.set_title(
            f"{name}: {report.calls} requests, {len(report.accepted_at)} accepted, "
            f"{report.rejected} rejected",
            fontsize=10,
            loc="left",
        )
        axes.set(ylabel="arrivals per second", xlim=(0, _SECONDS))
    panels[0].yaxis.get_major_locator().set_params(integer=True)
    panels[1].legend(loc="upper right", ncols=3, fontsize=9)
    panels[1].set_xlabel("seconds")
    _save(figure, path)


def draw_limiters(path: Path) -> None:
    """Draw the quota that each limiter of the benchmark uses, and its rejected requests."""
    results = json.loads(_RESULTS.read_text())
    rows = [
        (row["use"], row["rejected"], row["client"])
        for part in ("adaptive", "exact", "peers")
        for row in results[part]
        if (row["quota"], row["server"], row["latency"]) == (str(_QUOTA), _SERVER, _LATENCY)
    ]
    rows.sort()
    use, rejected, names = zip(*rows, strict=True)
    figure = Figure(figsize=(8, 4), layout="constrained")
    panels: Any = figure.subplots(1, 2, sharey=True)
    colors = [_ACCEPTED if name.startswith("asyncclients") else _OTHERS for name in names]
    for axes, shares, title in zip(
        panels, (use, rejected), ("quota used", "requests rejected"), strict=True
    ):
        bars = axes.barh(names, [100 * share for share in shares], color=colors)
        axes.bar_label(bars, [f"{share:.1%}" for share in shares], padding=3, fontsize=9)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set(xlim=(0, 119), xticks=[])
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with mpl.rc_context(_STYLE):
        figure.savefig(path, format="svg", metadata={"Date": None})


def draw(folder: Path = STATIC) -> None:
    """Draw both plots into *folder*."""
    draw_arrivals(folder / "plot-arrivals.svg")
    draw_limiters(folder / "plot-limiters.svg")


if __name__ == "__main__":
    draw()
