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
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from limits_peers import PEERS, run_peer

from asyncclients import Quota
from asyncclients.simulator import SimulationReport, simulate

TWO, HUNDRED, HUNDRED_EIGHTY = Quota(2, 1.0), Quota(100, 60.0), Quota(180, 60.0)
QUOTAS = (TWO, HUNDRED, HUNDRED_EIGHTY)
LOGS = ("sliding-log", "counting-log", "fixed-window", "token-bucket")
SERVERS = (*LOGS, "small-bucket", "two-counter")
LATENCIES = ("fast", "wan", "slow")
HOUR = 3600.0


@dataclass(frozen=True)
class Target:
    """What the matrix asks: at least this use, at most this share refused."""

    use: float
    refused: float


def target_of(quota: Quota, server: str, latency: str) -> Target:
    """The target of one cell, as the project set it before the limiter was written."""
    short = quota == TWO
    if server == "two-counter":
        return Target(0.475, 0.01) if short else Target(0.975, 0.008)
    if server == "small-bucket":
        if not short:
            return Target(0.99, 0.002)
        use = {"fast": 0.94, "wan": 0.915, "slow": 0.83}[latency]
        return Target(use, 0.003 if latency == "fast" else 0.007)
    if latency == "slow":
        return Target(0.88, 0.003) if short else Target(0.99, 0.001)
    if short:
        return Target(0.95 if latency == "fast" else 0.93, 0.0015)
    return Target(0.995, 0.0002)


@dataclass(frozen=True)
class Row:
    """The mean of one client's runs in one cell."""

    client: str
    quota: str
    server: str
    latency: str
    seeds: int
    use: float
    use_error: float
    refused: float
    most_in_window: int
    target_use: float | None = None
    target_refused: float | None = None
    met: bool | None = None


def row_of(client: str, reports: list[SimulationReport], *, target: Target | None = None) -> Row:
    """Sum up the *reports* of one cell."""
    first = reports[0]
    uses = [report.quota_use for report in reports]
    use = statistics.fmean(uses)
    learned = first.server == "two-counter"
    refused = statistics.fmean(
        report.refused_late if learned else report.refused_share for report in reports
    )
    return Row(
        client=client,
        quota=str(first.quota),
        server=first.server,
        latency=first.latency,
        seeds=len(reports),
        use=use,
        use_error=statistics.stdev(uses) / len(uses) ** 0.5 if len(uses) > 1 else 0.0,
        refused=refused,
        most_in_window=max(report.most_in_window for report in reports),
        target_use=target.use if target else None,
        target_refused=target.refused if target else None,
        met=use >= target.use and refused <= target.refused if target else None,
    )


def cells() -> Iterator[tuple[Quota, str, str]]:
    """Every combination of quota, server and latency."""
    for quota in QUOTAS:
        for server in SERVERS:
            for latency in LATENCIES:
                yield quota, server, latency


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
        interval = quota.period / quota.limit
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
                "target": interval + 0.05,
                "met": p99 <= interval + 0.05,
                "peers": {
                    peer: run_peer(
                        peer, quota, "sliding-log", latency, seconds=seconds / 3, seed=0
                    ).wait_p99
                    for peer in PEERS
                    if peer != "Retry-After alone"
                },
            }


def show(rows: Iterable[Row]) -> list[Row]:
    """Print rows as they come, and keep them."""
    kept: list[Row] = []
    for row in rows:
        kept.append(row)
        line = f"{row.client:26} {row.quota:12} {row.server:13} {row.latency:5}"
        line += f" {row.use:8.2%} ±{row.use_error:.2%} {row.refused:9.4%}"
        if row.target_use is not None and row.target_refused is not None:
            line += f"   ≥ {row.target_use:.1%}, ≤ {row.target_refused:.2%}"
            line += "   met" if row.met else "   MISSED"
        print(line, flush=True)
    return kept


def show_waits(rows: Iterable[dict[str, object]]) -> list[dict[str, object]]:
    """Print the waits as they come, and keep them."""
    kept: list[dict[str, object]] = []
    for row in rows:
        kept.append(row)
        print(
            f"{'interactive p99':26} {row['quota']:12} {'sliding-log':13} {row['latency']:5}"
            f" {row['p99']:8.3f} s   ≤ {row['target']:.2f} s"
            f"   {'met' if row['met'] else 'MISSED'}",
            flush=True,
        )
    return kept


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
        "interactive": show_waits(interactive(max(1, seeds // 4), seconds)),
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
