"""`asyncclients pull`, `push`, `sync`, `status` and `run`.

Progress goes to standard error and the result to standard output, with `--json` as JSON. Ctrl-C
and SIGTERM save the state and exit with 130; a second signal does not wait for the responses to
the attempts in flight.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from cyclopts import Parameter, validators

from asyncclients.backfill import Plan, Report, Status, SyncReport, read_status
from asyncclients.cli import DONE, FAILED, INTERRUPTED, PARTLY, USAGE
from asyncclients.cli.jobs import (
    JobSpec,
    check_credentials,
    check_files,
    check_names,
    read_jobs,
    run_job,
    state_path,
)
from asyncclients.cli.operations import CLIENTS
from asyncclients.cli.output import JobError, result_text, say, show, status_text
from asyncclients.cli.progress import ProgressDisplay
from asyncclients.cli.shared import (
    DATABASE_URL,
    LIMITS,
    from_environment,
    limits_store,
    pool_of_jobs,
)
from asyncclients.cli.signals import on_signals
from asyncclients.cli.worker import run_jobs
from asyncclients.errors import AsyncClientsError, InputError, encodable

Pairs = Annotated[list[str] | None, Parameter(negative="", consume_multiple=False)]
Json = Annotated[bool, Parameter(name="--json", negative="")]
Switch = Annotated[bool, Parameter(negative="")]
Limit = Annotated[int | None, Parameter(validator=validators.Number(gte=1))]
Share = Annotated[float, Parameter(validator=validators.Number(gte=0, lte=1))]
QuotaShare = Annotated[float | None, Parameter(validator=validators.Number(gt=0, lte=1))]


_COMPLETE = "was complete already; give {} to bring it up to date, or delete {} to repeat it"
_SUFFIXES = (".csv", ".jsonl", ".parquet", ".gz")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Output:
    """The limit store and the output of every command that runs jobs."""

    limits: str = ""
    """the store that shares the quotas with other processes: redis://HOST or a file; by default the variable ASYNCCLIENTS_LIMITS"""
    quiet: Switch = False
    """print nothing unless rows failed or are unknown"""
    json: Json = False
    """print the result as JSON"""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """The options of every job; all but those that are converted are fields of `JobSpec`."""

    state: Path | None = None
    """the file that records the progress; by default FILE.state"""
    max_failed: Share = 0.1
    """share of failed rows or unreadable items above which it stops"""
    share: QuotaShare = None
    """most of every quota that it takes, such as 0.6; the rest stays free for other calls"""
    new_credential: Switch = False
    """resume the state with a new credential of the same account"""

    def fields(self, file: Path) -> dict[str, Any]:
        """Return the fields of the `JobSpec` of a job on *file*."""
        return {**vars(self), "state": str(self.state or state_path(file))}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class PullOptions(JobOptions):
    """The options of a pull."""

    query: Pairs = None
    """NAME=VALUE, an argument of the list, such as sort_by=email"""
    key: str | None = None
    """the field that identifies an item; by default uuid or id"""
    refresh: Switch = False
    """bring the file of an earlier pull up to date"""
    since: str | None = None
    """of a refresh: read only what changed, by this time field, such as updated_at; items that the vendor has deleted are kept"""
    lag: Annotated[float, Parameter(validator=validators.Number(gte=0))] = 300.0
    """of a refresh: seconds before the newest known time that are read again"""
    changes: Path | None = None
    """of a refresh: a file for the differences, as JSON lines"""

    def fields(self, file: Path) -> dict[str, Any]:
        """Return the fields of the `JobSpec` of a pull to *file*."""
        changes = str(self.changes) if self.changes else ""
        return super().fields(file) | {"query": pairs(self.query), "changes": changes}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class WriteOptions(JobOptions):
    """The options that a push and a sync have in common."""

    map: Annotated[Pairs, Parameter(name="--map")] = None
    """COLUMN=field renames a column, COLUMN= omits it, COLUMN=a.b nests it"""
    set: Annotated[Pairs, Parameter(name="--set")] = None
    """field=value, the same in each row"""
    concurrency: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 64
    """number of concurrent calls"""
    dry_run: Switch = False
    """send nothing and show what would be sent: counts, duration, the first request, invalid rows"""
    limit: Limit = None
    """stop after this number of rows, in a sync of changes; run it again to continue"""
    retry_failed: Switch = False
    """send the failed rows again, although they have not changed; --map may be corrected, and the STATE.failed.jsonl of a push edited"""
    resend_unknown: Switch = False
    """send rows again that may or may not have arrived"""
    drop_unknown: Switch = False
    """do not send rows again that may or may not have arrived"""

    def fields(self, file: Path) -> dict[str, Any]:
        """Return the fields of the `JobSpec` of a push or sync of *file*.

        Raises:
            ValueError: the unknown rows are to be both sent and dropped.
        """
        fields = super().fields(file) | {"map": pairs(self.map), "set": pairs(self.set)}
        resend, drop = fields.pop("resend_unknown"), fields.pop("drop_unknown")
        if resend and drop:
            raise ValueError("give --resend-unknown or --drop-unknown, not both")
        unknown = "resend" if resend else "drop" if drop else "keep"
        return fields | {"file": str(file), "unknown": unknown}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class PushOptions(WriteOptions):
    """The options of a push."""

    with_: Annotated[Pairs, Parameter(name="--with")] = None
    """NAME=VALUE, another argument of the operation besides the row"""

    def fields(self, file: Path) -> dict[str, Any]:
        """Return the fields of the `JobSpec` of a push of *file*."""
        return super().fields(file) | {"with_": pairs(self.with_)}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SyncOptions(WriteOptions):
    """The options of a sync."""

    key: str | None = None
    """the column that identifies a row; by default that of the resource, such as email"""
    on_missing: Literal["keep", "delete"] = "keep"
    """keep or delete items whose row is gone"""
    max_deleted: Share = 0.1
    """share of the items above which it stops instead of deleting them"""
    adopt: Switch = False
    """read the vendor's list first, in a dry run too, and compare its items with the file"""


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
    return await _run(JobSpec(pull=source, to=str(to), **options.fields(to)), output)


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
    _check_order("push", target, file)
    return await _run(JobSpec(push=target, **options.fields(file)), output)


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
    _check_order("sync", target, file)
    return await _run(JobSpec(sync=target, **options.fields(file)), output)


def _check_order(command: str, target: str, file: Path) -> None:
    """Raise `ValueError` if *target* is a file and *file* is a resource."""
    vendor = str(file).partition(".")[0]
    if target.endswith(_SUFFIXES) and vendor in CLIENTS and not file.exists():
        raise ValueError(
            f"{target} and {file} are in the wrong order; "
            f"write: asyncclients {command} {file} {target}"
        )


def pairs(texts: list[str] | None) -> dict[str, str]:
    """Return `["a=b"]` as `{"a": "b"}`.

    Raises:
        ValueError: an item has no `=` or is not UTF-8, or a name is given twice.
    """
    found: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ValueError(
                f"{encodable(text)!r} is not NAME=VALUE; write it as in --map Mail=email or "
                "--query sort_by=email, without spaces around ="
            )
        if encodable(text) != text:
            raise ValueError(f"{encodable(text)!r} is not valid UTF-8")
        if name in found:
            raise ValueError(f"{name} is given twice: {found[name]!r} and {value!r}")
        found[name] = value
    return found


async def _run(job: JobSpec, output: Output) -> int:
    store, quiet = limits_store(from_environment(output.limits, LIMITS)), output.quiet

    async def once() -> int:
        async with pool_of_jobs(store, quiet=quiet) as pool:
            with ProgressDisplay(quiet=quiet) as display:
                result = await run_job(job, pool, display.job(job.title))
        code = exit_code(result)
        if code != DONE or output.json or not quiet:
            show(result, as_json=output.json, describe=result_text)
        if not quiet and _was_complete(job, result):
            say(f"The pull {_COMPLETE.format('--refresh', job.state)}", sys.stderr)
        return code

    return await _interruptible(once(), f"run the same command to resume ({job.state})")


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
    limits, quiet = from_environment(output.limits, LIMITS), output.quiet
    await _check_jobs(file, jobs)
    if dry_run:
        writing = [job for job in jobs if job.pull is None]
        jobs = [msgspec.structs.replace(job, dry_run=True) for job in writing]

    async def run_all() -> int:
        results: Sequence[Report | SyncReport | Plan | BaseException]
        if engine == "dbos":
            with ProgressDisplay(quiet=quiet) as display:
                results = await run_jobs(jobs, database_url, limits, display)
        else:
            async with pool_of_jobs(limits_store(limits), quiet=quiet) as pool:
                check_credentials(jobs)
                with ProgressDisplay(quiet=quiet) as display:
                    running = [
                        (job.title, run_job(job, pool, display.job(job.title))) for job in jobs
                    ]
                    results = await asyncio.gather(
                        *(display.showing_failure(*each) for each in running),
                        return_exceptions=True,
                    )
        by_name = dict(zip((job.name for job in jobs), results, strict=True))
        code = _print_all(by_name, quiet=quiet, as_json=output.json)
        for job in jobs if engine == "local" and not quiet else ():
            if _was_complete(job, by_name[job.name]):
                hint = _COMPLETE.format("`refresh = true`", job.state)
                say(f"{job.name}: the pull {hint}", sys.stderr)
        return code

    return await _interruptible(run_all(), "run the same command to resume")


def _was_complete(job: JobSpec, result: object) -> bool:
    """Return whether *result* is that of a pull that had nothing left to do."""
    is_plain_pull = job.pull is not None and not job.refresh
    return is_plain_pull and isinstance(result, Report) and not result.requests


async def _check_jobs(file: Path, jobs: Sequence[JobSpec]) -> None:
    """Check names, arguments and files of all *jobs* before the first one starts."""
    for job in jobs:
        try:
            check_names(job)
            await check_files(job)
        except ValueError as bad:
            raise InputError(f"{file}: {job.name}: {bad}", file=str(file)) from None


def _print_all(
    results: dict[str, Report | SyncReport | Plan | BaseException], *, quiet: bool, as_json: bool
) -> int:
    codes: list[int] = []
    shown: dict[str, Any] = {}
    for name, result in results.items():
        if isinstance(result, Report | SyncReport | Plan):
            codes.append(exit_code(result))
            shown[name] = result
        elif isinstance(result, (AsyncClientsError, ValueError, OSError)):
            codes.append(USAGE if isinstance(result, ValueError) else FAILED)
            shown[name] = JobError(error=type(result).__name__, reason=str(result))
        else:
            raise result
    if as_json:
        show(shown, as_json=True, describe=str)
    else:
        for name, result in shown.items():
            if isinstance(result, JobError):
                say(f"{name}: {result.reason}", sys.stderr)
            elif not quiet or exit_code(result) != DONE:
                say(f"{name}: {result_text(result)}")
    if {*codes} == {USAGE}:  # no job sent anything
        return USAGE
    return FAILED if not {FAILED, USAGE}.isdisjoint(codes) else max(codes, default=DONE)


def status(state: Path, /, *, json: Json = False) -> int:
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
