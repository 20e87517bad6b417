"""Quota use and rejected calls of our limiter and the well-known ones, on six kinds of server.

    python benchmarks/rate_limits.py [--seeds 20] [--exact-seeds 1000] [--quick] [--json FILE]
    python benchmarks/rate_limits.py --sockets [--seeds 8] [--long-seeds 2] [--exact-seeds 20] ...

Time is virtual and all randomness is seeded: the same command gives the same figures on any
machine. A backlog of 50 workers sends for an hour. Figures are means over the seeds:

* use: mean fill of the rolling window of accepted calls, as a share of the limit, after warm-up
  (the first minute, or two windows);
* rejected: 429s as a share of all calls, from the first call on; for two-counter servers
  *after learning*, in the last four fifths;
* p99: the wait of an interactive call for its permit, one every ten seconds, while the backlog
  runs.

`--sockets` repeats the matrix with a whole client (pool, client, aiohttp, server) in one event
loop on 127.0.0.1; see `tests/support/socket_simulation.py`. There are fewer seeds, because a call costs
ten times as much: `--seeds` for 2 per 1 s, where cells depend on chance, `--long-seeds` for the
quotas of a minute. Each cell is shown beside the simulator's result for the same seeds. A run
*agrees* if all its arrivals, accepted and rejected, equal those of the simulator to the
millisecond. `late` counts the times that the kernel delivered bytes at a later virtual instant;
it must be 0.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness import exit_code, parser, save
from rate_limit_peers import PEERS, run_peer

from asyncclients import Quota
from asyncclients.simulator import SimulationReport, simulate
from asyncclients.testing.clock import run_virtual
from tests.support.socket_simulation import SocketSimulation

TWO, HUNDRED, HUNDRED_EIGHTY = Quota(2, 1.0), Quota(100, 60.0), Quota(180, 60.0)
QUOTAS = (TWO, HUNDRED, HUNDRED_EIGHTY)
LOGS = ("sliding-log", "counting-log", "fixed-window", "token-bucket")
SERVERS = (*LOGS, "small-bucket", "two-counter")
LATENCIES = ("fast", "wan", "slow")
HOUR = 3600.0
SEEDS = {
    (False, False): (20, 20, 1000),
    (False, True): (1, 1, 5),
    (True, False): (8, 2, 20),
    (True, True): (1, 1, 1),
}
"""By (sockets, quick): the seeds of 2 per 1 s, of the quotas of a minute, and of `exact`."""
Run = Callable[..., SimulationReport]
Seconds = Mapping[Quota, float]


# --- The matrix -------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """The least use and the largest rejected share of one cell."""

    use: float
    rejected: float


def target_of(quota: Quota, server: str, latency: str) -> Target:
    """Return the target of one cell, as set before the limiter was written."""
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


def longest_wait(quota: Quota) -> float:
    """Seconds that 99 of 100 interactive calls may wait: one slot, and 50 ms."""
    return quota.period / quota.limit + 0.05


def cells(servers: Iterable[str] = SERVERS) -> Iterator[tuple[Quota, str, str]]:
    """Every combination of quota, server and latency."""
    for quota in QUOTAS:
        for server in servers:
            for latency in LATENCIES:
                yield quota, server, latency


def row_of(
    client: str, reports: list[SimulationReport], target: Target | None = None
) -> dict[str, Any]:
    """Return the means over the *reports* of one client in one cell."""
    first = reports[0]
    uses = [report.quota_use for report in reports]
    use = statistics.fmean(uses)
    learned = first.server == "two-counter"
    rejected = statistics.fmean(
        report.rejected_late if learned else report.rejected_share for report in reports
    )
    return {
        "client": client,
        "quota": str(first.quota),
        "server": first.server,
        "latency": first.latency,
        "seeds": len(reports),
        "use": use,
        "use_error": statistics.stdev(uses) / len(uses) ** 0.5 if len(uses) > 1 else 0.0,
        "rejected": rejected,
        "most_in_window": max(report.most_in_window for report in reports),
        "target_use": target.use if target else None,
        "target_rejected": target.rejected if target else None,
        "met": use >= target.use and rejected <= target.rejected if target else None,
    }


def show(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Print rows as they come, and return all of them."""
    kept: list[dict[str, Any]] = []
    for row in rows:
        kept.append(row)
        line = f"{row.get('client', 'interactive'):26} {row['quota']:12}"
        line += f" {row.get('server', ''):13} {row['latency']:5}"
        if "p99" in row:
            line += f" {row['p99']:8.3f} s   ≤ {row['target']:.2f} s"
        else:
            line += f" {row['use']:8.2%} ±{row['use_error']:.2%} {row['rejected']:9.4%}"
        if row.get("target_use") is not None:
            line += f"   ≥ {row['target_use']:.1%}, ≤ {row['target_rejected']:.2%}"
        if row["met"] is not None:
            line += "   met" if row["met"] else "   MISSED"
        print(line, flush=True)
    return kept


class OverSockets:
    """Runs with a whole client over real sockets, and the simulator's with the same seeds."""

    def __init__(self) -> None:
        self.runs = self.agreed = self.calls = self.late = 0
        self._pairs: list[tuple[SimulationReport, SimulationReport]] = []

    def run(
        self, quota: Quota, *, server: str, latency: str, seconds: float, seed: int, **how: Any
    ) -> SimulationReport:
        """Run once each; return the report of the run over sockets."""
        world = SocketSimulation(quota, server=server, latency=latency, seed=seed, **how)
        real = run_virtual(world.run(seconds))
        model = simulate(quota, server=server, latency=latency, seconds=seconds, seed=seed, **how)
        self._pairs.append((real, model))
        self.runs += 1
        self.agreed += agree(real, model)
        self.calls += real.calls
        self.late += world.late
        return real

    def compared(self) -> dict[str, Any]:
        """Return the simulator's figures of the runs since the last call."""
        pairs, self._pairs = self._pairs, []
        model = row_of("simulator", [model for _, model in pairs])
        return {
            "simulated_use": model["use"],
            "simulated_rejected": model["rejected"],
            "simulated_p99": statistics.fmean(model.wait_p99 for _, model in pairs),
            "agree": sum(agree(*pair) for pair in pairs),
        }


def agree(real: SimulationReport, model: SimulationReport) -> bool:
    """Return whether all arrivals are the same, to the millisecond."""
    pairs = ((real.accepted_at, model.accepted_at), (real.rejected_at, model.rejected_at))
    return all(
        len(some) == len(others)
        and all(abs(one - other) < 0.001 for one, other in zip(some, others, strict=True))
        for some, others in pairs
    )


# --- The parts of a report ----------------------------------------------------------


def ours(
    client: str,
    run: Run,
    compared: Callable[[], dict[str, Any]],
    seeds: Mapping[Quota, int],
    seconds: Seconds,
    *,
    exact: bool,
) -> Iterator[dict[str, Any]]:
    """Every cell with its target; *exact* only where it promises that no call is rejected."""
    for quota, server, latency in cells(LOGS if exact else SERVERS):
        target = Target(0.0, 0.0) if exact else target_of(quota, server, latency)
        reports = [
            run(
                quota,
                server=server,
                latency=latency,
                seconds=seconds[quota],
                admission="exact" if exact else "adaptive",
                seed=seed,
            )
            for seed in range(seeds[quota])
        ]
        yield row_of(client, reports, target) | compared()


def interactive(
    run: Run,
    compared: Callable[[], dict[str, Any]],
    seeds: Mapping[Quota, int],
    seconds: float,
    peers: Iterable[str],
) -> Iterator[dict[str, Any]]:
    """The p99 of an interactive call's wait while a backlog runs."""
    for quota in QUOTAS:
        for latency in LATENCIES:
            reports = [
                run(
                    quota,
                    server="sliding-log",
                    latency=latency,
                    seconds=seconds,
                    interactive=0.1,
                    seed=seed,
                )
                for seed in range(seeds[quota])
            ]
            p99 = statistics.fmean(report.wait_p99 for report in reports)
            others = {
                peer: run_peer(
                    peer, quota, "sliding-log", latency, seconds=seconds / 3, seed=0
                ).wait_p99
                for peer in peers
            }
            yield {
                "quota": str(quota),
                "latency": latency,
                "p99": p99,
                "use": statistics.fmean(report.quota_use for report in reports),
                "target": longest_wait(quota),
                "met": p99 <= longest_wait(quota),
                "peers": others,
                **compared(),
            }


def others(seeds: int, seconds: Seconds, servers: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The peers, in the same cells, over shorter runs."""
    for quota, server, latency in cells(servers):
        for peer in PEERS:
            runs = (
                run_peer(peer, quota, server, latency, seconds=seconds[quota], seed=seed)
                for seed in range(seeds)
            )
            yield row_of(peer, list(runs))


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--sockets", action="store_true", help="a whole client, over sockets")
    options.add_argument("--seeds", type=int, help="for 2 per 1 s")
    options.add_argument("--long-seeds", type=int, help="for the quotas of a minute")
    options.add_argument("--exact-seeds", type=int)
    given = options.parse_args()
    quick, sockets = given.quick, OverSockets() if given.sockets else None
    short, long, exact = SEEDS[given.sockets, quick]
    short = given.seeds or short
    long = given.long_seeds or min(short, long)
    exact = given.exact_seeds or exact
    seconds = HOUR / 12 if quick else HOUR
    seeds = {quota: short if quota == TWO else long for quota in QUOTAS}
    run, compared = (sockets.run, sockets.compared) if sockets else (simulate, dict[str, Any])
    minutes = {quota: 120.0 if quota == TWO else 360.0 for quota in QUOTAS}
    waiting = [] if sockets else [peer for peer in PEERS if peer != "Retry-After alone"]
    name, started = "over sockets" if sockets else "asyncclients", time.perf_counter()
    result: dict[str, Any] = {
        "seconds": seconds,
        "adaptive": show(
            ours(name, run, compared, seeds, dict.fromkeys(QUOTAS, seconds), exact=False)
        ),
        "exact": show(
            ours(f"{name}, exact", run, compared, dict.fromkeys(QUOTAS, exact), minutes, exact=True)
        ),
        "interactive": show(interactive(run, compared, seeds, seconds, waiting)),
    }
    if sockets:
        result |= {"runs": sockets.runs, "agree": sockets.agreed, "calls": sockets.calls}
        result |= {"late": sockets.late, "took": time.process_time()}
        print(f"{sockets.runs} runs, {sockets.calls:,} calls, {sockets.agreed} agree, "
              f"{sockets.late} late")  # fmt: skip
    else:
        lengths = (
            minutes if quick else {quota: 300.0 if quota == TWO else 900.0 for quota in QUOTAS}
        )
        servers = SERVERS[:1] if quick else SERVERS
        result["peers"] = show(others(1 if quick else 2, lengths, servers))
    rows = [row for part in ("adaptive", "exact", "interactive") for row in result[part]]
    missed = sum(row["met"] is False for row in rows)
    print(f"{missed} targets missed; {time.perf_counter() - started:.0f} s")
    save(given.json, **result)
    return 1 if sockets and sockets.late else exit_code(rows, quick=quick)


if __name__ == "__main__":
    sys.exit(main())
