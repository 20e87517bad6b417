"""The backfills of the demo's five vendors, each with web requests beside it.

Each key is used by both, and they share its quota. The backfill of Intouch is in `scenario.py`,
because it runs in a process of its own; the others are pushes in this process.
"""

from __future__ import annotations

import asyncio
import csv
import gzip
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import itemgetter
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
Counts = Mapping[str, int]
OnProgress = Callable[[Progress], None] | None


@dataclass(frozen=True, kw_only=True)
class DemoJob:
    """The backfill of one vendor, and web requests with the same key, *every* so many seconds.

    *expected* has a key of each row, *found* returns those of the rows at their destination.
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
            await asyncio.gather(asking, return_exceptions=True)


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


async def push_jobs(
    sandbox: Sandbox, pool: SessionPool, folder: Path, counts: Counts
) -> list[DemoJob]:
    """Return a push of *counts* rows for each vendor but Intouch, with its state in *folder*."""
    environ = sandbox.environ
    totango, emma = TotangoClient.from_env(pool, environ), EmmaClient.from_env(pool, environ)
    intempt = IntemptClient.from_env(pool, environ)
    onboarding = DigitalOnboardingClient.from_env(pool, environ)
    collection = sandbox.state("intempt").add_collection("frequencies", "id")
    await emma.touchpoint_types.create("earthquake", "Earthquake")
    job = partial(_push_job, folder, counts)
    return [
        job(
            totango,
            "earthquakes",
            totango.touchpoints.create,
            convert=_note,
            key=itemgetter("content"),
            stored=sandbox.state("totango").touchpoints.values,
            web=lambda client: client.touchpoint_types.list(),
            every=3.0,
        ),
        job(
            emma,
            "earthquakes",
            emma.touchpoints.create,
            convert=_touchpoint,
            key=lambda touchpoint: touchpoint["attributes"]["id"],
            stored=sandbox.state("emma").touchpoints.values,
            web=lambda client: client.touchpoint_types.list(),
            every=1.5,
        ),
        job(
            intempt,
            "airport-frequencies",
            partial(intempt.collections.insert, str(collection.id)),
            convert=dict,
            key=itemgetter("id"),
            stored=lambda: [{"id": key} for key in collection.items],
            web=lambda client: client.info(),
        ),
        job(
            onboarding,
            "airports-us",
            onboarding.contacts.upsert,
            convert=_contact,
            key=itemgetter("unique_id"),
            stored=sandbox.state("digital_onboarding").contacts.values,
            web=lambda client: client.templates.list(),
        ),
    ]


def _push_job(
    folder: Path,
    counts: Counts,
    client: VendorClient,
    data: str,
    target: Callable[[Any], Awaitable[Any]],
    *,
    convert: Callable[[Row], dict[str, Any]],
    key: Callable[[Any], str],
    stored: Callable[[], Collection[Any]],
    web: Callable[[Any], Awaitable[object]],
    every: float = 1.0,
) -> DemoJob:
    """Return the push of a data file; *key* identifies what *convert* returns, and is *stored*."""
    rows = data_rows(data, counts[client.vendor.name])
    state = folder / f"{client.vendor.name}.state"
    return DemoJob(
        client=client,
        expected=[key(convert(row)) for row in rows],
        found=lambda: [key(each) for each in stored()],
        done=lambda: len(stored()),
        run=lambda progress: push(rows, target, map=convert, state=state, progress=progress),
        web=web,
        every=every,
    )


def _note(quake: Row) -> dict[str, Any]:
    title = f"{quake['title']} ({quake['id']})"
    return {"account_id": quake["net"], "content": title, "create_date": int(quake["time_ms"])}


def _touchpoint(quake: Row) -> dict[str, Any]:
    return {
        "email": "observatory@example.com",
        "type_name": "earthquake",
        "touchpoint_monetary_value": float(quake["magnitude"] or 0),
        "attributes": {"id": quake["id"]},
    }


def _contact(airport: Row) -> dict[str, Any]:
    place = {name: airport[name] for name in ("city", "state", "country")}
    return {"unique_id": airport["iata"], "name_last": airport["name"], **place}
