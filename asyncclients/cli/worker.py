"""`asyncclients worker`, and `asyncclients run --engine dbos`: jobs that many machines share."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from asyncclients.backfill import Plan, Progress, Report, SyncReport
from asyncclients.backfill.steps import PushTarget
from asyncclients.cli.jobs import JobSpec, check_credentials, map_of, run_job
from asyncclients.cli.operations import Clients
from asyncclients.cli.output import say
from asyncclients.cli.progress import ProgressDisplay
from asyncclients.cli.shared import DATABASE_URL, LIMITS, from_environment, limits_store, open_pool
from asyncclients.cli.signals import on_signals
from asyncclients.core.pool import SessionPool
from asyncclients.errors import ConfigurationError, InputError
from asyncclients.own_files import open_own, replacing

_SQLITE = "sqlite:///"


async def worker(
    *,
    database_url: str = "",
    limits: str = "",
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> int:
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


async def run_jobs(
    jobs: Sequence[JobSpec], database_url: str, limits: str, display: ProgressDisplay
) -> list[Report | SyncReport | Plan | BaseException]:
    """Run *jobs* on DBOS, with all workers of the database; return the result of each.

    A sync runs in this process alone: what it remembers is in a file of this machine. Its calls
    share the quotas.
    """
    async with _backfills(database_url, limits) as (backfills, pool):
        check_credentials(jobs)
        running: list[Coroutine[Any, Any, Report | SyncReport | Plan]] = [
            display.showing_failure(job.title, _run(job, backfills, pool, display.job(job.title)))
            for job in jobs
        ]
        return await asyncio.gather(*running, return_exceptions=True)


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
    job = msgspec.json.decode(spec, type=JobSpec)
    if job.pull is not None:
        return clients.read(job.pull, job.query)()
    assert job.push is not None
    write = clients.write(job.push, job.with_)
    return PushTarget(
        target=write.call,
        map=map_of(job, write),
        concurrency=job.concurrency,
        max_failed=job.max_failed,
    )


async def _run(
    job: JobSpec, backfills: Any, pool: SessionPool, progress: Callable[[Progress], None]
) -> Report | SyncReport | Plan:
    if job.sync is not None or job.refresh:  # its memory is a file of this machine
        return await run_job(job, pool, progress)
    options = {"unknown": "keep", "dry_run": False, "limit": None, "retry_failed": False}
    for option, default in options.items():
        if (value := getattr(job, option)) != default:
            raise ConfigurationError(
                f"{job.name}: {option} = {value!r} is not supported with --engine dbos"
            )
    file = Path(job.file or job.to)
    portable = msgspec.structs.replace(
        job,
        state="",
        new_credential=False,
        share=None,
        **({"file": file.name} if job.file else {"to": file.name}),
    )
    spec = msgspec.json.encode(portable).decode()
    if job.pull is not None:
        pulled: Report = await backfills.pull(
            job.name,
            job.to,
            state=job.state,
            spec=spec,
            key=job.key,
            share=job.share,
            progress=progress,
        )
        return pulled
    # The identity of a job does not include its concurrency and max_failed.
    identity = msgspec.structs.replace(portable, concurrency=64, max_failed=0.1)
    target = msgspec.json.encode(identity).decode()
    report: Report = await backfills.push(
        job.name, job.file, spec=spec, target=target, share=job.share, progress=progress
    )
    job_store = backfills.job_store
    failed = await job_store.failures(job.name)
    unknown = [msgspec.json.encode(row) for row in await job_store.unknown(job.name)]
    failures = write_rows(Path(job.state + ".failed.jsonl"), failed)
    write_rows(Path(job.state + ".unknown.jsonl"), unknown)
    return msgspec.structs.replace(report, failures=failures)


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
    with replacing(path) as file:
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
