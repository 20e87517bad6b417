"""A sync reads only the rows whose lines are new, and decides as if it read all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncclients import (
    BackfillStoppedError,
    InputError,
    NotFoundError,
    OutcomeUnknownError,
    UnauthorizedError,
)
from asyncclients.backfill import sync
from asyncclients.backfill.rows import RowConverter
from asyncclients.backfill.sync import SyncKeywords
from asyncclients.errors import InvalidValueError

COUNTS = ("created", "updated", "deleted", "unchanged", "missing", "failed", "unknown", "skipped")


class Shop:
    """A vendor of things with a key `id`, which rejects the name `bad` and loses creates of `lost`.

    A lost update would be repeated until the outage is over, in real time.
    The name `stop` ends the run, as a revoked credential does; `done` does so after the change,
    and so do deletions if `is_closing`.
    """

    is_closing = False

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.items: dict[str, dict[str, Any]] = {}

    async def create(self, row: dict[str, Any]) -> dict[str, Any]:
        self.calls.append(("create", row))
        self._check(row)
        if row.get("name") == "lost":
            raise OutcomeUnknownError
        self.items[f"item {len(self.calls)}"] = row
        return {"uuid": f"item {len(self.calls)}", **row}

    async def update(self, item_id: str, row: dict[str, Any]) -> None:
        self.calls.append(("update", item_id, row))
        self._check(row)
        if item_id not in self.items:
            raise NotFoundError(status=404)
        self.items[item_id] = row
        if row.get("name") == "done":
            raise UnauthorizedError(status=401)

    async def delete(self, item_id: str) -> None:
        self.calls.append(("delete", item_id))
        del self.items[item_id]
        if self.is_closing:
            raise UnauthorizedError(status=401)

    def _check(self, row: dict[str, Any]) -> None:
        if row.get("name") == "bad":
            raise InvalidValueError("bad")
        if row.get("name") == "stop":
            raise UnauthorizedError(status=401)

    def item_id(self, item: dict[str, Any]) -> str:
        return str(item["uuid"])

    def key(self, item: dict[str, Any]) -> str:
        return str(item["id"])


class Job:
    """A sync of one file with a `Shop`."""

    def __init__(self, directory: Path, name: str, suffix: str) -> None:
        self.shop = Shop()
        self._state = directory / f"{name}.sync"
        self._source = directory / f"{name}{suffix}"

    def run(self, content: str, **options: Any) -> Any:
        """Return the counts and failures of a run with *content*, or its error."""
        self._source.write_bytes(content.encode(errors="surrogateescape"))
        arguments: dict[str, Any] = {
            "key": "id",
            "concurrency": 1,
            "max_failed": 1.0,
            "max_outage": 0.1,  # an update that is lost is sent again until then
            **options,
        }
        try:
            work = sync(
                self._source, self.shop, state=self._state, **cast("SyncKeywords", arguments)
            )
            report: Any = asyncio.run(work)
        except InputError as error:
            return error.line, error.message.replace(self._source.name, "")
        except UnauthorizedError:
            return "unauthorized"
        except BackfillStoppedError as error:
            report = error.report
        return {name: getattr(report, name) for name in COUNTS}, failures(report)


def failures(report: Any) -> list[Any]:
    """The line and reason of each row in the file of failed rows."""
    if report.failures is None:
        return []
    records = Path(report.failures).read_bytes().splitlines()
    return [(row["line"], row["reason"]) for row in map(msgspec.json.decode, records)]


def slowly(work: Callable[[], object]) -> object:
    """The result of *work*, in which each row is read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowConverter, "fingerprint", "")
        return work()


NAMES = st.sampled_from(["A", "B", "bad", "lost", "stop", "", 'say "hi"', "two\nlines", "a,b", " "])
ROWS = st.tuples(st.sampled_from([f"k{n}" for n in range(8)]), NAMES)
CSV_LINES = ["", ",", "k1,A,too,many", '"k1"A,B', "id,name", "k1", ',"A"', "\ud7ff,x"]


def csv_line(row: tuple[str, str]) -> str:
    key, name = row
    return (
        f'{key},"{name.replace(chr(34), chr(34) * 2)}"' if not name.isalnum() else f"{key},{name}"
    )


def json_line(row: tuple[str, str]) -> str:
    return msgspec.json.encode({"id": row[0], "name": row[1]}).decode()


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["insert", "delete", "change", "move", "odd", "columns"]),
        st.integers(0, 9),
        st.integers(0, 9),
        ROWS,
    ),
    max_size=4,
)
DISTINCT = st.lists(ROWS, max_size=8, unique_by=lambda row: row[0])


def edited(lines: list[str], edits: list[Any], line_of: Callable[[Any], str]) -> list[str]:
    """*lines* after *edits*."""
    lines = [*lines]
    for edit, place, other, row in edits:
        place = min(place, len(lines))
        if edit == "insert":
            lines.insert(place, line_of(row))
        elif edit == "odd":
            lines.insert(place, CSV_LINES[int(other) % len(CSV_LINES)])
        elif edit == "columns" and lines:
            lines[0] = "name,id" if lines[0] == "id,name" else lines[0]
        elif place < len(lines):
            line = lines.pop(place)
            if edit == "move":
                lines.insert(min(other, len(lines)), line)
            elif edit == "change":
                lines.insert(place, line_of(row))
    return lines


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "on_missing": st.just("delete"),
        "limit": st.integers(1, 3),
        "retry_failed": st.booleans(),
        "unknown": st.sampled_from(["keep", "resend", "drop"]),
    },
)
CASES = given(
    is_csv=st.booleans(), rows=DISTINCT, runs=st.lists(st.tuples(EDITS, OPTIONS), max_size=4)
)


def compare(is_csv: bool, rows: list[tuple[str, str]], runs: list[Any]) -> None:
    """Compare the runs of two jobs after the same edits; one job reads all rows."""
    line_of = csv_line if is_csv else json_line
    lines = [*(["id,name"] if is_csv else []), *map(line_of, rows)]
    with TemporaryDirectory() as directory:
        suffix = ".csv" if is_csv else ".jsonl"
        fast = Job(Path(directory), "fast", suffix)
        slow = Job(Path(directory), "slow", suffix)
        first: Any = ([], {})
        for edits, options in [first, *runs]:
            # An interrupted run is often followed by the file of the day before.
            before, lines = lines, edited(lines, edits, line_of)
            for version in (lines, lines, before):
                content = "\n".join([*version, ""])
                found = fast.run(content, **options)
                assert found == slowly(lambda: slow.run(content, **options))  # noqa: B023
                assert fast.shop.calls == slow.shop.calls


@CASES
@settings(max_examples=10)
def test_sync_decides_as_if_it_read_all_rows(
    is_csv: bool, rows: list[tuple[str, str]], runs: list[Any]
) -> None:
    """After any edits the calls, counts and errors are those of a sync without known lines."""
    compare(is_csv, rows, runs)


@pytest.mark.sweep
@pytest.mark.timeout(1800)
@CASES
@settings(max_examples=500)
def test_sync_decides_as_if_it_read_all_rows_of_many_files(
    is_csv: bool, rows: list[tuple[str, str]], runs: list[Any]
) -> None:
    """The same for many more files."""
    compare(is_csv, rows, runs)


# --- Which rows are read --------------------------------------------------------------------


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """The keys of the rows that are read from now on."""
    keys: dict[str, bool] = {}
    convert: Any = RowConverter.convert

    def noted(self: RowConverter, data: Any, *, coerce: bool) -> Any:
        keys[data["id"]] = True
        return convert(self, data, coerce=coerce)

    monkeypatch.setattr(RowConverter, "convert", noted)
    return keys


def csv_of(names: dict[str, str]) -> str:
    return "\n".join(["id,name", *(csv_line(row) for row in names.items()), ""])


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_sync_reads_only_new_and_changed_rows(
    tmp_path: Path, read: dict[str, bool], suffix: str
) -> None:
    """After inserted, changed and deleted rows, the other rows are not read."""

    def content() -> str:
        lines = [json_line(row) for row in names.items()]
        return csv_of(names) if suffix == ".csv" else "\n".join([*lines, ""])

    names = {f"k{n}": "A" for n in range(1000)}
    job = Job(tmp_path, "job", suffix)
    job.run(content(), concurrency=200)
    assert len(read) == 1000
    read.clear()
    job.run(content(), concurrency=200)
    assert not read
    names["k7"], names["k999"] = "B", "two\nlines"
    for number in (20, 21, 500):
        del names[f"k{number}"]
    names = {"first": "A", **names, "last": "A"}
    counts, _ = job.run(content(), concurrency=200)
    assert counts == {**dict.fromkeys(COUNTS, 0), **EXPECTED}
    assert read.keys() == {"first", "k7", "k999", "last"}


EXPECTED = {"created": 2, "updated": 2, "unchanged": 995, "missing": 3}


def test_sync_finds_the_lines_after_many_removed_ones(
    tmp_path: Path, read: dict[str, bool]
) -> None:
    """After 2,000 removed rows about one row in 32 of them is read until a line is known again."""
    names = {f"k{n}": "A" for n in range(3000)}
    job = Job(tmp_path, "job", ".csv")
    job.run(csv_of(names), concurrency=200)
    read.clear()
    job.run(csv_of({key: name for key, name in names.items() if int(key[1:]) >= 2000}))
    assert len(read) <= 2000 / 32 + 2


def test_sync_reads_rows_with_several_lines(tmp_path: Path, read: dict[str, bool]) -> None:
    """A row over two lines is read again, and one of its lines is never taken for a row."""
    job = Job(tmp_path, "job", ".csv")
    job.run('id,name\nk1,"a\nk2,A\nb"\nk2,A\nk3,A\n')
    read.clear()
    job.run('id,name\nk1,"a\nk2,A\nb"\nk2,A\nk3,A\n')
    assert [*read] == ["k1"]
    read.clear()
    found = job.run('id,name\nk1,"a\nk2,A\nk3,A\nb"\n')
    assert found == ({**dict.fromkeys(COUNTS, 0), "updated": 1, "missing": 2}, [])
    job.run('id,name\nk1,"a\nb b\nc c\nk2,A"\n')
    found = job.run('id,name\nk2,A"\n')
    assert found == ({**dict.fromkeys(COUNTS, 0), "updated": 1, "missing": 2}, [])


@pytest.mark.parametrize(
    ("rows", "lines"),
    [
        ("k1,A\nk2,A\nk2,A\nk3,A\n", "3 and 4"),
        ("k1,A\nk2,A\nk3,A\nk2,A\n", "3 and 5"),
        ("K2,B\nk1,A\nk2,A\nk3,A\n", "2 and 4"),
    ],
)
def test_sync_finds_duplicates_of_unchanged_rows(tmp_path: Path, rows: str, lines: str) -> None:
    """A second row with the key of an unchanged one is an error that names both lines."""
    job = Job(tmp_path, "job", ".csv")
    job.run("id,name\nk1,A\nk2,A\nk3,A\n")
    _, message = job.run(f"id,name\n{rows}")
    assert f"lines {lines} have the key" in message


def test_sync_reads_a_line_with_a_byte_order_mark(tmp_path: Path) -> None:
    """The mark is valid in the first line only, also in a line that was the first before."""
    job = Job(tmp_path, "job", ".jsonl")
    marked, other = '\ufeff{"id":"k1"}\n', '{"id":"k2"}\n'
    job.run(marked)
    assert job.run(marked) == ({**dict.fromkeys(COUNTS, 0), "unchanged": 1}, [])
    counts, failed = job.run(other + marked)
    assert (counts["created"], counts["failed"], counts["unchanged"]) == (1, 1, 0)
    assert [line for line, _ in failed] == [2]


@pytest.mark.parametrize("known", ["Köln", "Kiel"])
def test_sync_takes_unchanged_rows_into_account_for_the_encoding(
    tmp_path: Path, known: str
) -> None:
    """A damaged row fails if an unchanged one shows that the file is UTF-8, else the file is refused."""
    job = Job(tmp_path, "job", ".csv")
    job.run(f"id,name\nk1,A\nk2,{known}\n")
    found = job.run(f"id,name\nk1,A\nk2,{known}\nk3,M\udcfcnchen\n")
    if known == "Kiel":
        assert found[0] == 4
    else:
        assert found[0] == {**dict.fromkeys(COUNTS, 0), "unchanged": 2, "failed": 1}


def test_sync_never_takes_a_rejected_row_for_an_unchanged_one(tmp_path: Path) -> None:
    """A rejected update and a create of unknown outcome are reported in each run."""
    job = Job(tmp_path, "job", ".csv")
    job.run("id,name\nk1,A\nk3,A\n")
    for _ in range(3):
        counts, failed = job.run("id,name\nk1,bad\nk2,lost\nk3,A\n")
        assert counts == {**dict.fromkeys(COUNTS, 0), "failed": 1, "unknown": 1, "unchanged": 1}
        assert [line for line, _ in failed] == [2]
    assert [call[0] for call in job.shop.calls] == ["create", "create", "update", "create"]


def test_sync_forgets_lines_when_a_run_is_interrupted(tmp_path: Path) -> None:
    """After updates of a run that did not end, the rows of the day before are sent again."""
    job = Job(tmp_path, "job", ".csv")
    job.run("id,name\nk1,A\nk2,A\nk3,A\n")
    assert job.run("id,name\nk1,B\nk2,stop\nk3,A\n") == "unauthorized"
    found = job.run("id,name\nk1,A\nk2,A\nk3,A\n")
    assert found == ({**dict.fromkeys(COUNTS, 0), "updated": 2, "unchanged": 1}, [])
    assert [row["name"] for row in job.shop.items.values()] == ["A", "A", "A"]


def test_sync_repeats_an_update_whose_response_was_lost(tmp_path: Path) -> None:
    """If the run ends with it, the row of the day before is sent again."""
    job = Job(tmp_path, "job", ".csv")
    job.run("id,name\nk1,A\nk2,A\n")
    assert job.run("id,name\nk1,done\nk2,A\n") == "unauthorized"
    found = job.run("id,name\nk1,A\nk2,A\n")
    assert found == ({**dict.fromkeys(COUNTS, 0), "updated": 1, "unchanged": 1}, [])
    assert [row["name"] for row in job.shop.items.values()] == ["A", "A"]


def test_sync_creates_again_what_it_has_deleted(tmp_path: Path) -> None:
    """If the run ended with the deletion, and the row is back, the item is created again."""
    job = Job(tmp_path, "job", ".csv")
    job.run("id,name\nk1,A\nk2,A\n")
    job.shop.is_closing = True
    assert job.run("id,name\nk1,A\n", on_missing="delete") == "unauthorized"
    found = job.run("id,name\nk1,A\nk2,A\n")
    assert found == ({**dict.fromkeys(COUNTS, 0), "created": 1, "unchanged": 1}, [])
    assert len(job.shop.items) == 2


def test_sync_reads_all_rows_if_columns_have_changed(tmp_path: Path, read: dict[str, bool]) -> None:
    """Equal lines under another header are other rows."""
    job = Job(tmp_path, "job", ".csv")
    job.run("id,name,x\nk1,A,B\nk2,C,D\n")
    read.clear()
    counts, _ = job.run("id,x,name\nk1,A,B\nk2,C,D\n")
    assert counts["updated"] == 2
    assert [*read] == ["k1", "k2"]


def test_sync_reads_all_rows_if_they_are_mapped_by_a_function(tmp_path: Path) -> None:
    """A function may return something else for the same row."""
    job = Job(tmp_path, "job", ".csv")
    name = "X"

    def renamed(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "name": name}

    job.run("id,name\nk1,A\n", map=renamed)
    name = "Y"
    counts, _ = job.run("id,name\nk1,A\n", map=renamed)
    assert counts["updated"] == 1
