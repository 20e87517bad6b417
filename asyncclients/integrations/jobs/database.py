"""The SQLite or Postgres database that the workers of a backfill share.

Every operation is one idempotent transaction. While the database is unavailable or locked, it
is retried for up to 15 minutes, and nothing is sent. SQLAlchemy blocks, so it runs in threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event, exc

from asyncclients.core.events import logger
from asyncclients.errors import ConfigurationError, StateError, StateMismatchError

T = TypeVar("T")
Connection = sa.engine.Connection

_MAX_OUTAGE = 900.0
_MAX_PAUSE = 2.0
_UNAVAILABLE = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)
_URL_ADVICE = "Give sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"


_TABLES = (
    # A backfill.
    """
    CREATE TABLE IF NOT EXISTS asyncclients_jobs (
        job TEXT PRIMARY KEY, kind TEXT NOT NULL, spec TEXT NOT NULL, digest TEXT NOT NULL,
        coerce BOOLEAN NOT NULL, total INTEGER
    )
    """,
    # A batch of the rows of a push: their content, until it is done; then its requests.
    """
    CREATE TABLE IF NOT EXISTS asyncclients_batches (
        job TEXT, number INTEGER, rows BYTEA, counts TEXT, PRIMARY KEY (job, number)
    )
    """,
    # A row that was sent, and its outcome.
    """
    CREATE TABLE IF NOT EXISTS asyncclients_rows (
        job TEXT, number INTEGER, run TEXT NOT NULL, status TEXT NOT NULL, line INTEGER NOT NULL,
        row BYTEA, reason TEXT NOT NULL, PRIMARY KEY (job, number)
    )
    """,
    "CREATE INDEX IF NOT EXISTS asyncclients_rows_status ON asyncclients_rows (job, status)",
    # A page that was pulled.
    """
    CREATE TABLE IF NOT EXISTS asyncclients_pages (
        job TEXT, number INTEGER, length INTEGER NOT NULL, page BYTEA NOT NULL,
        PRIMARY KEY (job, number)
    )
    """,
    # A worker: its heartbeat counter, and how it finds the vendors of its jobs.
    """
    CREATE TABLE IF NOT EXISTS asyncclients_heartbeats (
        name TEXT PRIMARY KEY, beats INTEGER NOT NULL, outages TEXT NOT NULL
    )
    """,
)
"""The tables. SQLite accepts any name of a type, and stores bytes in any column."""


class Database:
    """A connection pool of one database, with retries.

    Raises:
        ConfigurationError: *url* is neither sqlite:///FILE nor postgresql://USER:PASSWORD@HOST/DATABASE.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = sa.make_url(url)
        except exc.ArgumentError:
            raise ConfigurationError(
                "the database URL cannot be read", advice=_URL_ADVICE
            ) from None
        kind = parsed.get_backend_name()
        if kind not in ("sqlite", "postgresql"):
            raise ConfigurationError(
                f"a backfill cannot use a database of the kind {kind}", advice=_URL_ADVICE
            )
        self._postgres = kind == "postgresql"
        if self._postgres:
            parsed = parsed.set(drivername="postgresql+psycopg")
        self._engine = sa.create_engine(parsed, hide_parameters=True)
        if not self._postgres:
            event.listen(self._engine, "connect", _prepare)

    async def transact(
        self, operation: Callable[[Connection], T], max_outage: float = _MAX_OUTAGE
    ) -> T:
        """Return the result of *operation*, run in one transaction; see `with_retry`."""

        def run() -> T:
            with self._engine.begin() as connection:
                return operation(connection)

        return await self.with_retry(lambda: asyncio.to_thread(run), max_outage)

    async def fetch(self, sql: str, **values: Any) -> Sequence[Any]:
        """Return the rows that *sql* selects; see `execute` and `transact`."""
        return await self.transact(lambda connection: execute(connection, sql, **values).all())

    async def with_retry(
        self, operation: Callable[[], Awaitable[T]], max_outage: float = _MAX_OUTAGE
    ) -> T:
        """Return the result of *operation*, retried while the database is unavailable.

        Raises:
            StateError: it was unavailable for *max_outage* seconds, or rejects the operation.
        """
        loop = asyncio.get_running_loop()
        ends_at, pause = loop.time() + max_outage, 0.05
        while True:
            try:
                return await operation()
            except exc.SQLAlchemyError as failure:
                reason = _reason(failure)
                if not isinstance(failure, _UNAVAILABLE) or loop.time() + pause > ends_at:
                    raise StateError(
                        f"the database of the backfill cannot be used: {reason}",
                        advice="No data is lost: repair the database, and start again",
                    ) from None
            logger.warning("The job database is unavailable; nothing is sent: %s", reason)
            await asyncio.sleep(pause)
            pause = min(_MAX_PAUSE, pause * 2)

    async def create(self) -> None:
        """Create missing tables; safe if several workers do this at the same time.

        Raises:
            StateMismatchError: the tables are those of another version.
        """

        def create(connection: Connection) -> None:
            if self._postgres:
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(7225418309)"))
            else:
                connection.execute(sa.text("BEGIN IMMEDIATE"))
            for table in _TABLES:
                connection.execute(sa.text(table))
            columns = sa.inspect(connection).get_columns("asyncclients_batches")
            if all(column["name"] != "counts" for column in columns):
                raise StateMismatchError(
                    "the database of the backfill has tables of another version of asyncclients",
                    advice="Finish its jobs with that version, or give another database",
                )

        await self.transact(create, max_outage=10.0)

    async def aclose(self) -> None:
        """Close all connections."""
        await asyncio.to_thread(self._engine.dispose)


def execute(connection: Connection, sql: str, **values: Any) -> Any:
    """Execute *sql* with its `:name` parameters; a list is for `IN`."""
    lists: list[Any] = [
        sa.bindparam(name, expanding=True) for name in values if isinstance(values[name], list)
    ]
    return connection.execute(sa.text(sql).bindparams(*lists), values)


def _prepare(connection: Any, _: Any) -> None:
    connection.isolation_level = "IMMEDIATE"
    connection.execute("PRAGMA busy_timeout = 30000")


def _reason(failure: exc.SQLAlchemyError) -> str:
    """Return the first line of the database's message, without SQL and parameters."""
    message = getattr(failure, "orig", None) or failure
    return (str(message).strip() or type(message).__name__).splitlines()[0]
