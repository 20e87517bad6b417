"""What a sync decides, and how it compares rows, keys and items."""

from __future__ import annotations

import asyncio
import threading
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncclients.backfill.files.source import Row
from asyncclients.backfill.rows import RowConverter
from asyncclients.backfill.state.identity import JobIdentity
from asyncclients.backfill.state.journal import Changes, Journal
from asyncclients.backfill.state.sync_state import Item, RememberedLines, SyncMemory
from asyncclients.backfill.sync_changes import Action, decide
from asyncclients.backfill.sync_input import SyncInput, deletion_order
from asyncclients.backfill.sync_targets import Shape, Target, key_digest, row_digests, shape_of
from asyncclients.errors import InputError
from asyncclients.vendors.intouch import NewContact

SENT, OTHER = 1, 2
LOST = Item(sent=None, listed=None, id="1")


@pytest.mark.parametrize(
    ("known", "rejected", "expected"),
    [
        (None, None, Action.CREATE),
        (None, SENT, Action.FAIL),
        (None, OTHER, Action.CREATE),
        (Item(sent=SENT, listed=None, id="1"), None, Action.KEEP),
        (Item(sent=OTHER, listed=None, id="1"), None, Action.UPDATE),
        (Item(sent=OTHER, listed=None, id="1"), SENT, Action.FAIL),
        (Item(sent=OTHER, listed=None, id=None), None, Action.LOCATE),
        (Item(sent=None, listed=5, id="1"), None, Action.KEEP),
        (Item(sent=None, listed=5, id="1"), SENT, Action.KEEP),
        (Item(sent=None, listed=6, id="1"), None, Action.UPDATE),
        (LOST, None, Action.LOCATE),
    ],
)
def test_decide_compares_the_row_with_its_item(
    known: Item | None, rejected: int | None, expected: Action
) -> None:
    """A row is sent if it differs from the last one, and looked up if its item is doubtful."""
    assert decide(SENT, 5, known, rejected, may_find=True) is expected


def test_decide_without_lookups() -> None:
    """A lost item is created; a changed one without an id can only fail."""
    assert decide(SENT, 5, LOST, None, may_find=False) is Action.CREATE
    known = Item(sent=OTHER, listed=None, id=None)
    assert decide(SENT, 5, known, None, may_find=False) is Action.WITHOUT_ID


@given(st.text())
def test_key_digest_ignores_case_and_white_space(key: str) -> None:
    """Keys that differ only in these have one digest."""
    assert key_digest(key) == key_digest(f" {key}\t") == key_digest(key.casefold())


class Plain:
    """A target whose items are dicts."""

    async def create(self, row: Any) -> Any: ...
    async def update(self, item_id: str, row: Any) -> Any: ...
    def item_id(self, item: dict[str, Any]) -> str:
        return str(item["id"])

    def key(self, item: dict[str, Any]) -> str:
        return str(item["key"])


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.text() | st.integers(-(2**53), 2**53) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), VALUES), st.dictionaries(st.text(), VALUES))
def test_row_equals_item_with_its_fields(row: dict[str, Any], others: dict[str, Any]) -> None:
    """Further fields of an item, and empty ones in place of missing ones, make no difference."""
    target, shape = Target(Plain(), "key"), dict[str, Any]()
    shape_of(target.fields(row), shape)
    item = {**others, **row, "id": 1, "key": "k"}
    shape.pop("id", None)
    wanted = {name: value for name, value in row.items() if name not in ("id", "key")}
    assert target.listed(item, shape).listed == target.as_listed(wanted)


def test_item_with_another_value_differs() -> None:
    """A number is equal to its text; another value, or a missing one, is not."""
    target, shape = Target(Plain(), "key"), Shape()
    row = {"key": "k", "age": "5", "city": ""}
    shape_of(target.fields(row), shape)

    def listed(**fields: Any) -> int | None:
        return target.listed({"id": 1, "key": "K", **fields}, shape).listed

    assert listed(age=5, city=None) == target.as_listed(row)
    assert listed(age=5) == target.as_listed(row)
    assert listed(age=6) != target.as_listed(row)
    assert listed(city="Bern", age=5) != target.as_listed(row)


@given(st.lists(st.dictionaries(st.text(), VALUES), max_size=5))
def test_row_digests_do_not_depend_on_the_order_of_fields(rows: list[dict[str, Any]]) -> None:
    """Each row has one digest, whatever the order of its names."""
    turned = [dict(reversed(row.items())) for row in rows]
    found = row_digests([Row(number, number, row) for number, row in enumerate(rows)])
    assert found == row_digests([Row(number, number, row) for number, row in enumerate(turned)])
    assert len(found) == len(rows)


@given(st.lists(st.integers(-1, 20), min_size=1, max_size=20))
def test_deletion_order_has_children_before_parents(parents: list[int]) -> None:
    """Each item is in a group before that of its parent, unless it is its own parent."""
    items = {
        key: Item(str(key), parent=str(parent) if 0 <= parent <= key else None)
        for key, parent in enumerate(parents)
    }
    groups = deletion_order(items)
    place = {key: number for number, group in enumerate(groups) for key in group}
    assert sorted(place) == sorted(items)
    for key, item in items.items():
        if item.parent not in (None, item.id):
            assert place[key] < place[int(item.parent or 0)]


def test_convert_all_equals_convert() -> None:
    """Rows that are converted at once have the values of rows converted one by one."""
    converter = RowConverter(NewContact, None)
    rows: list[dict[str, Any]] = [
        {"email": "a@x.org", "first_name": "A"},
        {"email": "b@x.org", "custom_fields": {}},
    ]
    expected = [converter.convert(row, coerce=True) for row in rows]
    assert converter.convert_all([*rows], coerce=True) == expected
    for unusual in ({"email": 5}, None, {"custom_fields.age": 1, "email": "x"}, "text"):
        assert converter.convert_all([rows[0], unusual], coerce=False) is None


async def test_input_knows_its_keys_and_finds_duplicates() -> None:
    """Keys of all digests are found, and no others; two equal ones are an error."""
    target, converter = Target(Plain(), "key"), RowConverter(None, None)

    def ignore(row: Row, error: BaseException) -> None:
        raise AssertionError(row, error)

    async def nothing(layout: str) -> RememberedLines:
        assert layout == ""  # an iterable has no lines
        return RememberedLines(array("q"), array("q"))

    rows = SyncInput([{"key": number} for number in range(2000)], target, converter)
    await rows.examine(ignore, nothing, compare_listed=False)
    assert len(rows) == 2000
    assert all(key_digest(str(number)) in rows for number in range(2000))
    assert not any(key_digest(str(number)) in rows for number in range(2000, 4000))
    twice = SyncInput([{"key": number % 1999} for number in range(2000)], target, converter)
    with pytest.raises(InputError, match="lines 1 and 2000 have the key '0'"):
        await twice.examine(ignore, nothing, compare_listed=False)


async def test_memory_finds_items_whose_commit_starts_during_the_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An item is known from the moment it is remembered, whenever it is saved."""
    is_free, has_started = threading.Event(), asyncio.Event()
    collect: Callable[[SyncMemory], Changes] = vars(SyncMemory)["_next_commit"]

    def changes(memory: SyncMemory) -> Changes:
        has_started.set()
        return collect(memory)

    monkeypatch.setattr(SyncMemory, "_next_commit", changes)
    job = JobIdentity(kind="sync", source="a.csv", target="things", row_type="Thing")
    journal = await Journal.open(tmp_path / "s.db", job)
    try:
        memory = await SyncMemory.load(journal)
        item = Item("id-1", 1, None, "id-0")
        memory.remember(7, item)
        blocked = asyncio.create_task(journal.run(is_free.wait))
        reading = asyncio.create_task(memory.items([7]))
        await asyncio.sleep(0)  # the read waits for the journal's thread, and the commit for it
        memory.journal.commit_now()
        await has_started.wait()
        is_free.set()
        await blocked
        assert await reading == {7: item}
    finally:
        is_free.set()
        await journal.aclose()
