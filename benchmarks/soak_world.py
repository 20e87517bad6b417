"""The load of the soak: a web app and two backfills on one key, with failures.

Two programs share each vendor's quota through a store, as two processes would. The web app has
more visitors by day than by night, and makes new clients for each of them. The worker has a push
and a pull; each starts again with a new journal when it is done. Meanwhile vendors fail, access
tokens expire and are revoked, and the store restarts empty.

Everything that this load keeps is bounded, so that any growth is the library's.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from asyncclients import (
    AsyncClientsError,
    DigitalOnboardingClient,
    IntouchClient,
    Quota,
    SessionPool,
    TotangoClient,
)
from asyncclients.backfill import Report, pull, push
from asyncclients.sandbox import Sandbox, cut, delay, drop, status
from asyncclients.stores.config import StoreConfig
from asyncclients.stores.session import StoreSession
from asyncclients.vendors.digital_onboarding import NewContact
from asyncclients.vendors.intouch import NewContact as Person
from tests.support.shared_quota import MemoryStore

T = TypeVar("T", bound=Any)
STARTS = 23.0
"""Hour of the day at the start: the last three quarters of the run surround the peak."""
PEAK, TROUGH, BUSIEST = 0.3, 0.03, 14.0
"""Visitors per second at the busiest hour and twelve hours later, and the busiest hour."""
QUOTAS = {"intouch": (15, 60.0), "totango": (15, 60.0), "digital_onboarding": (10, 1.0)}
"""Calls per seconds: small, so that a day is computed quickly."""
VISITORS, ACCOUNTS, CONTACTS, ROWS = 1_000, 100, 10_000, 500
FAULT_EVERY, REVOKE_EVERY, RESTART_EVERY = 300.0, 10_000.0, 7_200.0
FAULTS = (
    drop(),
    drop(committed=True),
    cut(),
    delay(3.0),
    status(429, "", {"Retry-After": "1"}),
    status(502, "", committed=True),
    status(503),
)
VENDORS: tuple[Any, ...] = tuple(QUOTAS)


class Store(MemoryStore):
    """A shared store in memory that can restart empty."""

    def __init__(self) -> None:
        super().__init__(is_recording=False)
        self.restarts = self.sessions = 0

    def open(self, *, assume_spent: bool) -> StoreSession:
        """Open a session for one pool."""
        self.sessions += 1
        config = StoreConfig(
            process=f"program-{self.sessions}",
            display_name="memory",
            timeout=self.timeout,
            assume_spent=assume_spent,
        )
        return StoreSession(self, config)

    async def restart(self, seconds: float) -> None:
        """Be down for *seconds*, then come back empty."""
        self.down = True
        self.logs.clear()
        await asyncio.sleep(seconds)
        self.down = False
        self.restarts += 1


class World:
    """One run; `live` runs until it is cancelled."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, Random(seed)
        self.store = Store()
        self.sandbox = Sandbox(QUOTAS, seed=seed, latency=(0.03, 0.03), history=200)
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._visits: set[asyncio.Task[None]] = set()

    async def live(self) -> None:
        """Run all parts concurrently, without end."""
        async with (
            self.sandbox,
            SessionPool(limits=self.store) as app,
            SessionPool(limits=self.store) as worker,
        ):
            await self._populate()
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._visitors(app))
                    tasks.create_task(self._again(self._push, worker))
                    tasks.create_task(self._again(self._pull, worker))
                    tasks.create_task(self._every(FAULT_EVERY, self._fault))
                    tasks.create_task(self._every(REVOKE_EVERY, self._revoke))
                    tasks.create_task(self._every(RESTART_EVERY, self._restart))
            finally:
                await asyncio.gather(*self._visits, return_exceptions=True)

    def figures(self) -> dict[str, Any]:
        """Return the figures of the run."""
        vendors = {name: self.sandbox.summary(name) for name in VENDORS}
        return {
            "requests": {name: found.arrivals for name, found in vendors.items()},
            "rejected": {name: found.rejected for name, found in vendors.items()},
            "quota_use": {name: round(found.quota_use, 4) for name, found in vendors.items()},
            "tokens": self.sandbox.state("digital_onboarding").token_requests,
            "store_restarts": self.store.restarts,
            **dict(sorted(self.counts.items())),
        }

    @property
    def requests(self) -> int:
        """Requests that arrived at any vendor."""
        return sum(self.sandbox.summary(name).arrivals for name in VENDORS)

    def _client(self, kind: type[T], pool: SessionPool) -> T:
        """Return a new client, as each request of a web app makes one."""
        name = str(kind.vendor.name)
        return kind.from_env(pool, self.sandbox.environ, quotas=[Quota(*QUOTAS[name])])

    async def _populate(self) -> None:
        """Create all visitors, and contacts for the pull: one call, then copies of its result."""
        table = self.sandbox.state("intouch").contacts
        async with SessionPool() as pool:
            onboarding = self._client(DigitalOnboardingClient, pool)
            for number in range(0, VISITORS, 100):
                known = [_visitor(number + more) for more in range(100)]
                await onboarding.contacts.upsert_many(known)
            intouch = self._client(IntouchClient, pool)
            first = await intouch.contacts.create(Person(email="c0@example.com"))
        row = table[first.uuid]
        for number in range(1, CONTACTS):
            uuid = self.sandbox.state("intouch").new_uuid()
            table[uuid] = {**row, "uuid": uuid, "email": f"c{number}@example.com"}

    # --- The web app ------------------------------------------------------------------

    async def _visitors(self, pool: SessionPool) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            await asyncio.sleep(self.random.expovariate(PEAK))
            hour = STARTS + (loop.time() - began) / 3600
            swing = (1 + math.cos((hour - BUSIEST) / 12 * math.pi)) / 2
            if self.random.random() < (TROUGH + (PEAK - TROUGH) * swing) / PEAK:
                visit = asyncio.create_task(self._visit(pool))
                self._visits.add(visit)
                visit.add_done_callback(self._visits.discard)

    async def _visit(self, pool: SessionPool) -> None:
        """Make one request; one in fifty visitors leaves before the response."""
        self.counts["visits"] += 1
        patience = self.random.uniform(0.0, 0.3) if self.random.random() < 0.02 else None
        options = {"deadline": 30.0, "flow": f"visit {self.counts['visits']}"}
        try:
            async with asyncio.timeout(patience):
                await self._call(pool, options)
        except TimeoutError:
            self.counts["visits_left"] += 1
        except AsyncClientsError as error:
            self.counts[f"visits_{type(error).__name__}"] += 1

    async def _call(self, pool: SessionPool, options: dict[str, Any]) -> None:
        kind = self.random.random()
        if kind < 0.6:
            onboarding = self._client(DigitalOnboardingClient, pool).with_options(**options)
            await onboarding.contacts.upsert(_visitor(self.random.randrange(VISITORS)))
        elif kind < 0.8:
            intouch = self._client(IntouchClient, pool).with_options(**options)
            await intouch.contacts.get(next(iter(self.sandbox.state("intouch").contacts)))
        else:
            totango = self._client(TotangoClient, pool).with_options(**options)
            await totango.touchpoint_types.list()

    # --- The worker -------------------------------------------------------------------

    async def _again(
        self, job: Callable[[SessionPool, int], Awaitable[None]], pool: SessionPool
    ) -> None:
        number = 0
        while True:
            number += 1
            await job(pool, number)

    async def _push(self, pool: SessionPool, number: int) -> None:
        """Push notes to Totango, each once, except for those with an unknown outcome."""
        totango = self._client(TotangoClient, pool)
        kind = next(iter(self.sandbox.state("totango").touchpoint_types))
        rows = (
            {"account_id": f"a-{row % ACCOUNTS}", "content": f"{row}", "touchpointType": kind}
            for row in range(ROWS)
        )
        state = self.folder / f"push-{number}.db"
        report = await push(rows, totango.touchpoints.create, state=state)
        held = self.sandbox.state("totango").touchpoints
        self._check(report, Counter(str(note["content"]) for note in held.values()))
        held.clear()
        self.counts["pushes"] += 1
        self._remove(state)

    def _check(self, report: Report, notes: Counter[str]) -> None:
        twice = sum(count > 1 for count in notes.values())
        sent = report.done + report.unknown + report.failed
        if sent != ROWS or twice or not report.done <= len(notes) <= report.done + report.unknown:
            self.wrong.append(
                f"push {self.counts['pushes']}: {report}, {len(notes)}, {twice} twice"
            )
        self.counts["rows_unknown"] += report.unknown
        self.counts["rows_failed"] += report.failed
        self.counts["rows_done"] += report.done

    async def _pull(self, pool: SessionPool, number: int) -> None:
        """Pull all contacts of Intouch into a file."""
        intouch = self._client(IntouchClient, pool)
        to, state = self.folder / f"pull-{number}.jsonl", self.folder / f"pull-{number}.db"
        report = await pull(intouch.contacts.list(sort_by="created_at"), to, state=state)
        if report.done != CONTACTS:
            self.wrong.append(f"pull {number}: {report}")
        self.counts["pulls"] += 1
        self._remove(to, state)

    def _remove(self, *paths: Path) -> None:
        for path in paths:
            for file in self.folder.glob(path.name + "*"):
                file.unlink()

    # --- Failures --------------------------------------------------------------------

    async def _every(self, seconds: float, happen: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(self.random.uniform(0.5, 1.5) * seconds)
            await happen()

    async def _fault(self) -> None:
        vendor: Any = self.random.choice(VENDORS)
        self.sandbox.fail(vendor, self.random.choice(FAULTS))
        self.counts["faults"] += 1

    async def _revoke(self) -> None:
        self.sandbox.state("digital_onboarding").revoke_tokens()
        self.counts["tokens_revoked"] += 1

    async def _restart(self) -> None:
        await self.store.restart(self.random.uniform(5.0, 60.0))


def _visitor(number: int) -> NewContact:
    return NewContact(unique_id=f"visitor-{number}")
