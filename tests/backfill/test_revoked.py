"""A credential that is revoked during a push stops it; a forbidden row is that row's failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asyncclients import (
    ForbiddenError,
    IntouchClient,
    SessionPool,
    UnauthorizedError,
    UnprocessableEntityError,
)
from asyncclients.backfill import Report, push
from asyncclients.sandbox import Sandbox

Fault = Callable[[int], Exception | None]
pytestmark = pytest.mark.virtual_time


class Vendor:
    """Responds after 0.1 s as *fault* decides when the call arrives."""

    def __init__(self) -> None:
        self.fault: Fault = lambda _: None
        self.held: list[int] = []
        self.calls = 0

    async def take(self, value: int | list[int]) -> None:
        values = value if isinstance(value, list) else [value]
        self.calls += 1
        errors = [error for each in values if (error := self.fault(each))]
        if not errors:
            self.held += values
        await asyncio.sleep(0.1)
        if errors:
            raise errors[0]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "s.db"


@pytest.fixture
def vendor() -> Vendor:
    return Vendor()


def among(*numbers: int) -> Fault:
    return lambda value: ForbiddenError("no") if value in numbers else None


REVOKED = [ForbiddenError, UnauthorizedError]
CONCURRENCY = pytest.mark.parametrize("concurrency", [1, 4, 64])
BATCH = pytest.mark.parametrize("batch", [0, 10])


@pytest.mark.parametrize("error", REVOKED)
@CONCURRENCY
@pytest.mark.parametrize(
    ("at", "batch"), [(at, batch) for at in (0, 40, 280, 290) for batch in (0, 10)]
)
async def test_revoked_credential_fails_no_row(
    state: Path, *, error: type[Exception], concurrency: int, batch: int, at: int
) -> None:
    """Rows since the revocation are pending, and sent once the credential is valid again."""
    vendor = Vendor()

    def run() -> Any:
        return push(
            range(300),
            vendor.take,
            state=state,
            concurrency=concurrency,
            batch=batch,
            max_failed=1.0,
            idempotent=True,
        )

    vendor.fault = lambda value: error("no") if len(vendor.held) >= at or value < 0 else None
    before = 0
    for _ in range(3):
        before = vendor.calls
        with pytest.raises(error):
            await run()
    assert vendor.calls - before <= 50 + 64 * (4 if batch else 1)
    vendor.fault = lambda _: None
    report: Report = await run()
    assert (report.done, report.failed, report.unknown) == (300, 0, 0)
    assert sorted(set(vendor.held)) == list(range(300))


@CONCURRENCY
@pytest.mark.parametrize(
    "forbidden", [[0], [19], [7], [0, 1, 2], [3, 9, 15], [0, 5, 10, 15], [18, 19], range(0, 20, 2)]
)
@BATCH
async def test_forbidden_rows_fail_alone(
    state: Path, vendor: Vendor, concurrency: int, forbidden: list[int], batch: int
) -> None:
    """A forbidden row among accepted ones fails, wherever it is."""
    vendor.fault = among(*forbidden)
    report = await push(
        range(20),
        vendor.take,
        state=state,
        concurrency=concurrency,
        batch=batch,
        max_failed=1.0,
        idempotent=True,
    )
    assert (report.done, report.failed) == (20 - len(forbidden), len(forbidden))
    lines = state.with_name("s.db.failed.jsonl").read_bytes().splitlines()
    failed = sorted(msgspec.json.decode(line)["row"] for line in lines)
    assert failed == list(forbidden)


async def test_long_run_of_forbidden_rows_fails(state: Path, vendor: Vendor) -> None:
    """Forty forbidden rows in a row do not count as a revoked credential if the next one succeeds."""
    vendor.fault = among(*range(100, 140))
    report = await push(range(200), vendor.take, state=state, max_failed=1.0, concurrency=1)
    assert (report.done, report.failed) == (160, 40)


async def test_other_rejection_proves_that_the_credential_works(
    state: Path, vendor: Vendor
) -> None:
    """A revoked credential never gets a 422, so the forbidden row before one has failed."""
    vendor.fault = lambda value: ForbiddenError() if value < 3 else UnprocessableEntityError()
    report = await push(range(6), vendor.take, state=state, concurrency=1, max_failed=1.0)
    assert (report.done, report.failed) == (0, 6)


async def test_forbidden_rows_at_the_end_fail_once_a_row_is_added(
    state: Path, vendor: Vendor
) -> None:
    """As the error advises: one more accepted row proves that the credential is valid."""
    vendor.fault = among(*range(10, 15))
    with pytest.raises(ForbiddenError, match="add a permitted row at the end of the input"):
        await push(range(15), vendor.take, state=state, max_failed=1.0)
    report = await push(range(16), vendor.take, state=state, max_failed=1.0, concurrency=1)
    assert (report.done, report.failed) == (11, 5)


async def test_key_revoked_in_the_sandbox_fails_no_row(sandbox: Sandbox, state: Path) -> None:
    """If a vendor answers 403 to a wrong key, nothing fails, and the message gives the reason."""
    rows = [f"tag {number}" for number in range(30)]
    async with SessionPool() as pool:
        wrong = {**sandbox.environ, "INTOUCH_API_KEY": "ii_wrong"}
        clients = [IntouchClient.from_env(pool, environ) for environ in (sandbox.environ, wrong)]
        await push(rows[:10], clients[0].tags.create, state=state)
        with pytest.raises(ForbiddenError, match="credential may have been revoked"):
            await push(rows, clients[1].tags.create, state=state, new_credential=True)
        report = await push(rows, clients[0].tags.create, state=state, new_credential=True)
    assert (report.done, report.failed) == (30, 0)
