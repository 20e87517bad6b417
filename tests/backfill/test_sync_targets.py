"""The targets of a sync, each against its sandbox."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from asyncclients import (
    ConfigurationError,
    DigitalOnboardingClient,
    EmmaClient,
    InputError,
    IntouchClient,
    Quota,
    SessionPool,
    TotangoClient,
)
from asyncclients.backfill import sync
from asyncclients.backfill.sync import SyncKeywords
from asyncclients.sandbox import Sandbox, drop, status

ENOUGH = [Quota(10_000, 1.0)]
Row = dict[str, Any]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "sync.db"


def names(requests: Iterable[Any], start: int = 0) -> list[str]:
    return [request.method for request in [*requests][start:]]


# --- Intouch ------------------------------------------------------------------------------


@pytest.fixture
async def intouch(pool: SessionPool, sandbox: Sandbox) -> IntouchClient:
    return IntouchClient.from_env(pool, sandbox.environ, quotas=ENOUGH)


async def test_tags_are_created_adopted_and_deleted(
    intouch: IntouchClient, sandbox: Sandbox, state: Path
) -> None:
    """Tags are identified by their name, their only field."""
    await intouch.tags.create("Blue")
    report = await sync([{"name": "Blue"}, {"name": "Red"}], intouch.tags, state=state, adopt=True)
    assert (report.created, report.unchanged, report.requests) == (1, 1, 2)
    report = await sync([{"name": "Red"}], intouch.tags, state=state, on_missing="delete")
    assert (report.deleted, report.unchanged, report.requests) == (1, 1, 1)
    assert [tag["name"] for tag in sandbox.state("intouch").tags.values()] == ["Red"]


def node(code: str, parent: str, name: str = "Node") -> Row:
    return {"client_code": code, "name": name, "type": "generic", "parent_uuid": parent}


def tree(sandbox: Sandbox) -> dict[str, str | None]:
    """The client code of each node's parent, by client code."""
    nodes = sandbox.state("intouch").hierarchies
    return {
        str(each["client_code"]): (
            str(nodes[str(each["parent_uuid"])]["client_code"])
            if each["parent_uuid"] != sandbox.state("intouch").root_uuid
            else None
        )
        for each in nodes.values()
        if each["parent_uuid"] is not None
    }


async def test_hierarchies_create_parents_first_and_delete_them_last(
    intouch: IntouchClient, sandbox: Sandbox, state: Path
) -> None:
    """A row names its parent by client code, wherever the parent is in the input."""
    root = sandbox.state("intouch").root_uuid
    rows = [node("c", "b"), node("b", "a"), node("a", root), node("d", root)]
    report = await sync(rows, intouch.hierarchies, key="client_code", state=state)
    assert (report.created, report.failed, report.requests) == (4, 0, 4)
    assert tree(sandbox) == {"a": None, "b": "a", "c": "b", "d": None}
    moved = [node("c", "d"), node("d", root)]
    report = await sync(moved, intouch.hierarchies, state=state, on_missing="delete")
    assert (report.updated, report.deleted, report.failed, report.requests) == (1, 2, 0, 3)
    assert tree(sandbox) == {"c": "d", "d": None}


async def test_hierarchies_report_children_whose_parent_fails(
    intouch: IntouchClient, sandbox: Sandbox, state: Path
) -> None:
    """They fail without a request, and are sent once the parent exists."""
    root = sandbox.state("intouch").root_uuid
    rows = [node("a", root), node("b", "a"), node("c", "b")]
    sandbox.fail("intouch", status(422, b"{}"), 1)
    report = await sync(rows, intouch.hierarchies, state=state)
    assert (report.failed, report.requests) == (3, 1)
    assert "its parent was not created" in Path(str(report.failures)).read_text()
    report = await sync(rows, intouch.hierarchies, state=state, retry_failed=True)
    assert (report.created, report.failed) == (3, 0)


async def test_hierarchies_reject_a_node_below_itself(
    intouch: IntouchClient, sandbox: Sandbox, state: Path
) -> None:
    """A cycle of new nodes is an error that names lines, before anything is sent."""
    rows = [node("a", "b"), node("b", "a")]
    with pytest.raises(InputError, match="below itself"):
        await sync(rows, intouch.hierarchies, state=state)
    assert not sandbox.requests("intouch")


async def test_adoption_of_hierarchies_compares_parents(
    intouch: IntouchClient, sandbox: Sandbox, state: Path
) -> None:
    """A node that somebody moved is moved back; others cost nothing."""
    root = sandbox.state("intouch").root_uuid
    rows = [node("a", root), node("b", "a"), node("c", "b")]
    await sync(rows, intouch.hierarchies, state=state)
    nodes = sandbox.state("intouch").hierarchies
    moved = next(each for each in nodes.values() if each["client_code"] == "c")
    nodes[str(moved["uuid"])] = moved | {"parent_uuid": root}
    report = await sync(rows, intouch.hierarchies, state=state, adopt=True)
    assert (report.updated, report.unchanged, report.requests) == (1, 2, 2)
    assert tree(sandbox) == {"a": None, "b": "a", "c": "b"}


async def test_hierarchies_find_creates_of_unknown_outcome(
    intouch: IntouchClient, sandbox: Sandbox, state: Path
) -> None:
    """A node whose response was lost is found by its client code, and its children follow."""
    root = sandbox.state("intouch").root_uuid
    rows = [node("a", root), node("b", "a")]
    sandbox.fail("intouch", drop(committed=True), 1)
    report = await sync(rows, intouch.hierarchies, state=state)
    assert (report.unknown, report.failed) == (1, 1)
    report = await sync(rows, intouch.hierarchies, state=state)
    assert (report.unchanged, report.created, report.requests) == (1, 1, 2)
    assert tree(sandbox) == {"a": None, "b": "a"}


# --- Digital Onboarding -------------------------------------------------------------------


@pytest.fixture
async def onboarding(pool: SessionPool, sandbox: Sandbox) -> DigitalOnboardingClient:
    return DigitalOnboardingClient.from_env(pool, sandbox.environ, quotas=ENOUGH)


async def test_digital_onboarding_sends_batches(
    onboarding: DigitalOnboardingClient, sandbox: Sandbox, state: Path
) -> None:
    """Changed and new contacts share batches of 100, and a bad one fails alone."""
    rows: list[Row] = [{"unique_id": f"u{n}", "name_first": "A"} for n in range(250)]
    report = await sync(rows, onboarding.contacts, key="unique_id", state=state)
    assert (report.created, report.requests) == (250, 3)
    for n in range(0, 250, 5):
        rows[n]["name_first"] = "B"
    rows.append({"unique_id": "new", "meta_public": {"a": 1}, "journey_template_id": "none"})
    report = await sync(rows, onboarding.contacts, state=state)
    assert (report.created, report.updated, report.unchanged, report.failed) == (0, 50, 200, 1)
    assert (await sync(rows, onboarding.contacts, state=state)).requests == 0
    stored = sandbox.state("digital_onboarding").contacts
    assert [stored[row["unique_id"]]["name_first"] for row in rows[:-1]] == [
        row["name_first"] for row in rows[:-1]
    ]


async def test_digital_onboarding_rejects_delete_and_adopt(
    onboarding: DigitalOnboardingClient, state: Path
) -> None:
    """Deletions and adoption are errors at once, which name the reason."""
    impossible: list[SyncKeywords] = [{"on_missing": "delete"}, {"adopt": True}]
    for options in impossible:
        with pytest.raises(ConfigurationError, match="the vendor's manual describes no"):
            await sync([], onboarding.contacts, state=state, **options)
    assert not state.exists()


# --- Emma ---------------------------------------------------------------------------------


async def test_touchpoint_types_are_kept_in_agreement(
    pool: SessionPool, sandbox: Sandbox, state: Path
) -> None:
    """Types are identified by `type_name`; the whole list is one page."""
    emma = EmmaClient.from_env(pool, sandbox.environ, quotas=ENOUGH)
    await emma.touchpoint_types.create("ticket", "Ticket")
    await emma.touchpoint_types.create("old", "Old")
    rows = [{"type_name": "ticket", "display_name": "Ticket"}]
    rows.append({"type_name": "visit", "display_name": "Visit"})
    report = await sync(rows, emma.touchpoint_types, key="type_name", state=state, adopt=True)
    assert (report.created, report.unchanged, report.missing, report.requests) == (1, 1, 1, 2)
    rows[1]["display_name"] = "Visit to the museum"
    sandbox.fail("emma", drop(committed=True), 1)
    report = await sync(rows, emma.touchpoint_types, state=state)
    assert (report.updated, report.unchanged, report.requests) == (1, 1, 2)
    report = await sync(rows[1:], emma.touchpoint_types, state=state, on_missing="delete")
    assert (report.deleted, report.unchanged) == (2, 1)
    kept = {row["type_name"]: row["display_name"] for row in sandbox.state("emma").types.values()}
    assert kept == {"visit": "Visit to the museum"}


# --- Totango ------------------------------------------------------------------------------


@pytest.mark.parametrize("has_ids", [True, False])
async def test_touchpoints_remember_their_ids(
    pool: SessionPool, sandbox: Sandbox, state: Path, *, has_ids: bool
) -> None:
    """The key is a column that Totango never sees; updates and deletions use the remembered ids."""
    totango = TotangoClient.from_env(pool, sandbox.environ, quotas=ENOUGH)
    notes = sandbox.state("totango").touchpoints
    if not has_ids:
        sandbox.fail("totango", status(200, committed=True), None, "POST")
    rows: list[Row] = [{"ticket": n, "account_id": "007", "content": f"Text {n}"} for n in range(3)]
    report = await sync(rows, totango.touchpoints, key="ticket", state=state)
    assert (report.created, report.failed) == (3, 0)
    rows[1]["content"] = "Changed"
    report = await sync(rows, totango.touchpoints, key="ticket", state=state)
    assert (report.updated, report.unchanged, report.requests) == (1, 2, 1)
    assert sorted(str(note["content"]) for note in notes.values()) == [
        "Changed",
        "Text 0",
        "Text 2",
    ]
    options: SyncKeywords = {"key": "ticket", "on_missing": "delete"}
    report = await sync(rows[:1], totango.touchpoints, state=state, **options)
    assert (report.deleted, report.failed) == (2, 0)
    assert [note["content"] for note in notes.values()] == ["Text 0"]


async def test_touchpoints_of_unknown_outcome_stay_unknown(
    pool: SessionPool, sandbox: Sandbox, state: Path
) -> None:
    """Totango cannot be searched by a key, so a lost create is listed and never repeated."""
    totango = TotangoClient.from_env(pool, sandbox.environ, quotas=ENOUGH)
    rows = [{"ticket": 1, "account_id": "007", "content": "Text"}]
    sandbox.fail("totango", drop(committed=True), 1)
    for _ in range(2):
        report = await sync(rows, totango.touchpoints, key="ticket", state=state)
        assert (report.created, report.unknown) == (0, 1)
    assert len(sandbox.state("totango").touchpoints) == 1
    with pytest.raises(ConfigurationError, match="only by account"):
        await sync(rows, totango.touchpoints, key="ticket", state=state, adopt=True)
    with pytest.raises(ConfigurationError, match="needs key="):
        await sync(rows, totango.touchpoints, state=state)


async def test_dry_run_counts_batches(
    onboarding: DigitalOnboardingClient, sandbox: Sandbox, state: Path
) -> None:
    """Changes of Digital Onboarding are planned in batches of 100; the token is a request too."""
    rows = [{"unique_id": f"u{n}", "name_first": "A"} for n in range(250)]
    plan = await sync(rows, onboarding.contacts, state=state, dry_run=True)
    assert (plan.create, plan.requests) == (250, 4)
    assert not sandbox.requests("digital_onboarding")
