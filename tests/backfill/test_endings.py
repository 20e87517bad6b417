"""A job always ends, whatever the code around it raises, and every row has an outcome."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncGenerator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from asyncclients.backfill import Progress, Report, push, read_status
from asyncclients.errors import error_text
from asyncclients.testing import virtual_time

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
