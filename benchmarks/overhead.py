"""The cost of one call, beside a hand-written loop and other clients.

    python benchmarks/overhead.py [--pairs 15] [--calls 1000] [--together] [--json FILE]
    python benchmarks/overhead.py --instructions [--calls 400] [--json FILE]

The calls fetch a page of 25 contacts from a server in another process that writes fixed bytes.
Every client does the same work: request, read, decode into typed objects. Rounds alternate
between the clients, and each figure is the median of the round-by-round ratios. Each client has
a process of its own, which is restarted after every three rounds; with `--together`, all share
one process. Clients that are not installed are skipped and named.

`--instructions` counts instructions in user space under `valgrind --tool=cachegrind`, which
does not depend on the load of the machine. Each client runs twice, with *calls* and three times
as many calls; the difference is the cost of the calls. The server is not counted.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection

import aiohttp
import msgspec
from harness import CONTACT, Answer, Worker, lives, parser, response, save, server

from asyncclients import IntouchClient, Quota, SessionPool
from asyncclients.vendors.intouch.models import Contact, Envelope

Call = Callable[[], Awaitable[object]]


def contacts_page() -> Answer:
    """A page of 25 contacts, for every request."""
    page = {"sort_by": "created_at", "order": "asc", "per_page": 25, "current_page": 1}
    page |= {"last_page": 1, "total": 25, "from": 1, "to": 25, "data": [CONTACT] * 25}
    page["ok"] = True  # required by Slack's client
    reply = response(200, json.dumps(page).encode())
    return lambda data: reply * data.count(b"\r\n\r\n")


# --- The clients ------------------------------------------------------------------


async def _intouch(stack: AsyncExitStack, url: str, *quotas: Quota) -> Call:
    pool = await stack.enter_async_context(SessionPool(max_connections=1000))
    client = IntouchClient(pool, api_key="benchmark", base_url=url, quotas=quotas)

    async def call() -> object:
        return [contact async for contact in client.contacts.list()]

    return call


async def ours(stack: AsyncExitStack, url: str) -> Call:
    return await _intouch(stack, url)


async def ours_with_quota(stack: AsyncExitStack, url: str) -> Call:
    return await _intouch(stack, url, Quota(1_000_000, 1.0))


async def by_hand(stack: AsyncExitStack, url: str) -> Call:
    connector = aiohttp.TCPConnector(limit=0)
    session = await stack.enter_async_context(
        aiohttp.ClientSession(headers={"x-api-key": "benchmark"}, connector=connector)
    )
    decoder = msgspec.json.Decoder(Envelope[Contact])
    address = url + "contacts"

    async def call() -> object:
        async with session.get(address, params={"page": "1"}) as reply:
            reply.raise_for_status()
            return decoder.decode(await reply.read()).data

    return call


@dataclass
class PlainContact:
    uuid: str
    email: str
    first_name: str
    last_name: str
    phone_number: str
    language: str
    status: str
    deliverable: bool
    created_at: datetime
    updated_at: datetime
    contact_lists: list[object]
    custom_fields: dict[str, object]


def plain(body: bytes) -> list[PlainContact]:
    """Decode with the standard library alone."""
    rows = json.loads(body)["data"]
    for row in rows:
        for name in ("created_at", "updated_at"):
            row[name] = datetime.fromisoformat(row[name])
    return [PlainContact(**row) for row in rows]


async def json_dataclass(stack: AsyncExitStack, url: str) -> Call:
    session = await stack.enter_async_context(
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    )

    async def call() -> object:
        async with session.get(url + "contacts", params={"page": "1"}) as reply:
            return plain(await reply.read())

    return call


async def _httpx_like(module: str, stack: AsyncExitStack, url: str) -> Call:
    library = __import__(module)
    client = await stack.enter_async_context(
        library.AsyncClient(limits=library.Limits(max_connections=1000), timeout=60)
    )

    async def call() -> object:
        return plain((await client.get(url + "contacts", params={"page": "1"})).content)

    return call


async def httpx(stack: AsyncExitStack, url: str) -> Call:
    return await _httpx_like("httpx", stack, url)


async def httpx2(stack: AsyncExitStack, url: str) -> Call:
    return await _httpx_like("httpx2", stack, url)


async def niquests(stack: AsyncExitStack, url: str) -> Call:
    import niquests as library

    session = await stack.enter_async_context(library.AsyncSession(pool_maxsize=200))

    async def call() -> object:
        return plain((await session.get(url + "contacts", params={"page": "1"})).content)

    return call


async def _generated_sdk(module: str, name: str, stack: AsyncExitStack, url: str) -> Call:
    """A generated SDK that fetches the same page and decodes it into plain objects."""
    library = __import__(module)
    client = getattr(library, name)(api_key="benchmark", base_url=url, max_retries=0)
    await stack.enter_async_context(client)

    async def call() -> object:
        return await client.get("contacts", cast_to=object, options={"params": {"page": "1"}})

    return call


async def openai(stack: AsyncExitStack, url: str) -> Call:
    return await _generated_sdk("openai", "AsyncOpenAI", stack, url)


async def anthropic(stack: AsyncExitStack, url: str) -> Call:
    return await _generated_sdk("anthropic", "AsyncAnthropic", stack, url)


async def stripe(stack: AsyncExitStack, url: str) -> Call:
    """Its list of customers, decoded into its own page and row objects."""
    from stripe import HTTPXClient, StripeClient

    transport = HTTPXClient(timeout=60)  # its default where httpx is installed
    stack.push_async_callback(transport.close_async)
    client = StripeClient(
        "benchmark",
        base_addresses={"api": url.rstrip("/")},
        http_client=transport,
        max_network_retries=0,
    )

    async def call() -> object:
        return await client.v1.customers.list_async({"limit": 25})

    return call


async def slack(stack: AsyncExitStack, url: str) -> Call:
    """Its list of users, as a dictionary. Without a session it opens one for each call."""
    from slack_sdk.web.async_client import AsyncWebClient

    session = await stack.enter_async_context(
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    )
    client = AsyncWebClient("benchmark", base_url=url, session=session, retry_handlers=[])

    async def call() -> object:
        return (await client.users_list(limit=25)).data

    return call


CLIENTS = {
    "aiohttp + msgspec by hand": by_hand,
    "asyncclients, no quota": ours,
    "asyncclients": ours_with_quota,
    "aiohttp + json + dataclass": json_dataclass,
    "httpx": httpx,
    "httpx2": httpx2,
    "niquests": niquests,
    "openai SDK": openai,
    "anthropic SDK": anthropic,
    "stripe SDK": stripe,
    "slack SDK": slack,
}
BASE = "aiohttp + msgspec by hand"
SLOW = ("httpx", "httpx2", "niquests", "openai SDK", "anthropic SDK", "stripe SDK")
"""Clients that make an eighth of the calls, so that rounds alternate quickly."""
COUNTED = (BASE, "asyncclients, no quota", "asyncclients", "aiohttp + json + dataclass")
"""Clients whose instructions are counted."""
CONCURRENCY = (1, 100)


# --- Time -------------------------------------------------------------------------


async def round_of(call: Call, calls: int, concurrency: int) -> float:
    """Return the seconds for *calls* calls, *concurrency* at a time."""
    left = iter(range(calls))

    async def work() -> None:
        for _ in left:
            await call()

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    return time.perf_counter() - started


async def take_turns(connection: Connection, url: str) -> None:
    """Run a round of one client for each turn; the result is None if it is not installed."""
    async with AsyncExitStack() as stack:
        ready: dict[str, Call] = {}
        while (turn := connection.recv()) is not None:
            name, calls, concurrency = turn
            try:
                if name not in ready:
                    ready[name] = await CLIENTS[name](stack, url)
                connection.send(await round_of(ready[name], calls, concurrency))
            except ImportError:
                connection.send(None)


def measure(
    workers: dict[str, Worker], pairs: int, calls: int, concurrency: int
) -> dict[str, list[float]]:
    """Return the seconds per call of each installed client, round by round."""
    names = [
        name
        for name, worker in workers.items()
        if worker.turn(name, max(20, calls // 10), concurrency) is not None
    ]
    times: dict[str, list[float]] = {name: [] for name in names}
    for pair in range(pairs):
        # Every other round runs backwards, so that no client always follows the same one.
        for name in names if pair % 2 == 0 else reversed(names):
            count = calls // 8 if name in SLOW else calls
            times[name].append(workers[name].turn(name, count, concurrency) / count)
    return times


def one_life(
    url: str, names: list[str], pairs: int, calls: int, *, together: bool
) -> dict[int, dict[str, list[float]]]:
    """Run *pairs* rounds in fresh processes, at each concurrency."""
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for group in [names] if together else [[name] for name in names]:
            worker = stack.enter_context(Worker(take_turns, url))
            workers |= dict.fromkeys(group, worker)
        return {at_once: measure(workers, pairs, calls, at_once) for at_once in CONCURRENCY}


def summary(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return the median microseconds of a call and its median ratio to the loop by hand."""
    base = times[BASE]
    return {
        name: {
            "microseconds": round(statistics.median(values) * 1e6, 1),
            "ratio": round(statistics.median(v / b for v, b in zip(values, base, strict=True)), 3),
        }
        for name, values in times.items()
    }


def timed(
    url: str, names: list[str], pairs: int, calls: int, *, together: bool
) -> dict[int, dict[str, dict[str, float]]]:
    """Return the rows of each concurrency, over all generations of processes."""
    found = [one_life(url, names, rounds, calls, together=together) for rounds in lives(pairs)]
    return {
        at_once: summary(
            {name: [each for life in found for each in life[at_once][name]] for name in times}
        )
        for at_once, times in found[0].items()
    }


# --- Instructions -----------------------------------------------------------------


async def make_calls(url: str, name: str, calls: int, concurrency: int) -> None:
    """The work of one counted process."""
    async with AsyncExitStack() as stack:
        await round_of(await CLIENTS[name](stack, url), calls, concurrency)


def instructions(url: str, name: str, calls: int, concurrency: int) -> int:
    """Count the instructions of a process that makes *calls* calls."""
    code = (
        f"import asyncio, overhead; asyncio.run(overhead.make_calls{url, name, calls, concurrency})"
    )
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=cachegrind", "--cache-sim=no"]
        command += [f"--cachegrind-out-file={folder}/out", sys.executable, "-c", code]
        # The order of a set, and with it the work, depends on the seed of the hash function.
        environment = os.environ | {"PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    assert found is not None, done.stderr
    return int(found[1].replace(",", ""))


def counted(url: str, names: list[str], calls: int) -> dict[int, dict[str, dict[str, float]]]:
    """Return the instructions of a call and their ratio to the loop by hand."""
    rows: dict[int, dict[str, dict[str, float]]] = {}
    for at_once in CONCURRENCY:
        each: dict[str, float] = {}
        for name in names:
            few, many = (instructions(url, name, n, at_once) for n in (calls, 3 * calls))
            each[name] = (many - few) / (2 * calls)
        rows[at_once] = {
            name: {"instructions": round(count), "ratio": round(count / each[BASE], 3)}
            for name, count in each.items()
        }
    return rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--pairs", type=int, default=15)
    options.add_argument("--calls", type=int)
    options.add_argument("--only", nargs="*", help="names of clients")
    options.add_argument("--together", action="store_true", help="all clients in one process")
    options.add_argument("--instructions", action="store_true", help="count instructions")
    given = options.parse_args()
    clients = COUNTED if given.instructions else tuple(CLIENTS)
    names = [name for name in clients if name == BASE or name in (given.only or clients)]
    calls = 50 if given.quick else given.calls or (400 if given.instructions else 1000)
    pairs = 1 if given.quick else given.pairs
    with server(contacts_page) as url:
        if given.instructions:
            results = counted(url, names, calls)
        else:
            results = timed(url, names, pairs, calls, together=given.together)
    for at_once, rows in results.items():
        print(f"\n{at_once} at a time, {calls} calls a round")
        for name, row in rows.items():
            figures = "  ".join(f"{row[unit]:>10,.1f} {unit}" for unit in row if unit != "ratio")
            print(f"  {name:<28} {row['ratio']:>6.3f} x  {figures}")
        if missing := [name for name in names if name not in rows]:
            print("  not installed:", ", ".join(missing))
    save(given.json, pairs=pairs, calls=calls, together=given.together, results=results)


if __name__ == "__main__":
    main()
