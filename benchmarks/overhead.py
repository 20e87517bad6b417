"""What one call costs beside a hand-written loop and other clients.

    python benchmarks/overhead.py [--pairs 15] [--calls 1000] [--together] [--json FILE]

A page of 25 contacts, from a server in another process that writes fixed bytes
(asyncio.Protocol, several times faster than any client here). Every client
does the same work: request, read, decode into typed objects. Each has a process
of its own, as in a program that has chosen it (`apart.py`), or all have one
(`--together`); they are started anew after every three rounds. Rounds are finely interleaved,
one client after the other, and the figure is the median of the ratios round by
round, so that a machine that slows down slows both sides.

Clients that are not installed are left out and named.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp
import msgspec
from apart import Apart, lives
from overhead_server import serve

from asyncclients import IntouchClient, SessionPool
from asyncclients.vendors.intouch.models import Contact, Envelope

Call = Callable[[], Awaitable[object]]


# --- The clients ------------------------------------------------------------------


async def ours(stack: AsyncExitStack, url: str) -> Call:
    pool = await stack.enter_async_context(SessionPool(max_connections=1000))
    client = IntouchClient(pool, api_key="benchmark", base_url=url, quotas=())

    async def call() -> object:
        return [contact async for contact in client.contacts.list()]

    return call


async def ours_with_quota(stack: AsyncExitStack, url: str) -> Call:
    from asyncclients import Quota

    pool = await stack.enter_async_context(SessionPool(max_connections=1000))
    quota = Quota(1_000_000, 1.0)
    client = IntouchClient(pool, api_key="benchmark", base_url=url, quotas=(quota,))

    async def call() -> object:
        return [contact async for contact in client.contacts.list()]

    return call


async def by_hand(stack: AsyncExitStack, url: str) -> Call:
    connector = aiohttp.TCPConnector(limit=0)
    session = await stack.enter_async_context(
        aiohttp.ClientSession(headers={"x-api-key": "benchmark"}, connector=connector)
    )
    decoder = msgspec.json.Decoder(Envelope[Contact])
    address = url + "contacts"

    async def call() -> object:
        async with session.get(address, params={"page": "1"}) as response:
            response.raise_for_status()
            return decoder.decode(await response.read()).data

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
    return [
        PlainContact(
            **{
                **row,
                "created_at": datetime.fromisoformat(row["created_at"]),
                "updated_at": datetime.fromisoformat(row["updated_at"]),
            }
        )
        for row in json.loads(body)["data"]
    ]


async def json_dataclass(stack: AsyncExitStack, url: str) -> Call:
    session = await stack.enter_async_context(
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    )

    async def call() -> object:
        async with session.get(url + "contacts", params={"page": "1"}) as response:
            return plain(await response.read())

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
        response = await session.get(url + "contacts", params={"page": "1"})
        return plain(response.content)

    return call


async def _vendors_sdk(module: str, name: str, stack: AsyncExitStack, url: str) -> Call:
    """A generated SDK asked for the same page, decoded into plain objects."""
    library = __import__(module)
    client = getattr(library, name)(api_key="benchmark", base_url=url, max_retries=0)
    await stack.enter_async_context(client)

    async def call() -> object:
        return await client.get("contacts", cast_to=object, options={"params": {"page": "1"}})

    return call


async def openai(stack: AsyncExitStack, url: str) -> Call:
    return await _vendors_sdk("openai", "AsyncOpenAI", stack, url)


async def anthropic(stack: AsyncExitStack, url: str) -> Call:
    return await _vendors_sdk("anthropic", "AsyncAnthropic", stack, url)


async def stripe(stack: AsyncExitStack, url: str) -> Call:
    """Its list of customers, of which it makes objects of its own, page and rows."""
    from stripe import HTTPXClient, StripeClient

    transport = HTTPXClient(timeout=60)  # what it takes by itself where httpx is installed
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
    """Its list of users, of which it makes a dictionary. Without a session it opens one a call."""
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
"""Clients that make an eighth of the calls, to keep rounds finely interleaved."""


async def round_of(call: Call, calls: int, concurrency: int) -> float:
    """Seconds for *calls* calls, *concurrency* at a time."""
    left = iter(range(calls))

    async def work() -> None:
        for _ in left:
            await call()

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    return time.perf_counter() - started


async def take_turns(connection: Connection, url: str) -> None:
    """On each turn a round of one client; says how many seconds, None if it is not installed."""
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
    homes: dict[str, Apart], pairs: int, calls: int, concurrency: int
) -> dict[str, list[float]]:
    """Seconds a call of each client that is installed, round by round."""
    names = [
        name
        for name, home in homes.items()
        if home.turn(name, max(20, calls // 10), concurrency) is not None
    ]
    times: dict[str, list[float]] = {name: [] for name in names}
    for pair in range(pairs):
        # Every other round runs backwards, so that no client always follows the same one.
        for name in names if pair % 2 == 0 else reversed(names):
            count = calls // 8 if name in SLOW else calls
            times[name].append(homes[name].turn(name, count, concurrency) / count)
    return times


def live(
    url: str, names: list[str], pairs: int, calls: int, *, together: bool
) -> dict[int, dict[str, list[float]]]:
    """One life of all processes: what `measure` finds, by how many calls are made at a time."""
    with ExitStack() as stack:
        homes: dict[str, Apart] = {}
        for group in [names] if together else [[name] for name in names]:
            home = stack.enter_context(Apart(take_turns, url))
            homes |= dict.fromkeys(group, home)
        return {at_once: measure(homes, pairs, calls, at_once) for at_once in (1, 100)}


def summary(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Microseconds a call, and how many times those of the loop by hand; medians."""
    base = times[BASE]
    return {
        name: {
            "microseconds": round(statistics.median(values) * 1e6, 1),
            "ratio": round(statistics.median(v / b for v, b in zip(values, base, strict=True)), 3),
        }
        for name, values in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", nargs="*", default=list(CLIENTS), help="names of clients")
    parser.add_argument("--together", action="store_true", help="all clients in one process")
    arguments = parser.parse_args()
    names = [name for name in CLIENTS if name == BASE or name in arguments.only]
    queue: multiprocessing.Queue = multiprocessing.Queue()
    server = multiprocessing.Process(target=serve, args=(queue,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{queue.get(timeout=10)}/"
    found = [
        live(url, names, rounds, arguments.calls, together=arguments.together)
        for rounds in lives(arguments.pairs)
    ]
    results = []
    for concurrency in found[0]:
        times = {
            name: [each for one in found for each in one[concurrency][name]]
            for name in found[0][concurrency]
        }
        rows = summary(times)
        results.append({"concurrency": concurrency, "rows": rows})
        print(f"\n{concurrency} at a time, {arguments.pairs} rounds of {arguments.calls} calls")
        for name, row in rows.items():
            print(f"  {name:<28} {row['ratio']:>6.3f} x  {row['microseconds']:>8.1f} us")
        if missing := [name for name in names if name not in rows]:
            print("  not installed:", ", ".join(missing))
    server.terminate()
    if arguments.json:
        report = {
            "python": sys.version.split()[0],
            "pairs": arguments.pairs,
            "calls": arguments.calls,
            "together": arguments.together,
            "results": results,
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
