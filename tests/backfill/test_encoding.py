"""Rows as JSON: the same text in every process, different texts for different rows."""

from __future__ import annotations

import os
import subprocess
import sys
from math import inf, nan
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncclients import (
    InputError,
    IntouchClient,
    Quota,
    SessionPool,
    StateMismatchError,
    UnauthorizedError,
)
from asyncclients.backfill import push, read_status
from asyncclients.backfill.files.source import Row
from asyncclients.backfill.state.stored_rows import encode_row, encode_rows
from asyncclients.core import codec

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


class Plain:
    """An object with the repr that Python gives it."""


class Members:
    """An object whose repr shows a set."""

    def __repr__(self) -> str:
        return repr({"alpha", "beta"})


def rows_of(*values: Any) -> list[Row]:
    return [Row(number, number, value) for number, value in enumerate(values, 1)]


@given(st.lists(JSON, max_size=4), st.lists(JSON, max_size=4))
def test_encode_rows_differ_for_different_rows(one: list[Any], other: list[Any]) -> None:
    """Two lists of rows have the same text only if they are the same JSON, row by row."""
    same = [msgspec.json.encode(row, order="deterministic") for row in one] == [
        msgspec.json.encode(row, order="deterministic") for row in other
    ]
    assert (encode_rows(rows_of(*one)) == encode_rows(rows_of(*other))) is same


URL = "https://vendor.example/v1/"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1, 23], [12, 3]),
        (["a"], ["a", None]),
        ([[1]], [[1, 2]]),
        ([{"a": nan}], [{"a": None}]),
        ([{"a": inf}], [{"a": -inf}]),
        ([2**80], [2**80 + 1]),
        (["\ud800"], ["\ud801"]),
        ([{1, "a"}], [{2, "a"}]),
    ],
)
def test_encode_rows_differ_for_similar_rows(one: list[Any], other: list[Any]) -> None:
    """Rows with different boundaries, or with values that JSON lacks, have different texts."""
    assert encode_rows(rows_of(*one)) != encode_rows(rows_of(*other))


@pytest.mark.parametrize("make", [Plain, Members, lambda: [Plain()], lambda: {"a": {1, Plain()}}])
def test_encode_rows_rejects_unstable_text(make: Any) -> None:
    """The error for a row whose text differs between processes names the row and the remedy."""
    with pytest.raises(InputError, match=r"row 2 holds an object of type \w+.*plain values"):
        encode_rows(rows_of(1, make()))
    assert encode_row(make()), "a failed row can be shown all the same"


@pytest.mark.parametrize(
    "text",
    [
        "{'id': 1, 'tags': {'alpha', 'beta', 'gamma'}}",
        "{1, 'alpha', (2, 'beta')}",
        "{'a': [frozenset({'x', 'y', 'z'}), float('nan')]}",
    ],
)
def test_encode_rows_sorts_sets(text: str) -> None:
    """The order of a set, which differs between processes, does not matter."""
    code = (
        "from asyncclients.backfill.state.stored_rows import encode_rows\n"
        "from asyncclients.backfill.files.source import Row\n"
        f"print(encode_rows([Row(1, 1, {text})]))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in "123"
    }
    assert len(outputs) == 1


@given(JSON)
def test_encode_row_keeps_json(value: Any) -> None:
    """JSON values are stored unchanged, with the order of their keys."""
    assert msgspec.json.decode(encode_row(value)) == msgspec.json.decode(msgspec.json.encode(value))
    assert encode_row({"b": 1, "a": 2}) == b'{"b":1,"a":2}'


def test_encode_row_writes_other_values_as_text() -> None:
    """NaN, a surrogate, an object and a list that contains itself can be stored."""
    endless: list[Any] = []
    endless.append(endless)
    for value in (nan, {"a": [inf]}, "\ud800", {"\ud800": 1}, endless, {2**99: {1: object()}}):
        assert encode_row(value).decode()
    assert encode_row({"a": nan}) == b'{"a":"nan"}'


async def test_push_does_not_send_text_of_nan(tmp_path: Path) -> None:
    """The file of failed rows shows NaN, and pushing it does not send another value instead."""
    sent: list[Any] = []

    async def target(row: Any) -> None:
        if row["id"] == 2:
            raise ValueError("no")
        codec.encode(row)
        sent.append(row)

    state = tmp_path / "s.db"
    rows = [{"id": 1, "x": nan}, {"id": 2, "x": 1.5}, {"id": 3, "x": None}]
    report = await push(rows, target, state=state)
    assert (report.done, report.failed) == (1, 2)
    lines = Path(f"{state}.failed.jsonl").read_bytes().splitlines()
    shown = [msgspec.json.decode(line)["row"] for line in lines]
    assert sorted(shown, key=str) == ['{"id":1,"x":"nan"}', {"id": 2, "x": 1.5}]
    report = await push(f"{state}.failed.jsonl", target, state=tmp_path / "t.db")
    assert (report.done, report.failed) == (0, 2)
    assert sent == [{"id": 3, "x": None}]


async def test_push_rejects_rows_of_same_joined_text(tmp_path: Path) -> None:
    """A job interrupted in [1, 23, 45] rejects [12, 3, 45]."""
    sent: list[int] = []

    async def target(row: int) -> None:
        if row == 45:
            raise UnauthorizedError("the key was revoked")
        sent.append(row)

    state = tmp_path / "s.db"
    with pytest.raises(UnauthorizedError):
        await push([1, 23, 45], target, state=state, concurrency=1)
    with pytest.raises(StateMismatchError):
        await push([12, 3, 45], target, state=state, concurrency=1)
    assert sent == [1, 23]


async def test_push_rejects_unstable_rows_before_sending(tmp_path: Path) -> None:
    """A row that a resumed job could not recognise is rejected before anything is sent."""
    sent: list[Any] = []

    async def target(row: Any) -> None:
        sent.append(row)

    with pytest.raises(InputError, match="plain values"):
        await push([Plain(), Plain()], target, state=tmp_path / "s.db")
    assert sent == []


async def test_push_stopped_by_an_unstable_row_raises_input_error_if_nothing_was_sent(
    tmp_path: Path,
) -> None:
    """Calls that only waited for the quota do not count as sent: their rows are pending."""
    rows = [*({"email": f"p{number}@example.com"} for number in range(100)), object()]
    async with SessionPool(cold_start="full") as pool:
        quotas = [Quota(1, 1000.0)]
        intouch = IntouchClient(pool, api_key="ii_key", base_url=URL, quotas=quotas)
        with pytest.raises(InputError, match="row 101 holds an object of type object"):
            await push(rows, intouch.contacts.create, state=tmp_path / "s.db", concurrency=200)
    assert read_status(tmp_path / "s.db").unknown == 0
