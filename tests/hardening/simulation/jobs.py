"""Backfills that are killed and run again with what they left on the disk."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from asyncclients import AsyncClientsError
from asyncclients.backfill import Report, pull, push
from asyncclients.backfill.status import Status, read_status
from asyncclients.vendors.totango.reconcile import by_events
from tests.hardening.simulation.scenarios import ACCOUNT, TRADES, contact, insert, journey, visit

from .machine import Machine
from .plan import JobPlan

if TYPE_CHECKING:
    from .world import Simulation

_PAUSE = 2.0
"""Seconds until a run that ended with an error is begun again."""


class Job:
    """One backfill, from its first start to its end, over all restarts."""

    def __init__(self, world: Simulation, plan: JobPlan) -> None:
        self._world, self.plan = world, plan
        self.done = False
        self.folder = world.folder / plan.name
        self.folder.mkdir()
        self.rows = [f"{plan.name}-{number}" for number in range(plan.rows)]
        self._set_scene()
        self._input = _written(self.folder / "rows.jsonl", self._records())

    def _set_scene(self) -> None:
        """The items to pull."""
        if self.plan.kind != "pull":
            return
        if self.plan.vendor == "intouch":
            self._world.sandbox.state("intouch").grow(contacts=self.plan.rows)
        else:
            events = self._world.sandbox.state("totango").other_events
            events[self.plan.name] = [{"id": row, "type": "other"} for row in self.rows]

    async def live(self) -> None:
        """Run until it is done: after a crash, and after an error, once more."""
        world, crashes = self._world, [*self.plan.crashes]
        life = 0
        while True:
            crash = crashes.pop(0) if crashes else None
            machine = Machine(
                world,
                f"{self.plan.name}.{life}",
                crash=crash,
                folder=self.folder,
                assume_spent=life > 0 or world.plan.forgets,
            )
            life += 1
            await machine.__aenter__()
            try:
                self.done = await machine.run(self._once(machine)) is True
            except AsyncClientsError as error:
                world.errors.append(error)
            finally:
                self._end(machine)
            if self.done:
                return
            await asyncio.sleep(crash.rest if crash else _PAUSE)

    def _end(self, machine: Machine) -> None:
        assert machine.folder is not None
        self.folder = machine.folder
        self._world.graves.append(asyncio.create_task(machine.bury()))

    async def _once(self, machine: Machine) -> bool:
        """Run; is all done?"""
        client = machine.client(self.plan.vendor, self.plan.credential)
        state = self.folder / "state"
        if self.plan.kind == "pull":
            await pull(self._pages(client), self.folder / "out.jsonl", state=state)
            return True
        rows: Any = self.folder / "rows.jsonl" if self.plan.from_file else self._input
        target, options = self._target(client)
        run: Any = push  # the types of the options are not known here
        report: Report = await run(
            rows, target, state=state, concurrency=4, max_failed=1.0, **options
        )
        return not (self.plan.settles and report.unknown)

    def _pages(self, client: Any) -> Any:
        if self.plan.vendor == "intouch":
            return client.contacts.list(sort_by="created_at", limit=4)
        return client.events.list(self.plan.name)

    def _target(self, client: Any) -> tuple[Callable[[Any], Awaitable[Any]], dict[str, Any]]:
        if self.plan.kind == "upsert":
            if self.plan.vendor == "intempt":
                return lambda row: insert(client, row["id"]), {"idempotent": True}
            return client.contacts.upsert_many, {"batch": 3}
        if self.plan.vendor == "intouch":
            return client.tags.create, {"map": itemgetter("id")}
        if self.plan.vendor == "totango":
            ask = by_events(client.touchpoints) if self.plan.settles else None
            return client.touchpoints.create, {"reconcile": ask}
        if self.plan.vendor == "emma":
            return client.touchpoints.create, {"batch": 3}
        return lambda row: journey(client, row["id"]), {}

    def _records(self) -> list[Any]:
        plan = self.plan
        if plan.vendor == "totango":
            return [{"account_id": ACCOUNT, "content": row} for row in self.rows]
        if plan.vendor == "emma":
            return [msgspec.to_builtins(visit(row)) for row in self.rows]
        if plan.vendor == "digital_onboarding" and plan.kind == "upsert":
            return [msgspec.to_builtins(contact(row)) for row in self.rows]
        return [{"id": row} for row in self.rows]

    # --- What must hold -----------------------------------------------------------------

    def violations(self) -> Iterator[str]:
        """In words, what is not as it should be."""
        if not self.done:
            yield f"{self.plan.name} did not come to its end"
            return
        said = self._pulled() if self.plan.kind == "pull" else self._pushed()
        yield from (f"{self.plan.name} ({self.plan.kind}): {what}" for what in said)

    def _pulled(self) -> Iterator[str]:
        if self.plan.vendor == "intouch":
            there = [str(key) for key in self._world.sandbox.state("intouch").contacts]
            name = "uuid"
        else:
            there, name = self.rows, "id"
        lines = (self.folder / "out.jsonl").read_bytes().splitlines()
        found = Counter(str(msgspec.json.decode(line)[name]) for line in lines)
        lost = sorted(Counter(there) - found)
        # A page that stays unreadable is set aside and reported: see `docs/backfill.md`.
        told = read_status(self.folder / "state").failed
        self._world.happened["item set aside"] += told
        if len(lost) > told:
            yield f"of {len(there)} items these are not in the file: {lost}"
        if more := sorted(found - Counter(there)):
            yield f"these stand in the file too often: {more}"

    def _pushed(self) -> Iterator[str]:
        trade, sandbox = TRADES[self.plan.vendor], self._world.sandbox
        held = (trade.made if self.plan.kind == "create" else trade.kept)(sandbox)
        status = read_status(self.folder / "state")
        unknown = {self.rows[row.number - 1] for row in status.unknown_rows}
        failed = self._failed()
        self._world.happened["unknown row"] += len(unknown)
        self._world.happened["failed row"] += len(failed)
        yield from self._counts(status, len(failed))
        for row in self.rows:
            if held[row] > 1:
                yield f"row {row} is there {held[row]} times"
            if not held[row] and row not in unknown | failed:
                yield f"row {row} is done and not there"
            if held[row] and row in failed and self.plan.kind == "create":
                yield f"row {row} has failed and is there"
        if self.plan.settles and unknown:
            yield f"rows that were asked about are unknown: {sorted(unknown)}"

    def _counts(self, status: Status, failed: int) -> Iterator[str]:
        told = status.done + status.failed + status.unknown + status.skipped
        if not status.complete or told != len(self.rows) or status.failed != failed:
            yield f"of {len(self.rows)} rows, {failed} in the dead-letter file, status {status}"

    def _failed(self) -> set[str]:
        path = self.folder / "state.failed.jsonl"
        lines = path.read_bytes().splitlines() if path.exists() else []
        return {self.rows[msgspec.json.decode(line)["number"] - 1] for line in lines}


def _written(path: Path, records: list[Any]) -> list[Any]:
    """*records*, also as the lines of *path*."""
    path.write_bytes(b"".join(msgspec.json.encode(record) + b"\n" for record in records))
    return records
