"""A pull writes the vendor's list, or its report names what is not verified."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from math import nan
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asyncclients import (
    BackfillStoppedError,
    ConnectError,
    InputError,
    IntouchClient,
    NotFoundError,
    PaginationError,
    Quota,
    SessionPool,
    StateMismatchError,
)
from asyncclients.backfill import Progress, pull, pull_run, read_status
from asyncclients.backfill.files import sink as sinks
from asyncclients.backfill.files.parquet import pyarrow
from asyncclients.backfill.state.identity import JobIdentity
from asyncclients.backfill.state.journal import Journal
from asyncclients.backfill.state.pull_state import SeenItems, text_of
from asyncclients.paging import Page, Paginator
from asyncclients.sandbox import Sandbox


class Item(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    name: str = "x"
    at: datetime | None = None
    tags: list[str] | None = None


class Server:
    """A list in pages of ten; *before* a page is answered, the list may change."""

    def __init__(self, items: int, *, total: bool = True) -> None:
        self.items: list[Any] = [Item(id=number) for number in range(items)]
        self.asked: list[int] = []
        self.before: Callable[[int], None] = lambda _: None
        self.seconds: dict[int, float] = {}
        self._total = total
        self.under_way = self.most_under_way = 0

    async def page(self, number: int) -> Page[Any]:
        self.asked.append(number)
        self.under_way += 1
        self.most_under_way = max(self.under_way, self.most_under_way)
        await asyncio.sleep(self.seconds.get(number, 0.01))
        self.under_way -= 1
        self.before(number)
        items = self.items[10 * number - 10 : 10 * number]
        last = 10 * number >= len(self.items)
        total = len(self.items) if self._total else None
        return Page(items=items, number=number, total=total, last=last)

    def list(self) -> Paginator[Any]:
        return Paginator(self.page)


class Memory:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.items: list[Any] = []

    async def open(self, position: Any) -> None:
        pass

    async def write(self, items: Sequence[Any]) -> None:
        self.items.extend(items)

    async def flush(self) -> int:
        return len(self.items)

    async def finish(self) -> None:
        pass

    async def close(self) -> None:
        pass


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "pull.db"


def ids(path: Path) -> list[int]:
    return [msgspec.json.decode(line)["id"] for line in path.read_bytes().splitlines()]


# --- The plain list ----------------------------------------------------------------


async def test_pull_writes_whole_list(sandbox: Sandbox, to: Path, state: Path) -> None:
    """Every contact is written once, in order, with the vendor's count; a second run does nothing."""
    sandbox.state("intouch").grow(contacts=260)
    async with SessionPool() as pool:
        intouch = IntouchClient.from_env(pool, sandbox.environ, quotas=[Quota(10_000, 1.0)])
        listed = intouch.contacts.list(sort_by="created_at")
        report = await pull(listed, to, state=state)
        again = await pull(listed, to, state=state)
    uuids = [msgspec.json.decode(line)["uuid"] for line in to.read_bytes().splitlines()]
    assert uuids == list(sandbox.state("intouch").contacts)
    assert (report.done, report.total, report.unverified, report.skipped) == (260, 260, (), 0)
    assert (report.requests, report.rejected) == (11, 0)
    assert 0 < report.quota_use < 1
    assert (again.done, again.requests) == (260, 0)
    assert read_status(state).complete


@pytest.mark.virtual_time
async def test_pull_prefetches_a_bounded_number_of_pages(to: Path, state: Path) -> None:
    """*prefetch* pages beyond the next are requested; none twice, and none beyond the last."""
    server = Server(1000)
    report = await pull(server.list(), to, state=state, prefetch=4)
    assert ids(to) == list(range(1000))
    assert server.most_under_way == 1 + 4
    assert sorted(server.asked) == list(range(1, 101))
    assert report.seconds < 0.4


@pytest.mark.virtual_time
async def test_pull_keeps_order_behind_a_late_page(to: Path, state: Path) -> None:
    """Pages keep their order, and few are fetched while a late one is awaited."""
    server = Server(1000)
    server.seconds[30] = 5.0
    asked: list[int] = []
    server.before = lambda number: asked.extend(server.asked) if number == 30 else None
    report = await pull(server.list(), to, state=state, prefetch=4)
    assert ids(to) == list(range(1000))
    assert max(asked) == 30 + 2 * 4
    assert sorted(server.asked) == list(range(1, 101))
    assert 5.0 < report.seconds < 5.5


@pytest.mark.virtual_time
async def test_pull_waits_for_slow_sink(state: Path) -> None:
    """Few pages are fetched while one is written, and writes never overlap."""
    server, written = Server(500), list[int]()
    furthest = 0

    class Slow(Memory):
        writing = False

        async def write(self, items: Sequence[Any]) -> None:
            nonlocal furthest
            assert not self.writing
            self.writing = True
            furthest = max(furthest, max(server.asked) - items[-1].id // 10)
            await asyncio.sleep(1.0)
            written.extend(item.id for item in items)
            self.writing = False

    await pull(server.list(), Slow(), state=state, prefetch=3)
    assert written == list(range(500))
    assert furthest <= 1 + 1 + 2 * 3


@pytest.mark.virtual_time
async def test_pull_writes_pages_before_a_failed_one(state: Path) -> None:
    """Pages before one that fails are written, even if they arrive later."""
    server, sink = Server(100), Memory()

    async def page(number: int) -> Page[Any]:
        if number == 5:
            raise NotFoundError("no such page")
        return await server.page(number)

    with pytest.raises(NotFoundError):
        await pull(Paginator(page), sink, state=state)
    assert [item.id for item in sink.items] == list(range(40))
    assert not asyncio.all_tasks() - {asyncio.current_task()}


@pytest.mark.virtual_time
@pytest.mark.parametrize("items", [0, 1, 10, 11])
async def test_pull_reads_short_lists(to: Path, state: Path, items: int) -> None:
    """Empty lists and lists of exactly one page are read."""
    report = await pull(Server(items).list(), to, state=state)
    assert ids(to) == list(range(items))
    assert (report.done, report.unverified) == (items, ())


@pytest.mark.virtual_time
async def test_pull_without_total_is_unverified(to: Path, state: Path) -> None:
    """Without a total the pull is unverified and reads page by page."""
    server = Server(35, total=False)
    report = await pull(server.list(), to, state=state)
    assert ids(to) == list(range(35))
    assert server.most_under_way == 1
    assert report.unverified == ("the vendor gives no count to compare with",)


async def test_pull_reads_other_sources(to: Path, state: Path) -> None:
    """An async iterable of pages and an awaitable of a list can be pulled."""

    async def pages() -> AsyncIterator[Page[Any]]:
        yield Page(items=[Item(id=1)], number=1)
        yield Page(items=[Item(id=2)], number=2, total=2, last=True)

    async def whole() -> Sequence[Any]:
        return [{"id": 1}, {"id": 2}]

    report = await pull(pages(), to, state=state)
    assert (ids(to), report.unverified) == ([1, 2], ())
    report = await pull(whole(), to, state=state.with_name("other.db"))
    assert (ids(to), report.unverified) == ([1, 2], ())


# --- Lists that change ----------------------------------------------------------------


def at_page(server: Server, number: int, change: Callable[[], None]) -> None:
    """Make *change* once, before page *number* is answered."""

    def before(page: int) -> None:
        if page == number:
            server.before = lambda _: None
            change()

    server.before = before


@pytest.mark.virtual_time
async def test_pull_reads_again_after_deletions(to: Path, state: Path) -> None:
    """Items that a deletion moved to an earlier page are found by a second pass."""
    server = Server(200)
    at_page(server, 10, lambda: server.items.__delitem__(slice(0, 15)))
    report = await pull(server.list(), to, state=state, prefetch=2)
    found = ids(to)
    assert len(found) == len(set(found))
    assert set(range(15, 200)) <= set(found)
    assert any("deleted while" in doubt for doubt in report.unverified)


@pytest.mark.virtual_time
async def test_pull_drops_duplicates(to: Path, state: Path) -> None:
    """Items that an insertion moved to the next page are written once."""
    server = Server(100)
    new = [Item(id=number) for number in range(1000, 1005)]
    at_page(server, 5, lambda: server.items.__setitem__(slice(0, 0), new))
    report = await pull(server.list(), to, state=state, prefetch=0)
    assert sorted(ids(to)) == [item.id for item in sorted(server.items, key=lambda item: item.id)]
    assert report.skipped == 5
    assert (report.done, report.total, report.unverified) == (105, 105, ())


@pytest.mark.virtual_time
async def test_resumed_pull_goes_back_to_a_known_item(to: Path, state: Path) -> None:
    """After deletions between two runs, the second goes back until it finds a known item."""
    server = Server(300)

    def fail() -> None:
        raise NotFoundError("gone")

    at_page(server, 20, fail)
    with pytest.raises(NotFoundError):
        await pull(server.list(), to, state=state, prefetch=0)
    assert not to.exists()
    del server.items[50:85]
    server.asked.clear()
    await pull(server.list(), to, state=state)
    assert set(ids(to)) >= {item.id for item in server.items}
    assert server.asked[:4] == [19, 18, 17, 16]


@pytest.mark.virtual_time
async def test_pull_of_items_without_ids(to: Path, state: Path) -> None:
    """Without keys no item is dropped as a duplicate, and the report has a warning."""
    server = Server(0)
    server.items = [{"name": "same"}] * 25
    with pytest.raises(PaginationError):
        await pull(server.list(), to, state=state)
    server.items = [{"name": "same", "n": number // 2} for number in range(25)]
    report = await pull(server.list(), to, state=state.with_name("b.db"))
    assert (report.done, report.total) == (25, 25)
    assert len(report.unverified) == 1
    assert "key=" in report.unverified[0]
    report = await pull(server.list(), to, state=state.with_name("c.db"), key="n")
    assert (report.done, report.skipped) == (13, 12)


@pytest.mark.virtual_time
async def test_pull_stops_at_a_repeated_page(to: Path, state: Path) -> None:
    """A server that gives the same items for every page ends the pull with an error."""
    server = Server(10)

    async def page(number: int) -> Page[Any]:
        return Page(items=server.items, number=number, total=1000)

    with pytest.raises(PaginationError, match="same items"):
        await pull(Paginator(page), to, state=state)


# --- Stopping and resuming ------------------------------------------------------------


@pytest.mark.virtual_time
async def test_pull_waits_during_an_outage(to: Path, state: Path) -> None:
    """An outage of ten minutes is waited out; one longer than max_outage stops the run."""
    server = Server(200)
    loop = asyncio.get_running_loop()
    back_at = loop.time() + 600

    def away(number: int) -> None:
        if number >= 10 and loop.time() < back_at:
            raise ConnectError("away")

    server.before = away
    with pytest.raises(BackfillStoppedError, match="no usable response") as caught:
        await pull(server.list(), to, state=state, max_outage=60)
    assert caught.value.report.done == 90
    report = await pull(server.list(), to, state=state)
    assert (ids(to), report.unverified) == (list(range(200)), ())
    assert len(server.asked) < 100


@pytest.mark.parametrize("buffer", [2**20, 500])
async def test_pull_resumes_after_cancellation_at_any_step(
    buffer: int, to: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs cancelled while they fetch, write or save still write every item once."""
    monkeypatch.setattr(sinks, "_BUFFER", buffer)
    monkeypatch.setattr(pull_run, "_SAVE_INTERVAL", 0.0)
    server = Server(400)
    server.seconds = dict.fromkeys(range(1, 41), 0.0)
    steps, cancelled, report = 20.0, 0, None
    while report is None:
        work = asyncio.create_task(pull(server.list(), to, state=state, prefetch=3))
        for _ in range(int(steps)):
            await asyncio.sleep(0)
        work.cancel()
        steps *= 1.1
        try:
            report = await work
        except asyncio.CancelledError:
            cancelled += 1
    assert (ids(to), report.unverified, report.total) == (list(range(400)), (), 400)
    assert cancelled > 1


async def test_seen_items_keep_all_keys(state: Path) -> None:
    """Keys of several saves at the same page are kept."""
    for run in range(3):
        journal = await Journal.open(state, JobIdentity(kind="pull", source="s", target="t"))
        items = await SeenItems.load(journal)
        assert all(
            await items.known([f"{n}{more}" for n in range(run) for more in ("", " and more")])
        )
        for name in (f"{run}", f"{run} and more"):
            assert items.add([name], [1]) == []
            items.state.page = 7
            await items.save()
        await journal.aclose()


async def test_seen_items_keep_keys_of_any_form(state: Path) -> None:
    """Keys of several lines, empty ones, surrogates and other types are kept."""
    names = [text_of(key) for key in ("", "two\nlines", "ü\r", "\ud800", 7, ("a", 7))]
    for found in ([], [*range(len(names))]):
        journal = await Journal.open(state, JobIdentity(kind="pull", source="s", target="t"))
        items = await SeenItems.load(journal)
        assert items.add(names, [1] * len(names)) == found
        await items.save()
        await journal.aclose()


@pytest.mark.virtual_time
async def test_pull_ends_in_order_when_a_page_raises_generator_exit(to: Path, state: Path) -> None:
    """The run saves and closes its state before it raises the error; the next run resumes."""
    server = Server(100)

    def fail(number: int) -> None:
        if number == 5:
            raise GeneratorExit

    server.before, server.seconds[5] = fail, 1.0  # so that the run waits for it
    with pytest.raises(GeneratorExit):
        await pull(server.list(), to, state=state)
    assert read_status(state).done == 40
    server.before = lambda _: None
    await pull(server.list(), to, state=state)
    assert ids(to) == list(range(100))


@pytest.mark.virtual_time
async def test_pull_saves_when_cancelled(to: Path, state: Path) -> None:
    """Pages read before a cancellation are kept, and at most one is read again."""
    server = Server(1000)
    work = asyncio.create_task(pull(server.list(), to, state=state, prefetch=0))
    await asyncio.sleep(0.505)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert read_status(state).done == 500
    server.asked.clear()
    await pull(server.list(), to, state=state)
    assert (ids(to), server.asked[0]) == (list(range(1000)), 50)


class Shaky:
    """A sink in memory that fails at some write or flush; what was not flushed is lost then."""

    def __init__(self) -> None:
        self.kept: list[Any] = []
        self.written: list[Any] = []
        self.fails_at: int | None = None
        self.failing_flush: int | None = None
        self.flushes = self.finished = self.closed = 0

    async def open(self, position: Any) -> None:
        self.written = self.kept[: position or 0]

    async def write(self, items: Sequence[Any]) -> None:
        self.written += items[:5]
        if self.fails_at is not None and len(self.written) > self.fails_at:
            raise RuntimeError("the sink is full")
        self.written += items[5:]

    async def flush(self) -> int:
        self.flushes += 1
        if self.flushes == self.failing_flush:
            raise RuntimeError("the disk is gone")
        self.kept = list(self.written)
        return len(self.kept)

    async def finish(self) -> None:
        self.finished += 1

    async def close(self) -> None:
        self.closed += 1


@pytest.mark.virtual_time
async def test_pull_closes_failed_sink_without_flush(state: Path) -> None:
    """The error of the sink is raised; it is closed without a flush; the next run is exact."""
    sink, server = Shaky(), Server(500)
    sink.fails_at = 230
    with pytest.raises(RuntimeError, match="full"):
        await pull(server.list(), sink, state=state)
    assert (sink.finished, sink.closed) == (0, 1)
    sink.fails_at = None
    report = await pull(server.list(), sink, state=state)
    assert [item.id for item in sink.kept] == list(range(500))
    assert (report.done, report.unverified) == (500, ())
    assert (sink.finished, sink.closed) == (1, 2)


@pytest.mark.virtual_time
async def test_pull_loses_no_item_when_key_fails(to: Path, state: Path) -> None:
    """The user's error is raised, and the next run writes the items of that page."""

    def key(item: Any) -> int:
        if item.id == 157:
            raise LookupError("no such key")
        return int(item.id)

    server = Server(500)
    with pytest.raises(LookupError, match="no such key"):
        await pull(server.list(), to, state=state, key=key)
    report = await pull(server.list(), to, state=state, key="id")
    assert (ids(to), report.done) == (list(range(500)), 500)


@pytest.mark.virtual_time
@pytest.mark.parametrize("failing", [1, 3])
async def test_pull_saves_no_checkpoint_after_failed_flush(state: Path, failing: int) -> None:
    """The error of the flush is raised, and the next run starts before it."""
    sink, server = Shaky(), Server(5000)
    sink.failing_flush = failing
    with pytest.raises(RuntimeError, match="disk is gone"):
        await pull(server.list(), sink, state=state, prefetch=0)
    kept = len(sink.kept)
    assert (sink.finished, sink.closed, kept > 0) == (0, 1, failing > 1)
    report = await pull(server.list(), sink, state=state, prefetch=0)
    assert [item.id for item in sink.kept] == list(range(5000))
    assert (report.done, report.unverified) == (5000, ())


@pytest.mark.virtual_time
@pytest.mark.parametrize("buffer", [2**20, 5000])
async def test_pull_stops_at_full_disk(
    buffer: int,
    to: Path,
    state: Path,
    full_disk: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run stops with the reason; after space was freed the next run completes."""
    monkeypatch.setattr(sinks, "_BUFFER", buffer)
    server = Server(5000)
    server.items = [Item(id=number, name="long " * 5) for number in range(5000)]
    with pytest.raises(BackfillStoppedError, match="cannot write"):
        await pull(server.list(), to, state=state)
    full_disk()
    report = await pull(server.list(), to, state=state)
    assert ids(to) == list(range(5000))
    assert report.unverified == ()


@pytest.mark.virtual_time
async def test_pull_completes_after_kill_before_last_save(
    to: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the file has its name but the state is not complete, the next run completes."""
    save = SeenItems.save

    async def die(items: SeenItems) -> None:
        if items.state.complete:
            raise KeyError("killed")
        await save(items)

    server = Server(100)
    with monkeypatch.context() as patch:
        patch.setattr(SeenItems, "save", die)
        with pytest.raises(KeyError):
            await pull(server.list(), to, state=state)
    assert ids(to) == list(range(100))
    report = await pull(server.list(), to, state=state)
    assert (ids(to), report.done, len(server.asked)) == (list(range(100)), 100, 10)
    assert {path.name for path in to.parent.iterdir()} == {"out.jsonl", "pull.db"}


@pytest.mark.virtual_time
async def test_pull_rejects_state_without_part_file(to: Path, state: Path) -> None:
    """A state whose part file is missing is rejected, and nothing is sent."""
    server = Server(100)

    def fail() -> None:
        raise NotFoundError("gone")

    at_page(server, 5, fail)
    with pytest.raises(NotFoundError):
        await pull(server.list(), to, state=state, prefetch=0)
    to.with_name("out.jsonl.part").unlink()
    server.asked.clear()
    with pytest.raises(StateMismatchError, match=r"out\.jsonl\.part is missing"):
        await pull(server.list(), to, state=state)
    assert server.asked == []


# --- Files ----------------------------------------------------------------------------

RICH: list[dict[str, Any]] = [
    {"id": 1, "name": "a,b", "at": "2026-01-01T00:00:00Z", "n": 1, "tags": ["x"], "ok": True},
    {"id": 2, "name": None, "at": None, "n": 2.5, "tags": [], "ok": None, "late": "Zürich\n"},
]


async def rich() -> list[dict[str, Any]]:
    return RICH


async def test_pull_writes_csv(tmp_path: Path, state: Path) -> None:
    """CSV has a column for every key, null as an empty cell, lists as JSON, and no other file is left."""
    to = tmp_path / "out.csv"
    await pull(rich(), to, state=state)
    with to.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["id", "name", "at", "n", "tags", "ok", "late"],
        ["1", "a,b", "2026-01-01T00:00:00Z", "1", '["x"]', "true", ""],
        ["2", "", "", "2.5", "[]", "", "Zürich\n"],
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"out.csv", "pull.db"}


async def test_pull_writes_parquet(tmp_path: Path, state: Path) -> None:
    """Parquet columns have the types of their values."""
    to = tmp_path / "out.parquet"
    await pull(rich(), to, state=state)
    table = pyarrow().read_table(to)
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {
        "id": "int64",
        "name": "string",
        "at": "timestamp[us, tz=UTC]",
        "n": "double",
        "tags": "string",
        "ok": "bool",
        "late": "string",
    }
    first, second = table.to_pylist()
    assert first["at"] == datetime(2026, 1, 1, tzinfo=UTC)
    assert (first["tags"], second["late"], second["n"]) == ('["x"]', "Zürich\n", 2.5)
    assert {path.name for path in tmp_path.iterdir()} == {"out.parquet", "pull.db"}


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"id": 2, "n": nan}, "nan in n has no JSON form"),
        ({"id": 2, "n": "\ud800"}, "surrogates not allowed"),
        ({"id": 2, "n": object()}, "object has no JSON form"),
    ],
    ids=["nan", "surrogate", "object"],
)
async def test_pull_sets_unwritable_item_aside(
    tmp_path: Path, state: Path, suffix: str, bad: Any, reason: str
) -> None:
    """An item that JSON cannot represent is a failed item; the rest of its page is written."""

    async def pages() -> AsyncIterator[Page[Any]]:
        yield Page(items=[{"id": 1, "n": 1.5}, bad, {"id": 3, "n": 2.5}], number=1)
        yield Page(items=[{"id": 4, "n": 3.5}], number=2, last=True)

    to = tmp_path / f"out.{suffix}"
    report = await pull(pages(), to, state=state)
    assert (report.done, report.failed) == (3, 1)
    (failure,) = Path(f"{state}.failed.jsonl").read_bytes().splitlines()
    assert reason in msgspec.json.decode(failure)["reason"]
    assert to.exists()
    if suffix == "jsonl":
        assert ids(to) == [1, 3, 4]


async def test_pull_sets_item_without_columns_aside(tmp_path: Path, state: Path) -> None:
    """An item that is no object cannot be a row of a table, and fails when it is read."""

    async def pages() -> AsyncIterator[Page[Any]]:
        yield Page(items=[{"id": 1}, 7, [8]], number=1, last=True)

    report = await pull(pages(), tmp_path / "out.csv", state=state)
    assert (report.done, report.failed) == (1, 2)
    assert (tmp_path / "out.csv").read_text() == "id\n1\n"


async def test_pull_keeps_large_integers_in_parquet(tmp_path: Path, state: Path) -> None:
    """Integers that a float cannot represent are kept, next to floats and beyond 64 bits."""
    items: list[dict[str, Any]] = [
        {
            "long": 2**53 + 1,
            "both": 2**53 + 1,
            "few": 1,
            "huge": 2**64,
            "at": f"{year}-01-01T00:00:00+14:00",
        }
        for year in ("0001", "2026")
    ]
    items.append({"long": 1, "both": 1.5, "few": 1.5, "huge": 1, "at": "2026-01-01T00:00:00Z"})

    async def pages() -> AsyncIterator[Page[Any]]:
        yield Page(items=items, number=1, last=True)

    to = tmp_path / "out.parquet"
    await pull(pages(), to, state=state)
    table = pyarrow().read_table(to).to_pydict()
    assert table["long"] == [2**53 + 1, 2**53 + 1, 1]
    assert table["both"] == [str(2**53 + 1), str(2**53 + 1), "1.5"]
    assert table["few"] == [1.0, 1.0, 1.5]
    assert table["huge"] == [str(2**64), str(2**64), "1"]
    assert table["at"][0] == "0001-01-01T00:00:00+14:00"


@pytest.mark.virtual_time
async def test_pull_replaces_file_when_complete(to: Path, state: Path) -> None:
    """Under its own name the file is either complete or the previous one."""
    to.write_text("old")
    server = Server(100)

    def fail() -> None:
        assert to.read_text() == "old"
        raise NotFoundError("gone")

    at_page(server, 5, fail)
    with pytest.raises(NotFoundError):
        await pull(server.list(), to, state=state)
    assert to.read_text() == "old"
    await pull(server.list(), to, state=state)
    assert ids(to) == list(range(100))


@pytest.mark.parametrize("name", ["out.xml", "no/out.jsonl", "."])
async def test_pull_rejects_unusable_target(tmp_path: Path, state: Path, name: str) -> None:
    """A file that cannot be written is rejected before anything is sent."""
    server = Server(10)
    with pytest.raises(InputError):
        await pull(server.list(), tmp_path / name, state=state)
    assert (server.asked, state.exists()) == ([], False)


async def test_pull_rejects_state_of_another_job(sandbox: Sandbox, to: Path, state: Path) -> None:
    """A state of contacts cannot be resumed with tags, nor into another file."""
    async with SessionPool() as pool:
        intouch = IntouchClient.from_env(pool, sandbox.environ)
        await pull(intouch.contacts.list(), to, state=state)
        with pytest.raises(StateMismatchError, match=r"contacts\.list"):
            await pull(intouch.tags.list(), to, state=state)
        with pytest.raises(StateMismatchError, match=r"out\.jsonl"):
            await pull(intouch.contacts.list(), to.with_name("other.jsonl"), state=state)


@pytest.mark.virtual_time
async def test_pull_reports_progress(to: Path, state: Path) -> None:
    """Progress has the items, the rate and the remaining time."""
    told: list[Progress] = []
    await pull(Server(5000).list(), to, state=state, prefetch=0, progress=told.append)
    assert [progress.done for progress in told] == sorted(progress.done for progress in told)
    assert told[-1].done == 5000
    assert told[0].eta == pytest.approx(4.0, rel=0.1)
