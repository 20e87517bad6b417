"""A day in virtual time: does memory, or anything else, grow?

    python benchmarks/soak.py [--hours 24] [--every 30] [--seed 0] [--json FILE]

`soak_world.py` has the load: real sockets on loopback, a web app and two backfills that share
each quota, vendors that fail, tokens that expire, a store that restarts. Every half hour of
virtual time, after a full garbage collection, a sample is taken of

* rss: resident memory of this process, sandbox included, MB
* fds: open file descriptors
* tasks: unfinished asyncio tasks
* objects: objects tracked by the garbage collector, thousands
* turn: the longest turn of the event loop since the last sample, ms of this thread's CPU time.
  Wall time is printed beside it; it depends on the load of the machine.

The verdict is on the last three quarters of the samples. A column is flat if the growth of its
least-squares line, from the first of them to the last, is not above the noise: twice the
standard deviation of the samples about that line, or the value in `FLOORS` if that is larger.
"""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness import parser, save
from soak_world import World

from asyncclients.testing import VirtualClock, virtual_time

FLOORS = {"rss": 4.0, "fds": 2.0, "tasks": 2.0, "objects": 2.0, "turn": 10.0}
"""Growth that always counts as flat: MB, numbers, thousands, ms."""
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Sample:
    """One row of the table."""

    hours: float
    rss: float
    fds: int
    tasks: int
    objects: float
    turn: float
    turn_wall: float
    requests: int


class Turns:
    """Measures the longest turn of the loop, from one `select` to the next."""

    def __init__(self) -> None:
        self._selector: Any = vars(asyncio.get_running_loop())["_selector"]
        self._select = self._selector.select
        vars(self._selector)["select"] = self._watched
        self.reset()

    def reset(self) -> None:
        """Start a new measurement."""
        self.longest = self.longest_wall = 0.0
        self._since, self._since_wall = time.thread_time(), time.perf_counter()

    def _watched(self, timeout: float | None) -> list[Any]:
        self.longest = max(self.longest, time.thread_time() - self._since)
        self.longest_wall = max(self.longest_wall, time.perf_counter() - self._since_wall)
        ready = self._select(timeout)
        self._since, self._since_wall = time.thread_time(), time.perf_counter()
        return ready


def take(world: World, clock: VirtualClock, turns: Turns) -> Sample:
    """Take a sample."""
    gc.collect()
    sample = Sample(
        hours=round(clock.elapsed / 3600, 3),
        rss=round(int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 1e6, 2),
        fds=len(os.listdir("/proc/self/fd")) - 1,  # noqa: PTH208 - one is this listing
        tasks=len(asyncio.all_tasks()),
        objects=round(len(gc.get_objects()) / 1e3, 2),
        turn=round(turns.longest * 1e3, 1),
        turn_wall=round(turns.longest_wall * 1e3, 1),
        requests=world.requests,
    )
    turns.reset()
    return sample


async def soak(hours: float, every: float, seed: int) -> tuple[list[Sample], World]:
    """Run for *hours* and take a sample *every* so many minutes."""
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory() as folder, virtual_time() as clock:
        world = World(Path(folder), seed)
        life = asyncio.create_task(world.live())
        turns = Turns()
        print(f"{'hour':>6}" + "".join(f"{name:>10}" for name in HEADS), flush=True)
        while clock.elapsed < hours * 3600:
            await asyncio.wait([life], timeout=every * 60)
            if life.done():
                break
            samples.append(take(world, clock, turns))
            values = list(asdict(samples[-1]).values())
            print(f"{values[0]:>6}" + "".join(f"{value:>10}" for value in values[1:]), flush=True)
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)
        if not life.cancelled():
            life.result()
    return samples, world


HEADS = ("rss", "fds", "tasks", "objects", "turn", "(wall)", "requests")


def judge(samples: list[Sample]) -> dict[str, dict[str, Any]]:
    """Return each column's growth over the last three quarters, and its noise."""
    late = samples[len(samples) // 4 :]
    hours = [sample.hours for sample in late]
    verdict: dict[str, dict[str, Any]] = {}
    for name, floor in FLOORS.items():
        values = [float(getattr(sample, name)) for sample in late]
        slope, start = statistics.linear_regression(hours, values)
        spread = statistics.pstdev(
            value - start - slope * hour for hour, value in zip(hours, values, strict=True)
        )
        growth, noise = slope * (hours[-1] - hours[0]), max(floor, 2 * spread)
        verdict[name] = {
            "mean": round(statistics.fmean(values), 2),
            "lowest": min(values),
            "highest": max(values),
            "growth": round(growth, 2),
            "noise": round(noise, 2),
            "flat": growth <= noise,
        }
    return verdict


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--hours", type=float, default=24.0)
    options.add_argument("--every", type=float, default=30.0, help="virtual minutes")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    hours, every = (0.1, 1.0) if given.quick else (given.hours, given.every)
    began, cpu = time.perf_counter(), time.process_time()
    samples, world = asyncio.run(soak(hours, every, given.seed))
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    verdict, figures = judge(samples), world.figures()
    print("\n" + "\n".join(f"{name:<24} {value}" for name, value in figures.items()))
    print(f"\n{'':<8}" + "".join(f"{head:>10}" for head in next(iter(verdict.values()))))
    for name, row in verdict.items():
        print(f"{name:<8}" + "".join(f"{value!s:>10}" for value in row.values()))
    print(f"\n{took:.0f} s, {cpu:.0f} s of CPU time")
    print("\n".join(world.wrong) or "no row was lost or sent twice, every pull was complete")
    save(
        given.json,
        hours=hours,
        seed=given.seed,
        seconds=round(took),
        cpu_seconds=round(cpu),
        world=figures,
        wrong=world.wrong,
        verdict=verdict,
        samples=[asdict(sample) for sample in samples],
    )
    flat = given.quick or all(row["flat"] for row in verdict.values())
    return 0 if flat and not world.wrong else 1


if __name__ == "__main__":
    sys.exit(main())
