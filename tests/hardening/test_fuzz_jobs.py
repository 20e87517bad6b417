"""Fuzzed jobs end, whatever fails, and lose or duplicate no row.

The seed of a run determines what fails and when: the target, the map, the progress callback,
the source, the sink, SQLite, or the whole event loop. After some failing runs, a run without
failures must leave each row done exactly once, failed or unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from asyncclients.backfill import Progress, Report, pull, push, read_status
from asyncclients.errors import (
    ClientClosedError,
    ConnectError,
    ForbiddenError,
    OutcomeUnknownError,
    RateLimitedError,
    ServerError,
    UnauthorizedError,
)
from asyncclients.paging import Page, Paginator
from asyncclients.testing import virtual_time
from asyncclients.testing.clock import run_virtual

LONG = 2000
"""Seeds of a sweep."""
RUNS = 3
"""Runs that may fail, before the one that does not."""


def seeds(few: int) -> list[Any]:
    """Return the first *few* seeds, and the others for a sweep."""
    others = (pytest.param(seed, marks=pytest.mark.sweep) for seed in range(few, LONG))
    return [*range(few), *others]


class OddError(BaseException):
    """Neither an `Exception` nor one of Python's own."""


class MuteError(Exception):
    """An error that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    def __repr__(self) -> str:
        return "MuteError()"  # asyncio itself cannot do without


class HalfError(Exception):
    """An error with a lone surrogate in its text."""

    def __str__(self) -> str:
        return "no answer about caf\udce9"


ANYTHING: tuple[Callable[[], BaseException], ...] = (
    RuntimeError,
    OSError,
    MuteError,
    HalfError,
    MemoryError,
    RecursionError,
    TimeoutError,
    StopIteration,
    StopAsyncIteration,
    asyncio.CancelledError,
    GeneratorExit,
    KeyboardInterrupt,
    lambda: SystemExit(7),
    OddError,
    lambda: ExceptionGroup("some", [OSError(), MuteError()]),
    lambda: BaseExceptionGroup("some", [KeyboardInterrupt()]),
    lambda: sqlite3.OperationalError("disk I/O error"),
)
DOUBTFUL = (*ANYTHING, ServerError, OutcomeUnknownError, lambda: ClientClosedError("closed"))
REFUSALS: tuple[Callable[[], BaseException], ...] = (
    ValueError,
    KeyError,
    lambda: UnicodeError("caf\udce9"),
    lambda: UnicodeEncodeError("utf-8", "\udce9", 0, 1, "no"),
    ConnectError,
    RateLimitedError,
    UnauthorizedError,
    ForbiddenError,
)
"""Errors that say that nothing was carried out."""


class Faults:
    """Raises anything, now and then, in as many places as ask."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.rates: Counter[str] = Counter()
        self.may_exit = False

    def begin(self) -> None:
        """One run more: of some places, other ones each time."""
        places = ("target", "map", "progress", "source", "fetch", "sink", "sqlite")
        self.rates, self.may_exit = Counter(), True
        for place in self._random.sample(places, self._random.randint(1, 3)):
            self.rates[place] = self._random.choice((2, 10, 40))  # of a hundred

    def end(self) -> None:
        """Nothing fails any more."""
        self.rates = Counter()

    def strike(self, place: str) -> bool:
        """Whether *place* is to fail now."""
        return self._random.random() * 100 < self.rates[place]

    def maybe(self, place: str) -> None:
        """Raise anything, if *place* is to fail now."""
        if self.strike(place):
            raise self.choose(ANYTHING)

    def choose(self, errors: Sequence[Callable[[], BaseException]]) -> BaseException:
        """One of *errors*; one that ends the process at most once in a run.

        A second one while `asyncio.run` is ending the tasks would end it before they are.
        """
        error = self._random.choice(errors)()
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            if not self.may_exit:
                return OddError()
            self.may_exit = False
        return error


def faulty(faults: Faults) -> Callable[..., sqlite3.Connection]:
    """What `sqlite3.connect` is to be: its connections fail before or after what they do."""
    connect = sqlite3.connect

    class Connection(sqlite3.Connection):
        def execute(self, *args: Any) -> sqlite3.Cursor:
            faults.maybe("sqlite")
            if faults.strike("sqlite"):
                super().execute(*args).close()  # else the error's traceback keeps the file open
                raise faults.choose(ANYTHING)
            return super().execute(*args)

        def executemany(self, *args: Any) -> sqlite3.Cursor:
            faults.maybe("sqlite")
            return super().executemany(*args)

        def close(self) -> None:
            super().close()
            faults.maybe("sqlite")

    def connected(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        return connect(*args, **kwargs, factory=Connection)

    return connected


def run(case: PushCase | PullCase) -> None:
    """Run *case* in a loop of its own, which may end at any time."""
    random = case.random
    kind = random.choice(("calm", "calm", "cancelled", "abandoned"))
    after = random.choice((0, 0, 0.001, 0.01, 0.1, 1.0))
    turns = random.choice((0, 1, 10, 100, 300, 1000, 3000))
    errors: list[BaseException] = []

    async def ended() -> None:
        try:
            await case.job()
        except BaseException as error:
            errors.append(error)
            if isinstance(error, asyncio.CancelledError):
                raise

    async def main() -> None:
        with virtual_time():
            task = asyncio.create_task(ended())
            if kind != "calm":
                await asyncio.wait([task], timeout=after)
                for _ in range(turns):  # and so at any step of a commit
                    await asyncio.sleep(0)
            if kind == "cancelled":
                task.cancel()
            if kind != "abandoned":
                await asyncio.wait([task])
            # `asyncio.run` cancels the rest of the job when this returns.
            case.faults.may_exit = False

    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        asyncio.run(main())
    for error in errors:
        if isinstance(error, (AssertionError, pytest.fail.Exception)):
            raise error


# --- Push -----------------------------------------------------------------------------


class Vendor:
    """Counts what arrives; a call may fail before or after it was carried out."""

    def __init__(self, random: Random, faults: Faults) -> None:
        self._random, self._faults = random, faults
        self.arrived: Counter[int] = Counter()

    async def call(self, argument: Any) -> None:
        rows: list[int] = [argument] if isinstance(argument, int) else argument
        await asyncio.sleep(self._random.choice((0, 0, 0.001, 0.01)))
        if not self._faults.strike("target"):
            self.arrived.update(rows)
        elif self._random.random() < 0.5:
            raise self._faults.choose(REFUSALS)
        else:
            self.arrived.update(rows if self._random.random() < 0.5 else ())
            raise self._faults.choose(DOUBTFUL)


class PushCase:
    """One push, as its seed has it."""

    def __init__(self, seed: int, folder: Path) -> None:
        random = self.random = Random(seed)
        self.faults = Faults(random)
        self.vendor = Vendor(random, self.faults)
        self.state = folder / "s.db"
        self.count = random.choice((0, 1, 7, 40))
        self.idempotent = random.random() < 0.4
        self.kind = random.choice(("list", "generator", "async"))
        self.options: dict[str, Any] = {
            "concurrency": random.choice((1, 2, 8)),
            "batch": random.choice((0, 0, 1, 3)),
        }

    def _rows(self) -> Any:
        def generator() -> Iterator[int]:
            for row in range(self.count):
                self.faults.maybe("source")
                yield row

        async def async_generator() -> AsyncIterator[int]:
            for row in range(self.count):
                self.faults.maybe("source")
                yield row

        makes: dict[str, Callable[[], Any]] = {
            "list": lambda: [*range(self.count)],
            "generator": generator,
            "async": async_generator,
        }
        return makes[self.kind]()

    def _map(self, row: int) -> int | None:
        self.faults.maybe("map")
        return None if row % 7 == 3 else row

    def _progress(self, _: Progress) -> None:
        self.faults.maybe("progress")

    async def job(self) -> Report:
        """Run it once."""
        run: Any = push  # the types of the options are not known here
        report: Report = await run(
            self._rows(),
            self.vendor.call,
            state=self.state,
            map=self._map,
            idempotent=self.idempotent,
            max_failed=1.0,
            max_outage=20.0,
            progress=self._progress,
            **self.options,
        )
        return report

    def check(self, report: Report) -> None:
        """Every row is accounted for, and the vendor has it as often as reported."""
        status = read_status(self.state)
        unknown = {each.number - 1 for each in status.unknown_rows}
        failed = set(numbers_of(report.failures))
        assert report.done + report.failed + report.unknown + report.skipped == self.count
        assert (len(unknown), len(failed)) == (report.unknown, report.failed)
        assert status.complete
        skipped = {row for row in range(self.count) if row % 7 == 3} - failed
        assert report.skipped == len(skipped)
        for row in set(range(self.count)) - unknown - failed - skipped:
            assert self.vendor.arrived[row] >= 1
        if not self.idempotent:
            assert all(times == 1 for times in self.vendor.arrived.values())
            assert not any(self.vendor.arrived[row] for row in failed | skipped)


def numbers_of(failures: str | None) -> list[int]:
    """The rows in the file of failed ones."""
    if failures is None:
        return []
    lines = Path(failures).read_bytes().splitlines()
    return [msgspec.json.decode(line)["number"] - 1 for line in lines]


def fuzz(case: PushCase | PullCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run *case* with failures, then once without, and check its result."""
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", faulty(case.faults))
        for _ in range(RUNS):
            case.faults.begin()
            run(case)
        case.faults.end()
    case.check(run_virtual(case.job()))


@pytest.mark.parametrize("seed", seeds(30))
def test_push_survives_random_failures(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A push ends whatever fails, and each row is done once, failed or unknown."""
    fuzz(PushCase(seed, tmp_path), monkeypatch)


# --- Pull -----------------------------------------------------------------------------


class MemorySink:
    """Keeps items; unflushed ones are lost when a run ends. Each step may fail, before or after its work."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._items: list[Any] = []
        self._durable = 0
        self.finished: list[Any] | None = None

    async def open(self, position: Any) -> None:
        self._faults.maybe("sink")
        assert (position or 0) <= self._durable
        self._items = self._items[: position or 0]
        self._durable = len(self._items)

    async def write(self, items: Sequence[Any]) -> None:
        self._faults.maybe("sink")
        self._items += items
        self._faults.maybe("sink")

    async def flush(self) -> int:
        self._faults.maybe("sink")
        self._durable = len(self._items)
        self._faults.maybe("sink")
        return self._durable

    async def finish(self) -> None:
        self._faults.maybe("sink")
        self.finished = [*self._items]
        self._faults.maybe("sink")

    async def close(self) -> None:
        self._faults.maybe("sink")


class PullCase:
    """One pull, as its seed has it."""

    def __init__(self, seed: int, folder: Path) -> None:
        random = self.random = Random(seed)
        self.faults = Faults(random)
        self.state, self.path = folder / "s.db", folder / "items.jsonl"
        self.pages = random.choice((1, 2, 9, 30))
        self.kind = random.choice(("paginator", "iterator", "async"))
        self.sink = MemorySink(self.faults)
        self.to: Any = self.path if random.random() < 0.3 else self.sink

    def _page(self, number: int) -> Page[Any]:
        self.faults.maybe("fetch")
        first = 5 * (number - 1)
        items = [{"id": str(item)} for item in range(first, first + 5)]
        return Page(items=items, number=number, total=5 * self.pages, last=number == self.pages)

    async def _fetch(self, number: int) -> Page[Any]:
        await asyncio.sleep(self.random.choice((0, 0.001, 0.1)))
        return self._page(number)

    def _iterator(self) -> Iterator[Page[Any]]:
        for number in range(1, self.pages + 1):
            yield self._page(number)

    async def _async_iterator(self) -> AsyncIterator[Page[Any]]:
        for number in range(1, self.pages + 1):
            yield await self._fetch(number)

    async def job(self, **options: Any) -> Report:
        """Run it once."""
        makes: dict[str, Callable[[], Any]] = {
            "paginator": lambda: Paginator(self._fetch, operation="things.list"),
            "iterator": self._iterator,
            "async": self._async_iterator,
        }
        return await pull(
            makes[self.kind](),
            self.to,
            state=self.state,
            max_outage=20.0,
            progress=lambda _: self.faults.maybe("progress"),
            **options,
        )

    def result(self) -> Any:
        """The items in the file or sink."""
        if self.to is self.path:
            return [msgspec.json.decode(line) for line in self.path.read_bytes().splitlines()]
        return self.sink.finished

    def check(self, report: Report) -> None:
        """Every item is there, once, in order."""
        wanted = [{"id": str(item)} for item in range(5 * self.pages)]
        assert self.result() == wanted
        assert report.done == len(wanted)


@pytest.mark.parametrize("seed", seeds(30))
def test_pull_survives_random_failures(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pull ends whatever fails, and each item is in the sink once."""
    fuzz(PullCase(seed, tmp_path), monkeypatch)


# --- Refresh --------------------------------------------------------------------------


class UpsertMemorySink(MemorySink):
    """One whose items can be replaced; unflushed changes are lost when a run ends."""

    def __init__(self, faults: Faults) -> None:
        super().__init__(faults)
        self._by_id: dict[str, Any] = {}
        self._flushed: dict[str, Any] = {}

    async def open(self, position: Any) -> None:
        self._faults.maybe("sink")
        self._by_id = {} if position is None else {**self._flushed}

    async def upsert(self, items: Sequence[Any]) -> None:
        self._faults.maybe("sink")
        self._by_id |= {item["id"]: item for item in items}
        self._faults.maybe("sink")

    async def remove(self, keys: Sequence[Any]) -> None:
        self._faults.maybe("sink")
        for key in keys:
            self._by_id.pop(key, None)
        self._faults.maybe("sink")

    async def flush(self) -> int:
        self._faults.maybe("sink")
        self._flushed = {**self._by_id}
        self._faults.maybe("sink")
        return len(self._flushed)

    async def finish(self) -> None:
        self._faults.maybe("sink")
        self.finished = [*self._by_id.values()]
        self._faults.maybe("sink")


class RefreshCase(PullCase):
    """A list that is refreshed, changes, and is refreshed again."""

    def __init__(self, seed: int, folder: Path) -> None:
        super().__init__(seed, folder)
        self.sink = UpsertMemorySink(self.faults)
        self.to = self.path if self.random.random() < 0.6 else self.sink
        self.items = [{"id": str(item)} for item in range(5 * self.pages)]

    def change(self) -> None:
        """Delete some items, change others, and add some at the end."""
        self.items = [
            {**item, "changed": "1"} if self.random.random() < 0.2 else item
            for item in self.items
            if self.random.random() > 0.2
        ]
        self.items += [{"id": f"new {number}"} for number in range(8)]
        self.pages = -(-len(self.items) // 5)

    def _page(self, number: int) -> Page[Any]:
        self.faults.maybe("fetch")
        items = self.items[5 * number - 5 : 5 * number]
        return Page(items=items, number=number, total=len(self.items), last=number == self.pages)

    async def job(self, **_: Any) -> Report:
        """Run it once."""
        return await super().job(refresh=True)

    def check(self, report: Report) -> None:
        """The result has the items of the list, in their order."""
        assert self.result() == self.items
        assert report.done == len(self.items)


@pytest.mark.parametrize("seed", seeds(10))
def test_refresh_survives_random_failures(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refresh ends whatever fails, and the result is the vendor's list, before and after a change."""
    case = RefreshCase(seed, tmp_path)
    fuzz(case, monkeypatch)
    case.change()
    fuzz(case, monkeypatch)
