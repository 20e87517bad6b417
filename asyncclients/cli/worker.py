"""`asyncclients worker`, and `asyncclients run --engine dbos`: jobs that many machines share."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from asyncclients.backfill import Plan, Progress, Report, SyncReport
from asyncclients.backfill.steps import PushTarget
from asyncclients.cli.jobs import (
    Job,
    Result,
    check_credentials,
    job_of,
    map_of,
    run_all,
    run_job,
    table_of,
)
from asyncclients.cli.operations import Clients
from asyncclients.cli.options import PullOptions, PushOptions, Switch, SyncOptions
from asyncclients.cli.output import say
from asyncclients.cli.progress import ProgressDisplay
from asyncclients.cli.shared import DATABASE_URL, LIMITS, from_environment, limits_store, open_pool
from asyncclients.cli.signals import on_signals
from asyncclients.core.pool import SessionPool
from asyncclients.errors import ConfigurationError, InputError
from asyncclients.own_files import open_own, replacing

_SQLITE = "sqlite:///"


async def worker(*, database_url: str = "", limits: str = "", quiet: Switch = False) -> int:
    """Run the jobs that `run --engine dbos` adds to a database, until it is interrupted.

    Start any number of workers, on any machine, with the vendors' credentials in the environment.

    Args:
        database_url: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE; by default the variable ASYNCCLIENTS_DATABASE_URL, which keeps the password off the command line.
        limits: the store that shares the quotas: redis://HOST for many machines, a file for one; by default the variable ASYNCCLIENTS_LIMITS, or a file next to an SQLite database.
        quiet: print no progress.
    """
    database_url = from_environment(database_url, DATABASE_URL)
    if not database_url:
        raise ConfigurationError(
            "a worker needs a job database", advice=f"Set {DATABASE_URL} or give --database-url"
        )
    stop = asyncio.Event()
    on_signals(stop.set)
    async with _backfills(database_url, from_environment(limits, LIMITS)) as (backfills, _):
        say("At work; press Ctrl-C to stop", sys.stderr)

        def show(job: str) -> Callable[[Progress], None]:
            # A display for each job: a worker has any number of them, one after the other.
            return ProgressDisplay(quiet=quiet, bars=False).job(job)

        watching = asyncio.create_task(backfills.watch(show))
        await stop.wait()
        watching.cancel()
        await asyncio.wait([watching])
    return 0


async def run_on_dbos(
    jobs: Sequence[Job], database_url: str, limits: str, *, quiet: bool
) -> list[Result]:
    """Run *jobs* with all workers of the database; return the result of each.

    A sync runs in this process alone: what it remembers is in a file of this machine. Its calls
    share the quotas.
    """
    async with _backfills(database_url, limits) as (backfills, pool):
        check_credentials(jobs)
        return await run_all(jobs, partial(_run, pool, backfills), quiet=quiet)


@asynccontextmanager
async def _backfills(database_url: str, limits: str) -> AsyncGenerator[tuple[Any, SessionPool]]:
    try:
        from asyncclients.integrations.dbos import Backfills
    except ImportError:
        raise ConfigurationError(
            "the engine dbos is not installed", advice="pip install 'asyncclients[dbos]'"
        ) from None
    if not limits and database_url.startswith(_SQLITE):
        limits = database_url.removeprefix(_SQLITE) + ".limits"
    store = limits_store(limits)
    if store is None:
        raise ConfigurationError(
            "workers on several machines must share the quotas",
            advice=f"Set {LIMITS} or give --limits: redis://HOST, or a file for workers on one "
            "host",
        )
    async with open_pool(store) as pool:
        clients = Clients(pool)
        async with Backfills(database_url, lambda spec: _resolve(clients, spec)) as backfills:
            yield backfills, pool


def _resolve(clients: Clients, spec: str) -> Any:
    """Return the target or list of the job in *spec*."""
    job = job_of("", msgspec.json.decode(spec))
    if isinstance(job.options, PullOptions):
        return clients.read(job.operation, job.options.query)()
    assert isinstance(job.options, PushOptions)
    write = clients.write(job.operation, job.options.with_)
    return PushTarget(
        target=write.call,
        map=map_of(job.options, write),
        concurrency=job.options.concurrency,
        max_failed=job.options.max_failed,
    )


async def _run(
    pool: SessionPool, backfills: Any, job: Job, progress: Callable[[Progress], None]
) -> Report | SyncReport | Plan:
    options = job.options
    if isinstance(options, SyncOptions) or (isinstance(options, PullOptions) and options.refresh):
        return await run_job(pool, job, progress)  # its memory is a file of this machine
    for option in ("resend_unknown", "drop_unknown", "dry_run", "limit", "retry_failed"):
        if getattr(options, option, None):
            raise ConfigurationError(f"{job.name}: {option} is not supported with --engine dbos")
    if isinstance(options, PullOptions):
        pulled: Report = await backfills.pull(
            job.name,
            job.file,
            state=job.state,
            spec=_spec(job),
            key=options.key,
            share=options.share,
            progress=progress,
        )
        return pulled
    report: Report = await backfills.push(
        job.name,
        job.file,
        spec=_spec(job),
        target=_spec(job, concurrency=64, max_failed=0.1),  # these may change in a job that runs
        share=options.share,
        progress=progress,
    )
    job_store = backfills.job_store
    failed = await job_store.failures(job.name)
    unknown = [msgspec.json.encode(row) for row in await job_store.unknown(job.name)]
    failures = write_rows(Path(f"{job.state}.failed.jsonl"), failed)
    write_rows(Path(f"{job.state}.unknown.jsonl"), unknown)
    return msgspec.structs.replace(report, failures=failures)


def _spec(job: Job, **changes: Any) -> str:
    """Return *job* with *changes* of its options, in a form for any machine."""
    changes |= {"state": None, "new_credential": False, "share": None}
    options = dataclasses.replace(job.options, **changes)
    portable = msgspec.structs.replace(job, options=options, file=Path(job.file.name))
    return msgspec.json.encode(table_of(portable)).decode()


def write_rows(path: Path, lines: Sequence[bytes]) -> str | None:
    """Write *lines* to *path* and return its name; None if there are no lines."""
    if not lines:
        return None
    if not _is_ours(path):
        raise InputError(
            f"{path}, where rows of this job belong, is not a list of rows",
            file=str(path),
            advice="It was not changed; move it, or give the job another `state`",
        )
    with replacing(path, is_shared=True) as file:
        file.writelines(line + b"\n" for line in lines)
    return str(path)


def _is_ours(path: Path) -> bool:
    """True unless *path* is a link or has content that was not written by a job."""
    try:
        with os.fdopen(open_own(path, os.O_RDONLY), "rb") as file:
            line = file.readline()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return not line or line.startswith((b'{"line":', b'{"number":'))
