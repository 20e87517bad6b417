"""Staying inside a rate limit: our limiter and the well-known ones, before six kinds of server.

    python benchmarks/limits.py [--seeds 20] [--exact-seeds 1000] [--quick] [--json FILE]

Everything is in virtual time, from seeds: the same command gives the same
figures on any machine. A backlog of 50 workers sends for an hour. Figures are
means over the seeds:

* use: mean fill of the rolling window of admitted calls, as a share of the
  limit, after warm-up (the first minute, or two windows);
* refused: 429s of all calls, from the first call on; for two-counter servers
  *after learning*, the last four fifths;
* p99: what an interactive call waits for its permit, one every ten seconds,
  while the backlog runs (the scheduler's way: interactive first, background
  evenly).

What is met and missed is printed beside each target; `benchmarks/limits.md`
explains. `limits_peers.py` says how each peer is used.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from limits_matrix import (
    HOUR,
    LATENCIES,
    LOGS,
    QUOTAS,
    TWO,
    Row,
    Target,
    cells,
    longest_wait,
    row_of,
    show,
    show_waits,
    target_of,
)
from limits_peers import PEERS, run_peer

from asyncclients.simulator import simulate


def ours(seeds: int, seconds: float) -> Iterator[Row]:
    """The adaptive limiter in every cell, with its target."""
    for quota, server, latency in cells():
        reports = [
            simulate(quota, server=server, latency=latency, seconds=seconds, seed=seed)
            for seed in range(seeds)
        ]
        yield row_of("asyncclients adaptive", reports, target=target_of(quota, server, latency))


def exact(seeds: int, seconds: float) -> Iterator[Row]:
    """`admission="exact"` where it promises no refusal at all."""
    for quota, server, latency in cells():
        if server not in LOGS:
            continue
        reports = [
            simulate(
                quota,
                server=server,
                latency=latency,
                seconds=seconds if quota == TWO else 3 * seconds,
                admission="exact",
                seed=seed,
            )
            for seed in range(seeds)
        ]
        yield row_of("asyncclients exact", reports, target=Target(0.0, 0.0))


def peers(seeds: int, seconds: float) -> Iterator[Row]:
    """The others, in the same cells, over shorter runs."""
    for quota, server, latency in cells():
        for peer in PEERS:
            yield row_of(
                peer,
                [
                    run_peer(
                        peer,
                        quota,
                        server,
                        latency,
                        seconds=seconds if quota == TWO else 3 * seconds,
                        seed=seed,
                    )
                    for seed in range(seeds)
                ],
            )


def interactive(seeds: int, seconds: float) -> Iterator[dict[str, object]]:
    """What an interactive call waits while a backlog runs; 99 of 100 no longer."""
    for quota in QUOTAS:
        for latency in LATENCIES:
            waits = [
                simulate(quota, latency=latency, seconds=seconds, interactive=0.1, seed=seed)
                for seed in range(seeds)
            ]
            p99 = statistics.fmean(report.wait_p99 for report in waits)
            yield {
                "quota": str(quota),
                "latency": latency,
                "p99": p99,
                "use": statistics.fmean(report.quota_use for report in waits),
                "target": longest_wait(quota),
                "met": p99 <= longest_wait(quota),
                "peers": {
                    peer: run_peer(
                        peer, quota, "sliding-log", latency, seconds=seconds / 3, seed=0
                    ).wait_p99
                    for peer in PEERS
                    if peer != "Retry-After alone"
                },
            }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--exact-seeds", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="few seeds, short runs")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    seeds = 3 if options.quick else options.seeds
    exact_seeds = 20 if options.quick else options.exact_seeds
    seconds = HOUR / 3 if options.quick else HOUR
    started = time.perf_counter()
    result: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "seconds": seconds,
        "adaptive": [asdict(row) for row in show(ours(seeds, seconds))],
        "exact": [asdict(row) for row in show(exact(exact_seeds, 120.0))],
        "peers": [asdict(row) for row in show(peers(1 if options.quick else 2, 300.0))],
        "interactive": show_waits(interactive(seeds, seconds)),
    }
    missed = sum(
        row["met"] is False for part in ("adaptive", "exact", "interactive") for row in result[part]
    )
    print(f"{missed} targets missed; {time.perf_counter() - started:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, default=float) + "\n")
    # A quick run proves that it runs; the targets are for means over many seeds.
    return 1 if missed and not options.quick else 0


if __name__ == "__main__":
    sys.exit(main())
