"""SQLite or Postgres, as the workers of a backfill share it.

Every piece of work is one transaction that may be repeated. When the database
is away, or busy, it is repeated until it is back, for up to 15 minutes; nothing
is sent meanwhile. Its calls block, so they are made in threads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, TypeVar
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.dialects import postgresql, sqlite

from asyncclients.backfill.steps import BatchStatus, RowRecord, RowStatus
from asyncclients.errors import ConfigurationError, StateError
from asyncclients.integrations.tables import METADATA, ROWS

T = TypeVar("T")
Connection = sa.engine.Connection

_PATIENCE = 900.0
_LONGEST_PAUSE = 2.0
_KILLED = "its worker was last heard of before the answer came"
_AWAY = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)

_log = logging.getLogger("asyncclients.backfill")


class Database:
    """One database, and who is at work on it.

    Args:
        url: `sqlite:///file.sqlite` or `postgresql://user:password@host/database`.

    Raises:
        ConfigurationError: it is neither.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = sa.make_url(url)
        except exc.ArgumentError:
            raise ConfigurationError(
                "the database URL cannot be read",
                advice="Give sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE",
            ) from None
        kind = parsed.get_backend_name()
        if kind not in ("sqlite", "postgresql"):
            raise ConfigurationError(
                f"a backfill cannot use a database of the kind {kind}",
                advice="Give sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE",
            )
        self._postgres = kind == "postgresql"
        if self._postgres:
            parsed = parsed.set(drivername="postgresql+psycopg")
        self._engine = sa.create_engine(parsed, hide_parameters=True)
        if not self._postgres:
            event.listen(self._engine, "connect", _prepare)

    async def transact(self, piece: Callable[[Connection], T], patience: float = _PATIENCE) -> T:
        """What *piece* returns, done in one transaction; repeated as `patiently` does.

        Raises:
            StateError: see `patiently`.
        """
        return await self.with_retry(lambda: asyncio.to_thread(self._work, piece), patience)

    async def with_retry(self, use: Callable[[], Awaitable[T]], patience: float = _PATIENCE) -> T:
        """What *use* of the database returns; repeated while it is away, for *patience* seconds.

        Raises:
            StateError: it stayed away, or refuses the work.
        """
        loop = asyncio.get_running_loop()
        ends_at, pause = loop.time() + patience, 0.05
        while True:
            try:
                return await use()
            except exc.SQLAlchemyError as failure:
                words = _words(failure)
                if not isinstance(failure, _AWAY) or loop.time() + pause > ends_at:
                    raise StateError(
                        f"the database of the backfill cannot be used: {words}",
                        advice="Nothing is lost: see to the database, and start again",
                    ) from None
            _log.warning("The database of the backfill is away; nothing is sent: %s", words)
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)

    def _work(self, piece: Callable[[Connection], T]) -> T:
        with self._engine.begin() as connection:
            return piece(connection)

    async def create(self) -> None:
        """Make the tables that are not there; other workers may do so at the same time."""

        def make(connection: Connection) -> None:
            if self._postgres:
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(7225418309)"))
            else:
                connection.execute(sa.text("BEGIN IMMEDIATE"))
            METADATA.create_all(connection)

        await self.transact(make, patience=10.0)

    async def aclose(self) -> None:
        """Close all connections."""
        await asyncio.to_thread(self._engine.dispose)

    def upsert(self, table: sa.Table, *, unless: str = "") -> Any:
        """An INSERT into *table* that replaces; where *unless* differs, the old row stays."""
        insert = postgresql.insert(table) if self._postgres else sqlite.insert(table)
        keys = [column.name for column in table.primary_key]
        news = {
            column.name: insert.excluded[column.name]
            for column in table.columns
            if column.name not in keys
        }
        where = table.c[unless] == insert.excluded[unless] if unless else None
        return insert.on_conflict_do_update(index_elements=keys, set_=news, where=where)


def _prepare(connection: Any, _: Any) -> None:
    connection.isolation_level = "IMMEDIATE"
    connection.execute("PRAGMA busy_timeout = 30000")


def _words(failure: exc.SQLAlchemyError) -> str:
    """The first line of what the database said; SQL and its parameters are left out."""
    said = getattr(failure, "orig", None) or failure
    return (str(said).strip() or type(said).__name__).splitlines()[0]


class DbRowLog:
    """The `Book` of one run of one batch of *job*, in *database*."""

    def __init__(self, database: Database, job: str) -> None:
        self._database, self._job = database, job
        self._run = uuid4().hex

    async def begin(self, numbers: Collection[int]) -> BatchStatus:
        """See `Book`."""
        these = sa.and_(ROWS.c.job == self._job, ROWS.c.number.in_(list(numbers)))

        def take_over(connection: Connection) -> BatchStatus:
            connection.execute(
                sa.update(ROWS)
                .where(these, ROWS.c.fate == "sent", ROWS.c.run != self._run)
                .values(fate="unknown", reason=_KILLED)
            )
            settled = sa.select(ROWS.c.number).where(these, ROWS.c.fate != "sent")
            return BatchStatus(
                settled=set(connection.execute(settled).scalars()),
                done=counts(connection, self._job).get("done", 0),
            )

        return await self._database.transact(take_over)

    async def write(self, entries: Mapping[int, RowRecord | None]) -> Collection[int]:
        """See `Book`."""
        kept = [self._values(number, entry) for number, entry in sorted(entries.items()) if entry]
        dropped = [number for number, entry in entries.items() if entry is None]
        upsert = self._database.upsert(ROWS, unless="run")
        mine = ROWS.c.job == self._job

        def put(connection: Connection) -> set[int]:
            if dropped:
                own = sa.and_(mine, ROWS.c.number.in_(dropped), ROWS.c.run == self._run)
                connection.execute(sa.delete(ROWS).where(own))
            if not kept:
                return set()
            connection.execute(upsert, kept)
            numbers = [values["number"] for values in kept]
            taken = sa.select(ROWS.c.number).where(
                mine, ROWS.c.number.in_(numbers), ROWS.c.run != self._run
            )
            return set(connection.execute(taken).scalars())

        return await self._database.transact(put)

    def _values(self, number: int, entry: RowRecord) -> dict[str, Any]:
        return {
            "job": self._job,
            "number": number,
            "run": self._run,
            "fate": entry.status,
            "line": entry.line,
            "row": entry.row,
            "reason": entry.reason,
        }


def counts(connection: Connection, job: str) -> dict[RowStatus, int]:
    """How many rows of *job* have come to what."""
    query = sa.select(ROWS.c.fate, sa.func.count()).where(ROWS.c.job == job).group_by(ROWS.c.fate)
    return {fate: number for fate, number in connection.execute(query).all()}  # noqa: C416
