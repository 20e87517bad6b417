"""Queries and forms: every value that has a flat form, and errors for the others."""

from __future__ import annotations

from math import inf, nan
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncclients.core.prepare import encode_form, encode_query

PLAIN = st.text(st.characters(exclude_categories=["Cs"]))
FLAT = st.dictionaries(PLAIN, PLAIN | st.integers() | st.booleans() | st.none())


@given(FLAT)
def test_query_round_trips(fields: dict[str, Any]) -> None:
    """A query parses to the same values; None is left out, booleans are in lower case."""
    expected = [
        (name, str(value).lower() if isinstance(value, bool) else str(value))
        for name, value in fields.items()
        if value is not None
    ]
    query = encode_query(fields)
    assert parse_qsl(query, keep_blank_values=True) == expected
    assert encode_form(fields).decode() == query or not expected
    assert query.isascii()
    assert not any(c.isspace() for c in query)


def test_nested_values_cannot_be_form_encoded() -> None:
    """Objects, and lists in a form, raise an error with the field's name; UNSET is left out."""
    for value in ({"a": 1}, [{"a": 1}], object()):
        with pytest.raises((ValueError, TypeError)):
            encode_query({"tags": value})
    with pytest.raises(ValueError, match="tags has no form"):
        encode_form({"tags": [1]})
    assert encode_query({"a": msgspec.UNSET, "b": 1}) == "b=1"


def test_query_repeats_the_name_of_a_list() -> None:
    """A list repeats its name, as in HTML forms; an empty list is left out."""
    assert encode_query({"a": [1, "x y", None, True], "b": (), "c": ("&",)}) == (
        "a=1&a=x+y&a=true&c=%26"
    )


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_forms_and_queries_reject_nan(bad: float) -> None:
    """NaN in a query or form raises `ValueError`."""
    with pytest.raises(ValueError, match="score is"):
        encode_query({"score": bad})
    with pytest.raises(ValueError, match="score is"):
        encode_query({"score": [1.0, bad]})
    with pytest.raises(ValueError, match="score is"):
        encode_form({"score": bad})
