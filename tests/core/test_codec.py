"""Bytes in and out: whatever a server sends, only `DecodeError` comes out."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from math import inf, nan
from types import NoneType
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asyncclients.core import codec
from asyncclients.core.codec import ExactId, JsonObject
from asyncclients.errors import DecodeError
from asyncclients.vendors.intouch import Contact, Hierarchy


class Thing(msgspec.Struct, frozen=True, kw_only=True):
    """A struct with fields of several types."""

    id: ExactId
    made_at: datetime | None = None
    meta: JsonObject = msgspec.field(default_factory=JsonObject)


@pytest.mark.parametrize("cls", [Thing, list[Thing], dict[str, Any], Any, int])
@given(st.binary())
@example(b"\xff\xfe{}")
@example(b"\xef\xbb\xbf{}")
@example(b"[" * 100_000)
@example(b"NaN")
@example(b'{"id": 1e999}')
@example(b'{"id": ' + b"9" * 5_000 + b"}")
@example(b'"\\ud800"')
@example(b'{"id": true}')
@example(b"<html></html>")
@example(b"")
def test_any_bytes_are_a_value_or_a_decode_error(cls: Any, body: bytes) -> None:
    """Any bytes are decoded or raise `DecodeError`, and no other exception."""
    error: DecodeError | None = None
    try:
        codec.decode(body, cls)
    except DecodeError as caught:
        error = caught
    if error is not None:
        assert error.advice
        assert error.__cause__ is None
        assert len(error.message) < 400


@given(st.binary())
def test_reading_an_object_never_fails(body: bytes) -> None:
    """`read_object` returns an object or None for any bytes."""
    found = codec.read_object(body)
    assert found is None or isinstance(found, dict)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty body"),
        (b"  <!DOCTYPE html><p>", "page of markup"),
        (b"<?xml version='1.0'?>", "page of markup"),
        (b'{"id": []}', r"expected an id.*\$\.id"),
        (b'{"id": 1, "made_at": "yesterday"}', "made_at"),
        (b"{", "truncated"),
    ],
)
def test_decode_error_describes_the_body(body: bytes, said: str) -> None:
    """The error distinguishes a login page, a changed field and a truncated body."""
    with pytest.raises(DecodeError, match=said):
        codec.decode(body, Thing)


def test_result_none_accepts_any_body_but_markup() -> None:
    """A DELETE accepts any body but a page of markup."""
    for body in (b"", b"{}", b"deleted", b'{"id": 1}'):
        assert codec.decode(body, NoneType) is None
    with pytest.raises(DecodeError, match="page of markup"):
        codec.decode(b"<!doctype html>", NoneType)


def test_empty_body_is_none_for_any() -> None:
    """An empty body is None for `Any`, and an error for other types."""
    assert codec.decode(b"", Any) is None
    for body, cls in ((b"", Thing), (b"", dict), (b"deleted", Any)):
        with pytest.raises(DecodeError):
            codec.decode(body, cls)


def test_unknown_fields_never_fail() -> None:
    """Unknown fields are ignored."""
    assert codec.decode(b'{"id": "a", "new": {"x": [1]}}', Thing) == Thing(id=ExactId("a"))


@pytest.mark.parametrize("text", ["9007199254740993", "0012", "18446744073709551617"])
def test_exact_id_keeps_every_digit(text: str) -> None:
    """An `ExactId` keeps every digit, of text and of numbers; both are equal."""
    found = codec.decode(f'{{"id": "{text}"}}'.encode(), Thing)
    assert found.id == text
    if not text.startswith("0"):
        assert codec.decode(f'{{"id": {text}}}'.encode(), Thing).id == text
    assert codec.encode(found.id) == f'"{text}"'.encode()


def test_empty_list_is_decoded_as_empty_object() -> None:
    """`[]` is decoded as an empty object; a list with items is an error."""
    assert codec.decode(b'{"id": 1, "meta": []}', Thing).meta == {}
    assert codec.decode(b'{"id": 1, "meta": {"a": 1}}', Thing).meta == {"a": 1}
    with pytest.raises(DecodeError, match=r"got `array` - at `\$\.meta`"):
        codec.decode(b'{"id": 1, "meta": [1]}', Thing)
    with pytest.raises(DecodeError, match="got `array`"):
        codec.decode(b"[[1]]", list[Thing])
    assert codec.decode(b"[]", dict[str, Any]) == {}
    assert codec.json_object([]) == {}
    with pytest.raises(ValueError, match="Expected `object`"):
        codec.json_object([["a", "b"]])


@pytest.mark.parametrize(
    "encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"]
)
def test_json_is_read_in_every_encoding_of_it(encoding: str) -> None:
    """A byte order mark is skipped; UTF-16 and UTF-32 are decoded, also in errors and tokens."""
    text = '{"id": "ä", "error": 1}'
    assert codec.decode(text.encode(encoding), Thing).id == "ä"
    assert codec.read_object(text.encode(encoding)) == {"id": "ä", "error": 1}


def test_decode_reports_text_in_other_encodings() -> None:
    """Latin-1 and incomplete UTF-16 raise `DecodeError`."""
    for body in ('{"id": "ä"}'.encode("latin-1"), '{"id": "'.encode("utf-16") + b"\x00\xd8"):
        with pytest.raises(DecodeError, match="does not describe"):
            codec.decode(body, Thing)


class Mute:
    """A decoder whose errors say nothing."""

    def decode(self, body: bytes) -> Any:
        del body
        raise msgspec.ValidationError("does not fit")


def mute(cls: Any) -> tuple[Mute, None]:
    del cls
    return Mute(), None


def test_decode_does_not_read_error_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deviations are recognised by the type, not by the text of msgspec's errors."""
    monkeypatch.setattr(codec, "_decoders", {})
    monkeypatch.setattr(codec, "_make_decoder", mute)
    assert codec.decode(b'{"id": 7.0, "meta": []}', Thing) == Thing(id=ExactId("7"))


class Lenient(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Something without a required field."""

    some_id: str | None = None
    status: str | None = None
    items: list[Any] = []


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": "no", "success": false}',
        b'{"errors": [{"message": "no"}]}',
        b'{"errors": {"name": ["required"]}, "message": "no"}',
        b'{"status": "error", "error": {"code": 7}}',
        b'{"error": "no", "someId": null, "items": []}',
        b'\xef\xbb\xbf{"error": true}',
        '{"error": "no"}'.encode("utf-16"),
    ],
)
def test_error_body_is_a_decode_error(body: bytes) -> None:
    """A body with `error` or `errors` and no field of the result raises a `DecodeError`."""
    for cls in (Lenient, NoneType):
        with pytest.raises(DecodeError) as caught:
            codec.decode(body, cls)
        assert caught.value.is_error_body


@pytest.mark.parametrize("cls", [Thing, list[Thing], list[Any], ExactId, int])
def test_error_body_is_reported_for_every_result_type(cls: Any) -> None:
    """An error body is reported as such for results with required fields and for lists."""
    with pytest.raises(DecodeError, match="error in place of the result") as caught:
        codec.decode(b'{"error": "no"}', cls)
    assert caught.value.is_error_body
    with pytest.raises(DecodeError, match="does not describe") as caught:
        codec.decode(b'{"errors": "no", "id": [1], "0": 1}', Thing)
    assert not caught.value.is_error_body


@pytest.mark.parametrize(
    "body",
    [
        b'{"someId": "1", "error": "partly"}',
        b'{"someId": "error"}',
        b'{"items": [1], "errors": ["one of two"]}',
        b'{"error": null, "errors": []}',
        b'{"error": false}',
        b"{}",
    ],
)
def test_result_may_have_an_error_field(body: bytes) -> None:
    """A field of the result, or an empty `error`, makes it a result."""
    assert isinstance(codec.decode(body, Lenient), Lenient)


def test_reader_returns_the_result() -> None:
    """A reader gets the decoded body, None for an empty one; its ValueError is a `DecodeError`."""

    def reader(value: Any) -> Lenient:
        if value not in (None, ["a"]) and "error" not in value:
            raise ValueError("expected a list of one")
        return Lenient(some_id="a" if value else None)

    assert codec.read(b'\xef\xbb\xbf["a"]', Lenient, reader) == Lenient(some_id="a")
    assert codec.read(b"", Lenient, reader) == Lenient()
    with pytest.raises(DecodeError, match="expected a list of one") as caught:
        codec.read(b"[3]", Lenient, reader)
    assert not caught.value.is_error_body
    with pytest.raises(DecodeError) as caught:
        codec.read(b'{"error": "no"}', Lenient, reader)
    assert caught.value.is_error_body
    fields = frozenset({"other"})
    assert codec.read(b'{"error": "partly", "other": 1}', Lenient, reader, fields) == Lenient(
        some_id="a"
    )


def test_empty_list_beside_an_error_is_a_decode_error() -> None:
    """A reader's empty list is a result only if the body reports no error."""
    body = b'{"items": [], "errors": ["no"]}'
    with pytest.raises(DecodeError) as caught:
        codec.read(body, list[Any], lambda value: [*value["items"]])
    assert caught.value.is_error_body
    assert codec.read(b'{"items": []}', list[Any], lambda value: [*value["items"]]) == []


def test_untyped_results_may_be_errors() -> None:
    """`Any` accepts every JSON value, an error body included."""
    body = b'{"error": "no"}'
    assert codec.decode(body, Any) == codec.decode(body, dict[str, Any]) == {"error": "no"}


@pytest.mark.parametrize(
    "item",
    [b'"\\ud83d"', b'"\xff"', b'"\x01"', b"01", b"NaN", b"{a: 1}", b'{"]": "\\"]"}', b"nope"],
)
@pytest.mark.parametrize("keys", [False, True])
def test_split_list_separates_items(item: bytes, *, keys: bool) -> None:
    """The items of a list or of an object are separated, also if one of them is invalid JSON."""
    items = [b'{"id": 1, "data": [1, 2]}', item, b"[2, [3]]"]
    data = b"[ %b,%b , %b ]"
    if keys:
        data = b'{"0": %b,"1":%b , "7" : %b}'
    body = b'{"x": "data", "more": {"data": [9]}, "data": %b, "y": [1]}' % (data % (*items,))
    expected = b'{"x": "data", "more": {"data": [9]}, "data": [], "y": [1]}'
    assert codec.split_list(body, "data") == (expected, items)


@given(st.binary() | st.text(alphabet='{}[],:"\\data').map(str.encode))
def test_split_list_takes_any_bytes(body: bytes) -> None:
    """`split_list` returns None for bytes without a complete list of that name."""
    found = codec.split_list(body, "data")
    assert found is None or b"[]" in found[0]


class Box(msgspec.Struct, frozen=True, kw_only=True):
    things: list[Thing]
    by_name: dict[str, Thing]
    more: dict[str, Any] = {}


@pytest.mark.parametrize(
    ("sent", "read"), [("[]", {}), ("{}", {}), ('{"a": []}', {"a": []}), ("null", None)]
)
def test_php_object_is_a_dict_by_strict_decoding(sent: str, read: Any) -> None:
    """Fields that PHP fills are read by plain msgspec, without a second decoding."""
    body = f'{{"uuid": "1", "email": "a@example.com", "custom_fields": {sent}}}'.encode()
    for found in (msgspec.json.decode(body, type=Contact), codec.decode(body, Contact)):
        assert found.custom_fields == read
        assert type(found.custom_fields) is type(read)
        assert msgspec.json.decode(msgspec.json.encode(found), type=Contact) == found


@pytest.mark.parametrize("sent", ["[1]", "1", '"x"'])
def test_php_object_is_no_other_array(sent: str) -> None:
    """Only an empty array stands for an object."""
    body = f'{{"uuid": "1", "name": "n", "type": "t", "location": {sent}}}'.encode()
    with pytest.raises(DecodeError, match="location"):
        codec.decode(body, Hierarchy)


def test_empty_lists_read_as_objects_where_objects_are_meant() -> None:
    """`[]` becomes an object only in fields whose type is an object."""
    thing = b'{"id": 9007199254740993, "made_at": "2026-01-02T03:04:05Z", "meta": []}'
    body = b'{"things": [%b, %b], "by_name": {"a": %b, "b": %b}, "more": {"meta": [], "x": [[]]}}'
    whole = b'{"id": "x", "meta": {"meta": []}}'
    box = codec.decode(body % (thing, whole, whole, thing), Box)
    first = Thing(id=ExactId("9007199254740993"), made_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    second = Thing(id=ExactId("x"), meta={"meta": []})
    assert box == Box(
        things=[first, second],
        by_name={"a": second, "b": first},
        more={"meta": [], "x": [[]]},
    )
    mixed = codec.decode(b'["x", %b, 7]' % thing, list[Thing | str | int])
    assert mixed == ["x", first, 7]


@given(st.recursive(st.just([]) | st.integers(), lambda inner: st.lists(inner, max_size=3)))
def test_nested_lists_do_not_loop_the_decoder(value: Any) -> None:
    """Nested lists in place of an object raise an error that names the expected object."""
    body = msgspec.json.encode({"id": 1, "meta": value})
    if value == []:
        assert codec.decode(body, Thing).meta == {}
        return
    with pytest.raises(DecodeError, match="Expected `object`"):
        codec.decode(body, Thing)


class Extra(msgspec.Struct, frozen=True, kw_only=True):
    """A struct that decides itself how it travels, as those with free-form fields do."""

    fields: dict[str, Any]


class Custom:
    """A type with a wire form of its own."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def to_wire(self) -> Any:
        return {"inside": self.value}


@pytest.mark.parametrize("bad", [nan, inf, -inf, Decimal("NaN"), Decimal("-Infinity")], ids=str)
@pytest.mark.parametrize("place", ["alone", "dict", "list", "struct", "custom", "set"])
def test_encode_rejects_nan(bad: Any, place: str) -> None:
    """NaN and infinities, which would be sent as null, are rejected at any depth."""
    bodies: dict[str, Any] = {
        "alone": bad,
        "dict": {"a": bad, "b": None},
        "list": [1, [None, {"a": (bad,)}]],
        "struct": Extra(fields={"a": [bad]}),
        "custom": {"a": Custom([bad])},
        "set": {"a": {bad}},
    }
    with pytest.raises(ValueError, match="has no JSON form"):
        codec.encode(bodies[place])
    with pytest.raises(ValueError, match="has no JSON form"):
        codec.encode_lines([1, bodies[place]])


def test_encode_names_the_place_of_nan() -> None:
    """The error names the value and its field."""
    with pytest.raises(ValueError, match=r"nan in fields\.a\[\] has no"):
        codec.encode(Extra(fields={"a": [1.0, nan]}))


@given(st.floats(allow_nan=False, allow_infinity=False), st.text())
@example(1.5, "NaN")
@example(1.5, "null")
@example(1e308, "Infinity")
def test_encode_accepts_null_and_words_for_numbers(number: float, text: str) -> None:
    """None is null, finite numbers are numbers, and text may be any."""
    value = {"a": None, "b": [number, {text: text}], "c": Decimal("1.5")}
    assert msgspec.json.decode(codec.encode(value)) == {**value, "c": "1.5"}


def test_excerpt_is_one_short_line() -> None:
    """An excerpt is one line of at most 200 printable characters, for any bytes."""
    assert codec.excerpt(b"  a\r\n\tb\x1b[31m\x00 c  ") == "a b [31m c"
    assert len(codec.excerpt("ü".encode() * 10_000)) == 200
    assert codec.excerpt(b"\xff\xfe") != ""


def test_value_without_json_form_is_named_by_type() -> None:
    """A value without a JSON form raises an error that names its type."""
    with pytest.raises(TypeError, match="object has no JSON form"):
        codec.encode({"x": object()})
