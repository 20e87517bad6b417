"""A job always ends, whatever the code around it raises, and every row has an outcome."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Collection, Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest

from asyncclients.backfill import Progress, Report, push, read_status
from asyncclients.backfill.circuit_breaker import CircuitBreaker
from asyncclients.backfill.files.source import Row
from asyncclients.backfill.steps import (
    BatchStatus,
    PullCursor,
    PushTarget,
    RowRecord,
    pull_step,
    push_step,
)
from asyncclients.core.options import current_call_context
from asyncclients.errors import BackfillStoppedError, ClientClosedError, ConnectError, error_text
from asyncclients.paging import Page, Paginator
from asyncclients.testing import virtual_time

AWAY = ConnectError("away", vendor="intouch", operation="tags.create", method="POST", path="/tags")
HALF = "caf\udce9"
"""A lone surrogate, as in a file name that is not UTF-8."""


class HalfError(Exception):
    """An error that cannot be written as UTF-8."""

    def __str__(self) -> str:
        return f"no answer about {HALF}"


class MuteError(Exception):
    """An error that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


@pytest.fixture
def state(tmp_path: Path) -> str:
    return str(tmp_path / "s.db")


# --- Errors that cannot be written down -----------------------------------------------


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no"), "no"),
        (ValueError(), "ValueError()"),
        (HalfError(), "no answer about caf\\udce9"),
        (MuteError(), "MuteError"),
    ],
)
def test_error_text_is_always_text(error: Exception, text: str) -> None:
    """An error has a text that can be encoded, whatever its `__str__` does."""
    assert error_text(error) == text


@pytest.mark.parametrize("error", [HalfError, MuteError])
@pytest.mark.parametrize("where", ["unknown", "failed", "map"])
async def test_push_records_error_without_encodable_text(
    state: str, error: type[Exception], where: str
) -> None:
    """An error whose text cannot be encoded is recorded like any other, and the job continues."""

    class BadValue(error, ValueError):  # type: ignore[misc, valid-type]
        """As for a row that is rejected."""

    async def target(row: Any) -> None:
        if row == 3 and where != "map":
            raise error if where == "unknown" else BadValue

    def rename(row: Any) -> Any:
        if row == 3 and where == "map":
            raise error
        return row

    report = await push(range(9), target, state=state, map=rename)
    unknown = where == "unknown"
    assert (report.done, report.failed, report.unknown) == (8, not unknown, unknown)
    assert len(read_status(state).unknown_rows) == unknown


@pytest.mark.parametrize("field", ["name", "repr"])
async def test_push_records_row_without_encodable_text(state: str, field: str) -> None:
    """A row that cannot be written as JSON is recorded by as much of it as can."""

    class Row:
        def __repr__(self) -> str:
            if field == "repr":
                raise RuntimeError("no words")
            return HALF

    async def target(row: Any) -> None:
        raise ValueError("no")

    report = await push([Row()], target, state=state, max_failed=1.0)
    assert report.failed == 1


# --- Cancellations that come from inside ------------------------------------------------


@pytest.mark.parametrize(("idempotent", "done", "unknown"), [(False, 5, 1), (True, 6, 0)])
async def test_push_takes_cancelled_call_for_a_failed_one(
    state: str, *, idempotent: bool, done: int, unknown: int
) -> None:
    """A target that is cancelled from inside has failed like any other; no row is left out."""
    cancelled: list[int] = []

    async def target(row: int) -> None:
        if row == 2 and not cancelled:
            cancelled.append(row)
            raise asyncio.CancelledError

    with virtual_time():
        report = await push(range(6), target, state=state, idempotent=idempotent, concurrency=1)
    assert (report.done, report.unknown) == (done, unknown)


@pytest.mark.parametrize("error", [asyncio.CancelledError, GeneratorExit, LookupError])
@pytest.mark.parametrize("concurrency", [1, 4])
async def test_push_source_that_fails_is_not_at_its_end(
    state: str, error: type[BaseException], concurrency: int
) -> None:
    """An iterator that raises, whatever it is, ends the push with it and not as complete."""

    async def rows() -> AsyncGenerator[int]:
        yield 1
        raise error

    async def target(row: int) -> None:
        await asyncio.sleep(0)

    with pytest.raises(error):
        await push(rows(), target, state=state, concurrency=concurrency)
    assert not read_status(state).complete


@pytest.mark.parametrize("idempotent", [False, True])
async def test_push_leaves_call_behind_that_ignores_its_cancellation(
    state: str, caplog: pytest.LogCaptureFixture, idempotent: bool
) -> None:
    """A target that cannot be cancelled delays the end of a push by its grace, no longer.

    The warning says what becomes of its row: it is sent again if idempotent, otherwise unknown.
    """
    over = asyncio.Event()
    on_the_wire = asyncio.Event()
    tasks: list[asyncio.Task[Any] | None] = []

    async def target(row: int) -> None:
        tasks.append(asyncio.current_task())
        on_the_wire.set()
        while not over.is_set():
            try:
                await over.wait()
            except asyncio.CancelledError:
                continue

    with virtual_time() as clock:
        job = asyncio.create_task(push([1], target, state=state, idempotent=idempotent))
        await on_the_wire.wait()
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        assert clock.elapsed < 40
    assert (
        f"{state}: 1 calls ignore their cancellation and are abandoned; the next run sends their "
        "rows again if they are idempotent, and lists the others as unknown"
    ) in caplog.text
    over.set()
    await asyncio.wait([task for task in tasks if task])
    assert [row.number for row in read_status(state).unknown_rows] == ([] if idempotent else [1])
    report = await push([1], target, state=state, idempotent=idempotent)
    assert (report.done, report.unknown, len(tasks)) == ((1, 0, 2) if idempotent else (0, 1, 1))


# --- The end of the event loop and of the process -----------------------------------------


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 10, 20, 40])
def test_push_ends_with_its_loop(state: str, turns: int) -> None:
    """`asyncio.run`, which cancels every task at its end, returns; the push can be resumed."""
    arrived: list[int] = []
    under_way = asyncio.Event()

    async def target(row: int) -> None:
        await asyncio.sleep(0)
        arrived.append(row)
        if len(arrived) == 100:
            under_way.set()

    async def sibling() -> None:
        await under_way.wait()
        for _ in range(turns):  # and so at any step of a commit
            await asyncio.sleep(0)
        raise ArithmeticError

    async def main(*others: Coroutine[Any, Any, None]) -> Report:
        job = asyncio.ensure_future(push(range(2000), target, state=state))
        await asyncio.gather(job, *others)
        return job.result()

    with pytest.raises(ArithmeticError):
        asyncio.run(main(sibling()))
    assert len(arrived) < 2000
    report = asyncio.run(main())
    assert report.done + report.unknown == 2000
    assert len(arrived) == len(set(arrived)) >= report.done


EXIT = """
import asyncio, sys
from asyncclients.backfill import push

async def target(row):
    await asyncio.sleep(0)
    if row == 5:
        sys.exit(7)

asyncio.run(push(range(20), target, state=sys.argv[1], concurrency=1))
"""


def test_push_target_may_exit_the_process(state: str) -> None:
    """`sys.exit` in a target ends the process with its code; the row is unknown."""
    ended = subprocess.run([sys.executable, "-c", EXIT, state], timeout=30, check=False)
    assert ended.returncode == 7
    status = read_status(state)
    assert (status.done, status.unknown) == (5, 1)


# --- Callbacks ------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ArithmeticError, asyncio.CancelledError, MuteError])
async def test_push_survives_progress_callback_that_fails(
    state: str, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    """A progress callback that raises is logged once and called again; the job continues."""
    seen: list[Progress] = []

    def progress(state: Progress) -> None:
        seen.append(state)
        raise error

    async def target(row: int) -> None:
        await asyncio.sleep(1.2)

    with virtual_time():
        report = await push([1, 2, 3], target, state=state, progress=progress, concurrency=1)
    assert report.done == 3
    assert seen[-1].done == 3
    assert len(seen) == 4
    (failure,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert failure.exc_info is not None


async def test_push_survives_progress_that_cannot_be_estimated(
    state: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the progress itself cannot be computed, this is logged, and the report is not lost."""

    async def target(_: int) -> None: ...

    monkeypatch.setattr("asyncclients.backfill.report.EtaEstimator._measure", None)
    report = await push([1, 2, 3], target, state=state, progress=lambda _: None)
    assert report.done == 3
    assert "TypeError" in caplog.text


# --- Outages ----------------------------------------------------------------------------


@pytest.mark.parametrize("in_flight", [1, 8, 64, 500])
async def test_push_recovers_from_short_outage(state: str, in_flight: int) -> None:
    """An outage of a second costs seconds, however many calls were in flight."""
    loop = asyncio.get_running_loop()
    with virtual_time() as clock:
        began = loop.time()

        async def target(row: int) -> None:
            await asyncio.sleep(0.05)
            if 0.3 < loop.time() - began < 1.3:
                raise ConnectError("away")

        rows = range(40 * in_flight)
        report = await push(rows, target, state=state, idempotent=True, concurrency=in_flight)
    assert report.done == 40 * in_flight
    assert clock.elapsed < 12


async def test_outage_probes_more_and_more_rarely() -> None:
    """A vendor that stays away for long is asked once a minute, not once a second."""
    probes: list[float] = []
    with virtual_time() as clock:
        outage = CircuitBreaker(1800.0)
        for _ in range(64):
            outage.on_failure(AWAY)

        async def probe() -> None:
            while True:
                async with outage.guard():
                    probes.append(clock.elapsed)
                    outage.on_failure(AWAY)

        with pytest.raises(BackfillStoppedError, match=re.escape(f"the last error: {AWAY}")):
            await asyncio.gather(*(probe() for _ in range(8)))
    assert 4 <= len([at for at in probes if at < 60]) <= 8
    assert len([at for at in probes if at > 600]) <= 1200 / 30


# --- Steps --------------------------------------------------------------------------------


class MemoryLog:
    """A row log in memory."""

    def __init__(self) -> None:
        self.records: dict[int, RowRecord] = {}
        self.writes = 0

    async def begin(self, _: Collection[int]) -> BatchStatus:
        return BatchStatus(settled=set(self.records), done=0)

    async def write(self, records: Mapping[int, RowRecord | None], /) -> Collection[int]:
        self.writes += 1
        for number, record in records.items():
            self.records.pop(number, None)
            if record is not None:
                self.records[number] = record
        return ()


async def test_push_step_keeps_row_unknown_if_its_client_is_closed() -> None:
    """A row that was sent when the client was closed is unknown, and a second run leaves it."""
    log, sent = MemoryLog(), 0

    async def target(_: Any) -> None:
        nonlocal sent
        sent += 1
        raise ClientClosedError("closed")

    rows = [Row(1, 1, {"id": 1})]
    with pytest.raises(ClientClosedError):
        await push_step(rows, PushTarget(target=target), log, flow="job")
    assert log.records[1].status == "unknown"
    await push_step(rows, PushTarget(target=target), log, flow="job")
    assert sent == 1


@pytest.mark.virtual_time
async def test_push_step_writes_nothing_for_requests_after_its_calls() -> None:
    """A task that a target left running, and that is rate-limited after the step, has no rows."""
    log, late, go_on = MemoryLog(), list[asyncio.Task[None]](), asyncio.Event()

    async def send_late() -> None:
        context = current_call_context()
        await go_on.wait()
        assert context is not None
        assert context.hook is not None
        context.hook.on_rate_limited()

    async def target(_: Any) -> None:
        late.append(asyncio.create_task(send_late()))

    await push_step([Row(1, 1, {"id": 1})], PushTarget(target=target), log, flow="job")
    writes = log.writes
    go_on.set()
    await late[0]
    await asyncio.sleep(0.01)
    assert log.writes == writes


@pytest.mark.parametrize("start", [1, 2, 3, 4])
async def test_pull_step_fetches_existing_pages_once(start: int) -> None:
    """A list that starts at a later page is read by its page numbers, each of them once."""
    fetched: list[int] = []
    kept: list[int] = []

    async def fetch(number: int) -> Page[int]:
        fetched.append(number)
        items = [*range(25 * (number - 1), 25 * number)]
        return Page(items=items, number=number, total=100, last=number == 4)

    class Shelf:
        async def put(self, page: Page[Any]) -> None:
            kept.append(page.number)

    reached: PullCursor | None = None
    while reached is None or not reached.last:
        pages = Paginator(fetch, start=start)
        reached = await pull_step(pages, Shelf(), after=reached, flow="job", max_pages=2)
    assert fetched == kept == list(range(start, 5))


async def test_pull_step_that_fails_leaves_no_page_under_way() -> None:
    """When one page of a step fails, the requests for the others are cancelled."""
    cancelled: list[int] = []

    async def fetch(number: int) -> Page[int]:
        if number == 3:
            raise ValueError("no")
        if number == 4:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(number)
        return Page(items=[number], number=number, total=4)

    class Shelf:
        async def put(self, page: Page[Any]) -> None:
            pass

    with pytest.raises(ValueError, match="no"):
        await pull_step(Paginator(fetch), Shelf(), after=None, flow="job")
    assert cancelled == [4]


async def test_pull_step_stores_each_page_as_soon_as_those_before_it_are_stored() -> None:
    """Pages that arrive in another order are stored in theirs, without waiting for the last one."""
    arrivals = {number: asyncio.Event() for number in range(1, 5)}
    kept: list[int] = []
    has_three = asyncio.Event()

    async def fetch(number: int) -> Page[int]:
        await arrivals[number].wait()
        return Page(items=[number], number=number, total=4, last=number == 4)

    class Shelf:
        async def put(self, page: Page[Any]) -> None:
            kept.append(page.number)
            if page.number == 3:
                has_three.set()

    arrivals[1].set()
    step = asyncio.create_task(pull_step(Paginator(fetch), Shelf(), after=None, flow="job"))
    arrivals[3].set()
    arrivals[2].set()
    await has_three.wait()
    assert (kept, step.done()) == ([1, 2, 3], False)
    arrivals[4].set()
    assert (await step).last
    assert kept == [1, 2, 3, 4]
