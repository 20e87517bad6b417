"""The SQLite or Postgres database that the workers of a backfill share.

| table                   | one row for                                             |
|-------------------------|---------------------------------------------------------|
| `asyncclients_jobs`     | a backfill                                              |
| `asyncclients_batches`  | a batch of its rows, with their content until it is done |
| `asyncclients_rows`     | a row that was sent, and its outcome                    |
| `asyncclients_pages`    | a page that was pulled                                  |
| `asyncclients_workers`  | a worker, and its heartbeat counter                     |
| `asyncclients_outages`  | a job and a worker: whether its vendor is unavailable   |

Every operation is one idempotent transaction. While the database is unavailable or locked, it
is retried for up to 15 minutes, and nothing is sent. SQLAlchemy blocks, so it runs in threads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.dialects import postgresql, sqlite

from asyncclients.errors import ConfigurationError, StateError

T = TypeVar("T")
Connection = sa.engine.Connection

_MAX_OUTAGE = 900.0
_MAX_PAUSE = 2.0
_UNAVAILABLE = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)
_URL_ADVICE = "Give sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"

_log = logging.getLogger("asyncclients.backfill")

METADATA = sa.MetaData()

JOBS = sa.Table(
    "asyncclients_jobs",
    METADATA,
    sa.Column("job", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("coerce", sa.Boolean, nullable=False),
    sa.Column("total", sa.Integer),
)
BATCHES = sa.Table(
    "asyncclients_batches",
    METADATA,
    sa.Column("job", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("rows", sa.LargeBinary),
    sa.Column("requests", sa.Integer, nullable=False, default=0),
    sa.Column("rejected", sa.Integer, nullable=False, default=0),
    sa.Column("quotas", sa.Text),
)
ROWS = sa.Table(
    "asyncclients_rows",
    METADATA,
    sa.Column("job", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("run", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("line", sa.Integer, nullable=False),
    sa.Column("row", sa.LargeBinary),
    sa.Column("reason", sa.Text, nullable=False),
)
sa.Index("asyncclients_rows_status", ROWS.c.job, ROWS.c.status)
PAGES = sa.Table(
    "asyncclients_pages",
    METADATA,
    sa.Column("job", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("length", sa.Integer, nullable=False),
    sa.Column("page", sa.LargeBinary, nullable=False),
)
WORKERS = sa.Table(
    "asyncclients_workers",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("beats", sa.Integer, nullable=False),
)
OUTAGES = sa.Table(
    "asyncclients_outages",
    METADATA,
    sa.Column("job", sa.Text, primary_key=True),
    sa.Column("worker", sa.Text, primary_key=True),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("cause", sa.Text, nullable=False),
)


class Database:
    """A connection pool of one database, with retries.

    Args:
        url: `sqlite:///file.sqlite` or `postgresql://user:password@host/database`.

    Raises:
        ConfigurationError: *url* is of another kind.
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
        """Return the result of *operation*, run in one transaction and retried by `with_retry`.

        Raises:
            StateError: see `with_retry`.
        """

        def run() -> T:
            with self._engine.begin() as connection:
                return operation(connection)

        return await self.with_retry(lambda: asyncio.to_thread(run), max_outage)

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
            _log.warning("The job database is unavailable; nothing is sent: %s", reason)
            await asyncio.sleep(pause)
            pause = min(_MAX_PAUSE, pause * 2)

    async def create(self) -> None:
        """Create missing tables; safe if several workers do this at the same time."""

        def create(connection: Connection) -> None:
            if self._postgres:
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(7225418309)"))
            else:
                connection.execute(sa.text("BEGIN IMMEDIATE"))
            METADATA.create_all(connection)

        await self.transact(create, max_outage=10.0)

    async def aclose(self) -> None:
        """Close all connections."""
        await asyncio.to_thread(self._engine.dispose)

    def upsert(self, table: sa.Table, *, unless: str = "") -> Any:
        """Return an upsert into *table*; a row with another value of column *unless* is kept."""
        insert = postgresql.insert(table) if self._postgres else sqlite.insert(table)
        keys = [column.name for column in table.primary_key]
        values = {
            column.name: insert.excluded[column.name]
            for column in table.columns
            if column.name not in keys
        }
        where = table.c[unless] == insert.excluded[unless] if unless else None
        return insert.on_conflict_do_update(index_elements=keys, set_=values, where=where)


def _prepare(connection: Any, _: Any) -> None:
    connection.isolation_level = "IMMEDIATE"
    connection.execute("PRAGMA busy_timeout = 30000")


def _reason(failure: exc.SQLAlchemyError) -> str:
    """Return the first line of the database's message, without SQL and parameters."""
    message = getattr(failure, "orig", None) or failure
    return (str(message).strip() or type(message).__name__).splitlines()[0]
