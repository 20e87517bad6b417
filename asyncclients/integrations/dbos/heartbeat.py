"""Failure detection by heartbeat counters, without wall clocks.

Each worker increments its own counter several times per lease and reads those of the others.
A worker whose counter has not changed in five consecutive reads is dead. A process that was
suspended or cut off from the database has missed reads, so it declares no worker dead.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from asyncclients.integrations.jobs.database import Connection, Database, execute
from asyncclients.integrations.jobs.job_store import Outage

READS = 5
"""Consecutive reads of an unchanged counter after which its worker is dead."""


class FailureDetector:
    """Counts the consecutive reads without a heartbeat, for each worker."""

    def __init__(self) -> None:
        self._unchanged: dict[str, tuple[int, int]] = {}

    def observe(self, names: Collection[str], beats: Mapping[str, int]) -> list[str]:
        """Record a read of the counters *beats*; return the *names* that are dead."""
        before, self._unchanged = self._unchanged, {}
        for name in names:
            now = beats.get(name, 0)
            last, reads = before.get(name, (-1, 0))
            self._unchanged[name] = (now, reads + 1 if last == now else 0)
        return [name for name, (_, reads) in self._unchanged.items() if reads >= READS]


async def record_heartbeat(
    database: Database, worker: str, outages: Mapping[str, Outage]
) -> dict[str, int]:
    """Increment the counter of *worker*, and record its *outages* by job; return all counters."""

    def increment(connection: Connection) -> dict[str, int]:
        upsert = """
            INSERT INTO asyncclients_heartbeats (name, beats, outages) VALUES (:name, 1, :outages)
            ON CONFLICT (name) DO UPDATE
            SET beats = asyncclients_heartbeats.beats + 1, outages = excluded.outages
        """
        execute(connection, upsert, name=worker, outages=msgspec.json.encode(outages).decode())
        every = execute(connection, "SELECT name, beats FROM asyncclients_heartbeats")
        return {name: beats for name, beats in every}  # noqa: C416 - rows are no pairs to a checker

    return await database.transact(increment)


async def remove_workers(database: Database, workers: Collection[str]) -> None:
    """Delete the counters of *workers*, and what they have recorded of vendors."""
    delete = "DELETE FROM asyncclients_heartbeats WHERE name IN :names"
    await database.transact(
        lambda connection: execute(connection, delete, names=[*workers]), max_outage=5.0
    )
