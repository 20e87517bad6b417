"""What a backfill costs beside a hand-written loop, and how much of a quota it uses.

    python benchmarks/backfill.py [--rounds 7] [--rows 6000] [--seconds 30] [--json FILE]

* cost: rows a second with quotas out of the way, against a server in another
  process that writes fixed bytes. The hand-written loop is aiohttp and msgspec
  with as many workers: it reads the same CSV into the same structs, decodes the
  same answers, writes the same lines, and remembers nothing. Each has a process
  of its own (`apart.py`), started anew after every three rounds. Rounds
  alternate; the figure is the median of the ratios, round by round.
* quota: calls that a strict sandbox (sliding window) let in, as a share of what
  it allowed, after the first window, in real time.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from apart import Apart, lives

from asyncclients import IntouchClient, Quota, SessionPool
from asyncclients.backfill import pull, push
from asyncclients.sandbox import Sandbox
from asyncclients.vendors.intouch import NewContact

WORKERS = 64
AHEAD = 8
"""The defaults of `push` and `pull`; the loops by hand have as many."""
PAGE = 25
PULLED = 20
"""Rows of a pull for each of a push: it is so much quicker, and a start must not count."""
CONTACT: dict[str, Any] = {
    "uuid": "56b01b44-ba2e-11e5-875c-0a5a4bfb150c",
    "first_name": "John",
    "last_name": "Doe",
    "email": "john.doe@example.com",
    "status": "subscribed",
    "deliverable": True,
    "created_at": "2021-05-11T11:52:47+00:00",
    "updated_at": "2021-08-11T11:52:47+00:00",
    "contact_lists": [],
    "custom_fields": {"member_since": "2020-02-02"},
}
Round = Callable[[Path], Awaitable[int]]


class Plain(msgspec.Struct, frozen=True, kw_only=True):
    """A contact, as somebody would write it who needs these fields."""

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


class Fixed(asyncio.Protocol):
    """Answers a POST with a contact and a GET with the page it asks for, of *pages*."""

    def __init__(self, pages: int) -> None:
        self._pages = pages
        self._created = answer(201, msgspec.json.encode(CONTACT))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        # A client here writes a request whole and waits for its answer.
        if data.startswith(b"POST"):
            if data.endswith(b"}"):
                self._transport.write(self._created)
            return
        number = int(data.split(b"page=", 1)[1].split(b" ", 1)[0].split(b"&")[0])
        self._transport.write(answer(200, page(number, self._pages)))


def page(number: int, pages: int) -> bytes:
    contact = msgspec.json.encode(CONTACT)
    head = b"%08d-" % number
    items = b",".join(contact.replace(b"56b01b44-ba2e", head + b"%04d" % i) for i in range(PAGE))
    return b'{"current_page":%d,"last_page":%d,"total":%d,"data":[%b]}' % (
        number,
        pages,
        pages * PAGE,
        items,
    )


def answer(status: int, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def serve(pages: int, port: multiprocessing.Queue[int]) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Fixed(pages), "127.0.0.1", 0)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


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
                # As they come: held to the end, they would only slow it down.
                while (items := found.pop(pages_written + 1, None)) is not None:
                    file.write(encoder.encode_lines(items))
                    pages_written, written = pages_written + 1, written + len(items)

        await asyncio.gather(*(work() for _ in range(AHEAD + 1)))
    return written


# --- Cost -----------------------------------------------------------------------------


async def by_hand(connection: Connection, base_url: str, pages: int) -> None:
    """The process of the loops by hand."""
    async with aiohttp.ClientSession(base_url) as session:
        rounds = {
            "push": lambda folder: push_by_hand(session, folder / "rows.csv"),
            "pull": lambda folder: pull_by_hand(session, pages, folder / "a.jsonl"),
        }
        await take_turns(connection, rounds)


async def ours(connection: Connection, base_url: str, pages: int) -> None:
    """The process of the backfills."""
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
            report = await pull(client.contacts.list(), to, state=state, ahead=AHEAD)
            assert report.total == pages * PAGE
            return report.done

        await take_turns(connection, {"push": push_ours, "pull": pull_ours})


async def take_turns(connection: Connection, rounds: dict[str, Round]) -> None:
    """On each turn one of *rounds*, in a folder of its own; says how many rows were done, in how many seconds."""
    while (turn := connection.recv()) is not None:
        name, rows = turn
        with tempfile.TemporaryDirectory() as folder:
            write_rows(Path(folder) / "rows.csv", rows)
            started = time.perf_counter()
            done = await rounds[name](Path(folder))
            connection.send((done, time.perf_counter() - started))


def cost(rounds: int, rows: int) -> dict[str, Any]:
    """Rows a second, by hand and by us, and the ratio."""
    pages = PULLED * rows // PAGE
    context = multiprocessing.get_context("spawn")
    port: multiprocessing.Queue[int] = context.Queue()
    server = context.Process(target=serve, args=(pages, port), daemon=True)
    server.start()
    base_url = f"http://127.0.0.1:{port.get()}/"
    rates: dict[str, list[tuple[float, float]]] = {"push": [], "pull": []}
    for count in lives(rounds):
        for name, found in live(base_url, pages, rows, count).items():
            rates[name] += found
    server.terminate()
    server.join()
    return {
        name: {
            "rows": pages * PAGE if name == "pull" else rows,
            "by_hand": statistics.median(a for a, _ in found),
            "ours": statistics.median(b for _, b in found),
            "ratio": statistics.median(b / a for a, b in found),
        }
        for name, found in rates.items()
    }


def live(base_url: str, pages: int, rows: int, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """One life of both processes: rows a second by hand and by us, round by round."""
    rates: dict[str, list[tuple[float, float]]] = {}
    with Apart(by_hand, base_url, pages) as hand, Apart(ours, base_url, pages) as mine:
        for name, size in (("push", rows), ("pull", pages * PAGE)):
            rates[name] = []
            for _ in range(rounds + 1):
                (done, seconds), (also, longer) = hand.turn(name, rows), mine.turn(name, rows)
                assert done == also == size
                rates[name].append((size / seconds, size / longer))
            del rates[name][0]  # it warms up
    return rates


def write_rows(path: Path, rows: int) -> None:
    with path.open("w") as file:
        file.write("email,first_name,last_name\n")
        for number in range(rows):
            file.write(f"person.{number}@example.com,Jo{number},Doe\n")


# --- Quota ----------------------------------------------------------------------------


async def quota(limit: int, period: float, seconds: float) -> dict[str, Any]:
    """Push for about *seconds* against a strict server; what share of its limit was used."""
    rows = int(limit / period * seconds)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "rows.csv"
        write_rows(source, rows)
        async with Sandbox({"intouch": (limit, period)}) as sandbox, SessionPool() as pool:
            client = IntouchClient.from_env(pool, sandbox.environ, quotas=[Quota(limit, period)])
            create = client.contacts.create
            report = await push(source, create, row_type=NewContact, state=Path(folder) / "push.db")
            arrivals = sandbox.requests("intouch")
    counted = [arrival.at for arrival in arrivals if arrival.admitted]
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
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    costs = cost(given.rounds, given.rows)
    print("rows/s        by hand     ours   ratio")
    for name, found in costs.items():
        print(f"{name:10} {found['by_hand']:10,.0f} {found['ours']:8,.0f} {found['ratio']:7.1%}")
    quotas: list[dict[str, Any]] = []
    for limit, period in ((2, 1.0), (50, 1.0), (100, 60.0)):
        seconds = max(given.seconds, 3 * period)
        quotas.append(asyncio.run(quota(limit, period, seconds)))
        print("{limit:14} {rows} rows in {seconds:.1f} s, {rejected} rejected, {share:.2%} of it"
              .format(**quotas[-1]))  # fmt: skip
    if given.json:
        given.json.write_text(json.dumps({"cost": costs, "quota": quotas}, indent=2) + "\n")


if __name__ == "__main__":
    main()
