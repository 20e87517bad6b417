"""Rows are converted to the type of the operation, or rejected with the field that does not fit."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from math import inf, nan
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import UNSET, UnsetType

from asyncclients import (
    ConfigurationError,
    EmmaClient,
    InputError,
    IntouchClient,
    SessionPool,
)
from asyncclients.backfill import Renaming
from asyncclients.backfill.files.source import open_source
from asyncclients.backfill.rows import Map, RowConverter, nested, row_type_of
from asyncclients.core.codec import from_plain
from asyncclients.vendors.digital_onboarding import NewContact as Digital
from asyncclients.vendors.emma import NewTouchpoint
from asyncclients.vendors.intouch import ContactUpdate, NewContact, NewHierarchy


class Place(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    place_name: str
    height: float
    extra: dict[str, Any] | UnsetType = UNSET
    is_open: bool | UnsetType = UNSET


def test_convert_reads_texts_by_type() -> None:
    """CSV texts become numbers and booleans, under Python's and the wire's names."""
    shape = RowConverter(Place, None)
    expected = Place(place_name="x", height=1.5, is_open=True)
    row = {"place_name": "x", "height": "1.5", "is_open": "true"}
    assert shape.convert(row, coerce=True) == expected
    row = {"placeName": "x", "height": "1.5", "isOpen": "true"}
    assert shape.convert(row, coerce=True) == expected
    assert shape.convert(expected, coerce=False) is expected


def test_convert_is_strict_for_typed_sources() -> None:
    """In JSON a text is not a number."""
    with pytest.raises(ValueError, match="height"):
        RowConverter(Place, None).convert({"place_name": "x", "height": "1"}, coerce=False)


@pytest.mark.parametrize("coerce", [True, False])
@pytest.mark.parametrize("whole", [3, 3.0, Decimal(3), Decimal("3.00")])
def test_convert_accepts_integral_floats(whole: Any, *, coerce: bool) -> None:
    """An integral float or decimal, as data frames store ids, fits an integer field, in lists as well."""

    class Thing(msgspec.Struct, frozen=True, kw_only=True):
        number: int
        numbers: list[int]
        free: float

    row = {"number": whole, "numbers": [whole, 2.0], "free": 2.0}
    made = RowConverter(Thing, None).convert(row, coerce=coerce)
    assert made == Thing(number=3, numbers=[3, 2], free=2.0)
    assert (type(made.number), type(made.free)) == (int, float)
    for wrong in (1.5, nan, inf, 1e300, Decimal("NaN"), True):
        with pytest.raises(ValueError, match="number"):
            RowConverter(Thing, None).convert({**row, "number": wrong}, coerce=coerce)


def test_convert_error_shows_field_and_value() -> None:
    """The error for a wrong value names the field and shows the value."""
    with pytest.raises(ValueError, match=r"height.*'tall'"):
        RowConverter(Place, None).convert({"place_name": "x", "height": "tall"}, coerce=True)


def test_convert_error_suggests_the_choice_that_was_meant() -> None:
    """A value that is close to one of the choices of its field is named with it."""
    with pytest.raises(ValueError, match=r"'locaton' \(did you mean 'location'\?\)"):
        RowConverter(NewHierarchy, None).convert({"type": "locaton"}, coerce=True)


def test_nested_resolves_dotted_names() -> None:
    """`a.b` becomes `b` in `a`; a contradiction is an error."""
    assert nested({"a.b": 1, "a.c.d": 2, "e": 3}) == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    with pytest.raises(ValueError, match="contradicts"):
        nested({"a": 1, "a.b": 2})


@pytest.mark.parametrize(
    "row",
    [
        {"a.b": 1, "a": {"b": 2}},
        {"a": {"b": 2}, "a.b": 1},
        {"a.b": 1, "a": 2},
        {"a.b.c": 1, "a.b": 2},
    ],
)
def test_nested_rejects_collisions(row: dict[str, Any]) -> None:
    """Two names of one field are an error, in any order of the columns."""
    with pytest.raises(ValueError, match=r"twice|contradicts"):
        nested(row)


def test_nested_merges_into_a_copy() -> None:
    """`a.b` is added to a copy of the object `a`; the caller's objects do not change."""
    inner = {"b": {"c": 1}}
    row = {"a.d": 3, "a.b.e": 2, "a": inner}
    assert nested(row) == {"a": {"b": {"c": 1, "e": 2}, "d": 3}}
    assert inner == {"b": {"c": 1}}


def test_convert_rejects_both_names_of_one_field() -> None:
    """The name in Python and the name on the wire in one row are an error."""
    row = {"place_name": "x", "placeName": "y", "height": 1.0}
    with pytest.raises(ValueError, match="'place_name' and 'placeName'"):
        RowConverter(Place, None).convert(row, coerce=False)


def test_convert_puts_unknown_fields_into_extra() -> None:
    """Unknown fields go into `extra` if the row type has it, nested or not, from any source."""
    fields: dict[str, Any] = {"place_name": "x", "height": 1.0}
    expected = Place(**fields, extra={"debit-card": "done", "other": 2})
    for extra in ({"extra.other": 2}, {"extra": {"other": 2}}):
        row: dict[str, Any] = {**fields, "debit-card": "done", **extra}
        assert RowConverter(Place, None).convert(row, coerce=True) == expected
        assert row == {**fields, "debit-card": "done", **extra}, "the caller's own"
    with pytest.raises(ValueError, match="extra"):
        RowConverter(Place, None).convert({**fields, "extra": "words", "more": 1}, coerce=True)


@pytest.mark.parametrize(
    ("row_type", "map_", "told"),
    [
        (ContactUpdate, None, ["email_adress", "x.y"]),
        (ContactUpdate, Renaming({"email_adress": "email"}), ["x.y"]),
        (ContactUpdate, Renaming({"email_adress": "email", "x.y": ""}), []),
        (ContactUpdate, dict, []),
        (Digital, None, []),
    ],
)
async def test_check_warns_about_unknown_columns(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    row_type: type[Any],
    map_: Map | None,
    told: list[str],
) -> None:
    """Columns without a field are logged, unless a function maps the rows."""
    path = tmp_path / "x.csv"
    path.write_text("first_name,email_adress,x.y,custom_fields.a\n")
    source = await open_source(path)
    RowConverter(row_type, map_).check(source)
    await source.aclose()
    words = [record.getMessage() for record in caplog.records]
    assert words == [
        f"x.csv: ContactUpdate has no field for {', '.join(told)}: ignored" for _ in told[:1]
    ]


def test_convert_warns_once_about_unknown_fields(caplog: pytest.LogCaptureFixture) -> None:
    """Without a header, the first row with an unknown field is logged."""
    shape = RowConverter(ContactUpdate, None)
    for row in ({"email": "a"}, {"emial": "b"}, {"emial": "c", "x.y": 1}, {"x.y": 2}):
        shape.convert(row, coerce=False)
    for row_type, map_ in ((Digital, None), (ContactUpdate, dict)):
        RowConverter(row_type, map_).convert({"emial": "b"}, coerce=False)
    assert [record.getMessage() for record in caplog.records] == [
        "a row: ContactUpdate has no field for emial: ignored",
        "a row: ContactUpdate has no field for x.y: ignored",
    ]
    many = {f"name {number}": number for number in range(1000)}
    for number in range(1000):
        shape.convert({**many, f"other {number}": 1}, coerce=False)
    assert len(caplog.records) == 3


def test_convert_applies_map_first() -> None:
    """The result of `map` is converted; None skips the row; without a row type it is sent unchanged."""
    shape = RowConverter(
        Place, lambda row: {"place_name": row["n"], "height": 1} if row["n"] else None
    )
    assert shape.convert({"n": "x"}, coerce=True) == Place(place_name="x", height=1.0)
    assert shape.convert({"n": ""}, coerce=True) is None
    assert RowConverter(None, lambda row: row["n"]).convert({"n": 7}, coerce=True) == 7


def test_renaming_maps_columns() -> None:
    """Columns are renamed, dropped or kept; fixed values do not overwrite them."""
    renaming = Renaming({"Name": "place_name", "junk": ""}, {"height": "3", "x": 1})
    assert renaming({"Name": "a", "junk": 1, "height": "4"}) == {
        "place_name": "a",
        "height": "4",
        "x": 1,
    }


@pytest.mark.parametrize(
    ("map_", "words"),
    [
        (None, "no column height"),
        (Renaming({"nome": "place_name"}), "no column 'nome'"),
        (Renaming({"name": "place_name"}), "no column height"),
        (Renaming({"name": "place_name"}, {"height": 1}), ""),
        (dict, ""),
    ],
)
async def test_check_rejects_missing_column(tmp_path: Path, map_: Map | None, words: str) -> None:
    """A header without a required column is an error before any row is read."""
    path = tmp_path / "x.csv"
    path.write_text("name,placeName\n")
    source = await open_source(path)
    try:
        if words:
            with pytest.raises(InputError, match=words):
                RowConverter(Place, map_).check(source)
        else:
            RowConverter(Place, map_).check(source)
    finally:
        await source.aclose()


def test_converter_rejects_other_row_types() -> None:
    """A row type that is no struct is rejected at once, with the remedy."""
    with pytest.raises(ConfigurationError, match="msgspec Struct"):
        RowConverter(dict, None)


async def test_row_type_of_operation() -> None:
    """The row type is the operation's struct, alone, in a list, or with bound arguments."""
    async with SessionPool() as pool:
        intouch = IntouchClient(pool, api_key="ii_x")
        emma = EmmaClient(pool, account_id="1", public_key="p", private_key="s")
        assert row_type_of(intouch.contacts.create) is NewContact
        assert row_type_of(emma.touchpoints.create) is NewTouchpoint
        assert row_type_of(intouch.tags.create) is None
        assert row_type_of(intouch.contacts.update) is None
        assert row_type_of(partial(intouch.contacts.update, "a-uuid")) is ContactUpdate
        assert row_type_of(partial(intouch.contacts.update, uuid="a-uuid")) is ContactUpdate


@pytest.mark.parametrize("row", [{"placeName": "x", "height": "high"}, {"height": "high"}])
def test_convert_error_does_not_depend_on_messages(
    row: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wrong value is found by the type of its field, not by the text of the error."""

    def wordless(*arguments: Any, **options: Any) -> Any:
        try:
            return from_plain(*arguments, **options)
        except msgspec.ValidationError:
            raise msgspec.ValidationError("does not fit") from None

    monkeypatch.setattr("asyncclients.backfill.rows.from_plain", wordless)
    with pytest.raises(ValueError, match="does not fit, which is 'high'"):
        RowConverter(Place, None).convert(row, coerce=True)
