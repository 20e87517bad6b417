"""The five jobs of the demo: real data into mock vendors, with the public clients."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from asyncclients import (
    DigitalOnboardingClient,
    EmmaClient,
    IntemptClient,
    IntouchClient,
    Quota,
    SessionPool,
    TotangoClient,
)
from asyncclients.core.client import VendorClient
from asyncclients.core.events import Listener
from asyncclients.sandbox import Sandbox
from asyncclients.vendors import digital_onboarding, emma, intouch, totango

Row = dict[str, str]
T = TypeVar("T")
_WORKERS = 50
_TOKEN_LIFETIME = 12.0
"""Seconds; short, so that tokens expire during the demo."""


class DemoJob:
    """The job of one vendor, with its progress in steps."""

    def __init__(self, vendor: str, client: VendorClient, what: str, total: int) -> None:
        self.vendor, self.client, self.what, self.total = vendor, client, what, total
        self.done = 0

    def eta(self) -> float:
        """Return the seconds until the remaining calls could have been sent."""
        # `client.eta` includes the calls in the scheduler's queue.
        queued = sum(self.client.stats().queued.values())
        return self.client.eta(max(1, self.total - self.done - queued))

    async def each(self, items: Iterable[T], call: Callable[[T], Awaitable[object]]) -> None:
        """Await *call* for every item, with 50 concurrent calls; the scheduler limits the rate."""
        queue = iter(items)

        async def work() -> None:
            for item in queue:
                await call(item)
                self.done += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(_WORKERS):
                group.create_task(work())

    async def count(self, items: AsyncIterator[object], per_step: int) -> int:
        """Return the number of *items*; *per_step* of them are a step."""
        found = 0
        async for _ in items:
            found += 1
            self.done += found % per_step == 0
        self.done += found % per_step != 0
        return found


Run = Callable[[], Awaitable[None]]


def rows(name: str, limit: int | None = None) -> list[Row]:
    """Return the first *limit* rows of a data file, by default all."""
    with gzip.open(_data() / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return list(islice(csv.DictReader(file), limit))


def _data() -> Path:
    installed = Path(__file__).parent / "data"
    checkout = Path(__file__).parents[2] / "examples" / "data"
    return installed if installed.is_dir() else checkout


def jobs(sandbox: Sandbox, pool: SessionPool, *, fast: bool) -> list[tuple[DemoJob, Run]]:
    """Return the jobs, each with the coroutine function that runs it."""
    made: dict[str, Any] = {}
    for name, client in CLIENTS.items():
        quotas = (faster(name),) if fast else None
        made[name] = client.from_env(pool, sandbox.environ, quotas=quotas)
    return [
        _intouch(made["intouch"], sandbox, fast=fast),
        _totango(made["totango"], fast=fast),
        _emma(made["emma"], sandbox, fast=fast),
        _intempt(made["intempt"], sandbox, fast=fast),
        _digital_onboarding(made["digital_onboarding"], sandbox, fast=fast),
    ]


QUOTAS: dict[str, tuple[int, float]] = {
    "intouch": (2, 1.0),
    "totango": (100, 60.0),
    "intempt": (10, 1.0),
    "emma": (180, 60.0),
    "digital_onboarding": (10, 1.0),
}


CLIENTS: dict[str, type[VendorClient]] = {
    "intouch": IntouchClient,
    "totango": TotangoClient,
    "intempt": IntemptClient,
    "emma": EmmaClient,
    "digital_onboarding": DigitalOnboardingClient,
}


def faster(name: str) -> Quota:
    """Return 100 times the vendor's quota."""
    limit, period = QUOTAS[name]
    return Quota(limit * 100, period)


def _intouch(client: IntouchClient, sandbox: Sandbox, *, fast: bool) -> tuple[DemoJob, Run]:
    navaids = rows("navaids", None if fast else 80)
    pages = -(-(len(navaids) + 1) // 25)
    job = DemoJob("intouch", client, "navaids in as locations, read back", len(navaids) + pages)
    root = sandbox.state("intouch").root_uuid

    async def create(row: Row) -> None:
        location = {"lat": row["latitude_deg"], "long": row["longitude_deg"]}
        node = intouch.NewHierarchy(
            name=row["name"] or row["ident"],
            type="location",
            parent_uuid=root,
            client_code=f"{row['ident']}-{row['id']}",
            location={**location, "country": row["iso_country"]},
        )
        await client.hierarchies.create(node)

    async def run() -> None:
        await job.each(navaids, create)
        listed = client.hierarchies.list(sort_by="created_at")
        found = await job.count(aiter(listed), 25)
        if found != len(navaids) + 1:
            raise RuntimeError(f"read back {found} nodes, expected {len(navaids) + 1}")

    return job, run


def _totango(client: TotangoClient, *, fast: bool) -> tuple[DemoJob, Run]:
    quakes = rows("earthquakes", None if fast else 70)
    job = DemoJob("totango", client, "earthquakes in as touchpoints", len(quakes))

    async def create(row: Row) -> None:
        touchpoint = totango.NewTouchpoint(
            account_id=row["net"],
            content=row["title"],
            activity_type_id="escalation",
            create_date=int(row["time_ms"]),
        )
        await client.touchpoints.create(touchpoint)

    return job, lambda: job.each(quakes, create)


def _emma(client: EmmaClient, sandbox: Sandbox, *, fast: bool) -> tuple[DemoJob, Run]:
    quakes = rows("earthquakes", None if fast else 1200)
    batches = [quakes[at : at + 10] for at in range(0, len(quakes), 10)]
    job = DemoJob("emma", client, "earthquakes in, ten a call", len(batches) + 1)
    sandbox.state("emma").add_member("observatory@example.com")

    async def create(batch: list[Row]) -> None:
        touchpoints = [
            emma.NewTouchpoint(
                email="observatory@example.com",
                type_name="earthquake",
                touchpoint_monetary_value=float(row["magnitude"] or 0),
                touchpoint_timestamp=_account_time(row["time_ms"]),
                attributes={"title": row["title"]},
            )
            for row in batch
        ]
        await client.touchpoints.create(touchpoints)

    async def run() -> None:
        await client.touchpoint_types.create("earthquake", "Earthquake")
        job.done += 1
        await job.each(batches, create)

    return job, run


def _account_time(milliseconds: str) -> datetime:
    """Return the time without a zone, as Emma takes it."""
    return datetime.fromtimestamp(int(milliseconds) // 1000, UTC).replace(tzinfo=None)


def _intempt(client: IntemptClient, sandbox: Sandbox, *, fast: bool) -> tuple[DemoJob, Run]:
    frequencies = rows("airport-frequencies")
    first = frequencies[: 3000 if fast else 300]
    state = sandbox.state("intempt")
    collection = str(state.add_collection("frequencies", "id").id)
    job = DemoJob("intempt", client, "frequencies in by row, then all by CSV", len(first) + 1)

    async def insert(row: Row) -> None:
        await client.collections.insert(collection, dict(row))

    async def run() -> None:
        await job.each(first, insert)
        await client.collections.upload_csv(collection, _csv(frequencies))
        job.done += 1

    return job, run


def _csv(table: list[Row]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, fieldnames=list(table[0]))
    writer.writeheader()
    writer.writerows(table)
    return out.getvalue().encode()


def _digital_onboarding(
    client: DigitalOnboardingClient, sandbox: Sandbox, *, fast: bool
) -> tuple[DemoJob, Run]:
    airports = rows("airports-us", None if fast else 300)
    job = DemoJob("digital_onboarding", client, "airports in while tokens expire", len(airports))
    sandbox.state("digital_onboarding").lifetime = _TOKEN_LIFETIME

    async def upsert(row: Row) -> None:
        contact = digital_onboarding.NewContact(
            unique_id=row["iata"],
            name_last=row["name"],
            city=row["city"],
            state=row["state"],
            country=row["country"],
        )
        await client.contacts.upsert(contact)

    return job, lambda: job.each(airports, upsert)


@asynccontextmanager
async def stage(
    *, fast: bool, listeners: Sequence[Listener]
) -> AsyncGenerator[tuple[Sandbox, SessionPool]]:
    """Provide the sandbox and the pool of the demo."""
    quotas = {name: (faster(name).limit, faster(name).period) for name in QUOTAS}
    async with (
        Sandbox(quotas=quotas if fast else None) as sandbox,
        # A server that counts by window never rejects a call with `exact`, however busy this
        # machine is. On loopback its throughput is that of `adaptive`.
        SessionPool(listeners=listeners, admission="exact") as pool,
    ):
        yield sandbox, pool
