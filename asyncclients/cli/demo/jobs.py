"""The backfills of the demo's five vendors, each with web requests beside it.

Each key is used by both, and they share its quota. The backfill of Intouch is in `scenario.py`,
because it runs in a process of its own; the others are pushes in this process.
"""

from __future__ import annotations

import asyncio
import csv
import gzip
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, cast

from asyncclients import (
    DigitalOnboardingClient,
    EmmaClient,
    IntemptClient,
    SessionPool,
    TotangoClient,
)
from asyncclients.backfill import Progress, push
from asyncclients.cli.demo.records import ASKED_AT, DemoResult, read_record
from asyncclients.core.client import VendorClient
from asyncclients.sandbox import Sandbox
from asyncclients.sandbox.sandbox import VendorName

Row = dict[str, str]
OnProgress = Callable[[Progress], None] | None


@dataclass(frozen=True, kw_only=True)
class DemoJob:
    """The backfill of one vendor, and the web requests with the same key.

    Attributes:
        client: of the web requests.
        expected: a key of each row.
        found: returns the keys of the rows at their destination.
        done: returns the number of rows done, as the vendor recorded it.
        run: performs the backfill, reporting its progress.
        web: sends one web request with a client.
        every: mean seconds between web requests.
    """

    client: VendorClient
    expected: Sequence[str]
    found: Callable[[], list[str]]
    done: Callable[[], int]
    run: Callable[[OnProgress], Awaitable[object]]
    web: Callable[[Any], Awaitable[object]]
    every: float

    @property
    def vendor(self) -> VendorName:
        """The name of the vendor."""
        return cast("VendorName", self.client.vendor.name)

    def ask(self) -> Awaitable[object]:
        """Send one web request, with a header by which the vendor records when it was made."""
        asked_at = str(asyncio.get_running_loop().time())
        return self.web(self.client.with_options(headers={ASKED_AT: asked_at}))

    def record(self, sandbox: Sandbox, now: float) -> DemoResult:
        """Return the figures that *sandbox* has recorded until the loop time *now*."""
        return read_record(sandbox, self.vendor, self.client.vendor.quotas[0], now)

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


def data_rows(name: str, limit: int) -> list[Row]:
    """Return the first *limit* rows of a data file."""
    installed = Path(__file__).parents[1] / "data"
    checkout = Path(__file__).parents[3] / "examples" / "data"
    folder = installed if installed.is_dir() else checkout
    with gzip.open(folder / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return list(islice(csv.DictReader(file), limit))


def _push_job(
    client: VendorClient,
    folder: Path,
    rows: Sequence[Row],
    target: Callable[[Any], Awaitable[Any]],
    *,
    map: Callable[[Row], dict[str, Any]] | dict[str, str] | None = None,  # noqa: A002 - as push's
    found: Callable[[], list[str]],
    **fields: Any,
) -> DemoJob:
    """Return the push of *rows* to *target*; *found* returns the keys of the rows that arrived."""

    async def run(progress: OnProgress) -> None:
        state = folder / f"{client.vendor.name}.state"
        await push(rows, target, map=map, state=state, progress=progress)

    return DemoJob(client=client, found=found, done=lambda: len(found()), run=run, **fields)


def totango_job(sandbox: Sandbox, pool: SessionPool, folder: Path, count: int) -> DemoJob:
    """Return the push of *count* earthquakes as touchpoints."""
    client = TotangoClient.from_env(pool, sandbox.environ)
    touchpoints = sandbox.state("totango").touchpoints
    quakes = data_rows("earthquakes", count)

    def touchpoint(quake: Row) -> dict[str, Any]:
        title = f"{quake['title']} ({quake['id']})"
        return {"account_id": quake["net"], "content": title, "create_date": int(quake["time_ms"])}

    return _push_job(
        client,
        folder,
        quakes,
        client.touchpoints.create,
        map=touchpoint,
        expected=[touchpoint(quake)["content"] for quake in quakes],
        found=lambda: [str(each["content"]) for each in touchpoints.values()],
        web=lambda client: client.touchpoint_types.list(),
        every=3.0,
    )


def emma_job(sandbox: Sandbox, pool: SessionPool, folder: Path, count: int) -> DemoJob:
    """Return the push of *count* earthquakes as touchpoints, ten in a call."""
    client = EmmaClient.from_env(pool, sandbox.environ)
    touchpoints: dict[Any, Any] = sandbox.state("emma").touchpoints
    quakes = data_rows("earthquakes", count)

    def touchpoint(quake: Row) -> dict[str, Any]:
        return {
            "email": "observatory@example.com",
            "type_name": "earthquake",
            "touchpoint_monetary_value": float(quake["magnitude"] or 0),
            "attributes": {"id": quake["id"]},
        }

    job = _push_job(
        client,
        folder,
        quakes,
        client.touchpoints.create,
        map=touchpoint,
        expected=[quake["id"] for quake in quakes],
        found=lambda: [each["attributes"]["id"] for each in touchpoints.values()],
        web=lambda client: client.touchpoint_types.list(),
        every=1.5,
    )

    async def run(progress: OnProgress) -> None:
        await client.touchpoint_types.create("earthquake", "Earthquake")
        await job.run(progress)

    return replace(job, run=run)


def intempt_job(sandbox: Sandbox, pool: SessionPool, folder: Path, count: int) -> DemoJob:
    """Return the push of *count* radio frequencies of airports into a collection."""
    client = IntemptClient.from_env(pool, sandbox.environ)
    collection = sandbox.state("intempt").add_collection("frequencies", "id")
    frequencies = data_rows("airport-frequencies", count)
    return _push_job(
        client,
        folder,
        frequencies,
        partial(client.collections.insert, str(collection.id)),
        expected=[frequency["id"] for frequency in frequencies],
        found=lambda: list(collection.items),
        web=lambda client: client.info(),
        every=1.0,
    )


def digital_onboarding_job(
    sandbox: Sandbox, pool: SessionPool, folder: Path, count: int
) -> DemoJob:
    """Return the push of *count* airports as contacts."""
    client = DigitalOnboardingClient.from_env(pool, sandbox.environ)
    contacts = sandbox.state("digital_onboarding").contacts
    airports = data_rows("airports-us", count)
    return _push_job(
        client,
        folder,
        airports,
        client.contacts.upsert,
        map={"iata": "unique_id", "name": "name_last", "latitude": "", "longitude": ""},
        expected=[airport["iata"] for airport in airports],
        found=lambda: list(contacts),
        web=lambda client: client.templates.list(),
        every=1.0,
    )
