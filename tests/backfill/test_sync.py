"""Sync: the vendor agrees with the file, with the fewest requests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from asyncclients import IntouchClient, Quota, SessionPool
from asyncclients.backfill import SyncReport, sync
from asyncclients.sandbox import Sandbox

ENOUGH = [Quota(10_000, 1.0)]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "contacts.sync"


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return tmp_path / "contacts.csv"


@pytest.fixture
async def intouch(pool: SessionPool, sandbox: Sandbox) -> IntouchClient:
    return IntouchClient.from_env(pool, sandbox.environ, quotas=ENOUGH)


def write(csv: Path, rows: Iterable[tuple[object, ...]], header: str = "email,first_name") -> None:
    csv.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")


def held(sandbox: Sandbox) -> dict[str, Any]:
    """The first names of the contacts that the vendor has, by email."""
    contacts = sandbox.state("intouch").contacts.values()
    return {str(row["email"]): row["first_name"] for row in contacts}


def counts(report: SyncReport) -> dict[str, int]:
    """The counts of *report* that are not 0."""
    names = ("created", "updated", "deleted", "unchanged", "missing", "failed", "unknown")
    found = {name: getattr(report, name) for name in (*names, "skipped", "requests", "remaining")}
    return {name: count for name, count in found.items() if count}


async def test_sync_creates_updates_and_leaves_alone(
    intouch: IntouchClient, sandbox: Sandbox, csv: Path, state: Path
) -> None:
    """New rows are created, changed ones updated, and unchanged ones cost no request."""
    write(csv, [(f"p{n}@x.org", f"Name {n}") for n in range(300)])
    report = await sync(csv, intouch.contacts, key="email", state=state)
    assert counts(report) == {"created": 300, "requests": 300}
    assert len(held(sandbox)) == 300
    report = await sync(csv, intouch.contacts, key="email", state=state)
    assert counts(report) == {"unchanged": 300}
    rows = [(f"p{n}@x.org", "New" if n == 7 else f"Name {n}") for n in range(301)]
    write(csv, rows)
    report = await sync(csv, intouch.contacts, key="email", state=state)
    assert counts(report) == {"created": 1, "updated": 1, "unchanged": 299, "requests": 2}
    assert held(sandbox) == dict(rows)
