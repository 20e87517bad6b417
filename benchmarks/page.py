"""Render the tables of the pages from the figures in `results/`.

    python benchmarks/page.py [PAGE ...] [--check]

A page names each of its tables in a comment, `<!-- table: NAME -->`, and ends it with
`<!-- end -->`; the text between the two is replaced. `--check` changes nothing and fails if a
page is out of date.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGES = ("rate_limits", "overhead", "backfill", "shared", "soak")
LATENCIES = ("fast", "wan", "slow")
_TABLE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_NUMBER = re.compile(r"[-+]?[\d.,]+( %)?$")
Row = Sequence[object]


def load(name: str) -> Any:
    """Return the figures of `results/NAME.json`."""
    return json.loads((HERE / "results" / f"{name}.json").read_text())


def table(names: Sequence[str], rows: Iterable[Row]) -> str:
    """Return a Markdown table; columns of numbers are aligned to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    columns = [[cell for cell in column if cell] for column in zip(*cells, strict=True)]
    rule = ["---:" if c and all(_NUMBER.match(cell) for cell in c) else "---" for c in columns]
    lines = [names, rule, *cells]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def verdict(row: dict[str, Any]) -> str:
    return "" if row.get("met") is None else "met" if row["met"] else "**missed**"


def distinct(rows: list[dict[str, Any]], name: str) -> list[Any]:
    return list(dict.fromkeys(row[name] for row in rows))


# --- rate_limits.md ---------------------------------------------------------------


def cell(row: dict[str, Any]) -> list[str]:
    return [row["quota"], row["server"], row["latency"]]


def adaptive() -> str:
    names = ("quota", "server", "network", "use", "target", "rejected", "target", "")
    return table(
        names,
        (
            [
                *cell(row),
                percent(row["use"], 2),
                "≥ " + percent(row["target_use"]),
                percent(row["refused"], 3),
                "≤ " + percent(row["target_refused"], 2),
                verdict(row),
            ]
            for row in load("rate-limits")["adaptive"]
        ),
    )


def exact() -> str:
    rows = load("rate-limits")["exact"]
    text = f"{rows[0]['seeds']:,} seeds in every cell, runs of two and six minutes.\n\n"
    names = ("quota", "server", "network", "use", "rejected", "most in a window")
    return text + table(
        names,
        (
            [
                *cell(row),
                percent(row["use"]),
                "0" if row["refused"] == 0 else percent(row["refused"], 4),
                row["most_in_window"],
            ]
            for row in rows
        ),
    )


def peers() -> str:
    result = load("rate-limits")
    rows = result["peers"]
    ours = [{**row, "client": "**asyncclients**"} for row in result["adaptive"]]
    servers, text = distinct(rows, "server"), ""
    for quota in distinct(rows, "quota"):
        for latency in LATENCIES:
            text += f"\n### {quota}, *{latency}*\n\n"
            lines: dict[str, dict[str, str]] = {}
            for row in [*ours, *rows]:
                if (row["quota"], row["latency"]) == (quota, latency):
                    found = f"{percent(row['use'])} / {percent(row['refused'], 2)}"
                    lines.setdefault(row["client"], {})[row["server"]] = found
            each = ([name, *(found[server] for server in servers)] for name, found in lines.items())
            text += table(["client", *servers], each)
    return text[1:]


def waits() -> str:
    rows = load("rate-limits")["interactive"]
    others = list(rows[0]["peers"])
    return table(
        ["quota", "network", "ours", "target", "", "use", *others],
        (
            [
                row["quota"],
                row["latency"],
                f"{row['p99']:.3f} s",
                f"≤ {row['target']:.2f} s",
                verdict(row),
                percent(row["use"]),
                *(f"{row['peers'][peer]:.1f} s" for peer in others),
            ]
            for row in rows
        ),
    )


def sockets() -> str:
    result = load("rate-limits-sockets")
    rows = result["adaptive"]
    text = (
        f"{rows[0]['seeds']} seeds at 2 per 1 s, {rows[-1]['seeds']} at the other quotas, "
        f"{result['seconds'] / 3600:g} h each; {result['exact'][0]['seeds']} seeds of two and six "
        f"minutes for `exact`.\nIn total {result['calls'] / 1e6:.1f} million calls in "
        f"{result['took'] / 60:.0f} minutes of one core; {result['agree']} of {result['runs']} "
        f"runs agree\nwith the simulator; {result['late']} calls took virtual time in the kernel.\n"
    )
    names = ("quota", "server", "network", "use", "simulated", "target")
    names += ("rejected", "simulated", "target", "")
    return (
        text
        + "\n"
        + table(
            names,
            (
                [
                    *cell(row),
                    percent(row["use"], 2),
                    percent(row["simulated_use"], 2),
                    "≥ " + percent(row["target_use"]),
                    percent(row["refused"], 3),
                    percent(row["simulated_refused"], 3),
                    "≤ " + percent(row["target_refused"], 2),
                    verdict(row),
                ]
                for row in rows
            ),
        )
    )


def sockets_exact() -> str:
    lines: dict[tuple[str, str], dict[str, str]] = {}
    rows = load("rate-limits-sockets")["exact"]
    for row in rows:
        found = f"{percent(row['use'])} ({100 * row['refused']:g} %)"
        lines.setdefault((row["quota"], row["latency"]), {})[row["server"]] = found
    servers = distinct(rows, "server")
    each = ([*name, *(found[server] for server in servers)] for name, found in lines.items())
    return table(["quota", "network", *servers], each)


def sockets_waits() -> str:
    return table(
        ("quota", "network", "p99", "simulated", "target", "", "use"),
        (
            [
                row["quota"],
                row["latency"],
                f"{row['p99']:.3f} s",
                f"{row['simulated_p99']:.3f} s",
                f"≤ {row['target']:.2f} s",
                verdict(row),
                percent(row["use"]),
            ]
            for row in load("rate-limits-sockets")["interactive"]
        ),
    )


# --- overhead.md ------------------------------------------------------------------


def calls() -> str:
    alone, together = (load(name)["results"] for name in ("overhead", "overhead-together"))
    columns = [alone["1"], alone["100"], together["1"], together["100"]]
    return table(
        ("client", "1 at a time", "100 at a time", "together: 1", "100"),
        (
            [name, *(f"{column[name]['ratio']:.2f}" for column in columns)]
            for name in sorted(columns[0], key=lambda name: columns[0][name]["ratio"])
        ),
    )


def instructions() -> str:
    results = load("instructions")["results"]
    return table(
        ("client", "1 at a time", "ratio", "100 at a time", "ratio"),
        (
            [
                name,
                *(
                    text
                    for column in results.values()
                    for text in (
                        f"{column[name]['instructions']:,}",
                        f"{column[name]['ratio']:.3f}",
                    )
                ),
            ]
            for name in results["1"]
        ),
    )


def _figures(file: str) -> str:
    rows = load(file)["rows"]
    return table(
        ("", "figure", "target", ""),
        (
            [
                name,
                f"{row['figure']:,.4g}" if row["figure"] < 1000 else f"{row['figure']:,.0f}",
                f"≤ {row['target']:g}" if row.get("target") is not None else "",
                verdict(row),
            ]
            for name, row in rows.items()
        ),
    )


# --- backfill.md ------------------------------------------------------------------


def cost() -> str:
    return table(
        ("", "rows", "by hand, rows/s", "backfill, rows/s", "ratio"),
        (
            [
                name,
                f"{row['rows']:,}",
                f"{row['by_hand']:,.0f}",
                f"{row['ours']:,.0f}",
                percent(row["ratio"], 0),
            ]
            for name, row in load("backfill")["cost"].items()
        ),
    )


def quota() -> str:
    return table(
        ("limit", "rows", "seconds", "rejected", "share"),
        (
            [
                row["limit"],
                f"{row['rows']:,}",
                f"{row['seconds']:.1f}",
                row["rejected"],
                percent(row["share"]),
            ]
            for row in load("backfill")["quota"]
        ),
    )


# --- shared.md --------------------------------------------------------------------


def _rows(rows: list[dict[str, Any]]) -> str:
    """Every column as it is; use in percent."""

    def text(name: str, value: Any) -> str:
        if name.startswith("use"):
            return percent(value)
        return f"{value:,}" if isinstance(value, (int, float)) else value

    names = ["rejected" if name == "refused" else name for name in rows[0]]
    return table(names, ([text(name, value) for name, value in row.items()] for row in rows))


def fleet() -> str:
    result = load("shared")
    return _rows(result["fleet-2"] + result["fleet-100"])


def servers() -> str:
    """Servers for ten thousand keys, each half idle, at the slowest replayed rate."""
    result = load("shared")
    rates = [row["claims a core-second"] for row in result["store"] if "replayed" in row["claims"]]
    half = min(rates) / 2
    needed: dict[str, list[int]] = {}
    for row in result["crowd"]:
        claims = row["claims a second, 10000 keys"]
        needed.setdefault(row["work"], []).append(math.ceil(claims / half))
    names = ["work", *(f"servers at {quota}" for quota in distinct(result["crowd"], "quota"))]
    return table(names, ([work, *counts] for work, counts in needed.items()))


# --- soak.md ----------------------------------------------------------------------


def run() -> str:
    result = load("soak")
    world = result["world"]
    rows = {
        "requests": sum(world["requests"].values()),
        "rate-limited requests": sum(world["refused"].values()),
        "quota use of Intouch": percent(world["quota_use"]["intouch"]),
        "quota use of Totango": percent(world["quota_use"]["totango"]),
        "visits": world["visits"],
        "visitors that left early": world["visits_left"],
        "pulls of 10,000 rows": world["pulls"],
        "pushes of 500 rows": world["pushes"],
        "rows delivered": world["rows_done"],
        "rows with an unknown outcome": world["rows_unknown"],
        "rows failed": world["rows_failed"],
        "faults": world["faults"],
        "access tokens": world["tokens"],
        "restarts of the store": world["store_restarts"],
        "rows lost or sent twice, incomplete pulls": len(result["wrong"]),
        "CPU time, seconds": result["cpu_seconds"],
    }
    return table(
        ("", "figure"),
        ([k, v if isinstance(v, str) else f"{v:,}"] for k, v in rows.items()),
    )


NAMES = {
    "rss": "resident memory, MB",
    "fds": "file descriptors",
    "tasks": "tasks",
    "objects": "objects, thousands",
    "turn": "longest turn of the loop, ms of CPU",
}


def growth() -> str:
    return table(
        ("", "mean", "from", "to", "growth", "noise", ""),
        (
            [
                NAMES[name],
                row["mean"],
                row["lowest"],
                row["highest"],
                f"{row['growth']:+}",
                row["noise"],
                "flat" if row["flat"] else "**grows**",
            ]
            for name, row in load("soak")["verdict"].items()
        ),
    )


def samples() -> str:
    rows = load("soak")["samples"][3::4]
    names = ["hours", *NAMES]
    return table(
        ["hour", *NAMES.values(), "requests"],
        ([*(row[name] for name in names), f"{row['requests']:,}"] for row in rows),
    )


TABLES: dict[str, Callable[[], str]] = {
    "adaptive": adaptive,
    "exact": exact,
    "peers": peers,
    "waits": waits,
    "sockets": sockets,
    "sockets-exact": sockets_exact,
    "sockets-waits": sockets_waits,
    "calls": calls,
    "instructions": instructions,
    "permit": lambda: _figures("scheduler"),
    "imports": lambda: _figures("imports"),
    "cost": cost,
    "quota": quota,
    "fleet": fleet,
    "kill": lambda: _rows(load("shared")["kill"]),
    "store": lambda: _rows(load("shared")["store"]),
    "crowd": lambda: _rows(load("shared")["crowd"]),
    "servers": servers,
    "run": run,
    "growth": growth,
    "samples": samples,
}


def render(text: str) -> str:
    """Return *text* with every table replaced."""
    return _TABLE.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], text)


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("pages", nargs="*", choices=(*PAGES, []), default=[])
    options.add_argument("--check", action="store_true", help="fail if a page is out of date")
    given = options.parse_args()
    stale: list[str] = []
    for name in given.pages or PAGES:
        page = HERE / f"{name}.md"
        if (text := render(page.read_text())) != page.read_text():
            stale.append(name)
            if not given.check:
                page.write_text(text)
    print("out of date:" if given.check else "rendered:", *stale)
    return 1 if given.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
