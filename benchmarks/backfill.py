"""The cost of a backfill beside a hand-written loop, and its use of a quota.

    python benchmarks/backfill.py [--rounds 7] [--rows 6000] [--seconds 30] [--json FILE]

* cost: rows per second without quotas, against a server in another process that writes fixed
  bytes. The hand-written loop is aiohttp and msgspec with as many workers: it reads the same
  CSV into the same structs, decodes the same responses, writes the same lines and keeps no
  state. Each side has a process of its own, restarted after every three rounds. Rounds
  alternate; the figure is the median of the round-by-round ratios.
* quota: calls accepted by a strict sandbox (sliding window) after the first window, as a share
  of the limit, in real time.
"""

from __future__ import annotations

import asyncio
import csv
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from harness import CONTACT, Answer, Worker, lives, parser, response, save, server

from asyncclients import IntouchClient, Quota, SessionPool
from asyncclients.backfill import pull, push
from asyncclients.sandbox import Sandbox
from asyncclients.vendors.intouch import NewContact

WORKERS = 64
AHEAD = 8
"""The defaults of `push` and `pull`, and of the loops by hand."""
PAGE = 25
PULLED = 20
"""Rows of a pull for each row of a push: a pull is faster, and its start must not count."""
QUOTAS = ((2, 1.0), (50, 1.0), (100, 60.0))
Round = Callable[[Path], Awaitable[int]]


class Plain(msgspec.Struct, frozen=True, kw_only=True):
    """A contact, as a user who needs these fields would write it."""

    uuid: str
    email: str
    first_name: str | None = None
    last_name: str | None = None
    phone_number: str | None = None
    language: str | None = None
    status: str | None = None
    deliverable: bool | None = None
    contact_lists: list[Any] | None = None
    custom_fields: dict[str, Any] | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None


class PlainPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of them."""

    data: list[Plain]
    current_page: int
    last_page: int
    total: int


def contacts(pages: int) -> Answer:
    """Answer a POST with a contact, and a GET with the page it asks for, of *pages*."""
    contact = msgspec.json.encode(CONTACT)
    created = response(201, contact)

    def answer(data: bytes) -> bytes:
        if data.startswith(b"POST"):
            return created if data.endswith(b"}") else b""
        number = int(data.split(b"page=", 1)[1].split(b" ", 1)[0].split(b"&")[0])
        head = b"%08d-" % number
        items = b",".join(
            contact.replace(b"56b01b44-ba2e", head + b"%04d" % i) for i in range(PAGE)
        )
        found = b'{"current_page":%d,"last_page":%d,"total":%d,"data":[%b]}'
        return response(200, found % (number, pages, pages * PAGE, items))

    return answer


# --- By hand --------------------------------------------------------------------------


async def push_by_hand(session: aiohttp.ClientSession, source: Path) -> int:
    with source.open(newline="") as file:
        rows = csv.DictReader(file)
        decode = msgspec.json.Decoder(Plain).decode
        encode = msgspec.json.Encoder().encode

        async def work() -> int:
            done = 0
            for row in rows:
                contact = msgspec.convert(row, NewContact, strict=False)
                async with session.post("contacts", data=encode(contact)) as reply:
                    decode(await reply.read())
                    assert reply.status == 201
                done += 1
            return done

        return sum(await asyncio.gather(*(work() for _ in range(WORKERS))))


async def pull_by_hand(session: aiohttp.ClientSession, pages: int, to: Path) -> int:
    numbers, found = iter(range(1, pages + 1)), dict[int, list[Plain]]()
    decoder, encoder = msgspec.json.Decoder(PlainPage), msgspec.json.Encoder()
    pages_written = written = 0
    with to.open("wb") as file:

        async def work() -> None:
            nonlocal pages_written, written
            for number in numbers:
                async with session.get("contacts", params={"page": number}) as reply:
                    found[number] = decoder.decode(await reply.read()).data
                # Write pages as they come: keeping them to the end would be slower.
                while (items := found.pop(pages_written + 1, None)) is not None:
                    file.write(encoder.encode_lines(items))
                    pages_written, written = pages_written + 1, written + len(items)

        await asyncio.gather(*(work() for _ in range(AHEAD + 1)))
    return written


# --- Cost -----------------------------------------------------------------------------


async def by_hand(connection: Connection, base_url: str, pages: int) -> None:
    """Serve the loops by hand."""
    async with aiohttp.ClientSession(base_url) as session:
        rounds = {
            "push": lambda folder: push_by_hand(session, folder / "rows.csv"),
            "pull": lambda folder: pull_by_hand(session, pages, folder / "a.jsonl"),
        }
        await take_turns(connection, rounds)


async def ours(connection: Connection, base_url: str, pages: int) -> None:
    """Serve the backfills."""
    async with SessionPool() as pool:
        client = IntouchClient(pool, api_key="ii_benchmark", base_url=base_url, quotas=[])

        async def push_ours(folder: Path) -> int:
            source, state = folder / "rows.csv", folder / "push.db"
            report = await push(
                source,
                client.contacts.create,
                row_type=NewContact,
                state=state,
                concurrency=WORKERS,
            )
            return report.done

        async def pull_ours(folder: Path) -> int:
            to, state = folder / "b.jsonl", folder / "pull.db"
            report = await pull(client.contacts.list(), to, state=state, prefetch=AHEAD)
            assert report.total == pages * PAGE
            return report.done

        await take_turns(connection, {"push": push_ours, "pull": pull_ours})


async def take_turns(connection: Connection, rounds: Mapping[str, Round]) -> None:
    """Run one of *rounds* per turn in a new folder; send the rows done and the seconds."""
    while (turn := connection.recv()) is not None:
        name, rows = turn
        with tempfile.TemporaryDirectory() as folder:
            write_rows(Path(folder) / "rows.csv", rows)
            started = time.perf_counter()
            done = await rounds[name](Path(folder))
            connection.send((done, time.perf_counter() - started))


def cost(rounds: int, rows: int) -> dict[str, Any]:
    """Return rows per second, by hand and by a backfill, and their ratio."""
    pages = PULLED * rows // PAGE
    sizes = {"push": rows, "pull": pages * PAGE}
    rates: dict[str, list[tuple[float, float]]] = {"push": [], "pull": []}
    with server(contacts, pages) as url:
        for count in lives(rounds):
            with Worker(by_hand, url, pages) as hand, Worker(ours, url, pages) as mine:
                for name, size in sizes.items():
                    for number in range(count + 1):
                        (done, seconds), (also, longer) = (
                            hand.turn(name, rows),
                            mine.turn(name, rows),
                        )
                        assert done == also == size
                        if number:  # the first round warms up
                            rates[name].append((size / seconds, size / longer))
    return {
        name: {
            "rows": sizes[name],
            "by_hand": statistics.median(a for a, _ in found),
            "ours": statistics.median(b for _, b in found),
            "ratio": statistics.median(b / a for a, b in found),
        }
        for name, found in rates.items()
    }


def write_rows(path: Path, rows: int) -> None:
    with path.open("w") as file:
        file.write("email,first_name,last_name\n")
        for number in range(rows):
            file.write(f"person.{number}@example.com,Jo{number},Doe\n")


# --- Quota ----------------------------------------------------------------------------


async def quota(limit: int, period: float, seconds: float) -> dict[str, Any]:
    """Push for about *seconds* against a strict server; return the used share of its limit."""
    rows = int(limit / period * seconds)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "rows.csv"
        write_rows(source, rows)
        async with Sandbox({"intouch": (limit, period)}) as sandbox, SessionPool() as pool:
            client = IntouchClient.from_env(pool, sandbox.environ, quotas=[Quota(limit, period)])
            create = client.contacts.create
            report = await push(source, create, row_type=NewContact, state=Path(folder) / "push.db")
            arrivals = sandbox.requests("intouch")
    counted = [arrival.at for arrival in arrivals if not arrival.rejected]
    steady = [at for at in counted if at >= counted[0] + period]
    share = (len(steady) - 1) / (limit / period * (steady[-1] - steady[0]))
    return {
        "limit": f"{limit} per {period:g} s",
        "rows": report.done,
        "seconds": report.seconds,
        "rejected": report.rejected,
        "share": share,
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--rows", type=int, default=6000)
    options.add_argument("--seconds", type=float, default=30.0)
    given = options.parse_args()
    rounds, rows = (1, 500) if given.quick else (given.rounds, given.rows)
    costs = cost(rounds, rows)
    print("rows/s        by hand     ours   ratio")
    for name, found in costs.items():
        print(f"{name:10} {found['by_hand']:10,.0f} {found['ours']:8,.0f} {found['ratio']:7.1%}")
    quotas: list[dict[str, Any]] = []
    for limit, period in QUOTAS[: 1 if given.quick else None]:
        seconds = 5.0 if given.quick else max(given.seconds, 3 * period)
        quotas.append(asyncio.run(quota(limit, period, seconds)))
        print("{limit:14} {rows} rows in {seconds:.1f} s, {rejected} rejected, {share:.2%} of it"
              .format(**quotas[-1]))  # fmt: skip
    save(given.json, cost=costs, quota=quotas)


if __name__ == "__main__":
    main()
