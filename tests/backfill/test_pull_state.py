"""The keys of items, and the set of keys that a pull has seen."""

from __future__ import annotations

from operator import attrgetter
from random import Random
from typing import Any

import msgspec
import pytest

from asyncclients.backfill.state.pull_state import ItemKeys, Key, SeenKeys, text_of
from asyncclients.backfill.state.stored_rows import digest


class Item(msgspec.Struct, frozen=True):
    uuid: str | None = None
    id: int | None = None


def test_seen_keys_are_a_set() -> None:
    """Each key is new exactly once, and unknown keys are not contained."""
    random = Random(0)
    keys = [f"{random.getrandbits(64):x}" for _ in range(100_000)]
    seen, expected = SeenKeys(), set[str]()
    twice = keys * 2
    for start in range(0, 200_000, 1000):
        some = twice[start : start + 1000]
        assert seen.add(some) == [index for index, key in enumerate(some) if key in expected]
        expected.update(some)
    assert all(key in seen for key in keys)
    assert seen.add(["5", "", "6", "5", "", "5"]) == [3, 4, 5]
    assert "" in seen
    assert not any(f"{key}-" in seen for key in keys)


def test_digest_is_stable() -> None:
    """A digest is the same in every process and release, because state files store it."""
    assert digest(b"a1b2") == "53405d4732473c332de0b05b0ed4c4c0"


@pytest.mark.parametrize(
    ("key", "keys"),
    [
        (None, ["a", 1, "b", None]),
        ("id", [7, 1, None, None]),
        (attrgetter("uuid", "id"), [("a", 7), (None, 1), ("b", None), (None, None)]),
        ("nothing", [None] * 4),
    ],
)
def test_raw_keys_read_the_field(key: Key | None, keys: list[Any]) -> None:
    """The key is the uuid, else the id; or the named field, or the result of a function."""
    items = [Item("a", 7), Item(None, 1), Item("b"), Item()]
    assert ItemKeys(key).raw_keys(items) == keys


def test_keys_of_do_not_depend_on_other_items() -> None:
    """An item has the same key alone, on a page and as a plain object; without one its digest."""
    items = [Item("a", 7), Item(None, 1), Item("b"), Item(), Item("c\nd")]
    together = ItemKeys(None).keys_of(items)
    assert together == [ItemKeys(None).keys_of([item])[0] for item in items]
    assert together == ItemKeys(None).keys_of([msgspec.to_builtins(item) for item in items])
    assert len({*together}) == len(items)
    assert not any("\n" in key for key in together)


def test_text_of_accepts_other_types() -> None:
    """A number has the text of its digits; different tuples have different texts of one line."""
    assert text_of(12) == text_of("12")
    assert len({text_of(key) for key in ("1", "2", ("1", 2), ("2", 1))}) == 4
    assert text_of("b\nc") == "'b\\nc'"
