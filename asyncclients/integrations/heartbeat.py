"""Which workers are alive, told by their heartbeats and nobody's wall clock.

Each worker raises its own counter, a few times a lease, and looks at those of
the others. One whose counter stood still for five looks in a row is taken for
dead. A looker that was itself asleep, or cut off from the database, has missed
looks, not seen five: it takes nobody for dead.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import sqlalchemy as sa

from asyncclients.integrations.database import Connection, Database
from asyncclients.integrations.tables import WORKERS

LOOKS = 5


class FailureDetector:
    """Remembers how long each worker's counter has stood still."""

    def __init__(self) -> None:
        self._still: dict[str, tuple[int, int]] = {}

    def observe(self, names: Collection[str], beats: Mapping[str, int]) -> list[str]:
        """Those of *names* that are dead, now that the counters stand at *beats*."""
        before, self._still = self._still, {}
        for name in names:
            now = beats.get(name, 0)
            seen, looks = before.get(name, (-1, 0))
            self._still[name] = (now, looks + 1 if seen == now else 0)
        return [name for name, (_, looks) in self._still.items() if looks >= LOOKS]


async def record_heartbeat(database: Database, worker: str) -> dict[str, int]:
    """Raise the counter of *worker*; all counters."""
    upsert = database.upsert(WORKERS)

    def piece(connection: Connection) -> dict[str, int]:
        mine = sa.select(WORKERS.c.beats).where(WORKERS.c.name == worker)
        before = connection.execute(mine).scalar() or 0
        connection.execute(upsert, {"name": worker, "beats": before + 1})
        every = connection.execute(sa.select(WORKERS.c.name, WORKERS.c.beats)).all()
        return {name: beats for name, beats in every}  # noqa: C416 - rows are no pairs to a checker

    return await database.transact(piece)


async def remove_worker(database: Database, workers: Collection[str]) -> None:
    """*workers* are no more."""
    gone = sa.delete(WORKERS).where(WORKERS.c.name.in_(list(workers)))
    await database.transact(lambda connection: connection.execute(gone), patience=5.0)
