"""A refresh brings the result of a pull up to date and reports what it could not verify."""

from __future__ import annotations

import asyncio
import csv
import errno
import json
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncclients import (
    ConfigurationError,
    InputError,
    IntouchClient,
    NotFoundError,
    Quota,
    SessionPool,
    StateError,
    StateMismatchError,
)
from asyncclients.backfill import Report, pull, read_status
from asyncclients.backfill.files.parquet import pyarrow
from asyncclients.backfill.state.item_table import ItemTable
from asyncclients.backfill.state.journal import connect
from asyncclients.cli.output import status_text
from asyncclients.paging import InvalidItem, Page, Paginator
from asyncclients.sandbox import Sandbox

Item = dict[str, Any]
BORN = datetime(2026, 1, 1, tzinfo=UTC)
SINCE = "items that the vendor has deleted are kept: since=at finds none"


def item(number: int, minute: float = 0.0, **fields: Any) -> Item:
    """Return an item that was last changed *minute* minutes after `BORN`."""
    at = (BORN + timedelta(minutes=minute)).isoformat()
    return {"id": number, "name": f"n{number}", "at": at, **fields}


class Server:
    """A list in pages of ten, in the order of `items`, or sorted by time, newest first.

    *before* is called with the number of each page before it is answered.
    """

    def __init__(self, items: int) -> None:
        self.items = [item(number, minute=number) for number in range(items)]
        self.asked: list[int] = []
        self.before: Callable[[int], None] = lambda _: None
        self.invalid: dict[int, list[InvalidItem]] = {}
        self.total: int | None = None
        self.has_total = True
        self.seconds = 1.0

    def change(self, number: int, minute: float, **fields: Any) -> None:
        """Change the item with the id *number*."""
        place = [each["id"] for each in self.items].index(number)
        self.items[place] = item(number, minute, **fields)

    def delete(self, *numbers: int) -> None:
        """Delete the items with these ids."""
        self.items = [each for each in self.items if each["id"] not in numbers]

    async def page(self, number: int) -> Page[Any]:
        return await self._page(number, lambda: self.items)

    async def _page(self, number: int, listed: Callable[[], list[Item]]) -> Page[Any]:
        self.asked.append(number)
        await asyncio.sleep(self.seconds)
        self.before(number)
        items = listed()
        return Page(
            items=items[10 * number - 10 : 10 * number],
            number=number,
            total=(self.total or len(items)) if self.has_total else None,
            last=10 * number >= len(items),
            invalid_items=self.invalid.get(number, []),
        )

    def _newest_first(self, field: str) -> Paginator[Any]:
        if field not in ("at", "none"):
            raise ConfigurationError(f"this list cannot be sorted by {field}")

        def listed() -> list[Item]:
            return sorted(self.items, key=lambda each: str(each["at"]), reverse=True)

        return Paginator(lambda number: self._page(number, listed))

    def list(self) -> Paginator[Any]:
        return Paginator(self.page, newest_first=self._newest_first)


class Store:
    """A sink that keeps its items by id."""

    def __init__(self) -> None:
        self.items: dict[int, Item] = {}
        self.calls: list[str] = []
        self.finished = 0

    async def open(self, position: Any) -> None:
        if position is None:
            self.items.clear()

    async def write(self, items: Sequence[Any]) -> None:
        self.calls.append(f"write {len(items)}")
        self.items |= {each["id"]: each for each in items}

    async def upsert(self, items: Sequence[Any]) -> None:
        self.calls.append(f"upsert {len(items)}")
        self.items |= {each["id"]: each for each in items}

    async def remove(self, keys: Sequence[Any]) -> None:
        self.calls.append(f"remove {[*keys]}")
        for key in keys:
            self.items.pop(key, None)

    async def flush(self) -> int:
        return len(self.items)

    async def finish(self) -> None:
        self.finished += 1

    async def close(self) -> None:
        pass


class Job:
    """The pulls of one list into one file, with its changes."""

    def __init__(self, folder: Path, server: Server, suffix: str = ".jsonl") -> None:
        self.to, self.state = folder / f"out{suffix}", folder / "pull.db"
        self.changes, self.server = folder / "changes.jsonl", server

    async def pull(self, **options: Any) -> Report:
        return await pull(self.server.list(), self.to, state=self.state, **options)

    async def refresh(self, since: str | None = None, **options: Any) -> Report:
        return await self.pull(refresh=True, since=since, changes=self.changes, **options)

    def rows(self) -> list[Item]:
        return [json.loads(line) for line in self.to.read_bytes().splitlines()]

    def ids(self) -> list[int]:
        return [row["id"] for row in self.rows()]

    def differences(self) -> list[tuple[str, Any]]:
        lines = [json.loads(line) for line in self.changes.read_bytes().splitlines()]
        return [(line["op"], line["key"]) for line in lines]


def counts(report: Report) -> tuple[int, int, int, int]:
    """Return the numbers of added, changed, removed and unchanged items."""
    return report.added, report.changed, report.removed, report.unchanged


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path, Server(50))


pytestmark = pytest.mark.virtual_time


# --- The whole list -------------------------------------------------------------------------


async def test_refresh_brings_file_up_to_date(job: Job) -> None:
    """New items are added, changed ones replaced in place, and deleted ones removed."""
    await job.pull()
    job.server.change(7, 60, name="new")
    job.server.delete(3, 20)
    job.server.items += [item(50), item(51)]
    report = await job.refresh()
    assert counts(report) == (2, 1, 2, 47)
    assert (report.done, report.total, report.unverified) == (50, 50, ())
    assert job.rows() == job.server.items
    assert job.differences() == [
        ("removed", 3),
        ("changed", 7),
        ("removed", 20),
        ("added", 50),
        ("added", 51),
    ]
    lines = [json.loads(line) for line in job.changes.read_bytes().splitlines()]
    assert lines[0]["item"] == item(3, 3)
    assert lines[1]["item"] == item(7, 60, name="new")


async def test_refresh_without_differences_keeps_file(job: Job) -> None:
    """The file is not written again, and the file of changes becomes empty."""
    await job.pull()
    job.server.delete(1)
    await job.refresh()
    before = job.to.stat()
    report = await job.refresh()
    assert counts(report) == (0, 0, 0, 49)
    assert job.to.stat() == before
    assert job.changes.read_bytes() == b""
    assert not job.to.with_name("out.jsonl.part").exists()


async def test_first_refresh_is_a_pull(job: Job) -> None:
    """Without an earlier pull, all items are added."""
    assert counts(await job.refresh("at")) == (50, 0, 0, 0)
    assert job.rows() == job.server.items
    assert len(job.differences()) == 50


async def test_complete_pull_after_refresh_does_nothing(job: Job) -> None:
    """A run without refresh= sends nothing and reports the complete result."""
    await job.refresh()
    job.server.asked.clear()
    report = await job.pull()
    assert (report.done, report.requests, job.server.asked) == (50, 0, [])
    status = read_status(job.state)
    assert status.complete
    assert status.refreshed is not None
    assert status.refreshed.added == 50


async def test_refresh_keeps_order_first_seen(job: Job) -> None:
    """A list in another order than before changes nothing in the file."""
    await job.pull()
    job.server.items.reverse()
    assert counts(await job.refresh()) == (0, 0, 0, 50)
    assert job.ids() == [*range(50)]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
async def test_refresh_after_pull_with_invalid_items(tmp_path: Path, suffix: str) -> None:
    """The items of a resumed pull are known, without those that it could not read or write."""
    server = Server(50)
    job = Job(tmp_path, server, suffix)
    server.items[15] = {**server.items[15], "name": nan}
    server.invalid[1] = [InvalidItem(raw=b"broken", reason="not JSON")]
    server.total = 51
    server.before = fail_at(4)
    with pytest.raises(NotFoundError):
        await job.pull(prefetch=0)
    report = await job.pull()
    assert (report.done, report.failed) == (49, 2)
    server.invalid.clear()
    server.items[15] = item(15)
    server.total = None
    server.delete(30)
    assert counts(await job.refresh()) == (1, 0, 1, 48)
    assert job.differences() == [("removed", 30), ("added", 15)]
    assert counts(await job.refresh("at")) == (0, 0, 0, 49)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
async def test_refresh_of_tables(tmp_path: Path, suffix: str) -> None:
    """A CSV or Parquet file is replaced by one with all items, old ones included."""
    job = Job(tmp_path, Server(30), suffix)
    await job.pull()
    job.server.delete(0)
    assert counts(await job.refresh()) == (0, 0, 1, 29)
    job.server.change(7, 60, more=1)
    assert counts(await job.refresh("at")) == (0, 1, 0, 28)
    if suffix == ".csv":
        with job.to.open(newline="") as file:
            rows: list[Any] = [*csv.DictReader(file)]
    else:
        rows = pyarrow().read_table(job.to).to_pylist()
    assert [int(row["id"]) for row in rows] == [*range(1, 30)]
    assert [row["more"] for row in rows if row["more"]] in (["1"], [1])


async def test_refresh_after_interrupted_pull_reads_everything(job: Job) -> None:
    """The pages of an interrupted pull may be outdated, so the refresh reads them again."""
    job.server.before = fail_at(4)
    with pytest.raises(NotFoundError):
        await job.pull(prefetch=0)
    job.server.change(0, 70, name="new")
    report = await job.refresh()
    assert counts(report) == (50, 0, 0, 0)
    assert job.rows() == job.server.items
    assert sorted(path.name for path in job.to.parent.iterdir()) == [
        "changes.jsonl",
        "out.jsonl",
        "pull.db",
    ]


# --- Lists that change while they are read --------------------------------------------------


def fail_at(number: int) -> Callable[[int], None]:
    """Return a function that raises once, for page *number*."""
    pages = iter([number])

    def before(page: int) -> None:
        if page == number and next(pages, None):
            raise NotFoundError("gone")

    return before


async def test_refresh_counts_shifted_item_once(job: Job) -> None:
    """An item that appears on two pages is one item; none is removed or added by it."""
    await job.pull()

    def shift(page: int) -> None:
        if page == 3 and len(job.server.items) == 50:
            job.server.items.insert(0, item(99))

    job.server.before = shift
    report = await job.refresh(prefetch=0)
    assert counts(report) == (1, 0, 0, 50)
    assert sorted(job.ids()) == [*range(50), 99]
    assert report.skipped >= 1


async def test_refresh_keeps_items_that_may_be_hidden(job: Job) -> None:
    """If fewer items are found than the vendor counts, those not found are kept, and named."""
    await job.pull()
    job.server.delete(3)
    job.server.total = 50
    report = await job.refresh()
    assert counts(report) == (0, 0, 0, 50)
    assert "1 items that were not found again are kept: they may be hidden" in report.unverified
    assert job.ids() == [*range(50)]
    job.server.total = None
    assert counts(await job.refresh()) == (0, 0, 1, 49)


async def test_refresh_without_total_reads_twice_before_it_removes(job: Job) -> None:
    """If the vendor gives no count, an item is removed after a second reading without it."""
    job.server.has_total = False
    await job.pull()

    def delete(page: int) -> None:  # the first item of page 4 moves to page 3
        if page == 4:
            job.server.delete(5)

    job.server.before = delete
    job.server.asked.clear()
    report = await job.refresh(prefetch=0)
    assert job.server.asked == [*range(1, 6)] * 2
    assert counts(report) == (0, 0, 0, 50)
    assert counts(await job.refresh()) == (0, 0, 1, 49)
    job.server.asked.clear()
    await job.refresh()
    assert {*job.server.asked} == {*range(1, 6)}
    assert len(job.server.asked) == 5


async def test_refresh_counts_item_twice_on_a_page_once(job: Job) -> None:
    """An item that is twice on one page is one item, with its last content."""
    await job.pull()
    job.server.items.insert(1, item(0, 1, name="new"))
    job.server.total = 50
    report = await job.refresh()
    assert (counts(report), report.skipped, report.unverified) == ((0, 1, 0, 49), 1, ())
    assert job.rows()[0]["name"] == "new"


@pytest.mark.parametrize("raw", [b'{"id": 7, "name": 1}', b"broken"])
async def test_refresh_keeps_unreadable_items(job: Job, raw: bytes) -> None:
    """An item that became unreadable stays as it was; without a key, nothing is removed."""
    await job.pull()
    job.server.delete(7, 8)
    job.server.invalid[1] = [InvalidItem(raw=raw, reason="name")]
    job.server.total = 49
    report = await job.refresh()
    has_key = raw != b"broken"
    assert counts(report) == (0, 0, has_key, 50 - has_key)
    assert (7 in job.ids(), 8 in job.ids()) == (True, not has_key)
    for each in (report, await job.pull()):
        assert (each.failed, each.failures) == (1, f"{job.state}.failed.jsonl")
        assert len(Path(f"{job.state}.failed.jsonl").read_bytes().splitlines()) == 1


# --- New and changed items only -------------------------------------------------------------


async def test_refresh_since_reads_newest_pages(job: Job) -> None:
    """The list is read newest first, to the first page that is older; deletions are not found."""
    await job.pull()
    await job.refresh()
    job.server.change(0, 60, name="new")
    job.server.items.append(item(50, 61))
    job.server.delete(30)
    job.server.asked.clear()
    report = await job.refresh("at", lag=60.0)
    assert counts(report) == (1, 1, 0, 49)
    assert job.server.asked == [1, 2]
    assert report.unverified == (SINCE, "the vendor counts 50 items, the result has 51")
    assert job.ids() == [*range(51)]
    assert job.differences() == [("changed", 0), ("added", 50)]
    status = read_status(job.state)
    assert status.refreshed is not None
    assert status.refreshed.since == "at"
    assert counts(await job.refresh()) == (0, 0, 1, 50)


async def test_refresh_since_after_pull_uses_its_file(job: Job) -> None:
    """The newest known time comes from the items of the pull, less the time that it took."""
    await job.pull()
    job.server.change(5, 55)
    job.server.asked.clear()
    assert counts(await job.refresh("at", lag=0.0)) == (0, 1, 0, 49)
    assert job.server.asked == [1, 2]


async def test_refresh_since_finds_change_during_full_reading(job: Job) -> None:
    """An item that changes after its page was read is found by the next refresh."""

    def change(page: int) -> None:
        if page == 3:
            job.server.change(0, 49.01, name="new")
            job.server.change(45, 49.05)

    job.server.before = change
    await job.pull(prefetch=0)
    assert job.rows()[0]["name"] == "n0"
    job.server.before = lambda _: None
    assert counts(await job.refresh("at", lag=0.0)) == (0, 1, 0, 49)
    assert job.rows()[0]["name"] == "new"


async def test_refresh_since_with_equal_times(job: Job) -> None:
    """Items with the newest known time are read again, however many there are."""
    job.server.items = [item(number) for number in range(50)]
    await job.pull()
    job.server.items[0] = item(0, name="new")
    assert counts(await job.refresh("at")) == (0, 1, 0, 49)


async def test_refresh_since_survives_time_in_the_future(job: Job) -> None:
    """An item with a time far in the future does not hide later changes."""
    job.server.items[5] = item(5, minute=60 * 24 * 365 * 100)
    await job.refresh("at")
    await job.refresh("at")
    job.server.change(7, 100, name="new")
    assert counts(await job.refresh("at")) == (0, 1, 0, 49)


@pytest.mark.parametrize("factor", [1, 1000])
async def test_refresh_since_accepts_numbers(job: Job, factor: int) -> None:
    """A time may be a number of seconds or milliseconds since 1970."""
    for number, each in enumerate(job.server.items):
        each["at"] = factor * (1_767_225_600 + 60 * number)
    await job.pull()
    job.server.asked.clear()
    assert counts(await job.refresh("at", lag=0.0)) == (0, 0, 0, 50)
    assert job.server.asked == [1, 2]


async def test_refresh_since_reads_on_after_interruption(job: Job) -> None:
    """A resumed refresh continues at its page, and the next one finds later changes."""
    await job.pull()
    for number in range(30):
        job.server.change(number, 100 + number, name="new")
    job.server.before = fail_at(3)
    with pytest.raises(NotFoundError):
        await job.refresh("at")
    job.server.change(40, 200, name="newer")
    job.server.asked.clear()
    await job.refresh("at")
    assert job.server.asked[0] == 2
    await job.refresh("at")
    assert job.rows() == job.server.items


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"since": "at"}, "since is only for a refresh"),
        ({"changes": "c.jsonl"}, "changes is only for a refresh"),
        ({"refresh": True, "since": ""}, "since must be text"),
        ({"refresh": True, "since": "name"}, "cannot be sorted by name"),
        ({"refresh": True, "lag": -1.0}, "lag must be"),
        ({"refresh": True, "lag": inf}, "lag must be a finite number"),
        ({"refresh": 1}, "refresh must be bool, not 1"),
        ({"refresh": True, "changes": "no/such/folder"}, "in one that does not exist"),
    ],
)
async def test_refresh_rejects_wrong_arguments(
    job: Job, options: dict[str, Any], match: str
) -> None:
    """A wrong argument is rejected before anything is sent or written."""
    with pytest.raises((ConfigurationError, InputError), match=match):
        await job.pull(**options)
    assert (job.server.asked, [*job.to.parent.iterdir()]) == ([], [])


async def test_refresh_rejects_list_that_cannot_be_sorted(job: Job) -> None:
    """A paginator without `newest_first` is rejected."""
    with pytest.raises(ConfigurationError, match="cannot be sorted by 'at'"):
        await pull(Paginator(job.server.page), job.to, state=job.state, refresh=True, since="at")


async def test_refresh_rejects_field_without_times(job: Job) -> None:
    """A field that has no time in any item is named before anything is sent."""
    await job.pull()
    job.server.asked.clear()
    with pytest.raises(ConfigurationError, match="no item has a time in this field"):
        await job.refresh("none")
    assert job.server.asked == []


async def test_refresh_rejects_items_without_key(job: Job) -> None:
    """An item without the key is an error that names the field."""
    await job.pull()
    job.server.items[30] = {"name": "x"}
    with pytest.raises(ConfigurationError, match="an item has no uuid and no id"):
        await job.refresh()


@pytest.mark.parametrize("name", ["out.jsonl", "pull.db", "out.jsonl.part", "pull.db.lock"])
async def test_refresh_rejects_changes_that_are_another_file(job: Job, name: str) -> None:
    """The file of changes is neither the result nor the state, nor one of their files."""
    job.changes = job.to.with_name(name)
    with pytest.raises(InputError, match="file of changes of this job"):
        await job.refresh()


async def test_refresh_that_cannot_write_changes_leaves_no_open_file(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While somebody keeps the error, the state is closed all the same."""
    await job.pull()
    job.server.items = [item(number, name="other") for number in range(50)]

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(ItemTable, "_key_of", full)
        with pytest.raises(StateError) as kept:
            await job.refresh()
    with closing(connect(job.state, "rw")) as database:
        (busy, *_) = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert (busy, kept.type) == (0, StateError)


# --- Files and sinks ------------------------------------------------------------------------


@pytest.mark.parametrize("refreshed", [False, True])
async def test_refresh_names_file_that_was_edited(job: Job, refreshed: bool) -> None:
    """A file that something else has changed or removed is reported, and not overwritten."""
    await (job.refresh() if refreshed else job.pull())
    content = job.to.read_bytes()
    job.to.write_bytes(content.replace(b"n7", b"n8"))
    with pytest.raises(StateMismatchError, match="was changed by something else"):
        await job.refresh()
    job.to.unlink()
    with pytest.raises(StateMismatchError, match="is missing"):
        await job.refresh()
    job.to.write_bytes(content)
    assert counts(await job.refresh()) == (0, 0, 0, 50)


async def test_refresh_of_sink_passes_differences(tmp_path: Path) -> None:
    """A sink gets the new and changed items, then the keys of the removed ones."""
    server, store, state = Server(30), Store(), tmp_path / "s.db"
    await pull(server.list(), store, state=state)
    server.change(7, 60, name="new")
    server.delete(12)
    server.items.append(item(30))
    store.calls.clear()
    report = await pull(server.list(), store, state=state, refresh=True)
    assert store.calls == ["upsert 1", "upsert 1", "remove [12]"]
    assert [*store.items.values()] == server.items
    assert counts(report) == (1, 1, 1, 28)
    assert store.finished == 2
    server.change(29, 90, name="newer")
    server.asked.clear()
    report = await pull(server.list(), store, state=state, refresh=True, since="at")
    assert (counts(report), server.asked[-1]) == ((0, 1, 0, 29), 2)
    assert store.items[29] == item(29, 90, name="newer")


async def test_refresh_rejects_sink_without_upsert(job: Job) -> None:
    """A sink that cannot replace items is rejected before anything is sent."""

    class Plain:
        async def open(self, position: Any) -> None: ...
        async def write(self, items: Sequence[Any]) -> None: ...
        async def flush(self) -> Any: ...
        async def finish(self) -> None: ...
        async def close(self) -> None: ...

    with pytest.raises(ConfigurationError, match="has no methods upsert and remove"):
        await pull(job.server.list(), Plain(), state=job.state, refresh=True)


async def test_refresh_resumes_without_reading_again(job: Job) -> None:
    """An interrupted refresh leaves the old file, and the next run continues at its page."""
    await job.pull()
    before = job.to.read_bytes()
    job.server.change(1, 60)
    job.server.before = fail_at(4)
    with pytest.raises(NotFoundError):
        await job.refresh(prefetch=0)
    assert job.to.read_bytes() == before
    again = await job.pull()
    assert (again.requests, again.complete) == (0, True), "without refresh= it is complete"
    assert read_status(job.state).refreshing == 30
    assert "Refresh interrupted, 30 items read" in status_text(read_status(job.state))
    job.server.asked.clear()
    report = await job.refresh()
    assert {*job.server.asked} == {3, 4, 5}
    assert counts(report) == (0, 1, 0, 49)
    assert job.rows() == job.server.items


async def test_pull_keeps_unreadable_items_of_interrupted_refresh(job: Job) -> None:
    """A complete pull run again leaves the file that an interrupted refresh has begun."""
    await job.pull()
    job.server.invalid[2] = [InvalidItem(raw=b"broken", reason="no JSON")]
    job.server.before = fail_at(4)
    with pytest.raises(NotFoundError):
        await job.refresh(prefetch=0)
    assert (await job.pull()).complete
    report = await job.refresh()
    assert (report.failed, report.failures) == (1, f"{job.state}.failed.jsonl")
    assert len(Path(f"{job.state}.failed.jsonl").read_bytes().splitlines()) == 1


async def test_refresh_of_whole_list_replaces_one_since(job: Job) -> None:
    """A refresh of the whole list does not continue one that was begun with since=."""
    await job.pull()
    for number in range(30):
        job.server.change(number, 100 + number, name="new")
    job.server.before = fail_at(2)
    with pytest.raises(NotFoundError):
        await job.refresh("at")
    job.server.delete(2)
    assert counts(await job.refresh()) == (0, 29, 1, 20)
    assert job.rows() == job.server.items


async def test_unfinished_first_refresh_is_resumed_by_pull(job: Job) -> None:
    """Without a complete result, a run without refresh= continues the first reading."""
    job.server.before = fail_at(4)
    with pytest.raises(NotFoundError):
        await job.refresh(prefetch=0)
    job.server.asked.clear()
    report = await job.pull()
    assert {*job.server.asked} == {3, 4, 5}
    assert (report.done, report.unverified) == (50, ())
    assert job.rows() == job.server.items


async def test_refresh_resumes_after_file_was_replaced(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a crash between file and record, the next run sends nothing and has the same changes."""
    await job.pull()
    job.server.change(1, 60)

    async def crash(*_: Any) -> None:
        raise NotFoundError("crash")

    with monkeypatch.context() as patch:
        patch.setattr(ItemTable, "publish", crash)
        with pytest.raises(NotFoundError):
            await job.refresh()
    changes = job.changes.read_bytes()
    job.server.asked.clear()
    report = await job.refresh()
    assert job.server.asked == []
    assert counts(report) == (0, 1, 0, 49)
    assert job.changes.read_bytes() == changes
    assert job.rows() == job.server.items


async def test_refresh_reports_result_of_killed_run(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run killed after it has published is reported by the next one, with its changes."""
    await job.pull()
    job.server.change(1, 60)

    async def crash(_: Any) -> None:
        raise NotFoundError("crash")

    with monkeypatch.context() as patch:
        patch.setattr(ItemTable, "record_report", crash)
        with pytest.raises(NotFoundError):
            await job.refresh()
    changes = job.changes.read_bytes()
    job.server.asked.clear()
    report = await job.refresh()
    assert (counts(report), report.done, job.server.asked) == ((0, 1, 0, 49), 50, [])
    assert job.changes.read_bytes() == changes
    assert counts(await job.refresh()) == (0, 0, 0, 50)


@pytest.mark.parametrize("since", [None, "at"])
@pytest.mark.timeout(120)
async def test_refresh_survives_cancellation_at_any_step(tmp_path: Path, since: str | None) -> None:
    """Cancelled after any number of steps, the file is the old or the new one; then it resumes."""
    for steps in range(0, 400, 25):
        folder = tmp_path / str(steps)
        folder.mkdir()
        job = Job(folder, Server(30))
        await job.pull()
        old = job.rows()
        job.server.change(3, 60, name="new")
        job.server.items.append(item(30, 61))
        task = asyncio.create_task(job.refresh(since))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert job.rows() in (old, job.server.items)
        await job.refresh(since)
        assert job.rows() == job.server.items


Step = st.lists(
    st.tuples(st.sampled_from(["add", "change", "delete"]), st.integers(0, 20)), max_size=8
)


@settings(max_examples=8)
@given(steps=st.lists(Step, max_size=4))
def test_changes_lead_from_one_file_to_the_next(
    steps: list[list[tuple[str, int]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """After any changes the file is the vendor's list, and the changes describe the difference."""

    async def run() -> None:
        server = Server(15)
        server.seconds = 0.0
        job = Job(tmp_path_factory.mktemp("job"), server)
        await job.pull()
        copy = {row["id"]: row for row in job.rows()}
        for number, step in enumerate(steps, 1):
            for op, target in step:
                ids = [each["id"] for each in server.items]
                if op == "delete":
                    server.delete(target)
                elif target in ids:
                    server.change(target, 100 * number, name=f"{op} {number}")
                elif op == "add":
                    server.items.append(item(target, 100 * number))
            await job.refresh()
            assert sorted(job.ids()) == sorted(each["id"] for each in server.items)
            for line in job.changes.read_bytes().splitlines():
                change = json.loads(line)
                known = copy.pop(change["key"], None)
                assert (known is None) == (change["op"] == "added")
                if change["op"] != "removed":
                    assert known != change["item"]
                    copy[change["key"]] = change["item"]
            assert copy == {row["id"]: row for row in job.rows()}

    asyncio.run(run())


async def test_refresh_of_sandbox_since_updated_at(tmp_path: Path) -> None:
    """Against the mock of Intouch, a nightly refresh costs the pages that changed."""
    async with Sandbox({"intouch": (1_000_000, 1.0)}) as sandbox, SessionPool() as pool:
        held = sandbox.state("intouch")
        held.grow(contacts=300, every=60.0)
        intouch = IntouchClient.from_env(pool, sandbox.environ, quotas=[Quota(10_000, 1.0)])
        contacts, to = intouch.contacts.list(sort_by="created_at"), tmp_path / "contacts.jsonl"
        state = tmp_path / "contacts.db"
        await pull(contacts, to, state=state)
        uuid = [*held.contacts][7]
        await intouch.contacts.unsubscribe(uuid)
        report = await pull(contacts, to, state=state, refresh=True, since="updated_at")
    assert counts(report) == (0, 1, 0, 299)
    assert report.requests == 2
    rows = [json.loads(line) for line in to.read_bytes().splitlines()]
    assert [row["uuid"] for row in rows] == [*held.contacts]
    assert rows[7]["status"] == "unsubscribed"
