"""Specifications of pulls, pushes and syncs, from a command line or a TOML file, and their execution."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from asyncclients import backfill
from asyncclients.arguments import did_you_mean
from asyncclients.backfill import Plan, Progress, Renaming, Report, SyncReport
from asyncclients.backfill.arguments import check_since, close_coroutine
from asyncclients.backfill.files.sink import FileSink, open_sink
from asyncclients.backfill.files.source import Source, open_source
from asyncclients.backfill.rows import RowConverter, row_type_of
from asyncclients.backfill.state.journal import check_file
from asyncclients.backfill.sync_input import SyncInput
from asyncclients.backfill.sync_targets import Target
from asyncclients.cli.operations import Clients, Write
from asyncclients.core.pool import SessionPool
from asyncclients.errors import ConfigurationError, InputError
from asyncclients.own_files import are_same, check_apart, files_of_state, target_of

_OF_ALL = ("state", "max_failed", "share", "new_credential")
_OF_WRITES = ("concurrency", "unknown", "limit", "retry_failed")
_OPTIONS = {
    "pull": (*_OF_ALL, "key", "refresh", "since", "lag"),
    "push": (*_OF_ALL, *_OF_WRITES),
    "sync": (*_OF_ALL, *_OF_WRITES, "key", "on_missing", "max_deleted", "adopt"),
}
"""The options of each kind of job that its function takes under the same name."""
_CONVERTED = {
    "pull": ("to", "query", "changes"),
    "push": ("file", "map", "set", "dry_run", "with_"),
    "sync": ("file", "map", "set", "dry_run"),
}
"""Those that it takes in another form, or that decide on its result."""


class JobSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One pull, push or sync; the fields are the options of those commands."""

    pull: str | None = None
    to: str = ""
    query: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    key: str | None = None
    refresh: bool = False
    since: str | None = None
    lag: float = 300.0
    changes: str = ""
    push: str | None = None
    sync: str | None = None
    file: str = ""
    map: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    set: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    with_: dict[str, Any] = msgspec.field(default_factory=dict[str, Any], name="with")
    concurrency: int = 64
    max_failed: float = 0.1
    share: float | None = None
    unknown: Literal["keep", "resend", "drop"] = "keep"
    on_missing: Literal["keep", "delete"] = "keep"
    max_deleted: float = 0.1
    adopt: bool = False
    limit: int | None = None
    retry_failed: bool = False
    new_credential: bool = False
    dry_run: bool = False
    state: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        kinds = [name for name in ("pull", "push", "sync") if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError("a job needs one of `pull`, `push` and `sync`")
        (kind,) = kinds
        known = {kind, "name", *_OPTIONS[kind], *_CONVERTED[kind]}
        for field in msgspec.structs.fields(self):
            no_value = field.default_factory() if callable(field.default_factory) else field.default
            if field.name not in known and getattr(self, field.name) != no_value:
                raise ValueError(f"a {kind} has no `{field.encode_name}`")
        if self.pull is not None and not self.to:
            raise ValueError("a pull needs `to`")
        if self.pull is None and not self.file:
            raise ValueError(f"a {kind} needs `file`")
        if (self.since is not None or self.changes) and not self.refresh:
            raise ValueError("`since` and `changes` are for a refresh: give `refresh` as well")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"`limit` must be at least 1, not {self.limit}")
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"`share` must be above 0 and at most 1, not {self.share}")

    @property
    def kind(self) -> str:
        """`pull`, `push` or `sync`."""
        return "pull" if self.pull is not None else "push" if self.push is not None else "sync"

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of `pull`, `push` or `sync` that it has as they are."""
        named = {name: getattr(self, name) for name in _OPTIONS[self.kind]}
        return {**named, "flow": self.name or None}

    @property
    def vendor(self) -> str:
        """The name of the vendor."""
        return (self.pull or self.push or self.sync or "").partition(".")[0]

    @property
    def title(self) -> str:
        """The name of the job; without one, what it pulls, pushes or syncs."""
        return self.name or self.pull or self.push or self.sync or ""


def state_path(file: Path) -> Path:
    """Return the default path of the state of a job on *file*."""
    return Path(f"{file}.state")


def read_jobs(path: Path) -> list[JobSpec]:
    """Return the jobs in the TOML file at *path*; their paths are relative to it.

    Raises:
        InputError: the file cannot be read, or is not a file of jobs.
    """
    text, advice = "", "See `asyncclients run --help`"
    try:
        text = path.read_text(encoding="utf-8-sig")
        found = _parsed(tomllib.loads(text))
    except (OSError, ValueError) as bad:  # TOML and msgspec errors are ValueErrors
        words = bad.strerror if isinstance(bad, OSError) else str(bad)
        if isinstance(bad, tomllib.TOMLDecodeError) and "\\" in text:
            advice = "Write a path with / or in single quotes, as in 'C:\\data\\contacts.csv'"
        raise InputError(f"{path}: {words}", file=str(path), advice=advice) from None
    jobs = [_placed(job, name, path.parent) for name, job in found.items()]
    for one, other in combinations(jobs, 2):
        if shared := _shared(one, other):
            raise InputError(
                f"{path}: two jobs, {one.name} and {other.name}, write the file {shared}",
                file=str(path),
                advice="Give each job its own `state` and `to`",
            )
    return jobs


def _parsed(tables: Mapping[str, Any]) -> dict[str, JobSpec]:
    """Return the jobs in *tables* by name.

    Raises:
        ValueError: naming the job and its option.
    """
    _check_options("the file", tables, ["jobs"])
    jobs = tables.get("jobs")
    if not isinstance(jobs, dict) or not jobs:
        raise ValueError("has no job; write one as [jobs.NAME] with its options below")
    known = [field.encode_name for field in msgspec.structs.fields(JobSpec) if field.name != "name"]
    parsed: dict[str, JobSpec] = {}
    for name, options in cast("dict[str, Any]", jobs).items():
        if not isinstance(options, dict):
            raise ValueError(f"jobs.{name} is not a table; write [jobs.{name}] above its options")
        _check_options(f"jobs.{name}", cast("dict[str, Any]", options), known)
        try:
            parsed[name] = msgspec.convert(options, JobSpec)
        except msgspec.ValidationError as bad:
            problem = _quoted(cast("dict[str, Any]", options)) or str(bad)
            raise ValueError(f"jobs.{name}: {problem}") from None
    return parsed


def _quoted(options: Mapping[str, Any]) -> str:
    """Return how to write the option whose number or truth value is in quotes; "" if none is."""
    for field in msgspec.structs.fields(JobSpec):
        value = options.get(field.encode_name)
        if not isinstance(value, str) or _is_accepted(value, field.type, strict=True):
            continue
        if _is_accepted(value, field.type, strict=False):
            correct = f"{field.encode_name} = {value.lower()}"
            return f"`{field.encode_name}` must not be text: write it without quotes, {correct}"
    return ""


def _is_accepted(value: str, kind: Any, *, strict: bool) -> bool:
    try:
        msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError:
        return False
    return True


def _check_options(place: str, table: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise `ValueError` if *table* has a name that is not *known*."""
    for name in table:
        if name not in known:
            raise ValueError(
                f"{place} has the unknown name {name!r}{did_you_mean(name, known)}; "
                f"it may have: {', '.join(known)}"
            )


def _shared(one: JobSpec, other: JobSpec) -> Path | None:
    """Return a file that both jobs would write, or None."""
    for mine, theirs in product(_written(one), _written(other)):
        if are_same(mine, theirs):
            return mine
    return None


def _written(job: JobSpec) -> list[Path]:
    state = files_of_state(Path(job.state))
    changes = [target_of(job.changes)] if job.changes else []
    return [*state, *changes, *(FileSink(target_of(job.to)).files if job.to else ())]


def _placed(job: JobSpec, name: str, directory: Path) -> JobSpec:
    file = directory / (job.file or job.to)
    state = directory / job.state if job.state else state_path(file)
    where = {"file": str(file)} if job.file else {"to": str(file)}
    if job.changes:
        where["changes"] = str(directory / job.changes)
    return msgspec.structs.replace(job, name=name, state=str(state), **where)


def check_names(job: JobSpec) -> None:
    """Check the vendor, resource, operation and arguments of *job*; needs no credentials.

    Raises:
        ValueError: one of them is wrong or missing.
    """
    if job.sync is not None:
        target = Target(Clients().resource(job.sync), job.key)
        target.check(adopt=job.adopt, delete=job.on_missing == "delete")
        return
    operation = _operation(job, Clients())
    if job.since is not None and not isinstance(operation, Write):
        source = operation()
        try:
            check_since(source, job.since)
        finally:
            close_coroutine(source)


def check_credentials(jobs: Iterable[JobSpec]) -> None:
    """Check the environment variables of the vendors of *jobs*.

    Raises:
        ConfigurationError: naming each one that is missing or unusable.
    """
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


def _operation(job: JobSpec, clients: Clients) -> Callable[[], Any] | Write:
    if job.pull is not None:
        return clients.read(job.pull, job.query)
    assert job.push is not None
    return clients.write(job.push, job.with_)


async def check_files(job: JobSpec) -> None:
    """Check the files and columns of *job*; needs no credentials and writes nothing.

    A named pipe is not opened, because it can be read only once.

    Raises:
        InputError: one of them is unusable.
    """
    if job.file and _is_pipe(job.file):
        return
    if job.sync is not None:
        target = Target(Clients().resource(job.sync), job.key)
        converter = RowConverter(target.row_type, _renaming(job))
        await SyncInput(job.file, target, converter).check()
        await _check_rows(job.file)
    elif isinstance(operation := _operation(job, Clients()), Write):
        await _check_columns(job, operation)
    else:
        open_sink(job.to)
    if job.to:
        check_apart(Path(job.state), FileSink(target_of(job.to)).files, "the result")
    else:
        check_apart(Path(job.state), [Path(job.file)], "the input")
    _check_state(target_of(job.state))


def _is_pipe(path: str) -> bool:
    return Path(path).is_fifo()


def _check_state(state: Path) -> None:
    problem = ""
    if not state.parent.is_dir():
        problem = "is in a directory that does not exist"
    elif not os.access(state.parent, os.W_OK):
        problem = "is in a directory that cannot be written to"
    if problem:
        raise InputError(
            f"the state {state} {problem}",
            file=str(state),
            advice="Give --state FILE in another directory",
        )
    check_file(state, must_exist=False)


async def _check_columns(job: JobSpec, operation: Write) -> None:
    row_type = row_type_of(operation.call)
    if operation.scalar is not None:
        row_type = msgspec.defstruct(job.push or "", [(operation.name, Any)])
    await _check_rows(job.file, RowConverter(row_type, _renaming(job)).check)


async def _check_rows(file: str, check: Callable[[Source], None] = lambda _: None) -> None:
    rows = await open_source(file)
    try:
        check(rows)
        await rows.count()  # finds another encoding in any row
    finally:
        await rows.aclose()


async def run_job(
    job: JobSpec, pool: SessionPool, progress: Callable[[Progress], None]
) -> Report | SyncReport | Plan:
    """Run *job* with clients of *pool*; return the plan of a dry run, else the report.

    Raises:
        ValueError: a name, argument, file, column or credential is unusable, checked in this order.
        AsyncClientsError: see `pull`, `push` and `sync`.
    """
    check_names(job)
    try:
        if job.sync is not None:
            target = Clients(pool).resource(job.sync)
            return await backfill.sync(
                job.file,
                target,
                map=_renaming(job),
                dry_run=job.dry_run,
                progress=progress,
                **job.options(),
            )
        operation = _operation(job, Clients(pool))
    except ConfigurationError:
        await check_files(job)
        raise
    if not isinstance(operation, Write):
        return await backfill.pull(
            operation(), job.to, changes=job.changes or None, progress=progress, **job.options()
        )
    if operation.scalar is not None:
        await check_files(job)  # `push` knows only the columns of a struct
    return await backfill.push(
        job.file,
        operation.call,
        map=map_of(job, operation),
        dry_run=job.dry_run,
        progress=progress,
        **job.options(),
    )


def _renaming(job: JobSpec) -> Renaming | None:
    return Renaming(job.map, job.set) if job.map or job.set else None


def map_of(job: JobSpec, write: Write) -> Callable[[Any], Any] | None:
    """Return the function from a row of *job* to the argument of *write*; None for the identity."""
    renaming = _renaming(job)
    if write.scalar is None:
        return renaming
    return _ScalarMap(write, renaming)


class _ScalarMap:
    """Returns the single value that *write* takes from a row, after renaming its columns."""

    def __init__(self, write: Write, renaming: Renaming | None) -> None:
        self._write, self.renaming = write, renaming

    def __call__(self, row: Any) -> Any:
        return self._write.value(self.renaming(row) if self.renaming else row)
