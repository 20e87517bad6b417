"""Push: each row ends once, as done, failed, unknown or skipped."""

from __future__ import annotations

import asyncio
import gzip
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asyncclients import (
    BackfillStoppedError,
    ConnectError,
    DisconnectedError,
    ForbiddenError,
    InputError,
    IntouchClient,
    Priority,
    Quota,
    RetryPolicy,
    ServerError,
    SessionPool,
    StateError,
    StateMismatchError,
    UnauthorizedError,
    UnprocessableEntityError,
)
from asyncclients.backfill import Progress, Report, push, read_status
from asyncclients.core.options import current_call_context
from asyncclients.sandbox import Sandbox, drop, status
from asyncclients.sandbox.vendor import SandboxRequest
from asyncclients.vendors.intouch import NewContact, NewHierarchy

Batch = list[int]
OPEN = {"intouch": (100, 1.0)}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "push.db"


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return tmp_path / "rows.csv"


def no_fault(_: Any) -> None:
    """Everything is fine."""


class Vendor:
    """A target that keeps what it is given after *seconds*, and raises what *fault* makes of it."""

    def __init__(self, seconds: float = 0.01) -> None:
        self._seconds = seconds
        self.held: list[Any] = []
        self.calls = 0
        self.fault: Callable[[Any], Exception | None] = no_fault

    async def take(self, value: Any) -> None:
        self.calls += 1
        await asyncio.sleep(self._seconds)
        if error := self.fault(value):
            raise error
        self.held.append(value)


def failures(state: Path) -> list[dict[str, Any]]:
    lines = Path(f"{state}.failed.jsonl").read_bytes().splitlines()
    return [msgspec.json.decode(line) for line in lines]


# --- Good rows and bad ones -----------------------------------------------------------


async def test_push_lists_failed_rows_and_delivers_the_others(
    sandbox: Sandbox, csv: Path, state: Path
) -> None:
    """A rejected row and an invalid one are listed with line, row, reason and attempts."""
    lines = [f"p{number}@example.com," for number in range(60)]
    lines[9] = "not an address,"
    lines[19] = ",0301234"
    csv.write_text("email,phone_number\n" + "\n".join(lines))
    async with SessionPool() as pool:
        intouch = IntouchClient.from_env(pool, sandbox.environ, quotas=[Quota(10_000, 1.0)])
        report = await push(csv, intouch.contacts.create, row_type=NewContact, state=state)
    assert (report.done, report.failed, report.unknown, report.skipped) == (58, 2, 0, 0)
    assert (report.requests, report.rejected) == (59, 0)
    assert report.failures == f"{state}.failed.jsonl"
    refused, misfit = sorted(failures(state), key=lambda failure: -failure["attempts"])
    assert (refused["line"], refused["attempts"]) == (11, 1)
    assert refused["row"] == {"email": "not an address"}
    assert "must be a valid email address" in refused["reason"]
    assert refused["errors"] == {"email": ["The email must be a valid email address."]}
    assert (misfit["line"], misfit["attempts"]) == (21, 0)
    assert misfit["row"] == {"phone_number": "0301234"}
    assert "email" in misfit["reason"]
    assert len(sandbox.state("intouch").contacts) == 58


@pytest.mark.parametrize("map_", [None, dict, {"n": "number"}])
async def test_push_skips_rows_without_values(csv: Path, state: Path, map_: Any) -> None:
    """A row of empty cells is neither sent nor failed, whatever `map` returns for it."""
    csv.write_text("n,name\n1,a\n,\n , \n2,\n,,,\n")
    vendor = Vendor()
    report = await push(csv, vendor.take, state=state, map=map_, concurrency=1)
    assert (report.done, report.failed, report.unknown, report.skipped) == (2, 0, 0, 3)
    assert [row.get("n", row.get("number")) for row in vendor.held] == ["1", "2"]


async def test_push_stops_at_an_unclosed_quote(csv: Path, state: Path) -> None:
    """The rows before it are sent once; the corrected file continues with the same state."""
    good = [f"{number},x" for number in range(2000)]
    csv.write_text("n,name\n" + "\n".join([*good, '2000,"x', "2001,x"]))
    vendor = Vendor()
    with pytest.raises(BackfillStoppedError, match=r"line 2002.*quoted cell"):
        await push(csv, vendor.take, state=state, concurrency=100)
    assert len(vendor.held) < 2001
    csv.write_text("n,name\n" + "\n".join([*good, "2000,x", "2001,x"]))
    report = await push(csv, vendor.take, state=state, concurrency=100)
    assert report.done == 2002
    assert sorted(int(row["n"]) for row in vendor.held) == list(range(2002))


async def test_push_accepts_a_file_of_failed_rows(sandbox: Sandbox, csv: Path, state: Path) -> None:
    """The file of failed rows can be pushed like any other."""
    csv.write_text("email,first_name\na@example.com,Ann\n")
    sandbox.fail("intouch", status(422, b'{"message": "closed"}'))
    async with SessionPool() as pool:
        intouch = IntouchClient.from_env(pool, sandbox.environ)
        create = intouch.contacts.create
        report = await push(csv, create, row_type=NewContact, state=state)
        assert (report.done, report.failed) == (0, 1)
        again = state.with_name("again.db")
        report = await push(f"{state}.failed.jsonl", create, row_type=NewContact, state=again)
    assert (report.done, report.failed) == (1, 0)
    (contact,) = sandbox.state("intouch").contacts.values()
    assert (contact["email"], contact["first_name"]) == ("a@example.com", "Ann")


async def test_push_fails_only_the_row_with_a_wrong_type(csv: Path, state: Path) -> None:
    """A text instead of a number in line 40,000 fails that row only, with line and value in the error."""
    lines = [f"{number},x" for number in range(2, 40_002)]
    lines[39_998] = "many,x"
    csv.write_text("count,name\n" + "\n".join(lines))

    class Thing(msgspec.Struct, frozen=True, kw_only=True):
        count: int
        name: str

    async def target(_: Thing) -> None:
        pass

    report = await push(csv, target, row_type=Thing, state=state, idempotent=True)
    assert (report.done, report.failed) == (39_999, 1)
    (failure,) = failures(state)
    assert failure["line"] == 40_000
    assert "'many'" in failure["reason"]
    assert state.stat().st_size < 40_000


@pytest.mark.virtual_time
async def test_push_stops_after_too_many_failures(state: Path) -> None:
    """If more than a tenth of at least fifty rows fail, the run stops with the reason and can be resumed."""
    vendor = Vendor()
    vendor.fault = lambda value: ValueError("no") if value % 5 == 0 else None

    async def run(max_failed: float = 0.1) -> Report:
        return await push(
            range(1000),
            vendor.take,
            idempotent=True,
            state=state,
            concurrency=1,
            max_failed=max_failed,
        )

    with pytest.raises(BackfillStoppedError, match=r"\d+ of 5\d rows of this run failed") as caught:
        await run()
    assert caught.value.report.failed <= 11
    assert not caught.value.report.complete
    report = await run(1.0)
    assert (report.done, report.failed) == (800, 200)
    assert Counter(vendor.held) == Counter(value for value in range(1000) if value % 5)


@pytest.mark.parametrize("concurrency", [1, 16, 64, 200])
async def test_push_counts_rows_in_flight_before_it_stops(state: Path, concurrency: int) -> None:
    """One invalid row in twenty does not stop a run, although invalid rows fail at once."""

    async def take(_: Any) -> None:
        for _turn in range(100):
            await asyncio.sleep(0)

    def check(number: int) -> int:
        if number % 20 == 0:
            raise ValueError("no")
        return number

    report = await push(range(1000), take, state=state, map=check, concurrency=concurrency)
    assert (report.done, report.failed) == (950, 50)


async def test_push_stops_at_an_invalid_credential(state: Path) -> None:
    """After a 401 no row fails, and the next run delivers all."""
    vendor = Vendor()
    vendor.fault = lambda _: UnauthorizedError("answered 401")
    with pytest.raises(UnauthorizedError):
        await push(range(100), vendor.take, state=state, concurrency=4)
    assert vendor.calls <= 4
    assert not Path(f"{state}.failed.jsonl").exists()
    vendor.fault = no_fault
    report = await push(range(100), vendor.take, state=state)
    assert (report.done, report.unknown) == (100, 0)


async def test_push_stops_at_a_forbidden_first_row(state: Path) -> None:
    """A 403 for the first row stops the run; among accepted rows it fails the row."""
    vendor = Vendor()
    vendor.fault = lambda _: ForbiddenError()
    with pytest.raises(ForbiddenError):
        await push(range(20), vendor.take, state=state, concurrency=1)
    vendor.fault = lambda value: ForbiddenError() if value == 7 else None
    report = await push(range(20), vendor.take, state=state)
    assert (report.done, report.failed) == (19, 1)


async def test_push_skips_rows_that_map_drops(state: Path) -> None:
    """A row for which `map` returns None is counted and not sent."""
    vendor = Vendor()
    report = await push(range(10), vendor.take, map=lambda n: n if n % 2 else None, state=state)
    assert (report.done, report.skipped, sorted(vendor.held)) == (5, 5, [1, 3, 5, 7, 9])


async def test_push_checks_columns_before_anything(csv: Path, state: Path) -> None:
    """Unusable input creates no state file and makes no call."""
    csv.write_text("mail\na@example.com\n")
    vendor = Vendor()
    with pytest.raises(InputError, match="no column email"):
        await push(csv, vendor.take, row_type=NewContact, state=state)
    assert (vendor.calls, state.exists()) == (0, False)


# --- Batches --------------------------------------------------------------------------


async def test_push_halves_a_rejected_batch(state: Path) -> None:
    """Three bad rows of two hundred are found; the others are delivered once each."""
    vendor, bad = Vendor(), {17, 18, 150}

    def fault(batch: Batch) -> Exception | None:
        return UnprocessableEntityError("no") if bad & set(batch) else None

    vendor.fault = fault
    report = await push(range(200), vendor.take, batch=100, state=state)
    assert (report.done, report.failed, report.unknown) == (197, 3, 0)
    assert vendor.calls < 40
    assert {failure["row"] for failure in failures(state)} == bad
    delivered = Counter(value for batch in vendor.held for value in batch)
    assert delivered == Counter(set(range(200)) - bad)


async def test_push_fills_batches(csv: Path, state: Path) -> None:
    """Rows are sent in batches of the operation's maximum size, whatever their source."""
    csv.write_text("n\n" + "".join(f"{number}\n" for number in range(1005)))
    for source in (csv, range(1005)):
        vendor = Vendor()
        await push(source, vendor.take, batch=10, state=state.with_name(f"{type(source)}.db"))
        assert sorted(map(len, vendor.held)) == [5] + [10] * 100


async def test_push_fails_rows_that_a_batch_does_not_acknowledge(state: Path) -> None:
    """Rows missing in the response to a batch have failed; the others are done."""

    class Answer:
        def __init__(self, taken: Batch) -> None:
            self._taken = taken

        def unacknowledged(self, sent: Batch) -> Batch:
            return [value for value in sent if value not in self._taken]

    async def target(batch: Batch) -> Answer:
        return Answer([value for value in batch if value != 1000])

    report = await push(range(990, 1010), target, batch=20, state=state)
    assert (report.done, report.failed, report.unknown) == (19, 1, 0)
    assert failures(state)[0]["row"] == 1000


@pytest.mark.virtual_time
async def test_push_isolates_a_row_that_always_gets_a_500(state: Path) -> None:
    """The row fails; the rest of its batch is delivered."""
    vendor = Vendor()
    vendor.fault = lambda batch: ServerError("500") if 42 in batch else None
    report = await push(range(300), vendor.take, batch=100, idempotent=True, state=state)
    assert (report.done, report.failed, report.unknown) == (299, 1, 0)
    assert failures(state)[0]["row"] == 42


@pytest.mark.virtual_time
async def test_push_gives_up_a_row_that_fails_while_others_succeed(state: Path) -> None:
    """After its first failure a row has three more tries while others succeed; then it fails."""
    tries: Counter[int] = Counter()

    async def target(row: int) -> None:
        tries[row] += 1
        await asyncio.sleep(0.5)
        if row == 0:
            raise ServerError("500")

    report = await push(range(100), target, idempotent=True, concurrency=2, state=state)
    assert (report.done, report.failed) == (99, 1)
    assert (tries.pop(0), {*tries.values()}) == (4, {1})


# --- Vendors that are away ------------------------------------------------------------


class Outage:
    """Between two instants every call raises *error*."""

    def __init__(self, error: Exception, start: float, end: float) -> None:
        self._error, self._loop = error, asyncio.get_running_loop()
        self._start, self._end = self._loop.time() + start, self._loop.time() + end

    def __call__(self, _: object) -> Exception | None:
        return self._error if self._start < self._loop.time() < self._end else None


@pytest.mark.virtual_time
@pytest.mark.parametrize("error", [ConnectError("away"), ServerError("503"), DisconnectedError()])
async def test_push_survives_an_outage_of_ten_minutes(state: Path, error: Exception) -> None:
    """During an outage of ten minutes no row fails and few calls are made."""
    vendor = Vendor(0.1)
    vendor.fault = Outage(error, 2.0, 602.0)
    report = await push(range(1000), vendor.take, idempotent=True, concurrency=8, state=state)
    assert (report.done, report.failed, report.unknown) == (1000, 0, 0)
    assert Counter(vendor.held) == Counter(range(1000))
    assert vendor.calls - 1000 < 50
    assert 600 < report.seconds < 700


@pytest.mark.virtual_time
async def test_push_sends_few_probes_that_are_not_idempotent(state: Path) -> None:
    """If each probe makes a row unknown, few probes are sent; the other rows wait."""
    vendor = Vendor(0.1)
    vendor.fault = Outage(DisconnectedError("cut"), 2.0, 602.0)
    report = await push(range(1000), vendor.take, concurrency=8, state=state)
    assert report.done + report.unknown == 1000
    assert 8 <= report.unknown < 40
    assert Counter(vendor.held).most_common(1)[0][1] == 1


@pytest.mark.virtual_time
async def test_push_stops_after_max_outage(state: Path) -> None:
    """An outage longer than max_outage stops the run; the next run completes the job."""
    vendor = Vendor(0.1)
    vendor.fault = Outage(ConnectError("away"), 1.0, 1e9)
    with pytest.raises(BackfillStoppedError, match="no usable response") as caught:
        await push(range(100), vendor.take, concurrency=4, max_outage=60, state=state)
    before = caught.value.report.done
    assert caught.value.report.failed == caught.value.report.unknown == 0
    assert 0 < before < 100
    vendor.fault = no_fault
    report = await push(range(100), vendor.take, concurrency=4, state=state)
    assert report.done == 100
    assert Counter(vendor.held) == Counter(range(100))


# --- Unknown rows ---------------------------------------------------------------------


async def lose_some(sandbox: Sandbox, state: Path, csv: Path, **options: Any) -> Report:
    """Push 30 nodes; three responses are lost, two of them after the vendor executed the request."""
    root = sandbox.state("intouch").root_uuid
    csv.write_text(
        "client_code,name,type,parent_uuid\n"
        + "".join(f"n{number},Node,generic,{root}\n" for number in range(30))
    )
    if not state.exists():
        for committed, code in ((True, "n3"), (False, "n4"), (True, "n5")):
            sandbox.fail("intouch", drop(committed=committed), 1, holding(code))
    async with SessionPool() as pool:
        intouch = IntouchClient.from_env(pool, sandbox.environ, quotas=[Quota(10_000, 1.0)])
        create = intouch.hierarchies.create
        run: Any = push  # the types of the options are not known here
        report: Report = await run(csv, create, row_type=NewHierarchy, state=state, **options)
        return report


def holding(code: str) -> Callable[[SandboxRequest], bool]:
    quoted = f'"{code}"'.encode()
    return lambda call: quoted in call.body


def codes(sandbox: Sandbox) -> Counter[str]:
    held = sandbox.state("intouch").hierarchies.values()
    return Counter(str(node["client_code"]) for node in held if node["name"] == "Node")


async def test_push_lists_rows_without_a_response_as_unknown(
    sandbox: Sandbox, csv: Path, state: Path
) -> None:
    """Rows without a response are unknown, listed with their content, and not sent again."""
    report = await lose_some(sandbox, state, csv)
    assert (report.done, report.unknown) == (27, 3)
    again = await lose_some(sandbox, state, csv)
    assert (again.done, again.unknown, again.requests) == (27, 3, 0)
    assert set(codes(sandbox)) == {f"n{number}" for number in range(30)} - {"n4"}
    listed = read_status(state).unknown_rows
    assert [(row.line, row.row["client_code"]) for row in listed] == [
        (5, "n3"),
        (6, "n4"),
        (7, "n5"),
    ]


async def test_push_resends_unknown_rows(sandbox: Sandbox, csv: Path, state: Path) -> None:
    """`unknown="resend"` sends them again, even if that creates duplicates."""
    await lose_some(sandbox, state, csv)
    report = await lose_some(sandbox, state, csv, unknown="resend")
    assert (report.done, report.unknown, report.requests) == (30, 0, 3)
    assert codes(sandbox)["n4"] == 1
    assert codes(sandbox)["n3"] == 2


async def test_push_drops_unknown_rows(sandbox: Sandbox, csv: Path, state: Path) -> None:
    """`unknown="drop"` sends nothing and counts them as skipped."""
    await lose_some(sandbox, state, csv)
    report = await lose_some(sandbox, state, csv, unknown="drop")
    assert (report.done, report.unknown, report.skipped, report.requests) == (27, 0, 3, 0)


async def test_push_reconciles_unknown_rows(sandbox: Sandbox, csv: Path, state: Path) -> None:
    """An executed row is done, one that was not is sent, and the rest stays unknown."""
    asked: list[str] = []

    async def ask(node: NewHierarchy) -> bool | None:
        asked.append(str(node.client_code))
        return None if node.client_code == "n5" else node.client_code in codes(sandbox)

    report = await lose_some(sandbox, state, csv, reconcile=ask)
    assert sorted(asked) == ["n3", "n4", "n5"]
    assert (report.done, report.unknown) == (29, 1)
    assert codes(sandbox) == Counter(f"n{number}" for number in range(30))


@pytest.mark.virtual_time
async def test_push_records_no_intent_for_queued_rows(csv: Path, state: Path) -> None:
    """Only requests on the wire are recorded as sent: a crash leaves no queued row unknown."""
    csv.write_text("email\n" + "".join(f"p{number}@example.com\n" for number in range(40)))
    async with Sandbox(OPEN) as sandbox, SessionPool() as pool:
        intouch = IntouchClient.from_env(pool, sandbox.environ, quotas=[Quota(3, 3600.0)])
        create = intouch.contacts.create
        work = asyncio.create_task(push(csv, create, row_type=NewContact, state=state))
        async with asyncio.timeout(30):
            # Nothing signals that all of them wait.
            while (stats := intouch.stats()).in_flight or stats.queued["background"] < 38:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            while (found := read_status(state)).done < stats.sent:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        assert (found.unknown, found.unknown_rows) == (0, ())
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
    found = read_status(state)
    assert (found.done, found.unknown, found.running) == (2, 0, None)


# --- Stopping and resuming ------------------------------------------------------------


@pytest.mark.virtual_time
async def test_push_finishes_calls_on_the_wire_when_cancelled(state: Path) -> None:
    """On cancellation, calls on the wire finish and are counted; no more calls are made."""
    vendor = Vendor(0.1)
    work = asyncio.create_task(push(range(100), vendor.take, concurrency=5, state=state))
    await asyncio.sleep(0.25)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert (len(vendor.held), vendor.calls) == (15, 15)
    found = read_status(state)
    assert (found.done, found.unknown, found.complete) == (15, 0, False)
    report = await push(range(100), vendor.take, state=state)
    assert report.done == 100
    assert Counter(vendor.held) == Counter(range(100))


@pytest.mark.virtual_time
async def test_push_leaves_a_rate_limited_row_pending_when_cancelled(
    csv: Path, state: Path
) -> None:
    """A rate-limited call that waits for its next attempt is cancelled, and its row is pending."""
    csv.write_text("email\na@example.com\n")
    async with Sandbox(OPEN) as sandbox, SessionPool() as pool:
        sandbox.fail("intouch", status(429, headers={"Retry-After": "10"}), 2)
        intouch = IntouchClient.from_env(pool, sandbox.environ, quotas=[Quota(100, 1.0)])
        create = intouch.contacts.create
        work = asyncio.create_task(push(csv, create, row_type=NewContact, state=state))
        await asyncio.sleep(5)
        assert read_status(state).unknown == 0
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert len(sandbox.requests("intouch")) == 1
        found = read_status(state)
        assert (found.done, found.unknown) == (0, 0)
        report = await push(csv, create, row_type=NewContact, state=state)
    assert (report.done, report.requests, report.rejected) == (1, 2, 1)


@pytest.mark.virtual_time
async def test_push_makes_no_further_attempt_when_cancelled(state: Path) -> None:
    """An idempotent call between two attempts makes no other attempt."""
    async with Sandbox(OPEN) as sandbox, SessionPool(retry=RetryPolicy(base=60, cap=60)) as pool:
        sandbox.fail("intouch", drop(), None)
        intouch = IntouchClient.from_env(pool, sandbox.environ, quotas=[Quota(100, 1.0)])
        work = asyncio.create_task(push(["some-uuid"], intouch.contacts.delete, state=state))
        await asyncio.sleep(0.1)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        await asyncio.sleep(300)
        assert len(sandbox.requests("intouch")) == 1
    assert (read_status(state).done, read_status(state).unknown) == (0, 0)


@pytest.mark.virtual_time
async def test_push_ends_at_once_when_cancelled_twice(state: Path) -> None:
    """A second cancellation ends the run at once; rows on the wire that are not idempotent are unknown."""

    async def hang(_: int) -> None:
        await asyncio.sleep(1e6)

    work = asyncio.create_task(push(range(100), hang, concurrency=5, state=state))
    await asyncio.sleep(1)
    work.cancel()
    await asyncio.sleep(1)
    work.cancel()
    started = asyncio.get_running_loop().time()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert asyncio.get_running_loop().time() - started < 1
    assert read_status(state).unknown == 5


@pytest.mark.virtual_time
async def test_push_waits_for_calls_on_the_wire_only_so_long(state: Path) -> None:
    """An interrupted run ends after thirty seconds even if a call never returns."""

    async def hang(_: int) -> None:
        await asyncio.sleep(1e6)

    work = asyncio.create_task(push(range(10), hang, state=state))
    await asyncio.sleep(1)
    started = asyncio.get_running_loop().time()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert 29 < asyncio.get_running_loop().time() - started < 32


async def test_push_continues_with_rows_added_at_the_end(csv: Path, state: Path) -> None:
    """The same file with more rows continues with the new ones."""
    vendor = Vendor()
    csv.write_text("n\n1\n2\n")
    await push(csv, vendor.take, state=state)
    csv.write_text("n\n1\n2\n3\n")
    report = await push(csv, vendor.take, state=state)
    assert (report.done, vendor.held[2:]) == (3, [{"n": "3"}])


@pytest.mark.parametrize("text", ["n\n1\n9\n3\n", "n\n1\n"])
async def test_push_rejects_a_changed_input(csv: Path, state: Path, text: str) -> None:
    """If rows that were read before differ or are missing, nothing is sent."""
    vendor = Vendor()
    csv.write_text("n\n1\n2\n")
    await push(csv, vendor.take, state=state)
    csv.write_text(text)
    with pytest.raises(StateMismatchError, match=r"has changed since .*--retry-failed"):
        await push(csv, vendor.take, state=state)
    assert vendor.calls == 2


@pytest.mark.virtual_time
async def test_push_stops_at_a_truncated_file(tmp_path: Path, state: Path) -> None:
    """The error names file and line; the rows before it are delivered and saved."""
    path = tmp_path / "rows.csv.gz"
    whole = gzip.compress("\n".join(["n", *map(str, range(10_000))]).encode())
    path.write_bytes(whole[: len(whole) // 2])
    vendor = Vendor()
    with pytest.raises(BackfillStoppedError, match=r"rows\.csv\.gz, line \d+: ends in the middle"):
        await push(path, vendor.take, state=state, concurrency=400)
    path.write_bytes(whole)
    report = await push(path, vendor.take, state=state, concurrency=400)
    assert report.done == 10_000
    assert len(vendor.held) == len({row["n"] for row in vendor.held}) == 10_000


async def test_push_stops_when_the_disk_is_full(state: Path, full_disk: Callable[[], None]) -> None:
    """When the journal cannot be written, nothing more is sent, and the state stays valid."""
    vendor = Vendor()
    with pytest.raises(StateError, match="cannot keep the state"):
        await push(range(1000), vendor.take, state=state, concurrency=4)
    sent = len(vendor.held)
    assert 0 < sent < 1000
    full_disk()
    report = await push(range(1000), vendor.take, state=state)
    assert report.done + report.unknown == 1000
    assert report.unknown <= 8
    assert Counter(vendor.held).most_common(1)[0][1] == 1


# --- Manners --------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_push_runs_in_the_background_and_reports_progress(state: Path) -> None:
    """Calls are background calls of the job's flow; progress is reported every second and at the end."""
    told: list[Progress] = []
    lanes: set[tuple[Priority, str | None]] = set()

    async def target(_: int) -> None:
        lane = current_call_context()
        assert lane is not None
        lanes.add((lane.priority, lane.flow))
        await asyncio.sleep(0.1)

    report = await push(
        range(100), target, state=state, concurrency=2, progress=told.append, flow="mine"
    )
    assert lanes == {(Priority.BACKGROUND, "mine")}
    assert 4.9 < report.seconds < 5.5
    assert 5 <= len(told) <= 6
    assert [progress.done for progress in told] == sorted(progress.done for progress in told)
    assert told[-1].done == 100
    assert 18 < told[-1].rate < 21


# --- A limit ------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [None, 4])
async def test_push_stops_after_the_limit_and_continues(
    csv: Path, state: Path, batch: int | None
) -> None:
    """Each run handles as many rows as its limit, whatever becomes of them, and none twice."""
    lines = [f"{number}," for number in range(20)]
    lines[2] = ","
    lines[5] = "5"
    csv.write_text("n,name\n" + "\n".join(lines))
    vendor, handled = Vendor(), 0
    for limit, complete in ((7, False), (1, False), (11, False), (9, True), (3, True)):
        report = await push(csv, vendor.take, state=state, batch=batch, limit=limit)
        counted = report.done + report.failed + report.unknown + report.skipped
        assert (counted, report.complete) == (min(20, handled + limit), complete)
        assert read_status(state).complete is complete
        handled = counted
    assert (report.done, report.failed, report.skipped) == (18, 1, 1)
    rows = [row for held in vendor.held for row in (held if batch else [held])]
    assert sorted(int(row["n"]) for row in rows) == [n for n in range(20) if n not in (2, 5)]


async def test_push_with_a_limit_of_all_rows_is_complete(csv: Path, state: Path) -> None:
    """A limit that the input just reaches leaves nothing to do; rows added later are pending."""
    csv.write_text("n\n1\n2\n")
    assert (await push(csv, Vendor().take, state=state, limit=2)).complete
    csv.write_text("n\n1\n2\n3\n4\n")
    report = await push(csv, Vendor().take, state=state, limit=1)
    assert (report.done, report.complete, read_status(state).complete) == (3, False, False)


async def test_push_with_a_limit_takes_no_further_row_of_an_iterator(state: Path) -> None:
    """The next row of an iterable is not waited for: it may come much later."""

    async def rows() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    report = await push(rows(), Vendor().take, state=state, limit=1, concurrency=3)
    assert (report.done, report.complete) == (1, False)


async def test_push_with_a_limit_resolves_unknown_rows_within_it(csv: Path, state: Path) -> None:
    """Unknown rows are sent again only after all others, and count towards the limit."""
    csv.write_text("n\n1\n2\n3\n4\n")
    vendor = Vendor()
    vendor.fault = lambda _: RuntimeError("no response")
    assert (await push(csv, vendor.take, state=state, limit=3)).unknown == 3
    vendor.fault = no_fault
    run = partial(push, csv, vendor.take, state=state, unknown="resend")
    report = await run(limit=1)
    assert (report.done, report.unknown, report.complete) == (1, 3, False)
    report = await run(limit=2)
    assert (report.done, report.unknown, report.complete) == (3, 1, False)
    report = await run(limit=2)
    assert (report.done, report.unknown, report.complete) == (4, 0, True)
    assert sorted(int(row["n"]) for row in vendor.held) == [1, 2, 3, 4]


async def test_push_counts_the_requests_of_its_source(sandbox: Sandbox, state: Path) -> None:
    """Requests that the source sends in the run are part of the report."""
    sandbox.state("intouch").grow(tags=3)
    vendor = Vendor()
    async with SessionPool() as pool:
        tags = IntouchClient.from_env(pool, sandbox.environ).tags.list(sort_by="created_at")
        report = await push(tags, vendor.take, state=state)
    assert (report.done, report.requests) == (3, len(sandbox.requests("intouch")))
    assert report.requests > 0


@pytest.mark.virtual_time
async def test_push_does_little_work_when_a_worker_ends(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of one of many workers does not make the run look at all the others."""
    looked, wait = 0, asyncio.wait

    def count(tasks: Any, **options: Any) -> Any:
        nonlocal looked
        looked += len(tasks)
        return wait(tasks, **options)

    async def take(seconds: int) -> None:
        await asyncio.sleep(seconds)

    monkeypatch.setattr(asyncio, "wait", count)
    assert (await push(range(100), take, state=state, concurrency=100)).done == 100
    assert looked < 1000
