"""The matrix by which limiters are judged: its cells, their targets, and how a row is printed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from asyncclients import Quota
from asyncclients.simulator import SimulationReport

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


def longest_wait(quota: Quota) -> float:
    """Seconds that 99 of 100 interactive calls may wait at most: one slot, and 50 ms."""
    return quota.period / quota.limit + 0.05


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
