"""Plain values are fitted to a type by that type alone."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncclients.core.codec import ExactId, JsonObject, coerce, from_reply


class Inner(msgspec.Struct):
    """A nested object."""

    n: int | None = None
    meta: JsonObject = {}


class Typed(TypedDict, total=False):
    """Another form of object."""

    n: int


class Outer(msgspec.Struct, rename="camel"):
    """One field of each kind."""

    whole_number: int = 0
    maybe: int | None = None
    number: float = 0.0
    either: float | int | None = None
    text: str | None = None
    text_or_number: str | int | None = None
    flag: bool = False
    maybe_flag: bool | None = None
    flag_or_number: bool | int = 0
    made_at: datetime | None = None
    item_id: ExactId | None = None
    items: list[Inner] = []
    by_name: dict[str, Inner] = {}
    one: Inner | None = None
    free: dict[str, Any] | list[Any] | None = None
    typed: Typed = {}
    bounded: Annotated[int, msgspec.Meta(ge=0, extra_json_schema={"title": "n"})] = 0


FITTING: list[tuple[str, Any, Any]] = [
    ("wholeNumber", "25", 25),
    ("wholeNumber", "-25", -25),
    ("wholeNumber", "25.0", 25),
    ("wholeNumber", 25.0, 25),
    ("wholeNumber", "9007199254740993", 2**53 + 1),
    ("maybe", "7", 7),
    ("maybe", 7.0, 7),
    ("maybe", None, None),
    ("number", "2.5", 2.5),
    ("number", "1e3", 1000.0),
    ("either", "2", 2),
    ("either", 2.0, 2.0),
    ("flag", 1, True),
    ("flag", 0, False),
    ("maybeFlag", 1, True),
    ("flagOrNumber", 1, 1),
    ("text", "25", "25"),
    ("textOrNumber", "25", "25"),
    ("madeAt", "2026-01-02T03:04:05", datetime(2026, 1, 2, 3, 4, 5)),  # noqa: DTZ001
    ("itemId", "0012", "0012"),
    ("itemId", 12.0, "12"),
    ("items", {}, []),
    ("items", None, []),
    ("items", {"3": {"n": "1"}, "4": []}, [Inner(n=1), Inner()]),
    ("items", [{"n": 1.0, "meta": []}], [Inner(n=1)]),
    ("byName", [], {}),
    ("byName", {"a": [], "b": {"n": "2"}}, {"a": Inner(), "b": Inner(n=2)}),
    ("one", [], Inner()),
    ("free", [], []),
    ("free", {"1": "1"}, {"1": "1"}),
    ("typed", [], {}),
    ("typed", {"n": "1"}, {"n": 1}),
    ("bounded", "3", 3),
]


@pytest.mark.parametrize(("field", "sent", "read"), FITTING)
def test_coerce_fits_deviations(field: str, sent: Any, read: Any) -> None:
    """Each accepted deviation is read as the value that is meant, and nothing else changes."""
    # Two deviations, so that the strict conversion fails in any case.
    found = from_reply({field: sent, "typed": []} if field != "typed" else {field: sent}, Outer)
    name = "".join(f"_{c.lower()}" if c.isupper() else c for c in field)
    value = getattr(found, name)
    assert (value, type(value)) == (read, type(read)) or isinstance(value, ExactId)
    assert value == read


ODD: list[tuple[str, Any]] = [
    ("wholeNumber", "2.5"),
    ("wholeNumber", 2.5),
    ("wholeNumber", 2.0**53),
    ("wholeNumber", float("inf")),
    ("wholeNumber", ""),
    ("wholeNumber", "٣"),
    ("wholeNumber", "9" * 5000),
    ("wholeNumber", True),
    ("wholeNumber", []),
    ("number", "nan"),
    ("number", "1_0"),
    ("text", 25),
    ("flag", "true"),
    ("flag", 2),
    ("flag", 1.0),
    ("itemId", 2.0**60),
    ("itemId", 1.5),
    ("items", {"a": {}}),
    ("items", [1]),
    ("items", "x"),
    ("byName", [1]),
    ("one", [{}]),
    ("bounded", "-3"),
]


@pytest.mark.parametrize(("field", "sent"), ODD)
def test_coerce_leaves_other_values_to_be_rejected(field: str, sent: Any) -> None:
    """Any other value raises an error that names the field."""
    with pytest.raises(ValueError, match=field):
        from_reply({field: sent}, Outer)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
@pytest.mark.parametrize("cls", [Outer, list[Inner], dict[str, Inner], Inner | None, Any])
def test_coerce_never_raises(cls: Any, value: Any) -> None:
    """Whatever plain value is given, the result is a value for msgspec to judge."""
    coerce(value, cls)


@given(st.builds(Inner, n=st.none() | st.integers(), meta=st.dictionaries(st.text(), st.text())))
def test_coerce_keeps_what_fits(value: Inner) -> None:
    """A value that fits already is not changed."""
    plain = msgspec.to_builtins(value)
    assert coerce(plain, Inner) == plain


class Tree(msgspec.Struct):
    """An object that contains others of its kind."""

    n: int
    children: list[Tree] = []


def test_coerce_fits_recursive_types() -> None:
    """A type may contain itself."""
    assert from_reply({"n": "1", "children": {"0": {"n": 2.0}}}, Tree) == Tree(1, [Tree(2)])
