"""The total, the rate and the end of a run that its progress shows."""

from __future__ import annotations

import asyncio
import gzip
import os
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import datetime
from pathlib import Path

import pytest

from asyncclients import (
    ConfigurationError,
    EmmaClient,
    IntouchClient,
    Quota,
    ServerError,
    SessionPool,
    TotangoClient,
)
from asyncclients.backfill import Progress, pull, push, read_status
from asyncclients.backfill.files.csv import CsvReader
from asyncclients.backfill.files.parquet import pyarrow
from asyncclients.backfill.files.source import open_source
from asyncclients.errors import BackfillStoppedError
from asyncclients.sandbox import Sandbox
from asyncclients.stores import FileLimits, LimitsControl
from asyncclients.vendors import emma
from asyncclients.vendors.totango import NewTouchpoint
from tests.support.posix import posix


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "job.db"


class Told:
    """The progress of one run with its times.

    Attributes:
        ended_at: loop instant of the last report, None before it.
    """

    def __init__(self, on_report: Callable[[Progress], object] | None = None) -> None:
        self.reports: list[tuple[float, Progress]] = []
        self._on_report = on_report

    def __call__(self, progress: Progress) -> None:
        self.reports.append((asyncio.get_running_loop().time(), progress))
        if self._on_report is not None:
            self._on_report(progress)

    def check_eta(self, start: int = 0, after: float = 0.0, seconds: float = 2.0) -> None:
        """Assert that each estimate after a tenth of the rows is within 20 %, or *seconds*.

        *start* rows were done before; estimates before the instant *after* do not count.
        """
        (end, last), found = self.reports[-1], 0
        assert last.eta == 0.0
        for at, progress in self.reports:
            if at > after and progress.done >= start + (last.done - start) / 10:
                assert progress.eta is not None
                truth = end - at
                assert progress.eta == pytest.approx(truth, rel=0.2, abs=seconds), (at, progress)
                found += 1
        assert found > 10


def touchpoints(count: int, prefix: str = "note") -> list[NewTouchpoint]:
    return [
        NewTouchpoint(account_id="1", content=f"{prefix} {number}", activity_type_id="support")
        for number in range(count)
    ]


@pytest.mark.virtual_time
async def test_eta_is_exact_at_two_calls_per_second(state: Path) -> None:
    """Intouch, 2 per second: one call per row, and the end is known from the first rows on."""
    told = Told()
    async with Sandbox() as sandbox, SessionPool() as pool:
        client = IntouchClient.from_env(pool, sandbox.environ)
        names = [f"tag {number}" for number in range(120)]
        await push(names, client.tags.create, state=state, progress=told)
    told.check_eta()
    assert told.reports[5][1].limited_by_quota
    assert 1.9 < told.reports[30][1].rate < 2.1


@pytest.mark.virtual_time
async def test_eta_is_exact_with_a_quota_per_minute(state: Path) -> None:
    """Totango, 100 per minute: the burst at the start does not mislead."""
    told = Told()
    async with Sandbox() as sandbox, SessionPool() as pool:
        client = TotangoClient.from_env(pool, sandbox.environ)
        await push(touchpoints(250), client.touchpoints.create, state=state, progress=told)
    told.check_eta()


@pytest.mark.virtual_time
async def test_eta_of_resumed_run_counts_the_rows_that_remain(state: Path) -> None:
    """A run that resumes at once finds its window full, and still knows its end."""
    rows = touchpoints(300)
    async with Sandbox() as sandbox, SessionPool() as pool:
        client = TotangoClient.from_env(pool, sandbox.environ)
        first = Told(lambda progress: progress.done > 100 and running.cancel())
        running = asyncio.ensure_future(
            push(rows, client.touchpoints.create, state=state, progress=first)
        )
        await asyncio.gather(running, return_exceptions=True)
        start = read_status(state).done
        assert 100 < start < 150
        told = Told()
        await push(rows, client.touchpoints.create, state=state, progress=told)
    told.check_eta(start)


@pytest.mark.virtual_time
async def test_eta_knows_the_jobs_that_share_the_quota(tmp_path: Path) -> None:
    """Of two jobs on one quota, both know when they end: also the one that is left alone then."""
    short, long = Told(), Told()
    async with Sandbox() as sandbox, SessionPool() as pool:
        create = TotangoClient.from_env(pool, sandbox.environ).touchpoints.create
        await asyncio.gather(
            push(touchpoints(100, "a"), create, state=tmp_path / "a", progress=short),
            push(touchpoints(300, "b"), create, state=tmp_path / "b", progress=long),
        )
    assert short.reports[-1][0] < long.reports[-1][0] - 60
    short.check_eta()
    long.check_eta()


@pytest.mark.virtual_time
async def test_eta_of_limited_run_is_that_of_its_end(state: Path) -> None:
    """A run with a limit ends after that many rows, and its time left says when."""
    told = Told()
    async with Sandbox() as sandbox, SessionPool() as pool:
        create = TotangoClient.from_env(pool, sandbox.environ).touchpoints.create
        await push(touchpoints(500), create, state=state, limit=100, progress=told)
    told.check_eta()
    last = told.reports[-1][1]
    assert (last.done, last.total, last.remaining) == (100, 500, 400)


@pytest.mark.virtual_time
async def test_eta_counts_the_calls_of_another_program(state: Path) -> None:
    """Calls of another program on the same key slow a job down, and its end is known all the same."""
    told = Told()
    async with Sandbox() as sandbox, SessionPool() as pool, SessionPool() as elsewhere:
        client, other = (
            TotangoClient.from_env(each, sandbox.environ) for each in (pool, elsewhere)
        )

        async def browse() -> None:
            while True:
                await other.touchpoint_types.list()
                await asyncio.sleep(2.0)

        browsing = asyncio.create_task(browse())
        await push(touchpoints(400), client.touchpoints.create, state=state, progress=told)
        browsing.cancel()
    assert told.reports[-1][0] > 280  # 240 without the other program
    told.check_eta()


@pytest.mark.virtual_time
async def test_eta_of_slow_job_follows_its_source(tmp_path: Path) -> None:
    """A job whose rows arrive slowly is not limited by the quota that another job waits for."""
    slow, other = Told(), Told()

    async def rows() -> AsyncIterator[NewTouchpoint]:
        for row in touchpoints(60):
            await asyncio.sleep(4.0)
            yield row

    class Counted:
        """Rows with a known length."""

        def __len__(self) -> int:
            return 60

        def __aiter__(self) -> AsyncIterator[NewTouchpoint]:
            return rows()

    async with Sandbox() as sandbox, SessionPool() as pool:
        create = TotangoClient.from_env(pool, sandbox.environ).touchpoints.create
        await asyncio.gather(
            push(Counted(), create, state=tmp_path / "a", progress=slow),
            push(touchpoints(400, "b"), create, state=tmp_path / "b", progress=other),
        )
    slow.check_eta(seconds=5.0)
    assert sum(progress.limited_by_quota for _, progress in slow.reports) < 60
    assert sum(progress.limited_by_quota for _, progress in other.reports) > 150


@pytest.mark.virtual_time
async def test_eta_leaves_room_for_interactive_calls(state: Path) -> None:
    """Where interactive calls take a quarter of the quota, the end is known after two minutes."""
    told = Told()
    async with Sandbox() as sandbox, SessionPool() as pool:
        client = TotangoClient.from_env(pool, sandbox.environ)

        async def browse() -> None:
            while True:
                await client.touchpoint_types.list()
                await asyncio.sleep(2.4)

        browsing = asyncio.create_task(browse())
        await push(touchpoints(300), client.touchpoints.create, state=state, progress=told)
        browsing.cancel()
    assert told.reports[-1][0] > 200
    told.check_eta(after=120.0, seconds=15.0)


@pytest.mark.virtual_time
@pytest.mark.parametrize("bad", [range(20), range(0, 200, 8)], ids=["at the start", "everywhere"])
async def test_eta_counts_the_calls_of_rows_that_wait(bad: range, state: Path) -> None:
    """Rows that fail without a call are settled at once, and do not make the others seem few."""
    told = Told()
    rows = [{"name": "" if number in bad else f"tag {number}"} for number in range(200)]

    def name(row: dict[str, str]) -> str:
        if not row["name"]:
            raise ValueError("has no name")
        return row["name"]

    async with Sandbox() as sandbox, SessionPool() as pool:
        create = IntouchClient.from_env(pool, sandbox.environ).tags.create
        await push(rows, create, map=name, state=state, max_failed=1.0, progress=told)
    told.check_eta()


@pytest.mark.virtual_time
async def test_eta_of_batches_counts_calls(state: Path) -> None:
    """Emma takes ten touchpoints per call, so a call settles ten rows."""
    told = Told()
    async with Sandbox() as sandbox, SessionPool() as pool:
        client = EmmaClient.from_env(pool, sandbox.environ)
        sandbox.state("emma").add_member("a@example.com")
        await client.touchpoint_types.create("call", "Call")
        row = emma.NewTouchpoint(
            email="a@example.com",
            type_name="call",
            touchpoint_monetary_value=1.0,
            touchpoint_timestamp=datetime(2026, 1, 1),  # noqa: DTZ001 - as Emma takes it
        )
        await push([row] * 2500, client.touchpoints.create, state=state, progress=told)
    told.check_eta()


@pytest.mark.virtual_time
async def test_eta_follows_the_latency_where_the_quota_is_wide(state: Path) -> None:
    """Ten calls of two seconds at a time are five rows per second, whatever the quota allows."""
    told = Told()
    async with Sandbox(quotas={"totango": (1000, 1.0)}) as sandbox, SessionPool() as pool:
        client = TotangoClient.from_env(pool, sandbox.environ, quotas=[Quota(1000, 1.0)])

        async def create(row: NewTouchpoint) -> None:
            await asyncio.sleep(2.0)
            await client.touchpoints.create(row)

        await push(touchpoints(600), create, state=state, concurrency=10, progress=told)
    told.check_eta()
    assert not any(progress.limited_by_quota for _, progress in told.reports)


@pytest.mark.virtual_time
async def test_eta_follows_the_limit_of_requests_in_flight(state: Path) -> None:
    """Two requests of half a second in flight are four rows per second; the quota limits nothing."""
    told = Told()
    wide = {"totango": (1000, 1.0)}
    async with Sandbox(wide, latency=(0.5, 0.05)) as sandbox, SessionPool() as pool:
        client = TotangoClient.from_env(
            pool, sandbox.environ, quotas=[Quota(1000, 1.0)], max_in_flight=2
        )
        await push(touchpoints(200), client.touchpoints.create, state=state, progress=told)
    assert told.reports[-1][0] > 50
    told.check_eta()
    assert not any(progress.limited_by_quota for _, progress in told.reports)


@pytest.mark.virtual_time
async def test_eta_of_pull_counts_pages(state: Path, tmp_path: Path) -> None:
    """The total of a pull is that of the vendor, and a page settles 25 items."""
    told = Told()
    async with Sandbox() as sandbox, SessionPool() as pool:
        client = IntouchClient.from_env(pool, sandbox.environ)
        sandbox.state("intouch").grow(tags=2000)
        await pull(client.tags.list(), tmp_path / "tags.jsonl", state=state, progress=told)
    assert told.reports[3][1].total == 2000
    told.check_eta()


@pytest.mark.virtual_time
async def test_eta_is_unknown_while_the_vendor_is_unavailable(state: Path) -> None:
    """In an outage there is no estimate, only its duration; afterwards it is right at once."""
    told = Told()
    outage = range(20, 100)

    async def create(_: int) -> None:
        await asyncio.sleep(1.0)
        if int(asyncio.get_running_loop().time()) in outage:
            raise ServerError("down", status=503)

    await push(range(1000), create, state=state, concurrency=5, idempotent=True, progress=told)
    during = [at for at, progress in told.reports if progress.waiting]
    assert min(during) < 40
    assert max(during) > 99
    assert all(progress.eta is None for at, progress in told.reports if at in during)
    assert {progress.cause for _, progress in told.reports if progress.waiting} == {"down"}
    assert told.reports[-1][1].cause == ""
    told.check_eta(after=max(during) + 5)


async def test_progress_names_the_operator_who_paused_the_calls(tmp_path: Path) -> None:
    """While an operator has paused the vendor, the progress names the operator, not the quota."""
    store, seen = FileLimits(tmp_path / "limits.db"), list[Progress]()
    running = asyncio.Event()

    def on_progress(progress: Progress) -> None:
        seen.append(progress)
        running.set()

    async with Sandbox() as sandbox, SessionPool(limits=store) as pool:
        create = IntouchClient.from_env(pool, sandbox.environ).tags.create
        names = [f"tag {number}" for number in range(100)]
        push_names = push(names, create, state=tmp_path / "state", progress=on_progress)
        pushing = asyncio.create_task(push_names)
        await running.wait()
        control = LimitsControl(FileLimits(tmp_path / "limits.db"), by="ann")
        await control.pause("intouch", 600)
        while not seen[-1].paused:
            running.clear()
            await running.wait()
        pushing.cancel()
        await asyncio.gather(pushing, return_exceptions=True)
    paused = next(progress for progress in seen if progress.paused)
    assert (paused.paused_by, paused.limited_by_quota) == ("ann", False)
    assert 590 < paused.paused <= 600
    assert paused.eta is not None
    assert paused.eta > 590


@pytest.mark.virtual_time
async def test_progress_names_the_address_that_refuses_connections(tmp_path: Path) -> None:
    """Of a vendor that cannot be reached, the progress names the address and the reason."""
    told = Told()
    async with Sandbox() as sandbox:
        environ = dict(sandbox.environ)
    address = environ["INTOUCH_BASE_URL"].split("/")[2]
    async with SessionPool() as pool:
        listed = IntouchClient.from_env(pool, environ).tags.list()
        out, state = tmp_path / "tags.jsonl", tmp_path / "state"
        with pytest.raises(BackfillStoppedError):
            await pull(listed, out, state=state, max_outage=60.0, progress=told)
    refused = f"could not connect to {address}: Connection refused"
    assert told.reports[-1][1].cause == refused
    assert max(progress.waiting for _, progress in told.reports) > 10
    assert {progress.cause for _, progress in told.reports if progress.waiting} == {refused}


@pytest.mark.virtual_time
async def test_eta_is_unknown_while_the_first_call_fails(state: Path) -> None:
    """A vendor that cannot be reached from the start has no end, not one at the quota's rate."""
    told = Told()
    async with Sandbox() as sandbox:
        environ = dict(sandbox.environ)
    async with SessionPool() as pool:
        create = IntouchClient.from_env(pool, environ).tags.create
        with pytest.raises(BackfillStoppedError):
            await push(["a"], create, state=state, max_outage=30.0, progress=told)
    failing = [progress for _, progress in told.reports if progress.cause]
    assert len(failing) > 10
    assert {progress.eta for progress in failing} == {None}


@pytest.mark.virtual_time
async def test_progress_of_a_starving_job_names_the_pause(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of two programs on one key, the one that is rejected is paused, has no false end, and warns."""
    told, names = Told(), [f"tag {number}" for number in range(100)]
    async with Sandbox() as sandbox, SessionPool() as pool, SessionPool() as elsewhere:
        client, other = (
            IntouchClient.from_env(each, sandbox.environ) for each in (pool, elsewhere)
        )
        first = asyncio.create_task(
            push([f"other {name}" for name in names], other.tags.create, state=tmp_path / "other")
        )
        await asyncio.sleep(3.0)
        report = await push(names, client.tags.create, state=tmp_path / "job", progress=told)
        await first
        assert client.stats().has_unexplained_rejections
    assert report.rejected > 3
    paused = [progress for _, progress in told.reports if progress.paused]
    assert len(paused) > 10
    assert not [progress for progress in paused if progress.limited_by_quota]
    assert all(progress.eta is None for progress in paused if progress.paused > 10)
    warned = [text for text in caplog.messages if "although this program kept the quota" in text]
    assert len(warned) == 1
    assert warned[0].startswith("intouch: 5 requests were rejected")


# --- Totals -----------------------------------------------------------------------------------


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content", "count"),
    [
        ("x.csv", 'a,b\n1,"two\nlines"\n\n2,"a ""b"""\n,\n3,x', 4),
        ("x.csv", "a\r1\r2\r", 2),
        ("x.csv", 'sep=,\na,b\n"x,y",1\n', 1),
        ("x.csv", "a,b\n", 0),
        ("x.csv.gz", gzip.compress(b"a\n1\n2\n", mtime=0), 2),
        ("x.jsonl", '\ufeff\n{"a": 1}\n\n  \nnot json\n{"a": 2}', 3),
        ("x.jsonl.gz", gzip.compress(b'{"a": 1}\n{"a": 2}\n', mtime=0), 2),
    ],
)
async def test_source_counts_rows_as_it_reads_them(
    tmp_path: Path, name: str, content: str | bytes, count: int
) -> None:
    """The count is the number of rows that are read, and is independent of the reading."""
    source = await open_source(write(tmp_path / name, content))
    try:
        rows = await source.chunk()
        assert await source.count() == count == len(rows)
        assert await source.count() == count
        assert await source.chunk() == []
    finally:
        await source.aclose()


async def test_source_counts_parquet_from_its_metadata(tmp_path: Path) -> None:
    """A Parquet file knows its number of rows."""
    path = tmp_path / "x.parquet"
    pyarrow().write_table(pyarrow("pyarrow").table({"a": list(range(70_000))}), path)
    source = await open_source(path)
    try:
        assert await source.count() == 70_000
    finally:
        await source.aclose()


@pytest.mark.parametrize("content", ['a\n1\n"2\n', gzip.compress(b"a\n" * 99, mtime=0)[:-9]])
async def test_source_does_not_count_damaged_file(tmp_path: Path, content: str | bytes) -> None:
    """The number of rows of a file that cannot be read to its end is unknown."""
    source = await open_source(write(tmp_path / "x.csv", content))
    try:
        assert await source.count() is None
    finally:
        await source.aclose()


@posix
async def test_source_does_not_count_pipe(tmp_path: Path) -> None:
    """A pipe can be read once only, so it is not counted."""
    pipe = tmp_path / "x.csv"
    os.mkfifo(pipe)
    writing = asyncio.create_task(asyncio.to_thread(pipe.write_text, "a\n1\n"))
    source = await open_source(pipe)
    try:
        assert await source.count() is None
        assert [row.data for row in await source.chunk()] == [{"a": "1"}]
    finally:
        await source.aclose()
        await writing


async def test_source_count_can_be_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancellation ends the count after a part of the file, and closes it."""
    loop, has_part, parts = asyncio.get_running_loop(), asyncio.Event(), list[int]()
    count = CsvReader.count

    def count_one(reader: CsvReader, _: int) -> int:
        parts.append(count(reader, 1))
        loop.call_soon_threadsafe(has_part.set)
        return parts[-1]

    monkeypatch.setattr(CsvReader, "count", count_one)
    source = await open_source(write(tmp_path / "x.csv", "a\n" + "1\n" * 10_000))
    counting = asyncio.create_task(source.count())
    await has_part.wait()
    counting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await counting
    assert len(parts) < 10_000
    await source.aclose()


@pytest.mark.parametrize(
    ("rows", "total"), [([1, 2, 3], 3), (range(4), 4), ((n for n in range(5)), None)]
)
async def test_push_knows_the_total_of_an_iterable_with_a_length(
    state: Path, rows: Iterable[int], total: int | None
) -> None:
    """A list has a total from the start, a generator when it has ended."""
    totals: list[int | None] = []

    async def create(_: int) -> None:
        totals.append(read_status(state).total)

    report = await push(rows, create, state=state, concurrency=1)
    assert totals[-1] == total
    assert report.total == read_status(state).total == report.done


async def test_status_shows_total_and_remainder_of_push(state: Path, tmp_path: Path) -> None:
    """While a push runs, and after it was interrupted, its state has the total and the rest."""
    path = write(tmp_path / "x.csv", "a\n" + "1\n" * 50)

    done: list[object] = []

    async def create(row: dict[str, str]) -> None:
        if len(done) == 20:
            raise ConfigurationError("the key is gone")
        done.append(row)

    with pytest.raises(ConfigurationError):
        await push(path, create, state=state, concurrency=1)
    assert (read_status(state).total, read_status(state).remaining) == (50, 30)
    done.clear()
    with pytest.raises(ConfigurationError):
        await push(path, create, state=state, concurrency=1)
    assert (read_status(state).done, read_status(state).remaining) == (40, 10)
    done.clear()
    await push(path, create, state=state, concurrency=1)
    assert (read_status(state).done, read_status(state).remaining) == (50, 0)


async def test_total_grows_with_the_file(state: Path, tmp_path: Path) -> None:
    """A file that is written to while it is read stops the run; the next one counts it again."""
    path = write(tmp_path / "x.csv", "a\n" + "1\n" * 400)

    async def create(_: dict[str, str]) -> None:
        if path.stat().st_size < 1000:
            with path.open("a") as file:
                file.write("2\n" * 200)

    with pytest.raises(BackfillStoppedError, match="was changed while it was read"):
        await push(path, create, state=state, concurrency=1)
    assert read_status(state).total == 400
    told = Told()
    report = await push(path, create, state=state, progress=told)
    assert (report.done, report.total, told.reports[-1][1].total) == (600, 600, 600)
