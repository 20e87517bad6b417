"""`asyncclients pull`, `push`, `sync`, `status` and `run`.

Progress goes to standard error and the result to standard output, with `--json` as JSON. Ctrl-C
and SIGTERM save the state and exit with 130; a second signal does not wait for the responses to
the attempts in flight.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
from cyclopts import Parameter

from asyncclients.backfill import Plan, Report, Status, SyncReport, read_status
from asyncclients.cli import DONE, FAILED, INTERRUPTED, PARTLY, USAGE
from asyncclients.cli.jobs import Job, Result, check, check_credentials, read_jobs, run_all, run_job
from asyncclients.cli.options import PullOptions, PushOptions, Switch, SyncOptions
from asyncclients.cli.output import JobError, result_text, say, show, status_text
from asyncclients.cli.shared import DATABASE_URL, LIMITS, from_environment, limits_store, open_pool
from asyncclients.cli.signals import on_signals
from asyncclients.cli.worker import run_on_dbos
from asyncclients.errors import AsyncClientsError, InputError

_COMPLETE = "the pull was complete already; refresh it to update it, or delete {} to repeat it"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Output:
    """The limit store and the output of every command that runs jobs."""

    limits: str = ""
    """the store that shares the quotas with other processes: redis://HOST or a file; by default the variable ASYNCCLIENTS_LIMITS"""
    quiet: Switch = False
    """print nothing unless rows failed or are unknown"""
    json: Switch = False
    """print the result as JSON"""


_NO_PULL, _NO_PUSH, _NO_SYNC, _OUTPUT = PullOptions(), PushOptions(), SyncOptions(), Output()
"""The options of a command line that has none."""


async def pull(
    source: str, /, *, to: Path, options: PullOptions = _NO_PULL, output: Output = _OUTPUT
) -> int:
    """Read a vendor's list into a file. Run it again to resume.

    Args:
        source: VENDOR.RESOURCE, such as intouch.contacts.
        to: a .jsonl, .csv or .parquet file.
        options: of the job.
        output: limit store and output.
    """
    return await _run(Job(operation=source, file=to, options=options), output)


async def push(
    target: str, file: Path, /, *, options: PushOptions = _NO_PUSH, output: Output = _OUTPUT
) -> int:
    """Send each row of a file to a vendor. Run it again to resume.

    Args:
        target: VENDOR.RESOURCE or VENDOR.RESOURCE.METHOD, such as totango.touchpoints.
        file: a .csv, .jsonl, .parquet, .csv.gz or .jsonl.gz file.
        options: of the job.
        output: limit store and output.
    """
    return await _run(Job(operation=target, file=file, options=options), output)


async def sync(
    target: str, file: Path, /, *, options: SyncOptions = _NO_SYNC, output: Output = _OUTPUT
) -> int:
    """Make a vendor's items agree with a file. Run it again after each change of the file.

    Args:
        target: VENDOR.RESOURCE, such as intouch.contacts.
        file: a .csv, .jsonl, .parquet, .csv.gz or .jsonl.gz file.
        options: of the job.
        output: limit store and output.
    """
    return await _run(Job(operation=target, file=file, options=options), output)


async def _run(job: Job, output: Output) -> int:
    async def once() -> int:
        await check(job)
        (result,) = await _run_here([job], output)
        if isinstance(result, BaseException):
            raise result
        code = exit_code(result)
        if code != DONE or output.json or not output.quiet:
            show(result, as_json=output.json, describe=result_text)
        return code

    return await _interruptible(once(), f"run the same command to resume ({job.state})")


async def _run_here(jobs: Sequence[Job], output: Output) -> list[Result]:
    store, quiet = limits_store(from_environment(output.limits, LIMITS)), output.quiet
    async with open_pool(store) as pool:
        check_credentials(jobs)
        results = await run_all(jobs, partial(run_job, pool), quiet=quiet)
    for job, result in () if quiet else zip(jobs, results, strict=True):
        is_plain_pull = isinstance(job.options, PullOptions) and not job.options.refresh
        if is_plain_pull and isinstance(result, Report) and not result.requests:
            say(f"{job.title}: {_COMPLETE.format(job.state)}", sys.stderr)
    return results


async def run(
    file: Path,
    /,
    *,
    engine: Literal["local", "dbos"] = "local",
    dry_run: Switch = False,
    database_url: str = "",
    output: Output = _OUTPUT,
) -> int:
    """Run several pulls, pushes and syncs concurrently, each with a fair share of its vendor's quota.

    Args:
        file: TOML with a table [jobs.NAME] for each job: pull and to, push and file, or sync and file, and options.
        engine: local for this process only; dbos for all workers of a database.
        dry_run: send nothing and show what each push and sync would send; pulls are not run.
        database_url: the database of dbos, see asyncclients worker --help.
        output: limit store and output.
    """
    jobs = read_jobs(file)
    if database_url and engine != "dbos":
        raise ValueError("--database-url is for --engine dbos: give both, or neither")
    database_url = from_environment(database_url, DATABASE_URL)
    if engine == "dbos" and not database_url:
        raise ValueError(
            f"--engine dbos needs a job database: set {DATABASE_URL} or give --database-url"
        )
    for job in jobs:  # before the first one starts
        try:
            await check(job)
        except ValueError as bad:
            raise InputError(f"{file}: {job.name}: {bad}", file=str(file)) from None
    if dry_run:
        jobs = [
            msgspec.structs.replace(job, options=replace(job.options, dry_run=True))
            for job in jobs
            if not isinstance(job.options, PullOptions)
        ]

    async def execute() -> int:
        if engine == "dbos":
            limits = from_environment(output.limits, LIMITS)
            results = await run_on_dbos(jobs, database_url, limits, quiet=output.quiet)
        else:
            results = await _run_here(jobs, output)
        return _print_all(jobs, results, output)

    return await _interruptible(execute(), "run the same command to resume")


def _print_all(jobs: Sequence[Job], results: Sequence[Result], output: Output) -> int:
    codes: list[int] = []
    shown: dict[str, Any] = {}
    for job, result in zip(jobs, results, strict=True):
        if not isinstance(result, BaseException):
            codes.append(exit_code(result))
            shown[job.name] = result
        elif isinstance(result, (AsyncClientsError, ValueError, OSError)):
            codes.append(USAGE if isinstance(result, ValueError) else FAILED)
            shown[job.name] = JobError(error=type(result).__name__, reason=str(result))
        else:
            raise result
    if output.json:
        show(shown, as_json=True, describe=str)
    for name, result in () if output.json else shown.items():
        if isinstance(result, JobError):
            say(f"{name}: {result.reason}", sys.stderr)
        elif not output.quiet or exit_code(result) != DONE:
            say(f"{name}: {result_text(result)}")
    if {*codes} == {USAGE}:  # no job sent anything
        return USAGE
    return FAILED if not {FAILED, USAGE}.isdisjoint(codes) else max(codes, default=DONE)


def status(state: Path, /, *, json: Switch = False) -> int:
    """Show the progress of a pull, push or sync, and each row that may or may not have arrived.

    Args:
        state: the state file.
        json: print it as JSON.
    """
    found = read_status(state)
    show(found, as_json=json, describe=status_text)
    return exit_code(found)


def exit_code(result: Report | SyncReport | Status | Plan) -> int:
    """Return the exit code of *result*; that of a plan with invalid rows is the run's."""
    if isinstance(result, Plan):
        return PARTLY if result.invalid else DONE
    return PARTLY if result.failed or result.unknown else DONE


async def _interruptible(command: Coroutine[Any, Any, int], advice: str) -> int:
    """Run *command*; each SIGINT and SIGTERM cancels it, also repeatedly."""
    task = asyncio.create_task(command)
    restore = on_signals(task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        say(f"Interrupted; the state is saved: {advice}", sys.stderr)
        return INTERRUPTED
    finally:
        restore()
