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
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGES = ("rate_limits", "overhead", "backfill", "shared", "soak", "sync")
_TABLE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_NUMBER = re.compile(r"[-+]?[\d.,]+%?$")
Row = dict[str, Any]


def load(name: str) -> Any:
    """Return the figures of `results/NAME.json`."""
    return json.loads((HERE / "results" / f"{name}.json").read_text())


def table(columns: str, rows: Iterable[Row]) -> str:
    """Return a Markdown table.

    *columns* has `header: format` for each column, separated by bars; a format is filled from
    the row. Columns of numbers are aligned to the right.
    """
    pairs = [column.partition(":") for column in columns.split("|")]
    verdicts = {None: "", True: "met", False: "**missed**"}
    cells = [
        [text.strip().format(verdict=verdicts[row.get("met")], **row) for _, _, text in pairs]
        for row in rows
    ]
    rule = [
        "---:" if all(_NUMBER.match(cell) for cell in column if cell) and any(column) else "---"
        for column in zip(*cells, strict=True)
    ]
    lines = [[name.strip() for name, _, _ in pairs], rule, *cells]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def whole(rows: list[Row]) -> str:
    """Return a table of all columns as they are; use in percent."""
    formats = {name: "{" + name + "}" for name in rows[0]}
    formats |= {name: "{" + name + ":.1%}" for name in formats if name.startswith("use")}
    text = [
        {name: f"{value:,}" if isinstance(value, int) else value for name, value in row.items()}
        for row in rows
    ]
    return table("|".join(f"{name}:{each}" for name, each in formats.items()), text)


def grouped(rows: list[Row], line: tuple[str, ...], column: str, cell: str) -> str:
    """Return a table with a line for each value of *line* and a column for each of *column*."""
    columns = list(dict.fromkeys(row[column] for row in rows))
    lines: dict[tuple[str, ...], Row] = {}
    for row in rows:
        key = tuple(row[name] for name in line)
        found = lines.setdefault(key, {name: row[name] for name in line})
        found[f"c{columns.index(row[column])}"] = cell.format(**row)
    names = {"latency": "network"}
    spec = [f"{names.get(name, name)}:{{{name}}}" for name in line]
    spec += [f"{name}:{{c{index}}}" for index, name in enumerate(columns)]
    return table("|".join(spec), lines.values())


# --- rate_limits.md ---------------------------------------------------------------

CELL = "quota: {quota} | server: {server} | network: {latency} |"


def adaptive() -> str:
    return table(
        CELL + "use: {use:.2%} | target: ≥ {target_use:.1%} | rejected: {rejected:.3%}"
        "| target: ≤ {target_rejected:.2%} | : {verdict}",
        load("rate-limits")["adaptive"],
    )


def exact() -> str:
    rows = load("rate-limits")["exact"]
    text = f"{rows[0]['seeds']:,} seeds in every cell, runs of two and six minutes.\n\n"
    columns = "use: {use:.1%} | rejected: {rejected:.4%} | most in a window: {most_in_window}"
    return text + table(CELL + columns, rows)


def peers() -> str:
    result = load("rate-limits")
    rows = [{**row, "client": "**asyncclients**"} for row in result["adaptive"]] + result["peers"]
    parts: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        parts.setdefault((row["quota"], row["latency"]), []).append(row)
    return "\n".join(
        f"### {quota}, *{latency}*\n\n"
        + grouped(part, ("client",), "server", "{use:.1%} / {rejected:.2%}")
        for (quota, latency), part in parts.items()
    )


def waits() -> str:
    rows = load("rate-limits")["interactive"]
    columns = "quota: {quota} | network: {latency} | ours: {p99:.3f} s | target: ≤ {target:.2f} s"
    columns += "| : {verdict} | use: {use:.1%}"
    columns += "".join(f"| {peer}: {{peers[{peer}]:.1f}} s" for peer in rows[0]["peers"])
    return table(columns, rows)


def sockets() -> str:
    result = load("rate-limits-sockets")
    rows = result["adaptive"]
    text = (
        f"{rows[0]['seeds']} seeds at 2 per 1 s, {rows[-1]['seeds']} at the other quotas, "
        f"{result['seconds'] / 3600:g} h each; {result['exact'][0]['seeds']} seeds of two and six "
        f"minutes for `exact`.\nIn total {result['calls'] / 1e6:.1f} million calls in "
        f"{result['took'] / 60:.0f} minutes of one core; {result['agree']} of {result['runs']} "
        f"runs agree\nwith the simulator; {result['late']} calls took virtual time in the kernel."
    )
    columns = "use: {use:.2%} | simulated: {simulated_use:.2%} | target: ≥ {target_use:.1%}"
    columns += "| rejected: {rejected:.3%} | simulated: {simulated_rejected:.3%}"
    columns += "| target: ≤ {target_rejected:.2%} | : {verdict}"
    return f"{text}\n\n{table(CELL + columns, rows)}"


def sockets_exact() -> str:
    rows = load("rate-limits-sockets")["exact"]
    return grouped(rows, ("quota", "latency"), "server", "{use:.1%} ({rejected:.0%})")


def sockets_waits() -> str:
    return table(
        "quota: {quota} | network: {latency} | p99: {p99:.3f} s | simulated: {simulated_p99:.3f} s"
        "| target: ≤ {target:.2f} s | : {verdict} | use: {use:.1%}",
        load("rate-limits-sockets")["interactive"],
    )


# --- overhead.md and backfill.md --------------------------------------------------


def _side_by_side(*columns: dict[str, Row]) -> list[Row]:
    """Return a row for each name of *columns*, with its figures as `c0`, `c1` and so on."""
    return [
        {"name": name, **{f"c{index}": column[name] for index, column in enumerate(columns)}}
        for name in columns[0]
    ]


def calls() -> str:
    alone, together = (load(name)["results"] for name in ("overhead", "overhead-together"))
    rows = _side_by_side(alone["1"], alone["100"], together["1"], together["100"])
    return table(
        "client: {name} | 1 at a time: {c0[ratio]:.2f} | 100 at a time: {c1[ratio]:.2f}"
        "| together, 1: {c2[ratio]:.2f} | together, 100: {c3[ratio]:.2f}",
        sorted(rows, key=lambda row: row["c0"]["ratio"]),
    )


def instructions() -> str:
    return table(
        "client: {name} | 1 at a time: {c0[instructions]:,} | ratio: {c0[ratio]:.3f}"
        "| 100 at a time: {c1[instructions]:,} | ratio: {c1[ratio]:.3f}",
        _side_by_side(*load("instructions")["results"].values()),
    )


def figures(file: str) -> str:
    """The table of a benchmark that compares figures with upper bounds."""
    rows = [{"name": name, **row} for name, row in load(file)["rows"].items()]
    for row in rows:
        row["bound"] = "" if row["target"] is None else f"≤ {row['target']:g}"
    return table(": {name} | figure: {figure:,} | target: {bound} | : {verdict}", rows)


def cost() -> str:
    return table(
        ": {name} | rows: {rows:,} | by hand, rows/s: {by_hand:,.0f}"
        "| backfill, rows/s: {ours:,.0f} | ratio: {ratio:.0%}",
        ({"name": name, **row} for name, row in load("backfill")["cost"].items()),
    )


def quota() -> str:
    columns = "limit: {limit} | rows: {rows:,} | seconds: {seconds:.1f}"
    columns += "| rejected: {rejected} | share: {share:.1%}"
    return table(columns, load("backfill")["quota"])


# --- sync.md ----------------------------------------------------------------------


def runs() -> str:
    result = load("sync")
    columns = ": {run} | requests: {requests:,} | rejected: {rejected:,} | hours: {hours:.2f}"
    rows = [{**row, "hours": row["seconds"] / 3600} for row in result["runs"]]
    return f"{result['rows']:,} rows.\n\n" + table(columns, rows)


def examined() -> str:
    columns = "rows: {rows:,} | by hand, rows/s: {by_hand:,.0f} | sync, rows/s: {ours:,.0f}"
    columns += " | ratio: {ratio:.0%} | 1 % changed, rows/s: {changed:,.0f}"
    return table(columns + " | bytes a row: {bytes:.0f}", [load("sync")["examined"]])


# --- shared.md --------------------------------------------------------------------


def fleet() -> str:
    result = load("shared")
    return whole(result["fleet-2"] + result["fleet-100"])


def servers() -> str:
    """Servers for ten thousand keys, each half idle, at the slowest replayed rate."""
    result = load("shared")
    rates = [row["claims a core-second"] for row in result["store"] if "replayed" in row["claims"]]
    rows = [
        {**row, "servers": math.ceil(row["claims a second, 10000 keys"] / (min(rates) / 2))}
        for row in result["crowd"]
    ]
    return grouped(rows, ("work",), "quota", "{servers}")


# --- soak.md ----------------------------------------------------------------------

SAMPLED = {
    "rss": "resident memory, MB",
    "fds": "file descriptors",
    "tasks": "tasks",
    "objects": "objects, thousands",
    "turn": "longest turn of the loop, ms of CPU",
}


def run() -> str:
    result = load("soak")
    world = result["world"]
    counts = {
        "requests": sum(world["requests"].values()),
        "rate-limited requests": sum(world["rejected"].values()),
        "quota use of Intouch": f"{world['quota_use']['intouch']:.1%}",
        "quota use of Totango": f"{world['quota_use']['totango']:.1%}",
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
    return whole([{"of the run": name, "figure": value} for name, value in counts.items()])


def growth() -> str:
    return table(
        ": {name} | mean: {mean} | from: {lowest} | to: {highest} | growth: {growth:+}"
        "| noise: {noise} | : {flatness}",
        (
            {"name": SAMPLED[name], "flatness": "flat" if row["flat"] else "**grows**", **row}
            for name, row in load("soak")["verdict"].items()
        ),
    )


def samples() -> str:
    columns = "".join(f"| {name}: {{{key}}}" for key, name in SAMPLED.items())
    rows = load("soak")["samples"][3::4]
    return table("hour: {hours:g}" + columns + "| requests: {requests:,}", rows)


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
    "permit": lambda: figures("scheduler"),
    "imports": lambda: figures("imports"),
    "cost": cost,
    "quota": quota,
    "fleet": fleet,
    "kill": lambda: whole(load("shared")["kill"]),
    "store": lambda: whole(load("shared")["store"]),
    "crowd": lambda: whole(load("shared")["crowd"]),
    "servers": servers,
    "run": run,
    "growth": growth,
    "samples": samples,
    "runs": runs,
    "examined": examined,
}


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("pages", nargs="*", choices=(*PAGES, []), default=[])
    options.add_argument("--check", action="store_true", help="fail if a page is out of date")
    given = options.parse_args()
    stale: list[str] = []
    for name in given.pages or PAGES:
        page = HERE / f"{name}.md"
        old = page.read_text()
        new = _TABLE.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], old)
        if new != old:
            stale.append(name)
            if not given.check:
                page.write_text(new)
    print("out of date:" if given.check else "rendered:", *stale)
    return 1 if given.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
