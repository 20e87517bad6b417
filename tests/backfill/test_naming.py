"""Each item of a list has a name of its own, whatever it comes with."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import msgspec
import pytest

from asyncclients.backfill.item_keys import ItemKeys, Key, are_lines, text_of


class Item(msgspec.Struct, frozen=True):
    uuid: str | None = None
    id: int | None = None


@pytest.mark.parametrize(
    ("key", "keys"),
    [
        (None, ["a", 1, "b", None]),
        ("id", [7, 1, None, None]),
        (attrgetter("uuid", "id"), [("a", 7), (None, 1), ("b", None), (None, None)]),
        ("nothing", [None] * 4),
    ],
)
def test_what_an_item_is_told_by(key: Key | None, keys: list[Any]) -> None:
    """Its uuid, else its id; a field of another name, or what a function says."""
    items = [Item("a", 7), Item(None, 1), Item("b"), Item()]
    assert ItemKeys(key).raw_keys(items) == keys


def test_a_name_does_not_depend_on_the_company() -> None:
    """Alone, together and as plain objects: the same; without any key by all it says."""
    items = [Item("a", 7), Item(None, 1), Item("b"), Item(), Item("c\nd")]
    together = ItemKeys(None).keys_of(items)
    assert together == [ItemKeys(None).keys_of([item])[0] for item in items]
    assert together == ItemKeys(None).keys_of([msgspec.to_builtins(item) for item in items])
    assert len({*together}) == len(items)
    assert are_lines(together)


def test_keys_of_other_types_have_names() -> None:
    """A number is named as its text is; tuples that differ have names that differ."""
    assert text_of(12) == text_of("12")
    assert len({text_of(key) for key in ("1", "2", ("1", 2), ("2", 1))}) == 4


def test_what_stands_for_a_key_is_one_line() -> None:
    """Texts of one line stand for themselves; all else is written so that it is one."""
    assert are_lines(["a", "", "b\r"])
    assert are_lines(["a"])
    assert not are_lines(["a", "b\nc"])
    assert not are_lines(["a", None])
    assert not are_lines([1, 2])
    assert text_of("b\nc") == "'b\\nc'"
