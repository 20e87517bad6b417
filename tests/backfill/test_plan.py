"""Dry runs: the plan agrees with the run, and nothing is sent or written."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from asyncclients import (
    ConfigurationError,
    DigitalOnboardingClient,
    EmmaClient,
    InputError,
    IntouchClient,
    Quota,
    SessionPool,
    StateMismatchError,
    TotangoClient,
)
from asyncclients.backfill import InvalidRow, Plan, push
from asyncclients.backfill.state import journal
from asyncclients.cli.output import result_text
from asyncclients.sandbox import Sandbox, drop
from asyncclients.vendors.emma import NewTouchpoint

URL = "https://vendor.example/v1/"


def intouch(pool: SessionPool, **options: Any) -> IntouchClient:
    return IntouchClient(pool, api_key="ii_secret_key", base_url=URL, **options)


def people(path: Path, *mails: str) -> Path:
    path.write_text("email,first_name\n" + "".join(f"{mail},Ann\n" for mail in mails))
    return path


# --- Content of a plan -------------------------------------------------------------------


async def test_plan_lists_invalid_rows_and_the_first_request(tmp_path: Path) -> None:
    """A plan has the counts, the first request without a credential, and each invalid row."""
    csv = tmp_path / "people.csv"
    csv.write_text(
        "email,language,first_name\n,,Ann\n,,\na@example.com,en,Ann\nd@example.com,en\ng@example.com,en,Eve\n"
    )
    async with SessionPool() as pool:
        client = intouch(pool, quotas=[Quota(1, 10.0)])
        plan = await push(csv, client.contacts.create, state=tmp_path / "s", dry_run=True)
    assert (plan.rows, plan.valid, plan.invalid, plan.skipped, plan.requests) == (5, 2, 2, 1, 2)
    assert plan.seconds == pytest.approx(10.0, rel=0.01)
    assert plan.preview is not None
    assert (plan.preview.method, plan.preview.path) == ("POST", "/v1/contacts")
    assert plan.preview.body == '{"email":"a@example.com","first_name":"Ann","language":"en"}'
    missing, cut = plan.failures
    assert (missing.line, "email" in missing.reason) == (2, True)
    assert cut == InvalidRow(line=5, reason="has 2 cells where the header has 3")
    assert "secret" not in repr(plan)
    assert [path.name for path in tmp_path.iterdir()] == ["people.csv"]


async def test_plan_agrees_with_the_run(sandbox: Sandbox, tmp_path: Path) -> None:
    """The run that follows sends the preview first, makes as many requests, and fails the same rows."""
    csv = people(tmp_path / "people.csv", "a@example.com", "", "d@example.com")
    async with SessionPool() as pool:
        target = IntouchClient.from_env(pool, sandbox.environ).contacts.create
        plan = await push(csv, target, state=tmp_path / "s", dry_run=True)
        assert sandbox.requests("intouch") == ()
        report = await push(csv, target, state=tmp_path / "s", concurrency=1)
    assert (plan.requests, plan.valid, plan.invalid) == (2, report.done, report.failed) == (2, 2, 1)
    first = sandbox.requests("intouch")[0]
    assert plan.preview is not None
    assert (plan.preview.method, plan.preview.path) == (first.method, first.path)
    assert plan.preview.body == first.body.decode()


async def test_plan_counts_batches_and_the_access_token(tmp_path: Path) -> None:
    """Batches count as the run would send them: invalid rows leave theirs smaller; a token is a call."""
    csv = tmp_path / "people.csv"
    csv.write_text("unique_id\n" + "".join(f"u{number}\n" for number in range(25)) + ",x\n" * 3)
    async with SessionPool() as pool:
        client = DigitalOnboardingClient(
            pool, client_id="a", client_secret="b", base_url=URL, quotas=[Quota(1, 1.0)]
        )
        target, state = client.contacts.upsert_many, tmp_path / "s"
        plan = await push(csv, target, state=state, batch=10, dry_run=True)
        limited = await push(csv, target, state=state, batch=10, limit=21, dry_run=True)
    assert (plan.rows, plan.valid, plan.invalid, plan.requests) == (28, 25, 3, 4)
    assert plan.seconds == pytest.approx(3.0, rel=0.01)
    assert (limited.rows, limited.requests) == (21, 4)
    assert plan.preview is not None
    assert (plan.preview.body or "").count("unique_id") == 10


async def test_plan_counts_invalid_rows_by_reason(tmp_path: Path) -> None:
    """Of a cause that all rows share there is one reason with their number; 20 reasons at most."""
    csv = tmp_path / "people.csv"
    rows = "".join(f"a{number}@example.com,de\n" for number in range(499))
    csv.write_text(f"email,language\n{rows},en\n")
    many = [{"email": "a@example.com", "language": f"x{number}"} for number in range(30)]
    async with SessionPool() as pool:
        create = intouch(pool).contacts.create
        plan = await push(csv, create, state=tmp_path / "s", dry_run=True)
        varied = await push(many, create, state=tmp_path / "t", dry_run=True)
    assert (plan.invalid, len(plan.failures)) == (500, 20)
    german, nobody = plan.reasons
    assert (german.rows, german.line, nobody.rows, nobody.line) == (499, 2, 1, 501)
    assert "must be one of the manual's 50 language codes" in german.reason
    assert "not 'de' (did you mean 'de_DE'?)" in german.reason
    assert "validate=False" not in german.reason  # a command has no such option
    assert (varied.invalid, len(varied.reasons)) == (30, 20)


async def test_plan_warns_of_a_share_that_is_rounded_far(tmp_path: Path) -> None:
    """A tenth of two calls per second is one: the plan and its text say so; a half is exact."""
    rows = [{"email": "a@example.com"}]
    async with SessionPool() as pool:
        create = intouch(pool).contacts.create
        tenth = await push(rows, create, state=tmp_path / "s", share=0.1, dry_run=True)
        half = await push(rows, create, state=tmp_path / "t", share=0.5, dry_run=True)
    assert tenth.warnings == ("share 0.1 of 2 per 1 s is rounded up to 1 per 1 s",)
    assert f"Note: {tenth.warnings[0]}\n" in result_text(tenth)
    assert half.warnings == ()


async def test_plan_halves_a_batch_that_cannot_be_built(tmp_path: Path) -> None:
    """A value that the request cannot hold makes its own row invalid, not its batch."""
    rows: list[Any] = [
        NewTouchpoint(
            touchpoint_type_id=1,
            member_id=number,
            attributes={"x": float("nan") if number == 4 else 1.0},
        )
        for number in range(1, 9)
    ]
    async with SessionPool() as pool:
        client = EmmaClient(pool, account_id="7", public_key="a", private_key="b", base_url=URL)
        plan = await push(rows, client.touchpoints.create, state=tmp_path / "s", dry_run=True)
    assert (plan.valid, plan.invalid) == (7, 1)
    assert plan.requests == 3  # 1-2, 3, 5-8
    (failure,) = plan.failures
    assert (failure.line, "nan" in failure.reason) == (4, True)


async def test_plan_leaves_rows_that_contradict_the_manual_out_of_their_batch(
    tmp_path: Path,
) -> None:
    """As in a run, such a row is invalid by itself and costs its batch no call."""
    rows = [NewTouchpoint(touchpoint_type_id=1, member_id=n or None) for n in range(8)]
    async with SessionPool() as pool:
        client = EmmaClient(pool, account_id="7", public_key="a", private_key="b", base_url=URL)
        plan = await push(rows, client.touchpoints.create, state=tmp_path / "s", dry_run=True)
    assert (plan.valid, plan.invalid, plan.requests) == (7, 1, 1)
    assert [failure.line for failure in plan.failures] == [1]


async def test_plan_of_bound_arguments_and_forms(tmp_path: Path) -> None:
    """Arguments that are bound to the operation are part of the request, and a form is shown as one."""
    async with SessionPool() as pool:
        totango = TotangoClient(pool, app_token="t", base_url=URL)
        update = partial(totango.touchpoints.update, "12/3")
        plan = await push([{"content": "a b"}], update, state=tmp_path / "s", dry_run=True)
    assert plan.preview is not None
    assert (plan.preview.method, plan.preview.body) == ("PUT", "note_id=12%2F3&content=a+b")
    assert plan.preview.path == "/v1/api/v3/touchpoints/12%2F3"


async def test_plan_does_not_call_a_function_of_ones_own(tmp_path: Path) -> None:
    """Rows for a function of the user are mapped and counted; its requests and quota are not known."""

    async def send(row: Any) -> None:
        raise AssertionError("a dry run calls nothing")

    def mapped(row: int) -> int | None:
        return 100 // row if row < 4 else None

    plan = await push([1, 0, 2, 5], send, map=mapped, state=tmp_path / "s", dry_run=True)
    assert (plan.rows, plan.valid, plan.invalid, plan.skipped) == (4, 2, 1, 1)
    assert (plan.requests, plan.seconds, plan.preview) == (2, None, None)


async def test_plan_lists_at_most_twenty_failures(tmp_path: Path) -> None:
    """All invalid rows are counted, even if more than max_failed; twenty are listed."""
    csv = people(tmp_path / "people.csv", *[""] * 300)
    async with SessionPool() as pool:
        target = intouch(pool).contacts.create
        plan = await push(csv, target, state=tmp_path / "s", dry_run=True)
    assert (plan.invalid, plan.requests, plan.seconds, plan.preview) == (300, 0, 0.0, None)
    assert [failure.line for failure in plan.failures] == [*range(2, 22)]


async def test_plan_of_nothing(tmp_path: Path) -> None:
    """A file without rows needs no request and no time."""
    async with SessionPool() as pool:
        target = intouch(pool).contacts.create
        plan = await push(people(tmp_path / "p.csv"), target, state=tmp_path / "s", dry_run=True)
    assert plan == Plan(seconds=0.0)


# --- Plans with a state -------------------------------------------------------------------


async def test_plan_with_a_state_has_what_is_left(sandbox: Sandbox, tmp_path: Path) -> None:
    """Settled rows are left out, unknown ones unless they are to be sent again; no file changes."""
    csv, state = people(tmp_path / "p.csv", *(f"{n}@example.com" for n in range(6))), tmp_path / "s"
    async with SessionPool() as pool:
        target = IntouchClient.from_env(pool, sandbox.environ).contacts.create
        sandbox.fail("intouch", drop(committed=True), times=1)
        report = await push(csv, target, state=state, limit=4, concurrency=1)
        assert (report.done, report.unknown) == (3, 1)
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        sent = len(sandbox.requests("intouch"))
        plan = await push(csv, target, state=state, dry_run=True)
        again = await push(csv, target, state=state, unknown="resend", dry_run=True)
        assert len(sandbox.requests("intouch")) == sent
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
        await push(csv, target, state=state, unknown="resend")
        done = await push(csv, target, state=state, dry_run=True)
    assert (plan.rows, plan.valid, plan.requests) == (2, 2, 2)
    assert (again.rows, again.requests) == (3, 3)
    assert done == Plan(seconds=0.0)


async def test_plan_of_a_run_killed_while_it_marked_its_log(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """A state that needs its `-wal` file, and has it, is planned as it is resumed."""
    csv, state = people(tmp_path / "p.csv", *(f"{n}@example.com" for n in range(3))), tmp_path / "s"
    async with SessionPool() as pool:
        target = IntouchClient.from_env(pool, sandbox.environ).contacts.create
        await push(csv, target, state=state, limit=1)
        with closing(sqlite3.connect(state)) as database, database:
            names: Any = journal
            names._put_now(database, "wal", names._LOG_NEEDED)
            database.commit()  # the `-wal` file stays until the database is closed
            plan = await push(csv, target, state=state, dry_run=True)
    assert (plan.rows, plan.valid) == (2, 2)


async def test_plan_rejects_what_the_run_would_reject(sandbox: Sandbox, tmp_path: Path) -> None:
    """A state of another job, a changed input and an unusable state are reported as by a run."""
    csv, state = people(tmp_path / "p.csv", "a@example.com"), tmp_path / "s"
    async with SessionPool() as pool:
        client = IntouchClient.from_env(pool, sandbox.environ)
        create = client.contacts.create
        await push(csv, create, state=state)
        with pytest.raises(StateMismatchError, match="belongs to another job"):
            await push(csv, client.tags.create, state=state, dry_run=True, map=dict)
        people(csv, "x@example.com", "a@example.com")
        with pytest.raises(StateMismatchError, match="has changed since"):
            await push(csv, create, state=state, dry_run=True)
        state.write_text("no state")
        with pytest.raises(StateMismatchError, match="is not a state file"):
            await push(csv, create, state=state, dry_run=True)


async def test_plan_rejects_bad_input_and_arguments(tmp_path: Path) -> None:
    """A missing column, a state that cannot be created, and wrong arguments are errors."""
    csv = tmp_path / "p.csv"
    csv.write_text("mail\na@example.com\n")
    async with SessionPool() as pool:
        create = intouch(pool).contacts.create
        with pytest.raises(InputError, match="has no column email"):
            await push(csv, create, state=tmp_path / "s", dry_run=True)
        with pytest.raises(StateMismatchError, match="cannot keep a state in"):
            await push([], create, state=tmp_path / "none" / "s", dry_run=True)
        with pytest.raises(ConfigurationError, match="dry_run must be bool, not 1"):
            await push(csv, create, state=tmp_path / "s", dry_run=cast("bool", 1))
        with pytest.raises(
            ConfigurationError, match="limit must be a whole number of at least 1 or None, not 0"
        ):
            await push(csv, create, state=tmp_path / "s", limit=0)
