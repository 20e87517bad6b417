"""The jobs that workers share: their batches, row outcomes and pages.

The rows of a push are copied into the database once, in batches, since a worker on another
machine cannot read the file; a finished batch is emptied. A job is identified by its name: the
same name with another input or target is an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from uuid import uuid4

import msgspec
import sqlalchemy as sa

from asyncclients.backfill import Report
from asyncclients.backfill.files.source import Row, Source
from asyncclients.backfill.report import RequestCounts
from asyncclients.backfill.state.push_state import Unknown
from asyncclients.backfill.state.stored_rows import encode_row, encode_rows, json_problem
from asyncclients.backfill.steps import BatchStatus, RowRecord, RowStatus, plain_page
from asyncclients.errors import StateMismatchError
from asyncclients.integrations.jobs.database import (
    BATCHES,
    JOBS,
    OUTAGES,
    PAGES,
    ROWS,
    Connection,
    Database,
)
from asyncclients.paging import Page
from asyncclients.ratelimit.quota import Quota

_WORKER_LOST = "its worker stopped before the response was recorded"


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One job.

    Attributes:
        kind: `push` or `pull`.
        spec: the description of the target or list for the workers; it may change.
        digest: a hash of the target and the input, which may not change.
        coerce: True if the input's values are texts that may represent numbers.
        total: number of rows of a push; None for a pull, whose pages tell it.
    """

    kind: str
    spec: str
    digest: str = ""
    coerce: bool = False
    total: int | None = None


class Outage(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker finds the vendor of a job.

    Attributes:
        seconds: since the last usable response, during an outage; else 0.
        cause: why the last call failed, in words; empty if it succeeded.
    """

    seconds: float = 0.0
    cause: str = ""


class _PageTotal(msgspec.Struct, frozen=True):
    """The only field of a stored page that is read before the page is written to the file."""

    total: int | None = None


class JobStore:
    """The jobs in *database*."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- Jobs -------------------------------------------------------------------------

    async def find(self, job: str) -> JobRecord | None:
        """Return the job named *job*, or None."""
        row = await self._database.transact(
            lambda connection: connection.execute(
                sa.select(JOBS).where(JOBS.c.job == job)
            ).one_or_none()
        )
        return None if row is None else msgspec.convert(row, JobRecord, from_attributes=True)

    async def submit(self, job: str, source: Source, *, spec: str, target: str, batch: int) -> None:
        """Copy the rows of *source*, *batch* at a time, unless this was done before.

        Raises:
            StateMismatchError: *job* exists with another target or input.
            InputError: *source* cannot be read.
        """
        rows: list[Row] = []
        while chunk := await source.chunk():
            rows += chunk
        source.check_encoding()
        digest = digest_of(target, encode_rows(rows))
        record = JobRecord(
            kind="push", spec=spec, digest=digest, coerce=source.coerce, total=len(rows)
        )
        await self.add(job, record, rows, batch)

    async def add(
        self, job: str, record: JobRecord, rows: Sequence[Row] = (), batch: int = 1
    ) -> None:
        """Add *record* as *job*, with its *rows*, unless it exists.

        Raises:
            StateMismatchError: another job of this name exists.
        """
        batches = [
            {"job": job, "number": number, "rows": _pack(part), "requests": 0, "rejected": 0}
            for number, part in enumerate(_parts(rows, batch))
        ]

        def put(connection: Connection) -> bool:
            this = JOBS.c.job == job
            found = connection.execute(sa.select(JOBS.c.kind, JOBS.c.digest).where(this))
            if (known := found.one_or_none()) is not None:
                same = tuple(known) == (record.kind, record.digest)
                if same:
                    connection.execute(sa.update(JOBS).where(this).values(spec=record.spec))
                return same
            connection.execute(sa.insert(JOBS), {"job": job, **msgspec.structs.asdict(record)})
            if batches:
                connection.execute(sa.insert(BATCHES), batches)
            return True

        if not await self._database.transact(put):
            raise StateMismatchError(
                f"the job {job!r} is in the database already, with another target or input",
                advice="Restore the target and input, or give the new job another name",
            )

    # --- Batches ----------------------------------------------------------------------

    async def pending(self, job: str) -> list[int]:
        """Return the numbers of the unfinished batches of *job*."""
        query = sa.select(BATCHES.c.number).where(BATCHES.c.job == job, BATCHES.c.rows.is_not(None))
        return await self._database.transact(
            lambda connection: list(connection.execute(query.order_by(BATCHES.c.number)).scalars())
        )

    async def rows(self, job: str, number: int) -> list[Row]:
        """Return the rows of batch *number* of *job*; none if it is finished."""
        query = sa.select(BATCHES.c.rows).where(BATCHES.c.job == job, BATCHES.c.number == number)
        packed = await self._database.transact(
            lambda connection: connection.execute(query).scalar()
        )
        return [] if packed is None else _unpack(packed)

    async def finish(self, job: str, number: int, counts: RequestCounts) -> None:
        """Mark batch *number* of *job* as finished: delete its rows and record *counts*."""
        this = sa.and_(BATCHES.c.job == job, BATCHES.c.number == number)
        values = {
            "rows": None,
            "requests": counts.requests,
            "rejected": counts.rejected,
            "quotas": msgspec.json.encode(counts.quotas).decode(),
        }
        update = sa.update(BATCHES).where(this).values(values)
        await self._database.transact(lambda connection: connection.execute(update))

    # --- Results ----------------------------------------------------------------------

    async def report(self, job: str) -> Report:
        """Return the state of the push *job*; requests are those of the finished batches."""
        query = sa.select(JOBS.c.total).where(JOBS.c.job == job)
        total, by_status = await self._database.transact(
            lambda connection: (connection.execute(query).scalar(), _row_counts(connection, job))
        )
        counts = await self.request_counts(job)
        return Report(
            done=by_status.get("done", 0),
            failed=by_status.get("failed", 0),
            unknown=by_status.get("unknown", 0),
            skipped=by_status.get("skipped", 0),
            requests=counts.requests,
            rejected=counts.rejected,
            total=total,
        )

    async def request_counts(self, job: str) -> RequestCounts:
        """Return the requests of the finished batches of *job*."""
        these = BATCHES.c.job == job
        totals = sa.select(
            sa.func.coalesce(sa.func.sum(BATCHES.c.requests), 0),
            sa.func.coalesce(sa.func.sum(BATCHES.c.rejected), 0),
        ).where(these)
        known = sa.select(BATCHES.c.quotas).where(these, BATCHES.c.quotas.is_not(None)).distinct()

        def read(connection: Connection) -> RequestCounts:
            requests, rejected = connection.execute(totals).one()
            quotas: dict[str, tuple[Quota, ...]] = {}
            for found in connection.execute(known).scalars():
                quotas |= msgspec.json.decode(found, type=dict[str, tuple[Quota, ...]])
            return RequestCounts(requests=requests, rejected=rejected, quotas=quotas)

        return await self._database.transact(read)

    async def pulled(self, job: str) -> Report:
        """Return the state of the pull *job*; requests are its pages."""
        these = PAGES.c.job == job
        sums = sa.select(sa.func.coalesce(sa.func.sum(PAGES.c.length), 0), sa.func.count())
        latest = sa.select(PAGES.c.page).where(these).order_by(PAGES.c.number.desc()).limit(1)

        def read(connection: Connection) -> Report:
            items, pages = connection.execute(sums.where(these)).one()
            page = connection.execute(latest).scalar()
            total = None if page is None else msgspec.msgpack.decode(page, type=_PageTotal).total
            return Report(done=items, requests=pages, total=total)

        return await self._database.transact(read)

    async def outage(self, job: str) -> Outage:
        """Return how the vendor of *job* does, by the worker that got the latest response."""
        query = (
            sa.select(OUTAGES.c.seconds, OUTAGES.c.cause)
            .where(OUTAGES.c.job == job)
            .order_by(OUTAGES.c.seconds)
            .limit(1)
        )
        row = await self._database.transact(
            lambda connection: connection.execute(query).one_or_none()
        )
        return Outage() if row is None else Outage(seconds=row.seconds, cause=row.cause)

    async def unknown(self, job: str) -> list[Unknown]:
        """Return the rows of *job* with an unknown outcome."""
        query = (
            sa.select(ROWS.c.number, ROWS.c.line, ROWS.c.row, ROWS.c.reason)
            .where(ROWS.c.job == job, ROWS.c.status == "unknown")
            .order_by(ROWS.c.number)
        )
        found = await self._database.transact(lambda connection: connection.execute(query).all())
        return [
            Unknown(number=number, line=line, row=msgspec.json.decode(row), reason=reason)
            for number, line, row, reason in found
        ]

    async def failures(self, job: str) -> list[bytes]:
        """Return the failed rows of *job*, as lines of a dead-letter file."""
        query = (
            sa.select(ROWS.c.reason)
            .where(ROWS.c.job == job, ROWS.c.status == "failed")
            .order_by(ROWS.c.number)
        )
        found = await self._database.transact(
            lambda connection: connection.execute(query).scalars().all()
        )
        return [reason.encode() for reason in found]


class DbPageStore:
    """The `PageStore` of the pull *job* in *database*."""

    def __init__(self, database: Database, job: str) -> None:
        self._database, self._job = database, job

    async def put(self, page: Page[Any]) -> None:
        """See `PageStore`."""
        packed = msgspec.msgpack.encode(plain_page(page))
        values = {
            "job": self._job,
            "number": page.number,
            "length": len(page.items),
            "page": packed,
        }
        upsert = self._database.upsert(PAGES)
        await self._database.transact(lambda connection: connection.execute(upsert, values))

    async def pages(self) -> AsyncGenerator[Page[Any]]:
        """Yield the stored pages, in order."""
        number = -1
        while True:
            found = await self._database.transact(partial(self._next, number))
            if found is None:
                return
            number = found.number
            yield found

    def _next(self, number: int, connection: Connection) -> Page[Any] | None:
        query = (
            sa.select(PAGES.c.page)
            .where(PAGES.c.job == self._job, PAGES.c.number > number)
            .order_by(PAGES.c.number)
            .limit(1)
        )
        packed = connection.execute(query).scalar()
        return None if packed is None else msgspec.msgpack.decode(packed, type=Page[Any])


class DbRowLog:
    """The `SharedRowLog` of one run of one batch of *job*, in *database*."""

    def __init__(self, database: Database, job: str) -> None:
        self._database, self._job = database, job
        self._run = uuid4().hex

    async def begin(self, numbers: Collection[int]) -> BatchStatus:
        """See `SharedRowLog`."""
        these = sa.and_(ROWS.c.job == self._job, ROWS.c.number.in_(list(numbers)))

        def take_over(connection: Connection) -> BatchStatus:
            connection.execute(
                sa.update(ROWS)
                .where(these, ROWS.c.status == "sent", ROWS.c.run != self._run)
                .values(status="unknown", reason=_WORKER_LOST)
            )
            settled = sa.select(ROWS.c.number).where(these, ROWS.c.status != "sent")
            return BatchStatus(
                settled=set(connection.execute(settled).scalars()),
                done=_row_counts(connection, self._job).get("done", 0),
            )

        return await self._database.transact(take_over)

    async def write(self, entries: Mapping[int, RowRecord | None]) -> Collection[int]:
        """See `SharedRowLog`."""
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
            "status": entry.status,
            "line": entry.line,
            "row": entry.row,
            "reason": entry.reason,
        }


def _row_counts(connection: Connection, job: str) -> dict[RowStatus, int]:
    """Return the number of rows of *job* by status."""
    query = (
        sa.select(ROWS.c.status, sa.func.count()).where(ROWS.c.job == job).group_by(ROWS.c.status)
    )
    return {status: number for status, number in connection.execute(query).all()}  # noqa: C416


def digest_of(target: str, *rows: bytes) -> str:
    """Return a hash that identifies the job that sends *rows* to *target*."""
    digest = hashlib.blake2b(target.encode(), digest_size=16)
    for row in rows:
        digest.update(b"\n" + row)
    return digest.hexdigest()


def _parts(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    for first in range(0, len(rows), size):
        yield rows[first : first + size]


def _pack(rows: Sequence[Row]) -> bytes:
    """Return *rows* as JSON; a row that JSON cannot represent gets an error."""
    return msgspec.json.encode(
        [
            (
                row.number,
                row.line,
                msgspec.Raw(encode_row(row.data)),
                row.error or json_problem(row.data),
            )
            for row in rows
        ]
    )


def _unpack(packed: bytes) -> list[Row]:
    found = msgspec.json.decode(packed, type=list[tuple[int, int, Any, str]])
    return [Row(*each) for each in found]
