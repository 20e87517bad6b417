"""The backfills of the demo's five vendors, each with web requests beside it.

Each key is used by both, and they share its quota. The backfill of Intouch is in `scenario.py`,
because it runs in a process of its own; the others are pushes in this process.
"""

from __future__ import annotations

import asyncio
import csv
import gzip
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, TypeVar, cast

from asyncclients import (
    DigitalOnboardingClient,
    EmmaClient,
    IntemptClient,
    Quota,
    SessionPool,
    TotangoClient,
)
from asyncclients.backfill import Progress, push
from asyncclients.cli.demo.records import ASKED_AT
from asyncclients.core.client import VendorClient
from asyncclients.sandbox import Sandbox
from asyncclients.sandbox.sandbox import VendorName

Row = dict[str, str]
OnProgress = Callable[[Progress], None] | None
Client = TypeVar("Client", bound=VendorClient)


@dataclass(frozen=True, kw_only=True)
class DemoJob:
    """The backfill of one vendor, and the web requests with the same key.

    Attributes:
        rows: a word for its rows.
        expected: a key of each row.
        found: returns the keys of the rows at their destination.
        done: returns the number of rows done, as the vendor recorded it.
        run: performs the backfill, reporting its progress.
        ask: sends one web request.
        every: mean seconds between web requests.
    """

    vendor: VendorName
    rows: str
    quota: Quota
    expected: Sequence[str]
    found: Callable[[], list[str]]
    done: Callable[[], int]
    run: Callable[[OnProgress], Awaitable[object]]
    ask: Callable[[], Awaitable[object]]
    every: float

    async def work(self, progress: OnProgress) -> None:
        """Run the backfill, and send web requests until it ends."""
        asking = asyncio.create_task(send_at_random(self.ask, self.every))
        try:
            await self.run(progress)
        finally:
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking


async def send_at_random(ask: Callable[[], Awaitable[object]], every: float) -> None:
    """Await *ask* about once in *every* seconds, whether or not earlier ones have ended.

    The instants are the same in each run. When cancelled, it waits for the unfinished ones.
    """
    random = Random(0)  # noqa: S311 - not a secret
    sent: list[asyncio.Future[object]] = []
    try:
        while True:
            sent.append(asyncio.ensure_future(ask()))
            await asyncio.sleep(random.expovariate(1 / every))
    finally:
        await asyncio.gather(*sent)


def asked_now(client: Client) -> Client:
    """Return *client* with a header by which the vendor records the time of the request."""
    return client.with_options(headers={ASKED_AT: str(asyncio.get_running_loop().time())})


def data_rows(name: str, limit: int | None = None) -> list[Row]:
    """Return the first *limit* rows of a data file, by default all."""
    with gzip.open(_data() / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return list(islice(csv.DictReader(file), limit))


def _data() -> Path:
    installed = Path(__file__).parents[1] / "data"
    checkout = Path(__file__).parents[3] / "examples" / "data"
    return installed if installed.is_dir() else checkout


def totango_job(sandbox: Sandbox, pool: SessionPool, folder: Path, count: int) -> DemoJob:
    """Return the push of *count* earthquakes as touchpoints."""
    client = TotangoClient.from_env(pool, sandbox.environ)
    touchpoints = sandbox.state("totango").touchpoints
    quakes = data_rows("earthquakes", count)

    def touchpoint(quake: Row) -> dict[str, Any]:
        title = f"{quake['title']} ({quake['id']})"
        return {"account_id": quake["net"], "content": title, "create_date": int(quake["time_ms"])}

    async def run(progress: OnProgress) -> None:
        state = folder / "totango.state"
        target = client.touchpoints.create
        await push(quakes, target, map=touchpoint, state=state, progress=progress)

    def ask() -> Awaitable[object]:
        return asked_now(client).touchpoint_types.list()

    return DemoJob(
        vendor="totango",
        rows="touchpoints",
        quota=client.vendor.quotas[0],
        expected=[touchpoint(quake)["content"] for quake in quakes],
        found=lambda: [str(each["content"]) for each in touchpoints.values()],
        done=lambda: len(touchpoints),
        run=run,
        ask=ask,
        every=3.0,
    )


def emma_job(sandbox: Sandbox, pool: SessionPool, folder: Path, count: int) -> DemoJob:
    """Return the push of *count* earthquakes as touchpoints, ten in a call."""
    client = EmmaClient.from_env(pool, sandbox.environ)
    touchpoints = sandbox.state("emma").touchpoints
    quakes = data_rows("earthquakes", count)

    def touchpoint(quake: Row) -> dict[str, Any]:
        return {
            "email": "observatory@example.com",
            "type_name": "earthquake",
            "touchpoint_monetary_value": float(quake["magnitude"] or 0),
            "attributes": {"id": quake["id"]},
        }

    async def run(progress: OnProgress) -> None:
        await client.touchpoint_types.create("earthquake", "Earthquake")
        state = folder / "emma.state"
        target = client.touchpoints.create
        await push(quakes, target, map=touchpoint, state=state, progress=progress)

    def found() -> list[str]:
        stored = cast("Iterable[Any]", touchpoints.values())
        return [touchpoint["attributes"]["id"] for touchpoint in stored]

    def ask() -> Awaitable[object]:
        return asked_now(client).touchpoint_types.list()

    return DemoJob(
        vendor="emma",
        rows="touchpoints",
        quota=client.vendor.quotas[0],
        expected=[quake["id"] for quake in quakes],
        found=found,
        done=lambda: len(touchpoints),
        run=run,
        ask=ask,
        every=1.5,
    )


def intempt_job(sandbox: Sandbox, pool: SessionPool, folder: Path, count: int) -> DemoJob:
    """Return the push of *count* radio frequencies of airports into a collection."""
    client = IntemptClient.from_env(pool, sandbox.environ)
    collection = sandbox.state("intempt").add_collection("frequencies", "id")
    frequencies = data_rows("airport-frequencies", count)

    async def run(progress: OnProgress) -> None:
        state = folder / "intempt.state"
        target = partial(client.collections.insert, str(collection.id))
        await push(frequencies, target, state=state, progress=progress)

    def ask() -> Awaitable[object]:
        return asked_now(client).info()

    return DemoJob(
        vendor="intempt",
        rows="frequencies",
        quota=client.vendor.quotas[0],
        expected=[frequency["id"] for frequency in frequencies],
        found=lambda: list(collection.items),
        done=lambda: len(collection.items),
        run=run,
        ask=ask,
        every=1.0,
    )


def digital_onboarding_job(
    sandbox: Sandbox, pool: SessionPool, folder: Path, count: int
) -> DemoJob:
    """Return the push of *count* airports as contacts."""
    client = DigitalOnboardingClient.from_env(pool, sandbox.environ)
    contacts = sandbox.state("digital_onboarding").contacts
    airports = data_rows("airports-us", count)
    fields = {"iata": "unique_id", "name": "name_last", "latitude": "", "longitude": ""}

    async def run(progress: OnProgress) -> None:
        state = folder / "digital_onboarding.state"
        target = client.contacts.upsert
        await push(airports, target, map=fields, state=state, progress=progress)

    def ask() -> Awaitable[object]:
        return asked_now(client).templates.list()

    return DemoJob(
        vendor="digital_onboarding",
        rows="contacts",
        quota=client.vendor.quotas[0],
        expected=[airport["iata"] for airport in airports],
        found=lambda: list(contacts),
        done=lambda: len(contacts),
        run=run,
        ask=ask,
        every=1.0,
    )
