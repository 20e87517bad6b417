"""The structs that users fill in name a wrong field."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import msgspec
import pytest

from asyncclients.core.endpoint import Fields
from tests.support.vendor_operations import INPUT_STRUCTS


class Point(Fields, frozen=True, kw_only=True):
    """A struct with a required and an optional field."""

    lat: float
    name: str = ""


_HAS = "it has: lat, name"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Point(lta=1.0), f"Point has no field 'lta' (did you mean 'lat'?); {_HAS}"),  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
        (lambda: Point(lat=1.0, x=1), f"Point has no field 'x'; {_HAS}"),  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
        (Point, "Point needs 'lat'"),
        (lambda: Point(1.0), "Point takes its fields by name, as in Point(lat=...)"),  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    ],
)
def test_fields_names_the_wrong_argument(make: Callable[[], Point], words: str) -> None:
    """An unknown, a missing and a positional argument are each one sentence with the right form."""
    with pytest.raises(TypeError) as raised:
        make()
    assert str(raised.value) == words


@pytest.mark.parametrize("kind", INPUT_STRUCTS)
def test_fields_is_the_base_of_what_users_fill_in(kind: type[Fields]) -> None:
    """The struct of every create and update lists its fields when one is wrong."""
    with pytest.raises(TypeError, match=f"{kind.__name__} has no field 'colour'"):
        kind(colour="red")  # pyright: ignore[reportCallIssue]


def test_fields_keeps_what_a_struct_can_do() -> None:
    """It is decoded, copied, replaced, compared and pickled like any struct."""
    point = Point(lat=1.5, name="a")
    assert msgspec.json.decode(msgspec.json.encode(point), type=Point) == point
    assert pickle.loads(pickle.dumps(point)) == copy.copy(point) == point
    assert msgspec.structs.replace(point, name="b") == Point(lat=1.5, name="b")
