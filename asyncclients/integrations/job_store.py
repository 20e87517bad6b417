"""What is to be done: the jobs that workers share, and their batches and pages.

The rows of a push are copied into the database once, in batches, since a worker
on another machine cannot read the file; a batch is emptied when it is finished.
A job is known by its name; the same name with another input, or another target,
is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Iterator, Sequence
from functools import partial
from typing import Any

import msgspec
import sqlalchemy as sa

from asyncclients.backfill import Report
from asyncclients.backfill.encoding import encode_row, encode_rows, json_problem
from asyncclients.backfill.files.source import Row, Source
from asyncclients.backfill.report import RequestCounts
from asyncclients.backfill.state.push_state import Unknown
from asyncclients.backfill.steps import plain_page
from asyncclients.errors import StateMismatchError
from asyncclients.integrations.database import Connection, Database, counts
from asyncclients.integrations.tables import BATCHES, JOBS, PAGES, ROWS
from asyncclients.paging import Page
from asyncclients.ratelimit.quota import Quota


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One job.

    Attributes:
        kind: `push` or `pull`.
        spec: what the workers make its target or its list from.
        digest: of what it is: its target and its input. A spec may change, this may not.
        lax: the input's values are texts that may mean numbers.
    """

    kind: str
    spec: str
    digest: str = ""
    lax: bool = False


class JobStore:
    """The jobs in *database*."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- Jobs -------------------------------------------------------------------------

    async def find(self, job: str) -> JobRecord | None:
        """The job *job*, if it was submitted."""
        row = await self._database.transact(
            lambda connection: connection.execute(
                sa.select(JOBS.c.kind, JOBS.c.spec, JOBS.c.digest, JOBS.c.lax).where(
                    JOBS.c.job == job
                )
            ).one_or_none()
        )
        return JobRecord(kind=row[0], spec=row[1], digest=row[2], lax=row[3]) if row else None

    async def submit(self, job: str, source: Source, *, spec: str, target: str, batch: int) -> int:
        """Copy the rows of *source* in, *batch* at a time, unless that was done before.

        Returns how many there are.

        Raises:
            StateMismatchError: *job* is there with another target or another input.
            InputError: *source* cannot be read.
        """
        rows: list[Row] = []
        while chunk := await source.chunk():
            rows += chunk
        digest = digest_of(target, encode_rows(rows))
        task = JobRecord(kind="push", spec=spec, digest=digest, lax=source.coerce)
        await self.add(job, task, rows, batch)
        return len(rows)

    async def add(
        self, job: str, task: JobRecord, rows: Sequence[Row] = (), batch: int = 1
    ) -> None:
        """Add *task* as *job*, with its *rows*; nothing, if it is there.

        Raises:
            StateMismatchError: it is there and is another one.
        """
        batches = [
            {"job": job, "number": number, "rows": _pack(part), "requests": 0, "rejected": 0}
            for number, part in enumerate(_parts(rows, batch))
        ]

        def put(connection: Connection) -> bool:
            this = JOBS.c.job == job
            found = connection.execute(sa.select(JOBS.c.kind, JOBS.c.digest).where(this))
            if (known := found.one_or_none()) is not None:
                same = tuple(known) == (task.kind, task.digest)
                if same:
                    connection.execute(sa.update(JOBS).where(this).values(spec=task.spec))
                return same
            connection.execute(sa.insert(JOBS), {"job": job, **msgspec.structs.asdict(task)})
            if batches:
                connection.execute(sa.insert(BATCHES), batches)
            return True

        if not await self._database.transact(put):
            raise StateMismatchError(
                f"the job {job!r} is in the database already, with another target or input",
                advice="Give back the old ones, or give the new job a name of its own",
            )

    # --- Batches ----------------------------------------------------------------------

    async def left(self, job: str) -> list[int]:
        """The numbers of the batches of *job* that are not finished."""
        query = sa.select(BATCHES.c.number).where(BATCHES.c.job == job, BATCHES.c.rows.is_not(None))
        return await self._database.transact(
            lambda connection: list(connection.execute(query.order_by(BATCHES.c.number)).scalars())
        )

    async def rows(self, job: str, number: int) -> list[Row]:
        """The rows of batch *number* of *job*; none if it is finished."""
        query = sa.select(BATCHES.c.rows).where(BATCHES.c.job == job, BATCHES.c.number == number)
        packed = await self._database.transact(
            lambda connection: connection.execute(query).scalar()
        )
        return [] if packed is None else _unpack(packed)

    async def finish(self, job: str, number: int, tally: RequestCounts) -> None:
        """Batch *number* of *job* is finished, and took *tally*: it is emptied."""
        this = sa.and_(BATCHES.c.job == job, BATCHES.c.number == number)
        values = {
            "rows": None,
            "requests": tally.requests,
            "rejected": tally.rejected,
            "quotas": msgspec.json.encode(tally.quotas).decode(),
        }
        update = sa.update(BATCHES).where(this).values(values)
        await self._database.transact(lambda connection: connection.execute(update))

    # --- What has come of it ----------------------------------------------------------

    async def report(self, job: str) -> Report:
        """What *job* has come to; its requests are those of its finished batches."""
        fates = await self._database.transact(lambda connection: counts(connection, job))
        tally = await self.tally(job)
        return Report(
            done=fates.get("done", 0),
            failed=fates.get("failed", 0),
            unknown=fates.get("unknown", 0),
            skipped=fates.get("skipped", 0),
            requests=tally.requests,
            rejected=tally.rejected,
        )

    async def tally(self, job: str) -> RequestCounts:
        """What the finished batches of *job* have put on the wire."""
        these = BATCHES.c.job == job
        wire = sa.select(
            sa.func.coalesce(sa.func.sum(BATCHES.c.requests), 0),
            sa.func.coalesce(sa.func.sum(BATCHES.c.rejected), 0),
        ).where(these)
        kinds = sa.select(BATCHES.c.quotas).where(these, BATCHES.c.quotas.is_not(None)).distinct()

        def read(connection: Connection) -> RequestCounts:
            requests, rejected = connection.execute(wire).one()
            quotas: dict[str, tuple[Quota, ...]] = {}
            for found in connection.execute(kinds).scalars():
                quotas |= msgspec.json.decode(found, type=dict[str, tuple[Quota, ...]])
            return RequestCounts(requests=requests, rejected=rejected, quotas=quotas)

        return await self._database.transact(read)

    async def pulled(self, job: str) -> int:
        """Items of *job* that are in the database."""
        query = sa.select(sa.func.coalesce(sa.func.sum(PAGES.c.length), 0))
        count = await self._database.transact(
            lambda connection: connection.execute(query.where(PAGES.c.job == job)).scalar()
        )
        return int(count or 0)

    async def unknown(self, job: str) -> list[Unknown]:
        """Each row of *job* of which nobody can say whether it was carried out."""
        query = (
            sa.select(ROWS.c.number, ROWS.c.line, ROWS.c.row, ROWS.c.reason)
            .where(ROWS.c.job == job, ROWS.c.fate == "unknown")
            .order_by(ROWS.c.number)
        )
        found = await self._database.transact(lambda connection: connection.execute(query).all())
        return [
            Unknown(number=number, line=line, row=msgspec.json.decode(row), reason=reason)
            for number, line, row, reason in found
        ]

    async def failures(self, job: str) -> list[bytes]:
        """Each failed row of *job*, as a line of a file of failed rows."""
        query = (
            sa.select(ROWS.c.reason)
            .where(ROWS.c.job == job, ROWS.c.fate == "failed")
            .order_by(ROWS.c.number)
        )
        found = await self._database.transact(
            lambda connection: connection.execute(query).scalars().all()
        )
        return [reason.encode() for reason in found]


class DbPageStore:
    """The `Shelf` of the pull *job* in *database*."""

    def __init__(self, database: Database, job: str) -> None:
        self._database, self._job = database, job

    async def put(self, page: Page[Any]) -> None:
        """See `Shelf`."""
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
        """The pages that are kept, in order."""
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


def digest_of(target: str, *rows: bytes) -> str:
    """What tells the job that sends *rows* to *target* from all others."""
    digest = hashlib.blake2b(target.encode(), digest_size=16)
    for row in rows:
        digest.update(b"\n" + row)
    return digest.hexdigest()


def _parts(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    for first in range(0, len(rows), size):
        yield rows[first : first + size]


def _pack(rows: Sequence[Row]) -> bytes:
    """*rows* as JSON; one that JSON cannot hold is a row with a complaint."""
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
