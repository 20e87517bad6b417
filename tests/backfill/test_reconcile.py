"""The `reconcile` functions of the vendors find out whether a row was executed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from asyncclients import IntouchClient, Quota, SessionPool, TotangoClient
from asyncclients.backfill import push
from asyncclients.sandbox import Sandbox, drop
from asyncclients.vendors.intouch import NewContact, NewHierarchy
from asyncclients.vendors.intouch.reconcile import by_client_code, by_email
from asyncclients.vendors.totango import NewTouchpoint
from asyncclients.vendors.totango.reconcile import by_events

OPEN = [Quota(10_000, 1.0)]


def lose(sandbox: Sandbox, vendor: Any, *committed: bool) -> None:
    """The next answers of POSTs are lost, after the work was done or before it."""
    for done in committed:
        sandbox.fail(vendor, drop(committed=done), 1, "POST")


async def test_reconcile_totango_by_events(sandbox: Sandbox, tmp_path: Path) -> None:
    """Only touchpoints that are missing at the vendor are sent again."""
    lose(sandbox, "totango", True, False, True, False)
    notes = [
        NewTouchpoint(account_id="0001", content=f"Note {n // 2}", create_date=10**12 + n)
        for n in range(20)
    ]
    async with SessionPool() as pool:
        totango = TotangoClient.from_env(pool, sandbox.environ, quotas=OPEN)
        report = await push(
            notes,
            totango.touchpoints.create,
            state=tmp_path / "s.db",
            reconcile=by_events(totango.touchpoints),
        )
        events = await totango.touchpoints.list("0001")
    assert (report.done, report.unknown, report.failed) == (20, 0, 0)
    assert Counter(event.timestamp for event in events) == Counter(range(10**12, 10**12 + 20))


async def test_reconcile_intouch_contacts_by_email(sandbox: Sandbox, tmp_path: Path) -> None:
    """A contact found by its email, in any case of letters, is done; others are sent."""
    lose(sandbox, "intouch", True, False, True, False)
    contacts = [NewContact(email=f"P{n}@example.com") for n in range(20)]
    async with SessionPool() as pool:
        intouch = IntouchClient.from_env(pool, sandbox.environ, quotas=OPEN)
        report = await push(
            contacts,
            intouch.contacts.create,
            state=tmp_path / "s.db",
            reconcile=by_email(intouch.contacts),
        )
    assert (report.done, report.unknown, report.failed) == (20, 0, 0)
    assert len(sandbox.state("intouch").contacts) == 20


async def test_reconcile_intouch_nodes_by_client_code(sandbox: Sandbox, tmp_path: Path) -> None:
    """A node is identified by its code; one without a code stays unknown."""
    root = sandbox.state("intouch").root_uuid
    nodes = [
        NewHierarchy(name="N", type="generic", parent_uuid=root, client_code=f"c-{n}")
        for n in range(3)
    ]
    nodes.append(NewHierarchy(name="N", type="generic", parent_uuid=root))
    lose(sandbox, "intouch", True, False, True, False)
    async with SessionPool() as pool:
        intouch = IntouchClient.from_env(pool, sandbox.environ, quotas=OPEN)
        report = await push(
            nodes,
            intouch.hierarchies.create,
            state=tmp_path / "s.db",
            reconcile=by_client_code(intouch.hierarchies),
        )
    codes = Counter(
        str(n["client_code"])[:2] for n in sandbox.state("intouch").hierarchies.values()
    )
    assert (report.done, report.unknown) == (3, 1)
    assert codes["c-"] == 3
