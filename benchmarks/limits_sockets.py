"""The matrix of `limits.py` once more, over real sockets: a pool, a client, aiohttp, a server.

    python benchmarks/limits_sockets.py [--seeds 8] [--long-seeds 2] [--exact-seeds 20] [--quick]
                                        [--json FILE]

Client and server live in one event loop on 127.0.0.1, whose time is virtual; see
`tests/simulator/sockets.py`, which is the world of these runs. Cells, targets and
length of a run are those of `limits.py`; there are fewer seeds, since a call
costs ten times as much. `--seeds` are for 2 per 1 s, whose cells depend on
chance, `--long-seeds` for the quotas of a minute, whose cells hardly do.

Beside each cell stands what the simulator has for the same seeds. A run *agrees*
where all its arrivals, admitted and refused, are those of the simulator to the
millisecond. A seed means the same luck in both, so most do. Where refusals change the pace, a
send may differ by microseconds, and in time that has another call refused.
`late` is how often the kernel handed bytes over at another virtual instant than
theirs, and has to be 0.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from limits_matrix import (
    HOUR,
    LATENCIES,
    LOGS,
    QUOTAS,
    TWO,
    Target,
    cells,
    longest_wait,
    row_of,
    show,
    show_waits,
    target_of,
)

sys.path.append(str(Path(__file__).resolve().parent.parent))

from asyncclients import Quota
from asyncclients.simulator import SimulationReport, run_virtual, simulate
from tests.simulator.sockets import SocketWorld


@dataclass
class Tally:
    """All runs so far."""

    runs: int = 0
    agreed: int = 0
    calls: int = 0
    late: int = 0

    def run(
        self, quota: Quota, server: str, latency: str, *, seconds: float, seed: int, **how: Any
    ) -> tuple[SimulationReport, SimulationReport]:
        """One run over sockets, and the simulator's with the same seed."""
        world = SocketWorld(quota, server=server, latency=latency, seed=seed, **how)
        real = run_virtual(world.run(seconds))
        model = simulate(quota, server=server, latency=latency, seconds=seconds, seed=seed, **how)
        self.runs += 1
        self.agreed += agree(real, model)
        self.calls += real.calls
        self.late += world.late
        return real, model


def agree(real: SimulationReport, model: SimulationReport) -> bool:
    """Are all arrivals the same, to the millisecond?"""
    pairs = ((real.admitted_at, model.admitted_at), (real.refused_at, model.refused_at))
    return all(
        len(some) == len(others)
        and all(abs(one - other) < 0.001 for one, other in zip(some, others, strict=True))
        for some, others in pairs
    )


def rows(
    tally: Tally, name: str, seeds: dict[Quota, int], seconds: dict[Quota, float], *, exact: bool
) -> Iterator[dict[str, Any]]:
    """Every cell of one kind, with the simulator's figures beside it."""
    for quota, server, latency in cells():
        if exact and server not in LOGS:
            continue
        admission = "exact" if exact else "adaptive"
        pairs = [
            tally.run(
                quota, server, latency, seconds=seconds[quota], seed=seed, admission=admission
            )
            for seed in range(seeds[quota])
        ]
        target = Target(0.0, 0.0) if exact else target_of(quota, server, latency)
        row = row_of(name, [real for real, _ in pairs], target=target)
        model = row_of("simulator", [model for _, model in pairs], target=target)
        show([row])
        yield {
            **asdict(row),
            "simulated_use": model.use,
            "simulated_refused": model.refused,
            "agree": sum(agree(*pair) for pair in pairs),
        }


def interactive(
    tally: Tally, seeds: dict[Quota, int], seconds: float
) -> Iterator[dict[str, object]]:
    """What an interactive call waits while a backlog runs; 99 of 100 no longer."""
    for quota in QUOTAS:
        for latency in LATENCIES:
            pairs = [
                tally.run(
                    quota, "sliding-log", latency, seconds=seconds, seed=seed, interactive=0.1
                )
                for seed in range(seeds[quota])
            ]
            p99 = statistics.fmean(real.wait_p99 for real, _ in pairs)
            yield {
                "quota": str(quota),
                "latency": latency,
                "p99": p99,
                "simulated_p99": statistics.fmean(model.wait_p99 for _, model in pairs),
                "use": statistics.fmean(real.quota_use for real, _ in pairs),
                "target": longest_wait(quota),
                "met": p99 <= longest_wait(quota),
            }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--long-seeds", type=int, default=2)
    parser.add_argument("--exact-seeds", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="one seed, short runs")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    quick = options.quick
    seconds = HOUR / 12 if quick else HOUR
    seeds = {
        quota: 1 if quick else options.seeds if quota == TWO else options.long_seeds
        for quota in QUOTAS
    }
    exact_seeds = dict.fromkeys(QUOTAS, 1 if quick else options.exact_seeds)
    tally, started = Tally(), time.perf_counter()
    result: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "seconds": seconds,
        "adaptive": list(
            rows(tally, "over sockets", seeds, dict.fromkeys(QUOTAS, seconds), exact=False)
        ),
        "exact": list(
            rows(
                tally,
                "over sockets, exact",
                exact_seeds,
                {quota: 120.0 if quota == TWO else 360.0 for quota in QUOTAS},
                exact=True,
            )
        ),
        "interactive": show_waits(interactive(tally, seeds, seconds)),
    }
    result |= {"runs": tally.runs, "agree": tally.agreed, "calls": tally.calls, "late": tally.late}
    result["took"] = time.process_time()
    missed = sum(
        row["met"] is False for part in ("adaptive", "exact", "interactive") for row in result[part]
    )
    print(
        f"{tally.runs} runs, {tally.calls:,} calls, {tally.agreed} runs as simulated, "
        f"{tally.late} late; {missed} targets missed; {time.perf_counter() - started:.0f} s"
    )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, default=float) + "\n")
    # A quick run proves that it runs; the targets are for means over many seeds.
    return 1 if tally.late or (missed and not quick) else 0


if __name__ == "__main__":
    sys.exit(main())
