"""Claims per second of CPU time of the store.

Part of `shared.py`. Two kinds of load:

* *made up*: 16 connections send as fast as they can; every claim settles as many slots as it
  asks for. This also gives the latency of a claim.
* *replayed*: the recorded claims of `shared_simulation.py`, with their times, sent to the
  server's script in the same order. This is the mix that real processes send: most ask for a
  slot that is not open yet.

For the file: claims per second of this process's CPU time, in `SqliteBackend`.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import shared_simulation
from redis import Redis

from asyncclients.ratelimit.quota import Quota
from asyncclients.stores import redis_client
from asyncclients.stores.protocol import LeaseRequest, QuotaSpec
from asyncclients.stores.redis import (
    RedisBackend,
    decode_reply,
    load_script,
    script_arguments,
    script_keys,
)
from asyncclients.stores.sqlite import SqliteBackend
from asyncclients.testing.clock import run_virtual
from tests.support.valkey_server import Server, connect

Row = dict[str, float | str]
_TIME = "local now = clock[1] * 1000000 + clock[2]"
_BATCH = 50


def cpu(server: Server) -> float:
    """Return the seconds of CPU time that *server* has used."""
    with connect(server.url) as client:
        facts = client.info("cpu")
    return float(facts["used_cpu_user"]) + float(facts["used_cpu_sys"])


def claim(
    me: str, number: int, slots: int, limit: int = 1000, period: int = 100_000
) -> LeaseRequest:
    """Return a claim that asks for *slots* and settles as many of the previous ones."""
    settled = range(max(1, number - slots), number)
    return LeaseRequest(
        process=me,
        epoch="",
        seen=("", 0),
        new_epoch="bench",
        recovering=False,
        assume_spent=False,
        wall=0,
        quotas=(QuotaSpec(limit=limit, period=period, interval=1, burst=float(limit)),),
        arrived=tuple((each, 90_000, ()) for each in settled),
        in_flight=(),
        released=(),
        first=number,
        count=slots,
        cost=1,
        groups=(),
        priority=1,
        accepted=slots,
        rejected=0,
        pause=0,
        goodbye=False,
        idle=False,
        block_held=(0, 0),
        heartbeat_due=1_000_000,
        lease=25_000,
        grace=150_000,
        ttl=3_000_000,
        min_retry=10_000,
        recovery_hold=0,
        detection_time=0,
        takeover_time=0,
    )


async def made_up(slots: int, claims: int, concurrency: int = 16) -> Row:
    """Measure one row: Valkey, as fast as this process can send."""
    server = Server()
    server.start()
    took: list[float] = []
    granted = 0

    async def process(name: str) -> None:
        nonlocal granted
        backend = RedisBackend(redis_client.parse_address(server.url), "bench")
        for turn in range(claims // concurrency):
            asked = claim(name, 1 + turn * slots, slots)
            begun = time.perf_counter()
            grant = await backend.apply(f"key-{name}", asked)
            took.append(time.perf_counter() - begun)
            granted += len(grant.opens_in)
        await backend.aclose()

    used = cpu(server)
    await asyncio.gather(*(process(f"p{index}") for index in range(concurrency)))
    used = cpu(server) - used
    server.kill()
    return {
        "store": "valkey",
        "claims": f"made up, {slots} slots each",
        "claims a core-second": round(len(took) / used),
        "permits a core-second": round(granted / used),
        "p50, ms": round(1000 * statistics.median(took), 2),
        "p99, ms": round(1000 * statistics.quantiles(took, n=100)[98], 2),
    }


def replayed(quota: Quota, spread: int, keys_of_it: int, seconds: float) -> Row:
    """Measure one row: Valkey runs the claims of the simulated processes."""
    record: list[tuple[str, LeaseRequest, int]] = []
    run_virtual(
        shared_simulation.run(quota, keys_of_it, 1000, spread, seconds=seconds, record=record)
    )
    work = [(script_keys("b", key, each), script_arguments(each), now) for key, each, now in record]
    server = Server()
    server.start()
    granted = 0
    with Redis.from_url(server.url) as client:
        assert _TIME in load_script()
        name = client.script_load(load_script().replace(_TIME, "local now = tonumber(ARGV[4])"))
        used = cpu(server)
        for first in range(0, len(work), _BATCH):
            batch = client.pipeline(transaction=False)
            for keys, arguments, now in work[first : first + _BATCH]:
                batch.evalsha(name, len(keys), *keys, *arguments, now)
            granted += sum(len(decode_reply(reply).opens_in) for reply in batch.execute())
        used = cpu(server) - used
    server.kill()
    return {
        "store": "valkey",
        "claims": f"replayed: {quota.limit}/{quota.period:g} s, {shared_simulation.work_name(spread)}",
        "claims a core-second": round(len(work) / used),
        "permits a core-second": round(granted / used),
        "p50, ms": "",
        "p99, ms": "",
    }


async def in_a_file(limit: int, claims: int) -> Row:
    """Measure one row: a file whose log is full with *limit* calls."""
    took: list[float] = []
    with tempfile.TemporaryDirectory() as directory:
        backend = SqliteBackend(Path(directory) / "limits.db")
        await backend.apply("key", claim("p", 1, limit, limit, 3_600_000_000))
        used = time.process_time()
        for turn in range(claims):
            begun = time.perf_counter()
            await backend.apply("key", claim("p", limit + 1 + turn, 1, limit, 3_600_000_000))
            took.append(time.perf_counter() - begun)
        used = time.process_time() - used
        await backend.aclose()
    return {
        "store": "file",
        "claims": f"made up, in vain, {limit} calls in the log",
        "claims a core-second": round(claims / used),
        "permits a core-second": "",
        "p50, ms": round(1000 * statistics.median(took), 2),
        "p99, ms": round(1000 * statistics.quantiles(took, n=100)[98], 2),
    }


async def store(claims: int) -> list[Row]:
    """The store table."""
    rows = [await made_up(slots, claims) for slots in (1, 16)]
    minute = Quota(100, 60.0)
    for quota, spread, keys_of_it, seconds in (
        (Quota(2, 1.0), 1, 50, 20.0),
        (Quota(2, 1.0), 4, 50, 10.0),
        (Quota(2, 1.0), 0, 100, 10.0),
        (minute, 1, 5, 120.0),
        (minute, 4, 5, 60.0),
    ):
        rows.append(await asyncio.to_thread(replayed, quota, spread, keys_of_it, seconds))
    files = [await in_a_file(limit, max(50, claims // 100)) for limit in (100, 1000, 10_000)]
    return [*rows, *files]
