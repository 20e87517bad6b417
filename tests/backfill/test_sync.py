"""Sync: the vendor agrees with the file, with the fewest requests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asyncclients import (
    BackfillStoppedError,
    ConfigurationError,
    DisconnectedError,
    InputError,
    IntouchClient,
    Quota,
    SessionPool,
    StateMismatchError,
    UnauthorizedError,
)
from asyncclients.backfill import Progress, SyncReport, SyncTarget, read_status, sync
from asyncclients.backfill.sync import SyncKeywords
from asyncclients.sandbox import Sandbox, drop, status
from asyncclients.sandbox.intouch import Table
from asyncclients.sandbox.vendor import SandboxRequest

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


def uuid_of(contacts: Table, email: str) -> str:
    """The uuid of the contact with *email*."""
    found = contacts.owner(email)
    assert found is not None
    return found


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


async def test_sync_clears_fields_of_empty_cells(
    intouch: IntouchClient, sandbox: Sandbox, csv: Path, state: Path
) -> None:
    """A cell that becomes empty clears its field at the vendor; columns that are absent do not."""
    write(csv, [("a@x.org", "Ann"), ("b@x.org", "")])
    await sync(csv, intouch.contacts, state=state)
    assert held(sandbox) == {"a@x.org": "Ann", "b@x.org": None}
    write(csv, [("a@x.org", ""), ("b@x.org", "")])
    report = await sync(csv, intouch.contacts, state=state)
    assert counts(report) == {"updated": 1, "unchanged": 1, "requests": 1}
    assert held(sandbox) == {"a@x.org": None, "b@x.org": None}


async def test_sync_sends_rows_in_the_order_of_the_input(
    intouch: IntouchClient, sandbox: Sandbox, csv: Path, state: Path
) -> None:
    """Creates and updates are sent as the rows come, and deletions last."""
    write(csv, [(f"p{n}@x.org", "A") for n in (1, 3, 9)])
    await sync(csv, intouch.contacts, state=state)
    before = len(sandbox.requests("intouch"))
    write(csv, [(f"p{n}@x.org", "B") for n in range(5)])
    arguments: SyncKeywords = {"on_missing": "delete", "concurrency": 1}
    report = await sync(csv, intouch.contacts, state=state, **arguments)
    assert counts(report) == {"created": 3, "updated": 2, "deleted": 1, "requests": 6}
    methods = [request.method for request in sandbox.requests("intouch")[before:]]
    assert methods == ["POST", "PUT", "POST", "PUT", "POST", "DELETE"]


# --- Keys ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (["a@x.org", "b@x.org", "a@x.org"], r"lines 2 and 4 have the key 'a@x.org'"),
        (["a@x.org", "A@X.org"], r"lines 2 and 3 have the keys 'a@x.org' and 'A@X.org', .* case"),
        (["a@x.org", "a@x.org "], r"lines 2 and 3 have the keys .* white space"),
        (["a@x.org", " "], r"line 3: the key 'email' is empty"),
    ],
)
async def test_sync_rejects_ambiguous_keys(
    intouch: IntouchClient, csv: Path, state: Path, rows: list[str], problem: str
) -> None:
    """Duplicate, similar and empty keys are errors that name the lines, before anything is sent."""
    write(csv, [(f'"{email}"', "x") for email in rows])
    with pytest.raises(InputError, match=problem):
        await sync(csv, intouch.contacts, key="email", state=state)


async def test_sync_rejects_a_key_without_column(
    intouch: IntouchClient, csv: Path, state: Path
) -> None:
    """The error names the columns, and no state is created."""
    write(csv, [("a@x.org",)], "mail")
    with pytest.raises(InputError, match="email"):
        await sync(csv, intouch.contacts, key="email", state=state)
    with pytest.raises(ConfigurationError, match="identified by 'email', not by 'mail'"):
        await sync(csv, intouch.contacts, key="mail", state=state)
    assert not state.exists()


async def test_sync_reads_iterables(intouch: IntouchClient, sandbox: Sandbox, state: Path) -> None:
    """Lists are read twice, and generators once; changes are found in both."""
    people = [{"email": f"p{n}@x.org", "first_name": "A"} for n in range(5)]
    report = await sync(people, intouch.contacts, state=state)
    assert counts(report) == {"created": 5, "requests": 5}
    changed = ({**person, "first_name": "B"} for person in people[:2])
    report = await sync(changed, intouch.contacts, state=state)
    assert counts(report) == {"updated": 2, "missing": 3, "requests": 2}
    assert held(sandbox)["p1@x.org"] == "B"


# --- Missing rows -------------------------------------------------------------------------


async def test_sync_keeps_or_deletes_missing_items(
    intouch: IntouchClient, sandbox: Sandbox, csv: Path, state: Path
) -> None:
    """Items whose row is gone stay unless they are to be deleted; one that is gone is no error."""
    write(csv, [(f"p{n}@x.org", "A") for n in range(30)])
    await sync(csv, intouch.contacts, state=state)
    write(csv, [(f"p{n}@x.org", "A") for n in range(25)])
    report = await sync(csv, intouch.contacts, state=state)
    assert counts(report) == {"unchanged": 25, "missing": 5}
    contacts = sandbox.state("intouch").contacts
    del contacts[uuid_of(contacts, "p29@x.org")]
    report = await sync(csv, intouch.contacts, state=state, on_missing="delete")
    assert counts(report) == {"unchanged": 25, "deleted": 5, "requests": 5}
    assert held(sandbox).keys() == {f"p{n}@x.org" for n in range(25)}
    report = await sync(csv, intouch.contacts, state=state, on_missing="delete")
    assert counts(report) == {"unchanged": 25}


async def test_sync_stops_before_too_many_deletions(
    intouch: IntouchClient, sandbox: Sandbox, csv: Path, state: Path
) -> None:
    """A file of half its size changes nothing, until the deletions are permitted."""
    write(csv, [(f"p{n}@x.org", "A") for n in range(50)])
    await sync(csv, intouch.contacts, state=state)
    write(csv, [(f"p{n}@x.org", "B") for n in range(25)])
    with pytest.raises(BackfillStoppedError, match="25 of 50 known items") as stopped:
        await sync(csv, intouch.contacts, state=state, on_missing="delete")
    assert counts(stopped.value.report) == {"missing": 25, "remaining": 50}
    assert set(held(sandbox).values()) == {"A"}
    permitted: SyncKeywords = {"on_missing": "delete", "max_deleted": 0.5}
    report = await sync(csv, intouch.contacts, state=state, **permitted)
    assert (report.updated, report.deleted) == (25, 25)


async def test_sync_deletes_nothing_while_rows_are_unreadable(
    intouch: IntouchClient, sandbox: Sandbox, csv: Path, state: Path
) -> None:
    """A row without a readable key may be that of a missing item."""
    write(csv, [("a@x.org", "A"), ("b@x.org", "B")])
    await sync(csv, intouch.contacts, state=state)
    csv.write_text("email,first_name\na@x.org,A\nb@x.org,B,,3\n")
    report = await sync(csv, intouch.contacts, state=state, on_missing="delete")
    assert counts(report) == {"unchanged": 1, "missing": 1, "failed": 1}
    assert "nothing was deleted" in report.warnings[0]
    assert len(held(sandbox)) == 2


# --- Rows that fail -----------------------------------------------------------------------


async def test_sync_sends_rejected_rows_again_when_they_change(
    intouch: IntouchClient, sandbox: Sandbox, csv: Path, state: Path
) -> None:
    """A rejected row stays failed without a request until it changes, or with `retry_failed`."""
    write(csv, [("a@x.org", "A"), ("no address", "B")])
    report = await sync(csv, intouch.contacts, state=state)
    assert counts(report) == {"created": 1, "failed": 1, "requests": 2}
    report = await sync(csv, intouch.contacts, state=state)
    assert counts(report) == {"unchanged": 1, "failed": 1}
    failure = msgspec.json.decode(Path(str(report.failures)).read_bytes())
    assert failure["line"] == 3
    assert "valid email address" in failure["reason"]
    report = await sync(csv, intouch.contacts, state=state, retry_failed=True)
    assert counts(report) == {"unchanged": 1, "failed": 1, "requests": 1}
    write(csv, [("a@x.org", "A"), ("b@x.org", "B")])
    report = await sync(csv, intouch.contacts, state=state)
    assert counts(report) == {"created": 1, "unchanged": 1, "requests": 1}
    assert report.failures is None
    assert not Path(f"{state}.failed.jsonl").exists()


async def test_sync_stops_if_most_rows_are_invalid(
    intouch: IntouchClient, sandbox: Sandbox, csv: Path, state: Path
) -> None:
    """Nothing is sent if most rows of the file are invalid."""
    csv.write_text("email,first_name\n" + "a@x.org,b,c\n" * 60)
    with pytest.raises(BackfillStoppedError, match="60 of 60 rows are invalid"):
        await sync(csv, intouch.contacts, state=state)
    assert not sandbox.requests("intouch")


async def test_sync_creates_again_what_somebody_deleted(
    intouch: IntouchClient, sandbox: Sandbox, csv: Path, state: Path
) -> None:
    """An update of an item that is gone becomes a create."""
    write(csv, [("a@x.org", "A")])
    await sync(csv, intouch.contacts, state=state)
    contacts = sandbox.state("intouch").contacts
    del contacts[uuid_of(contacts, "a@x.org")]
    write(csv, [("a@x.org", "B")])
    report = await sync(csv, intouch.contacts, state=state)
    assert counts(report) == {"created": 1, "requests": 2}
    assert held(sandbox) == {"a@x.org": "B"}


async def test_sync_stops_after_limit_changes(
    intouch: IntouchClient, csv: Path, state: Path
) -> None:
    """`limit` bounds the changes of a run, and the next one continues."""
    write(csv, [(f"p{n}@x.org", "A") for n in range(30)])
    report = await sync(csv, intouch.contacts, state=state, limit=10)
    assert counts(report) == {"created": 10, "requests": 10, "remaining": 20}
    report = await sync(csv, intouch.contacts, state=state)
    assert counts(report) == {"created": 20, "unchanged": 10, "requests": 20}


# --- Lost responses -----------------------------------------------------------------------


async def test_sync_looks_up_creates_of_unknown_outcome(
    intouch: IntouchClient, sandbox: Sandbox, csv: Path, state: Path
) -> None:
    """A create whose response was lost is looked up by its key, and not repeated if it is there."""
    write(csv, [("a@x.org", "A"), ("b@x.org", "B"), ("c@x.org", "C")])
    sandbox.fail("intouch", drop(committed=True), 1)
    sandbox.fail("intouch", drop(committed=False), 1)
    report = await sync(csv, intouch.contacts, state=state, concurrency=1)
    assert counts(report) == {"created": 1, "unknown": 2, "requests": 3}
    write(csv, [("a@x.org", "A"), ("b@x.org", "B"), ("c@x.org", "C")])
    report = await sync(csv, intouch.contacts, state=state)
    assert counts(report) == {"created": 1, "unchanged": 2, "requests": 3}
    assert held(sandbox) == {"a@x.org": "A", "b@x.org": "B", "c@x.org": "C"}
    assert counts(await sync(csv, intouch.contacts, state=state)) == {"unchanged": 3}


async def test_sync_settles_unknown_creates_of_rows_that_are_gone(
    intouch: IntouchClient, sandbox: Sandbox, csv: Path, state: Path
) -> None:
    """It looks them up, and deletes what is there if missing items are deleted."""
    write(csv, [("a@x.org", "A"), ("b@x.org", "B")])
    sandbox.fail("intouch", drop(committed=True), 1)
    sandbox.fail("intouch", drop(committed=False), 1)
    await sync(csv, intouch.contacts, state=state, concurrency=1)
    write(csv, [("c@x.org", "C")])
    report = await sync(csv, intouch.contacts, state=state, on_missing="delete")
    assert counts(report) == {"created": 1, "deleted": 1, "requests": 4}
    assert read_status(state).complete
    assert held(sandbox) == {"c@x.org": "C"}


# --- Adoption -----------------------------------------------------------------------------


async def test_adoption_costs_one_request_a_page(
    intouch: IntouchClient, sandbox: Sandbox, csv: Path, state: Path
) -> None:
    """Items that are equal already are adopted without a write, later runs included."""
    vendor = sandbox.state("intouch")
    vendor.grow(contacts=500)
    write(csv, [(row["email"], "") for row in vendor.contacts.values()])
    report = await sync(csv, intouch.contacts, state=state, adopt=True)
    assert counts(report) == {"unchanged": 500, "requests": 20}
    assert counts(await sync(csv, intouch.contacts, state=state)) == {"unchanged": 500}


async def test_adoption_notices_what_others_changed(
    intouch: IntouchClient, sandbox: Sandbox, csv: Path, state: Path
) -> None:
    """Items that others edited are updated, deleted ones created, and keys match in any case."""
    write(csv, [(f"p{n}@x.org", "A") for n in range(4)])
    await sync(csv, intouch.contacts, state=state)
    contacts = sandbox.state("intouch").contacts
    edited, deleted, renamed = (uuid_of(contacts, f"p{n}@x.org") for n in range(3))
    contacts[edited] = contacts[edited] | {"first_name": "Edited"}
    contacts[renamed] = contacts[renamed] | {"email": "P2@X.ORG"}
    del contacts[deleted]
    report = await sync(csv, intouch.contacts, state=state)
    assert counts(report) == {"unchanged": 4}
    report = await sync(csv, intouch.contacts, state=state, adopt=True)
    # One page, one search for the item that the list lacks, one update, one create.
    assert counts(report) == {"created": 1, "updated": 1, "unchanged": 2, "requests": 4}
    assert sorted(held(sandbox).values()) == ["A"] * 4


async def test_adoption_resumes_after_an_interruption(
    intouch: IntouchClient, sandbox: Sandbox, csv: Path, state: Path
) -> None:
    """The pages that were read are not read again, whether or not `adopt` is given again.

    A dry run without `adopt` sends nothing even then.
    """
    vendor = sandbox.state("intouch")
    vendor.grow(contacts=1000)
    write(csv, [(row["email"], "") for row in vendor.contacts.values()])
    sandbox.fail("intouch", status(401, b"{}"), 1, lambda call: call.query.get("page") == "30")
    with pytest.raises(UnauthorizedError):
        await sync(csv, intouch.contacts, state=state, adopt=True)
    sent = len(sandbox.requests("intouch"))
    await sync(csv, intouch.contacts, state=state, dry_run=True)
    assert len(sandbox.requests("intouch")) == sent
    report = await sync(csv, intouch.contacts, state=state)
    assert (report.unchanged, report.created, report.updated) == (1000, 0, 0)
    assert report.requests <= 15


# --- A target of one's own ----------------------------------------------------------------


class Shelf:
    """A target without a vendor: items in a dict."""

    def __init__(self) -> None:
        self.items: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.lost = 0

    async def create(self, row: dict[str, Any]) -> dict[str, Any]:
        self.calls.append("create")
        item = {**row, "number": len(self.items)}
        self.items[str(item["number"])] = item
        if self.lost:
            self.lost -= 1
            raise DisconnectedError("cut", sent="maybe")
        return item

    async def update(self, item_id: str, row: dict[str, Any]) -> None:
        self.calls.append("update")
        self.items[item_id].update(row)

    def item_id(self, item: dict[str, Any]) -> str:
        return str(item["number"])

    def key(self, item: dict[str, Any]) -> str:
        return str(item["isbn"])


async def test_sync_accepts_a_target_of_ones_own(state: Path) -> None:
    """Rows are passed unchanged; an ability that the target lacks is an error at once."""
    shelf = Shelf()
    assert isinstance(shelf, SyncTarget)
    books = [{"isbn": n, "title": "T"} for n in range(3)]
    report = await sync(books, shelf, key="isbn", state=state)
    assert (report.created, report.requests) == (3, 0)
    books[1]["title"] = "U"
    report = await sync(books, shelf, key="isbn", state=state)
    assert (report.updated, report.unchanged) == (1, 2)
    assert shelf.items["1"]["title"] == "U"
    impossible: list[SyncKeywords] = [
        {"key": "isbn", "adopt": True},
        {"key": "isbn", "on_missing": "delete"},
    ]
    for options in impossible:
        with pytest.raises(ConfigurationError, match="Shelf cannot be used with"):
            await sync(books, shelf, state=state, **options)
    with pytest.raises(ConfigurationError, match="needs key="):
        await sync(books, shelf, state=state)
    with pytest.raises(ConfigurationError, match="it has no create, no update"):
        await sync(books, object(), key="isbn", state=state)


async def test_sync_keeps_creates_unknown_that_cannot_be_looked_up(state: Path) -> None:
    """Without `find` they are listed in each run, until the caller decides."""
    shelf = Shelf()
    shelf.lost = 1
    books = [{"isbn": n} for n in range(2)]
    report = await sync(books, shelf, key="isbn", state=state, concurrency=1)
    assert counts(report) == {"created": 1, "unknown": 1}
    report = await sync(books, shelf, key="isbn", state=state)
    assert counts(report) == {"unchanged": 1, "unknown": 1}
    report = await sync(books, shelf, key="isbn", state=state, unknown="drop")
    assert counts(report) == {"unchanged": 1, "skipped": 1}
    report = await sync(books, shelf, key="isbn", state=state)
    assert counts(report) == {"unchanged": 2}
    assert shelf.calls.count("create") == 2


async def test_sync_sends_unknown_creates_again_on_request(state: Path) -> None:
    """With `unknown="resend"` the create is repeated."""
    shelf = Shelf()
    shelf.lost = 1
    await sync([{"isbn": 1}], shelf, key="isbn", state=state)
    report = await sync([{"isbn": 1}], shelf, key="isbn", state=state, unknown="resend")
    assert counts(report) == {"created": 1}
    assert len(shelf.items) == 2


# --- The state ----------------------------------------------------------------------------


async def test_state_of_a_sync_belongs_to_one_job(
    intouch: IntouchClient, csv: Path, state: Path
) -> None:
    """Another target is rejected; another file name is not."""
    write(csv, [("a@x.org", "A")])
    await sync(csv, intouch.contacts, state=state)
    tomorrow = csv.with_name("tomorrow.csv")
    csv.rename(tomorrow)
    assert (await sync(tomorrow, intouch.contacts, state=state)).unchanged == 1
    write(csv, [("A",)], "name")
    with pytest.raises(StateMismatchError, match="belongs to another job"):
        await sync(csv, intouch.tags, state=state)


async def test_state_of_a_sync_is_small(state: Path) -> None:
    """A row costs less than 100 bytes on disk."""
    shelf = Shelf()
    rows = [{"isbn": n, "title": "A long title of a book " * 5} for n in range(20_000)]
    await sync(rows, shelf, key="isbn", state=state)
    assert state.stat().st_size / 20_000 < 100


async def test_sync_never_creates_an_item_twice_whose_id_is_not_known(state: Path) -> None:
    """Without its id a changed row fails, with the reason, instead of being created again."""
    shelf = Shelf()
    shelf.item_id = lambda item: ""  # type: ignore[method-assign]
    await sync([{"isbn": 1, "title": "A"}], shelf, key="isbn", state=state)
    report = await sync([{"isbn": 1, "title": "B"}], shelf, key="isbn", state=state)
    assert counts(report) == {"failed": 1}
    assert "did not return the id" in Path(str(report.failures)).read_text()
    assert counts(await sync([{"isbn": 1, "title": "A"}], shelf, key="isbn", state=state)) == {
        "unchanged": 1
    }
    assert len(shelf.items) == 1


# --- While it runs ------------------------------------------------------------------------


async def test_cancelled_sync_is_continued(
    intouch: IntouchClient, sandbox: Sandbox, csv: Path, state: Path
) -> None:
    """A cancelled run saves what was confirmed; the next one sends the rest once."""
    write(csv, [(f"p{n}@x.org", "A") for n in range(100)])
    run = asyncio.create_task(sync(csv, intouch.contacts, state=state, concurrency=4))
    seen: list[SandboxRequest] = []

    def cancel_at_twenty(call: SandboxRequest) -> bool:
        seen.append(call)
        if len(seen) == 20:
            run.cancel()
        return False

    sandbox.fail("intouch", status(500, b""), None, cancel_at_twenty)
    with pytest.raises(asyncio.CancelledError):
        await run
    found = read_status(state)
    assert not found.complete
    created = found.done
    assert 20 <= created < 30
    report = await sync(csv, intouch.contacts, state=state)
    assert counts(report) == {
        "created": 100 - created,
        "unchanged": created,
        "requests": 100 - created,
    }
    assert read_status(state).complete


@pytest.mark.virtual_time
async def test_progress_counts_changes(pool: SessionPool, csv: Path, state: Path) -> None:
    """Rows that need no request are no part of the total; the time left follows from the quota."""
    async with Sandbox() as sandbox:
        intouch = IntouchClient.from_env(pool, sandbox.environ)
        write(csv, [(f"p{n}@x.org", "A") for n in range(20)])
        await sync(csv, intouch.contacts, state=state)
        write(csv, [(f"p{n}@x.org", "B" if n < 15 else "A") for n in range(20)])
        seen: list[Progress] = []
        await sync(csv, intouch.contacts, state=state, progress=seen.append)
    assert {progress.total for progress in seen} <= {None, 15}
    assert (seen[-1].done, seen[-1].total, seen[-1].eta) == (15, 15, 0.0)
    middle = seen[len(seen) // 2]
    assert middle.eta == pytest.approx((15 - middle.done) / 2, abs=2.0)


async def test_sync_names_a_key_that_the_vendor_changes(state: Path) -> None:
    """The report has a warning, and the row is still known by its own key."""
    shelf = Shelf()
    shelf.key = lambda item: "X" + str(item["isbn"])  # type: ignore[method-assign]
    report = await sync([{"isbn": 1}], shelf, key="isbn", state=state)
    assert report.warnings == ("1: the vendor changed the key to 'X1'",)
    assert counts(await sync([{"isbn": 1}], shelf, key="isbn", state=state)) == {"unchanged": 1}


# --- Looking first ------------------------------------------------------------------------


async def test_dry_run_plans_without_sending(
    intouch: IntouchClient, sandbox: Sandbox, csv: Path, state: Path
) -> None:
    """The plan has the counts, duration and first request of the run; no file is written."""
    write(csv, [(f"p{n}@x.org", "A") for n in range(5)])
    plan = await sync(csv, intouch.contacts, state=state, dry_run=True)
    assert (plan.rows, plan.create, plan.update, plan.requests) == (5, 5, 0, 5)
    assert not sandbox.requests("intouch")
    assert [*state.parent.iterdir()] == [csv]
    await sync(csv, intouch.contacts, state=state)
    rows = [("p0@x.org", "B"), ("new@x.org", "N"), ("no address", "X"), ("p3@x.org", "A")]
    write(csv, rows)
    await sync(csv, intouch.contacts, state=state, limit=1)  # p0
    before = state.read_bytes(), sorted(state.parent.iterdir()), len(sandbox.requests("intouch"))
    slow = intouch.with_options()
    plan = await sync(csv, slow.contacts, state=state, on_missing="delete", dry_run=True)
    assert (plan.create, plan.update, plan.unchanged, plan.missing) == (2, 0, 2, 3)
    assert (plan.delete, plan.rows, plan.valid + plan.invalid) == (3, 4, 2)
    assert plan.preview is not None
    assert (plan.preview.method, plan.preview.path) == ("POST", "/public/v1/contacts")
    assert plan.preview.body == '{"email":"new@x.org","first_name":"N"}'
    after = state.read_bytes(), sorted(state.parent.iterdir()), len(sandbox.requests("intouch"))
    assert after == before
    report = await sync(csv, intouch.contacts, state=state, on_missing="delete")
    assert (report.created, report.deleted, report.failed) == (1, 3, 1)


async def test_dry_run_of_an_adoption_reads_the_list(
    intouch: IntouchClient, sandbox: Sandbox, csv: Path, state: Path
) -> None:
    """The plan is that of the run, with the requests for the list; nothing is written."""
    vendor = sandbox.state("intouch")
    vendor.grow(contacts=60)
    emails = [row["email"] for row in vendor.contacts.values()]
    write(csv, [("new@x.org", "N"), (emails[0], "Changed"), *((each, "") for each in emails[1:50])])
    await sync([{"email": "gone@x.org"}], intouch.contacts, state=state)
    del vendor.contacts[uuid_of(vendor.contacts, "gone@x.org")]
    before = state.read_bytes(), sorted(state.parent.iterdir()), len(sandbox.requests("intouch"))
    arguments: SyncKeywords = {"adopt": True, "on_missing": "delete", "max_deleted": 1.0}
    plan = await sync(csv, intouch.contacts, state=state, dry_run=True, **arguments)
    assert (plan.create, plan.update, plan.delete, plan.unchanged) == (1, 1, 10, 49)
    methods = {request.method for request in sandbox.requests("intouch")[before[2] :]}
    assert methods == {"GET"}
    assert (state.read_bytes(), sorted(state.parent.iterdir())) == before[:2]
    report = await sync(csv, intouch.contacts, state=state, **arguments)
    assert (report.created, report.updated, report.deleted, report.unchanged) == (1, 1, 10, 49)
    assert report.requests == plan.requests


async def test_dry_run_names_invalid_rows_and_the_duration(
    pool: SessionPool, sandbox: Sandbox, csv: Path, state: Path
) -> None:
    """The duration is that at the quota; invalid rows are listed with line and reason."""
    intouch = IntouchClient.from_env(pool, sandbox.environ)
    rows = [f"p{n}@x.org,0123456789" for n in range(100)]
    csv.write_text("\n".join(["email,phone_number", *rows, "x@x.org,1", "y@x.org,1,2"]) + "\n")
    plan = await sync(csv, intouch.contacts, state=state, dry_run=True)
    assert (plan.create, plan.valid, plan.invalid, plan.requests) == (100, 100, 2, 100)
    assert plan.seconds == pytest.approx(49, abs=2)
    assert [failure.line for failure in plan.failures] == [103, 102]


async def test_dry_run_of_a_tree_and_of_a_target_of_ones_own(
    intouch: IntouchClient, sandbox: Sandbox, state: Path
) -> None:
    """Children of new nodes are planned although their parent has no id yet."""
    root = sandbox.state("intouch").root_uuid
    nodes = [
        {"client_code": code, "name": "N", "type": "generic", "parent_uuid": parent}
        for code, parent in (("b", "a"), ("a", root))
    ]
    plan = await sync(nodes, intouch.hierarchies, state=state, dry_run=True)
    assert (plan.create, plan.valid, plan.requests) == (2, 2, 2)
    plan = await sync([{"isbn": 1}], Shelf(), key="isbn", state=state, dry_run=True)
    assert (plan.create, plan.requests, plan.seconds) == (1, 1, None)


@pytest.mark.sweep
@pytest.mark.timeout(1800)
async def test_sync_of_two_hundred_thousand_rows(
    intouch: IntouchClient, sandbox: Sandbox, csv: Path, state: Path
) -> None:
    """Adoption costs 8,000 pages and no write; 1 % changed costs 2,000 requests; no change, none."""
    vendor = sandbox.state("intouch")
    vendor.grow(contacts=200_000)
    emails = [str(row["email"]) for row in vendor.contacts.values()]
    write(csv, [(email, "") for email in emails])
    report = await sync(csv, intouch.contacts, state=state, adopt=True)
    assert counts(report) == {"unchanged": 200_000, "requests": 8000}
    write(csv, [(email, "" if n % 100 else "New") for n, email in enumerate(emails)])
    report = await sync(csv, intouch.contacts, state=state)
    assert counts(report) == {"updated": 2000, "unchanged": 198_000, "requests": 2000}
    assert counts(await sync(csv, intouch.contacts, state=state)) == {"unchanged": 200_000}
    assert state.stat().st_size / 200_000 < 100
