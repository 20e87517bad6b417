"""Pulls, pushes and syncs: read from a file of jobs, checked and run."""

from __future__ import annotations

import asyncio
import os
import tomllib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from itertools import combinations, product
from pathlib import Path
from typing import Any, cast

import msgspec

from asyncclients import backfill
from asyncclients.arguments import close_coroutine, did_you_mean
from asyncclients.backfill import Plan, Progress, Renaming, Report, SyncReport
from asyncclients.backfill.files.sink import FileSink, open_sink
from asyncclients.backfill.files.source import open_source
from asyncclients.backfill.prefetch import check_since
from asyncclients.backfill.rows import RowConverter, row_type_of
from asyncclients.backfill.state.journal import check_file
from asyncclients.backfill.sync_input import SyncInput
from asyncclients.backfill.sync_targets import Target
from asyncclients.cli.operations import Clients, Write
from asyncclients.cli.options import PullOptions, PushOptions, SyncOptions, WriteOptions
from asyncclients.cli.progress import ProgressDisplay
from asyncclients.core.pool import SessionPool
from asyncclients.errors import ConfigurationError, InputError
from asyncclients.own_files import are_same, check_apart, files_of_state, target_of

Result = Report | SyncReport | Plan | BaseException

_KINDS: dict[str, type[PullOptions | PushOptions | SyncOptions]] = {
    "pull": PullOptions,
    "push": PushOptions,
    "sync": SyncOptions,
}
_CONVERTED = {"query", "map", "set", "with_", "resend_unknown", "drop_unknown"}
"""The options that `pull`, `push` and `sync` take in another form."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One pull into *file*, or push or sync of it; a job of the command line has no name."""

    operation: str
    file: Path
    options: PullOptions | PushOptions | SyncOptions
    name: str = ""

    @property
    def state(self) -> Path:
        """The file that records the progress."""
        return self.options.state or Path(f"{self.file}.state")

    @property
    def vendor(self) -> str:
        """The name of the vendor."""
        return self.operation.partition(".")[0]

    @property
    def title(self) -> str:
        """The name of the job; without one, what it pulls, pushes or syncs."""
        return self.name or self.operation

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `pull`, `push` or `sync`, without `map` and `progress`."""
        given = {
            name: value for name, value in vars(self.options).items() if name not in _CONVERTED
        }
        if not isinstance(self.options, PullOptions):
            given["unknown"] = self.options.unknown
        return {**given, "state": self.state, "flow": self.name or None}


def read_jobs(path: Path) -> list[Job]:
    """Return the jobs in the TOML file at *path*; their paths are relative to it."""
    text, advice = "", "See `asyncclients run --help`"
    try:
        text = path.read_text(encoding="utf-8-sig")
        jobs = _jobs_in(tomllib.loads(text), path.parent)
    except (OSError, ValueError) as bad:  # TOML and msgspec errors are ValueErrors
        words = bad.strerror if isinstance(bad, OSError) else str(bad)
        if isinstance(bad, tomllib.TOMLDecodeError) and "\\" in text:
            advice = "Write a path with / or in single quotes, as in 'C:\\data\\contacts.csv'"
        raise InputError(f"{path}: {words}", file=str(path), advice=advice) from None
    for one, other in combinations(jobs, 2):
        for mine, theirs in product(_written(one), _written(other)):
            if are_same(mine, theirs):
                raise InputError(
                    f"{path}: two jobs, {one.name} and {other.name}, write the file {mine}",
                    file=str(path),
                    advice="Give each job its own `state` and `to`",
                )
    return jobs


def _jobs_in(tables: dict[str, Any], directory: Path) -> list[Job]:
    _check_names("the file", tables, ["jobs"])
    jobs = tables.get("jobs")
    if not isinstance(jobs, dict) or not jobs:
        raise ValueError("has no job; write one as [jobs.NAME] with its options below")
    found = cast("dict[str, Any]", jobs)
    return [job_of(name, table, directory) for name, table in found.items()]


def job_of(name: str, table: Any, directory: Path = Path()) -> Job:
    """Return the job in *table*, as in a file of jobs; its paths are relative to *directory*."""
    place = f"jobs.{name}"
    if not isinstance(table, dict):
        raise ValueError(f"{place} is not a table; write [{place}] above its options")
    options = cast("dict[str, Any]", table).copy()
    kinds = [kind for kind in _KINDS if kind in options]
    if len(kinds) != 1:
        raise ValueError(f"{place}: a job needs one of `pull`, `push` and `sync`")
    (kind,) = kinds
    file = "to" if kind == "pull" else "file"
    known = [each.name.rstrip("_") for each in fields(_KINDS[kind])]
    _check_names(place, options, [kind, file, *known])
    for each in (kind, file):
        if not isinstance(options.get(each), str):
            raise ValueError(f"{place}: a {kind} needs `{each}`, a text")
    operation, path = options.pop(kind), directory / options.pop(file)
    if "with" in options:
        options["with_"] = options.pop("with")
    try:
        # Not strict: a number or a truth value may be in quotes.
        found = msgspec.convert(
            options, _KINDS[kind], strict=False, dec_hook=lambda _, text: directory / text
        )
    except msgspec.ValidationError as bad:
        raise ValueError(f"{place}: {bad}") from None
    for each, value in options.items():  # msgspec reads the text "null" as None
        if isinstance(value, str) and getattr(found, each) is None:
            raise ValueError(f"{place}: `{each}` must not be {value!r}; leave it out")
    return Job(operation=operation, file=path, options=found, name=name)


def table_of(job: Job) -> dict[str, Any]:
    """Return *job* as the table from which `job_of` makes it."""
    (kind,) = [kind for kind, options in _KINDS.items() if type(job.options) is options]
    options = msgspec.to_builtins(job.options, enc_hook=str)
    table = {name.rstrip("_"): value for name, value in options.items()}
    return {kind: job.operation, "to" if kind == "pull" else "file": str(job.file), **table}


def _check_names(place: str, table: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise `ValueError` if *table* has a name that is not *known*."""
    for name in table:
        if name not in known:
            raise ValueError(
                f"{place} has the unknown name {name!r}{did_you_mean(name, known)}; "
                f"it may have: {', '.join(known)}"
            )


def _written(job: Job) -> list[Path]:
    found = list(files_of_state(job.state))
    if isinstance(job.options, PullOptions):
        found += FileSink(target_of(job.file)).files
        found += [target_of(job.options.changes)] if job.options.changes else []
    return found


def check_credentials(jobs: Iterable[Job]) -> None:
    """Raise `ConfigurationError`, naming each variable of *jobs* that is missing or unusable."""
    clients, found = Clients(SessionPool()), list[ConfigurationError]()
    for vendor in dict.fromkeys(job.vendor for job in jobs):
        try:
            clients.client(vendor)
        except ConfigurationError as error:
            found.append(error)
    if found:
        raise ConfigurationError(
            "; ".join(error.message for error in found),
            advice="; ".join(error.advice for error in found if error.advice),
        )


async def check(job: Job) -> None:
    """Raise `ValueError` if names, arguments, files or columns of *job* are unusable.

    It needs no credentials. A named pipe is not opened, because it can be read only once.
    """
    _prepare(job, Clients())
    if isinstance(job.options, PullOptions):
        open_sink(job.file)
        check_apart(job.state, FileSink(target_of(job.file)).files, "the result")
    elif job.file.is_fifo():
        return
    else:
        await _check_rows(job, job.options)
        check_apart(job.state, [job.file], "the input")
    state = target_of(job.state)
    if not os.access(state.parent, os.W_OK):
        problem = "cannot be written to" if state.parent.is_dir() else "does not exist"
        raise InputError(
            f"the state {state} is in a directory that {problem}",
            file=str(state),
            advice="Give --state FILE in another directory",
        )
    check_file(state)


async def _check_rows(job: Job, options: PushOptions | SyncOptions) -> None:
    """Check the columns of the input of *job*, and its encoding in each row."""
    if isinstance(options, SyncOptions):
        target = Target(Clients().resource(job.operation), options.key)
        row_type = target.row_type
        await SyncInput(job.file, target, RowConverter(row_type, _renaming(options))).check()
    else:
        write = Clients().write(job.operation, options.with_)
        row_type = row_type_of(write.call)
        if write.scalar is not None:
            row_type = msgspec.defstruct(job.operation, [(write.name, Any)])
    rows = await open_source(job.file)
    try:
        if isinstance(options, PushOptions):
            RowConverter(row_type, _renaming(options)).check(rows)
        if not options.dry_run:  # which reads all rows itself
            await rows.count()  # finds another encoding in any row
    finally:
        await rows.aclose()


async def run_all(
    jobs: Iterable[Job],
    run: Callable[[Job, Callable[[Progress], None]], Awaitable[Report | SyncReport | Plan]],
    *,
    quiet: bool,
) -> list[Result]:
    """Call *run* for all *jobs* concurrently, and show their progress; return what each gives."""
    with ProgressDisplay(quiet=quiet) as display:
        running = [(job.title, run(job, display.job(job.title))) for job in jobs]
        failing = (display.showing_failure(*each) for each in running)
        return await asyncio.gather(*failing, return_exceptions=True)


async def run_job(
    pool: SessionPool, job: Job, progress: Callable[[Progress], None]
) -> Report | SyncReport | Plan:
    """Run *job* with clients of *pool*; return the plan of a dry run, else the report."""
    result: Report | SyncReport | Plan
    result = await _prepare(job, Clients(pool))(progress=progress, **job.arguments())
    return result


def _prepare(job: Job, clients: Clients) -> Callable[..., Awaitable[Any]]:
    """Return the function that runs *job*, after checking its names."""
    options = job.options
    if isinstance(options, SyncOptions):
        resource = clients.resource(job.operation)
        target = Target(resource, options.key)
        target.check(adopt=options.adopt, delete=options.on_missing == "delete")
        return partial(backfill.sync, job.file, resource, map=_renaming(options))
    if isinstance(options, PushOptions):
        write = clients.write(job.operation, options.with_)
        return partial(backfill.push, job.file, write.call, map=map_of(options, write))
    read = clients.read(job.operation, options.query)
    if options.since is not None:
        source = read()
        try:
            check_since(source, options.since)
        finally:
            close_coroutine(source)

    async def pull(**arguments: Any) -> Report:
        return await backfill.pull(read(), job.file, **arguments)

    return pull


def _renaming(options: WriteOptions) -> Renaming | None:
    return Renaming(options.map, options.set) if options.map or options.set else None


def map_of(options: PushOptions, write: Write) -> Callable[[Any], Any] | None:
    """Return the function from a row to the argument of *write*; None for the identity."""
    renaming = _renaming(options)
    return renaming if write.scalar is None else _ScalarMap(write, renaming)


class _ScalarMap:
    """Returns the single value that *write* takes from a row, after renaming its columns."""

    def __init__(self, write: Write, renaming: Renaming | None) -> None:
        self._write, self.renaming = write, renaming

    def __call__(self, row: Any) -> Any:
        return self._write.value(self.renaming(row) if self.renaming else row)
