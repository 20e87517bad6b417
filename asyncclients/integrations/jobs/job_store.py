"""The jobs that workers share: their batches, row outcomes and pages.

The rows of a push are copied into the database once, in batches, since a worker on another
machine cannot read the file; a finished batch is emptied. A job is identified by its name: the
same name with another input or target is an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from typing import Any
from uuid import uuid4

import msgspec
import sqlalchemy as sa

from asyncclients.backfill import Report
from asyncclients.backfill.files.source import Row, Source
from asyncclients.backfill.report import RequestCounts
from asyncclients.backfill.state.push_state import Unknown, read_unknown
from asyncclients.backfill.state.stored_rows import encode_row, encode_rows, json_problem
from asyncclients.backfill.steps import BatchStatus, RowRecord, RowStatus, plain_page
from asyncclients.errors import StateMismatchError
from asyncclients.integrations.jobs.database import Connection, Database, execute
from asyncclients.paging import Page

_WORKER_LOST = "its worker stopped before the response was recorded"


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A push or pull.

    The *spec* describes the target or list for the workers, and may change; the *digest* of target
    and input may not. The values of an input with *coerce* are texts that may represent numbers.
    """

    kind: str
    spec: str
    digest: str = ""
    coerce: bool = False
    total: int | None = None


class Outage(msgspec.Struct, frozen=True, kw_only=True):
    """An outage of a job's vendor: its seconds (0 without one), and why the last call failed."""

    seconds: float = 0.0
    cause: str = ""


class JobStore:
    """The jobs in *database*."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- Jobs -------------------------------------------------------------------------

    async def find(self, job: str) -> JobRecord | None:
        """Return the job named *job*, or None."""
        sql = "SELECT kind, spec, digest, coerce, total FROM asyncclients_jobs WHERE job = :job"
        found = await self._database.fetch(sql, job=job)
        # SQLite has no truth values.
        jobs = msgspec.convert(found, list[JobRecord], from_attributes=True, strict=False)
        return jobs[0] if jobs else None

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
            {"job": job, "number": number, "rows": _pack(rows[first : first + batch])}
            for number, first in enumerate(range(0, len(rows), batch))
        ]

        def put(connection: Connection) -> bool:
            select = "SELECT kind, digest FROM asyncclients_jobs WHERE job = :job"
            if (known := execute(connection, select, job=job).one_or_none()) is not None:
                same = tuple(known) == (record.kind, record.digest)
                if same:
                    update = "UPDATE asyncclients_jobs SET spec = :spec WHERE job = :job"
                    execute(connection, update, job=job, spec=record.spec)
                return same
            insert = """
                INSERT INTO asyncclients_jobs (job, kind, spec, digest, coerce, total)
                VALUES (:job, :kind, :spec, :digest, :coerce, :total)
            """
            execute(connection, insert, job=job, **msgspec.structs.asdict(record))
            insert = """
                INSERT INTO asyncclients_batches (job, number, rows) VALUES (:job, :number, :rows)
            """
            if batches:
                connection.execute(sa.text(insert), batches)
            return True

        if not await self._database.transact(put):
            raise StateMismatchError(
                f"the job {job!r} is in the database already, with another target or input",
                advice="Restore the target and input, or give the new job another name",
            )

    # --- Batches ----------------------------------------------------------------------

    async def pending(self, job: str) -> list[int]:
        """Return the numbers of the unfinished batches of *job*."""
        sql = """
            SELECT number FROM asyncclients_batches
            WHERE job = :job AND rows IS NOT NULL ORDER BY number
        """
        return [number for (number,) in await self._database.fetch(sql, job=job)]

    async def rows(self, job: str, number: int) -> list[Row]:
        """Return the rows of batch *number* of *job*; none if it is finished."""
        sql = """
            SELECT rows FROM asyncclients_batches
            WHERE job = :job AND number = :number AND rows IS NOT NULL
        """
        found = await self._database.fetch(sql, job=job, number=number)
        return [row for (packed,) in found for row in _unpack(packed)]

    async def finish(self, job: str, number: int, counts: RequestCounts) -> None:
        """Mark batch *number* of *job* as finished: delete its rows and record *counts*."""
        sql = """
            UPDATE asyncclients_batches SET rows = NULL, counts = :counts
            WHERE job = :job AND number = :number
        """
        values = {"job": job, "number": number, "counts": msgspec.json.encode(counts).decode()}
        await self._database.transact(lambda connection: execute(connection, sql, **values))

    # --- Results ----------------------------------------------------------------------

    async def report(self, job: str) -> Report:
        """Return the state of the push *job*, without its requests."""
        record = await self.find(job)
        by_status = await self._database.transact(lambda connection: _row_counts(connection, job))
        return Report(
            done=by_status.get("done", 0),
            failed=by_status.get("failed", 0),
            unknown=by_status.get("unknown", 0),
            skipped=by_status.get("skipped", 0),
            total=record.total if record else None,
        )

    async def request_counts(self, job: str) -> RequestCounts:
        """Return the requests of the finished batches of *job*."""
        sql = "SELECT counts FROM asyncclients_batches WHERE job = :job AND counts IS NOT NULL"
        total = RequestCounts()
        for (counts,) in await self._database.fetch(sql, job=job):
            total = total.plus(msgspec.json.decode(counts, type=RequestCounts))
        return total

    async def pulled(self, job: str) -> Report:
        """Return the state of the pull *job*; requests are its pages."""
        sql = """
            SELECT sum(length), count(*), (
                SELECT page FROM asyncclients_pages WHERE job = :job ORDER BY number DESC LIMIT 1
            ) FROM asyncclients_pages WHERE job = :job
        """
        ((items, pages, page),) = await self._database.fetch(sql, job=job)
        total = None if page is None else msgspec.msgpack.decode(page, type=Page[Any]).total
        return Report(done=items or 0, requests=pages, total=total)

    async def outage(self, job: str) -> Outage:
        """Return how the vendor of *job* does, by the worker that got the latest response."""
        found = await self._database.fetch("SELECT outages FROM asyncclients_heartbeats")
        workers = [msgspec.json.decode(text, type=dict[str, Outage]) for (text,) in found]
        outages = [by_job[job] for by_job in workers if job in by_job]
        return min(outages, key=lambda outage: outage.seconds, default=Outage())

    async def unknown(self, job: str) -> list[Unknown]:
        """Return the rows of *job* with an unknown outcome."""
        return [read_unknown(record) for record in await self._rows_with(job, "unknown")]

    async def failures(self, job: str) -> list[bytes]:
        """Return the failed rows of *job*, as lines of a dead-letter file."""
        return [found.reason.encode() for found in await self._rows_with(job, "failed")]

    async def _rows_with(self, job: str, status: RowStatus) -> Sequence[Any]:
        sql = """
            SELECT number, line, row, reason FROM asyncclients_rows
            WHERE job = :job AND status = :status ORDER BY number
        """
        return await self._database.fetch(sql, job=job, status=status)


class DbPageStore:
    """The `PageStore` of the pull *job* in *database*."""

    def __init__(self, database: Database, job: str) -> None:
        self._database, self._job = database, job

    async def put(self, page: Page[Any]) -> None:
        """See `PageStore`."""
        sql = """
            INSERT INTO asyncclients_pages (job, number, length, page)
            VALUES (:job, :number, :length, :page) ON CONFLICT (job, number)
            DO UPDATE SET length = excluded.length, page = excluded.page
        """
        values = {
            "job": self._job,
            "number": page.number,
            "length": len(page.items),
            "page": msgspec.msgpack.encode(plain_page(page)),
        }
        await self._database.transact(lambda connection: execute(connection, sql, **values))

    async def pages(self) -> AsyncGenerator[Page[Any]]:
        """Yield the stored pages, in order."""
        sql = """
            SELECT number, page FROM asyncclients_pages
            WHERE job = :job AND number > :last ORDER BY number LIMIT 1
        """
        last = -1
        while found := await self._database.fetch(sql, job=self._job, last=last):
            ((last, packed),) = found
            yield msgspec.msgpack.decode(packed, type=Page[Any])


class DbRowLog:
    """The `SharedRowLog` of one run of one batch of *job*, in *database*."""

    def __init__(self, database: Database, job: str) -> None:
        self._database = database
        self._mine = {"job": job, "run": uuid4().hex}

    async def begin(self, numbers: Collection[int]) -> BatchStatus:
        """See `SharedRowLog`."""
        these = {"job": self._mine["job"], "numbers": [*numbers]}

        def take_over(connection: Connection) -> BatchStatus:
            update = """
                UPDATE asyncclients_rows SET status = 'unknown', reason = :reason
                WHERE job = :job AND number IN :numbers AND status = 'sent' AND run <> :run
            """
            execute(connection, update, **these, run=self._mine["run"], reason=_WORKER_LOST)
            settled = """
                SELECT number FROM asyncclients_rows
                WHERE job = :job AND number IN :numbers AND status <> 'sent'
            """
            return BatchStatus(
                settled=set(execute(connection, settled, **these).scalars()),
                done=_row_counts(connection, self._mine["job"]).get("done", 0),
            )

        return await self._database.transact(take_over)

    async def write(self, entries: Mapping[int, RowRecord | None]) -> Collection[int]:
        """See `SharedRowLog`."""
        kept = [
            {**self._mine, "number": number, **msgspec.structs.asdict(entry)}
            for number, entry in sorted(entries.items())
            if entry
        ]
        dropped = [number for number, entry in entries.items() if entry is None]

        def put(connection: Connection) -> set[int]:
            delete = """
                DELETE FROM asyncclients_rows
                WHERE job = :job AND number IN :numbers AND run = :run
            """
            if dropped:
                execute(connection, delete, **self._mine, numbers=dropped)
            if not kept:
                return set()
            upsert = """
                INSERT INTO asyncclients_rows (job, number, run, status, line, row, reason)
                VALUES (:job, :number, :run, :status, :line, :row, :reason)
                ON CONFLICT (job, number) DO UPDATE SET status = excluded.status,
                line = excluded.line, row = excluded.row, reason = excluded.reason
                WHERE asyncclients_rows.run = excluded.run
            """
            connection.execute(sa.text(upsert), kept)
            taken = """
                SELECT number FROM asyncclients_rows
                WHERE job = :job AND number IN :numbers AND run <> :run
            """
            numbers = [values["number"] for values in kept]
            return set(execute(connection, taken, **self._mine, numbers=numbers).scalars())

        return await self._database.transact(put)


def _row_counts(connection: Connection, job: str) -> dict[RowStatus, int]:
    """Return the number of rows of *job* by status."""
    sql = "SELECT status, count(*) FROM asyncclients_rows WHERE job = :job GROUP BY status"
    return {status: number for status, number in execute(connection, sql, job=job)}  # noqa: C416


def digest_of(target: str, *rows: bytes) -> str:
    """Return a hash that identifies the job that sends *rows* to *target*."""
    digest = hashlib.blake2b(target.encode(), digest_size=16)
    for row in rows:
        digest.update(b"\n" + row)
    return digest.hexdigest()


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
