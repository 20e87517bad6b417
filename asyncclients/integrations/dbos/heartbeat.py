"""Failure detection by heartbeat counters, without wall clocks.

Each worker increments its own counter several times per lease and reads those of the others.
A worker whose counter has not changed in five consecutive reads is dead. A process that was
suspended or cut off from the database has missed reads, so it declares no worker dead.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import sqlalchemy as sa

from asyncclients.integrations.jobs.database import OUTAGES, WORKERS, Connection, Database
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


async def record_heartbeat(database: Database, worker: str) -> dict[str, int]:
    """Increment the counter of *worker*; return all counters."""
    upsert = database.upsert(WORKERS)

    def increment(connection: Connection) -> dict[str, int]:
        mine = sa.select(WORKERS.c.beats).where(WORKERS.c.name == worker)
        before = connection.execute(mine).scalar() or 0
        connection.execute(upsert, {"name": worker, "beats": before + 1})
        every = connection.execute(sa.select(WORKERS.c.name, WORKERS.c.beats)).all()
        return {name: beats for name, beats in every}  # noqa: C416 - rows are no pairs to a checker

    return await database.transact(increment)


async def record_outages(database: Database, worker: str, outages: Mapping[str, Outage]) -> None:
    """Replace what *worker* has recorded of the vendors of its jobs by *outages*, by job."""
    rows = [
        {"job": job, "worker": worker, "seconds": outage.seconds, "cause": outage.cause}
        for job, outage in outages.items()
    ]

    def replace(connection: Connection) -> None:
        connection.execute(sa.delete(OUTAGES).where(OUTAGES.c.worker == worker))
        if rows:
            connection.execute(sa.insert(OUTAGES), rows)

    await database.transact(replace)


async def remove_workers(database: Database, workers: Collection[str]) -> None:
    """Delete the counters of *workers*, and what they have recorded of vendors."""
    names = list(workers)

    def remove(connection: Connection) -> None:
        connection.execute(sa.delete(OUTAGES).where(OUTAGES.c.worker.in_(names)))
        connection.execute(sa.delete(WORKERS).where(WORKERS.c.name.in_(names)))

    await database.transact(remove, max_outage=5.0)
