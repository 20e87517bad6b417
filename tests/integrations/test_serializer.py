"""The job database holds JSON: write access to it runs no code in a worker."""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dbos", reason="needs the extra [dbos]")

from dbos import DBOS

from asyncclients import errors
from asyncclients.backfill import Report
from asyncclients.backfill.report import RequestCounts
from asyncclients.backfill.steps import PullCursor, PushTarget
from asyncclients.errors import AsyncClientsError, BackfillStoppedError, StateError
from asyncclients.integrations.dbos import Backfills
from asyncclients.integrations.dbos.serializer import JSONSerializer
from asyncclients.paging import Page, Paginator
from asyncclients.ratelimit.quota import Quota

TALLY = RequestCounts(requests=3, rejected=1, quotas={"scope": (Quota(2, 1.0), Quota(100, 60.0))})
ROWS = [{"n": number} for number in range(30)]


def again(value: Any) -> Any:
    serializer = JSONSerializer()
    text = serializer.serialize(value)
    json.loads(text)
    text.encode("ascii")
    return serializer.deserialize(text)


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        "a lone surrogate \ud800 and a NUL \0",
        {"args": ["job", [1, 2]], "kwargs": {}},
        TALLY,
        PullCursor(page=2, last=False, pages=9, items_digest="digest", counts=TALLY),
    ],
)
def test_serializer_returns_equal_values(value: object) -> None:
    """Arguments and results of the workflows survive JSON."""
    assert again(value) == value


CLASSES = [
    each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, AsyncClientsError)
]


@pytest.mark.parametrize("cls", CLASSES)
def test_serializer_keeps_library_errors(cls: type[AsyncClientsError]) -> None:
    """Every error of the library keeps its class, text and fields."""
    error = cls("a lone surrogate \udcff", vendor="emma", status=429, attempts=2, advice="Wait")
    assert again(error) == error


class CustomError(errors.InputError):
    """A user's own error."""


@pytest.mark.parametrize(
    ("error", "cls", "text"),
    [
        (CustomError("bad", line=3, file="f"), errors.InputError, "bad"),
        (KeyError("\ud800"), BackfillStoppedError, "KeyError: '\\ud800'"),
        (sqlite3.OperationalError(b"locked"), BackfillStoppedError, "OperationalError: b'locked'"),
        (BackfillStoppedError("stopped", report=object()), BackfillStoppedError, "stopped"),
        (errors.UnprocessableEntityError("no", errors={"error": [{1, 2}]}), None, "no"),
    ],
)
def test_serializer_stores_any_error(
    error: Exception, cls: type[Exception] | None, text: str
) -> None:
    """An error of another class, or with values that JSON lacks, is stored with its text."""
    got = again(error)
    assert type(got) is (cls or type(error))
    assert isinstance(got, AsyncClientsError)
    assert got.message == text


@pytest.mark.parametrize("name", ["str", "os", "_facts_of", "SystemExit", "no_such_error"])
def test_serializer_builds_errors_only(name: str) -> None:
    """The name of a class in the database builds an error of this library or nothing."""
    text = json.dumps({"error": {"name": name, "message": "m"}})
    assert JSONSerializer().deserialize(text) == BackfillStoppedError(f"{name}: m")


# --- The database ---------------------------------------------------------------------


async def swallow(row: object) -> None:
    """Accept every row."""


async def choke(row: object) -> None:
    raise ValueError("a failed row")


async def fetch(number: int) -> Page[dict[str, int]]:
    return Page(items=[{"n": number}], number=number, last=number == 3, total=3)


def resolve(spec: str) -> PushTarget | Paginator[Any]:
    if spec == "unresolvable":
        raise KeyError(spec)
    if spec == "pull":
        return Paginator(fetch)
    return PushTarget(target=choke if spec == "choke" else swallow)


def values(path: Path) -> Iterator[tuple[str, Any]]:
    """Every value in the database, with the name of its column."""
    with closing(sqlite3.connect(path)) as database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            cursor = database.execute(f'SELECT * FROM "{table}"')
            names = [f"{table}.{each[0]}" for each in cursor.description]
            for row in cursor:
                yield from zip(names, row, strict=True)


def is_pickle(value: Any) -> bool:
    with suppress(Exception):
        raw = base64.b64decode(value, validate=True) if isinstance(value, str) else bytes(value)
        return raw[:1] == b"\x80" and pickle.loads(raw) is not None
    return False


async def test_job_database_holds_no_pickle(tmp_path: Path) -> None:
    """After a push, a pull, a stopped and a failed job no column holds a pickle."""
    path = tmp_path / "jobs.sqlite"
    async with Backfills(f"sqlite:///{path}", resolve) as backfills:
        report = await backfills.push("push", ROWS, batch=10)
        assert report.done == len(ROWS)
        state = tmp_path / "state"
        assert (await backfills.pull("pull", tmp_path / "l.jsonl", state=state)).done == 3
        with pytest.raises(BackfillStoppedError, match="rows of 'choke' failed") as stopped:
            await backfills.push("choke", ROWS * 10, batch=10)
        assert stopped.value.report.failed >= 50
        with pytest.raises(BackfillStoppedError, match="KeyError: 'unresolvable'"):
            await backfills.push("unresolvable", ROWS)
    stored = list(values(path))
    assert [name for name, value in stored if is_pickle(value)] == []
    assert "py_pickle" not in [value for _, value in stored]
    assert "asyncclients_json" in [value for _, value in stored]


class Planted:
    """Writes a file when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self._witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._witness,)


def plant(path: Path, planted: str, mark: str | None) -> None:
    """Replace every stored argument, result and error of DBOS by *planted*."""
    with closing(sqlite3.connect(path, timeout=30)) as database, database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            columns = [row[1] for row in database.execute(f'PRAGMA table_info("{table}")')]
            for name in {"inputs", "output", "error"}.intersection(columns):
                statement = f'UPDATE "{table}" SET {name} = ? WHERE {name} IS NOT NULL'
                database.execute(statement, (planted,))
            if "serialization" in columns:
                database.execute(f'UPDATE "{table}" SET serialization = ?', (mark,))


@pytest.mark.parametrize("mark", ["py_pickle", None])
async def test_planted_pickle_is_never_loaded(tmp_path: Path, mark: str | None) -> None:
    """Pickles planted as the input of queued work and as results are not loaded."""
    path, witness = tmp_path / "jobs.sqlite", tmp_path / "witness"
    planted = base64.b64encode(pickle.dumps(Planted(witness))).decode()
    pickle.loads(base64.b64decode(planted))
    assert witness.exists()
    witness.unlink()
    url = f"sqlite:///{path}"
    async with Backfills(url, resolve) as backfills:
        await backfills.push("done", ROWS, batch=30)
    async with Backfills(url, resolve, works=False) as backfills:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(backfills.push("queued", ROWS, batch=10), 1)
    plant(path, planted, mark)
    async with Backfills(url, resolve) as backfills:
        job = backfills.push("queued", ROWS, batch=10)
        (ended,) = await asyncio.gather(job, return_exceptions=True)
        # Which one depends on whether a worker has rejected the planted work before.
        assert isinstance(ended, StateError) or (isinstance(ended, Report) and ended.done == 30)
        for _ in range(100):
            found = await DBOS.list_workflows_async(load_input=True, load_output=True)
            if not [each for each in found if each.status in ("ENQUEUED", "PENDING")]:
                break
            await asyncio.sleep(0.05)
        else:
            pytest.fail("a planted row is tried for ever")
    assert not witness.exists()
    assert [name for name, value in values(path) if value == planted]
