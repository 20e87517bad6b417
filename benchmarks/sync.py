"""The cost of a sync beside a push: requests, time at the quota, and time to examine the rows.

    python benchmarks/sync.py [--rows 20000] [--examined 200000] [--rounds 5] [--json FILE]

* runs: requests and duration against a strict sandbox of Intouch with its quota of 2 per second,
  in virtual time: a push of all rows, a sync of the same rows that adopts them, one of which 1 %
  changed, and one without any change.
* examined: rows per second of CPU time of a sync without any change, and of one in which 1 % of the
  rows changed and are sent nowhere, beside a loop that only reads the CSV with `csv.DictReader`.
  Rounds alternate; the ratio is the median of the rounds.
"""

from __future__ import annotations

import asyncio
import csv
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import parser, save

from asyncclients import IntouchClient, SessionPool
from asyncclients.backfill import push, sync
from asyncclients.sandbox import Sandbox
from asyncclients.testing.clock import run_virtual
from asyncclients.vendors.intouch import NewContact

HEADER = ["email", "first_name", "last_name", "phone_number", "language"]
LATENCY = (0.02, 0.05)
"""Seconds to the sandbox and back."""
CHANGED = 100
"""One row in this many changes."""


def write_rows(path: Path, rows: int, *, change: int = 0) -> None:
    """Write *rows* contacts; one in *change* has another name."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for number in range(rows):
            name = "Changed" if change and number % change == 0 else f"First {number}"
            writer.writerow([f"person.{number}@example.com", name, "Last", "0123456789", "en"])


async def runs(folder: Path, rows: int) -> list[dict[str, Any]]:
    """Return requests and virtual seconds of a push and of three syncs of *rows* contacts."""
    source, found = folder / "contacts.csv", list[dict[str, Any]]()

    def add(what: str, report: Any) -> None:
        figures = {"requests": report.requests, "rejected": report.rejected}
        found.append({"run": what, **figures, "seconds": report.seconds})

    write_rows(source, rows)
    async with Sandbox(latency=LATENCY) as sandbox, SessionPool() as pool:
        contacts = IntouchClient.from_env(pool, sandbox.environ).contacts
        state = folder / "push.db"
        report = await push(source, contacts.create, row_type=NewContact, state=state)
        add("push of all rows", report)
        state = folder / "contacts.sync"
        add(
            "first sync, adopting equal items",
            await sync(source, contacts, state=state, adopt=True),
        )
        write_rows(source, rows, change=CHANGED)
        add("sync with 1 % changed", await sync(source, contacts, state=state))
        add("sync without a change", await sync(source, contacts, state=state))
    return found


class Nowhere:
    """A target that accepts everything."""

    row_type = NewContact
    key_field = "email"

    async def create(self, row: NewContact) -> NewContact:
        return row

    async def update(self, item_id: str, row: NewContact) -> None:
        del item_id, row

    def item_id(self, item: NewContact) -> str:
        del item
        return "11b01b44-ba2e-11e5-875c-0a5a4bfb150c"

    def key(self, item: NewContact) -> str:
        return item.email


async def examined(folder: Path, rows: int, rounds: int) -> dict[str, Any]:
    """Return rows per CPU second of reading by hand and of a sync without a change."""
    source, state = folder / "examined.csv", folder / "examined.sync"
    write_rows(source, rows)
    await sync(source, Nowhere(), state=state)
    size = state.stat().st_size / rows
    ours, changed, by_hand = list[float](), list[float](), list[float]()
    for _ in range(rounds):
        began = time.process_time()
        report = await sync(source, Nowhere(), state=state)
        ours.append(rows / (time.process_time() - began))
        assert report.unchanged == rows
        write_rows(source, rows, change=CHANGED)
        began = time.process_time()
        report = await sync(source, Nowhere(), state=state)
        changed.append(rows / (time.process_time() - began))
        assert report.updated == -(-rows // CHANGED)
        write_rows(source, rows)
        await sync(source, Nowhere(), state=state)
        began = time.process_time()
        assert sum(1 for _ in read_by_hand(source)) == rows
        by_hand.append(rows / (time.process_time() - began))
    ratio = statistics.median(one / other for one, other in zip(ours, by_hand, strict=True))
    speeds = {"ours": ours, "changed": changed, "by_hand": by_hand}
    medians = {name: statistics.median(found) for name, found in speeds.items()}
    return {"rows": rows, **medians, "ratio": ratio, "bytes": size}


def read_by_hand(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of *path* as the standard library reads them."""
    with path.open(newline="") as file:
        yield from csv.DictReader(file)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=20_000)
    options.add_argument("--examined", type=int, default=200_000)
    options.add_argument("--rounds", type=int, default=5)
    given = options.parse_args()
    rows, many = (500, 2000) if given.quick else (given.rows, given.examined)
    with tempfile.TemporaryDirectory() as folder:
        found = run_virtual(runs(Path(folder), rows))
        for row in found:
            print("{run:34} {requests:8,} requests {seconds:12,.1f} s".format(**row))
        speed = asyncio.run(examined(Path(folder), many, 1 if given.quick else given.rounds))
    print(
        "examined: {ours:,.0f} rows/s, 1 % changed {changed:,.0f}, by hand {by_hand:,.0f}, {ratio:.0%}".format(
            **speed
        )
    )
    save(given.json, rows=rows, runs=found, examined=speed)


if __name__ == "__main__":
    main()
