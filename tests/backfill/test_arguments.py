"""Arguments of `pull` and `push` that cannot work are named before anything is read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from math import inf, nan
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asyncclients import ConfigurationError, InputError
from asyncclients.backfill import pull, push
from asyncclients.backfill.push import PushOptions
from asyncclients.backfill.steps import PushTarget, pull_step, push_step
from asyncclients.paging import Page, Paginator
from asyncclients.vendors.digital_onboarding import NewContact as Digital
from asyncclients.vendors.intouch import NewContact

any_: Any = None
"""Stands for an argument that a type checker would not let through."""


async def target(_: Any) -> None:
    """Take a row."""


async def coroutine_function(row: Any) -> Any:
    return row


async def asynchronous_generator(row: Any) -> AsyncIterator[Any]:
    yield row


def generator(row: Any) -> Iterator[Any]:
    yield row


class Asynchronous:
    async def __call__(self, row: Any) -> Any:
        return row


class Unread:
    """Rows or pages that must not be asked for."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("a row was read")

    def __aiter__(self) -> AsyncIterator[Page[Any]]:
        raise AssertionError("a page was read")


NUMBERS = [
    *(("max_failed", value) for value in (-5.0, 1.1, nan, inf, True, "0.1", None)),
    *(("max_outage", value) for value in (-1.0, nan, True, "900", None)),
]
PUSH_ONLY = [
    *(("concurrency", value) for value in (0, -1, 2.0, nan, True, "4", None)),
    *(("batch", value) for value in (-1, 1.5, True)),
    ("unknown", "again"),
    ("idempotent", 1),
    ("reconcile", "by_events"),
    ("progress", coroutine_function),
]
PULL_ONLY = [
    *(("prefetch", value) for value in (-1, 0.5, nan, True, None)),
    ("key", 1),
    ("key", coroutine_function),
    ("progress", coroutine_function),
]


@pytest.mark.parametrize("path", ["", ".", "/", None, 5, b"s.db"])
async def test_path_that_names_no_file_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Any
) -> None:
    """`state` and `to` must be paths of files; no row is read and no file made."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="state must be the path of a file"):
        await push(Unread(), target, state=path)
    with pytest.raises(ConfigurationError, match="state must be the path of a file"):
        await pull(Unread(), "x.jsonl", state=path)
    with pytest.raises(ConfigurationError, match="to must be the path of a file"):
        await pull(Unread(), path, state="s.db")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "value"), [*NUMBERS, *PUSH_ONLY])
async def test_push_rejects_invalid_argument(tmp_path: Path, name: str, value: Any) -> None:
    """An argument of `push` that is out of range is named; no row is read and no file made."""
    options: Any = {name: value}
    with pytest.raises(ConfigurationError, match=name):
        await push(Unread(), target, state=tmp_path / "s.db", **options)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "value"), [*NUMBERS, *PULL_ONLY])
async def test_pull_rejects_invalid_argument(tmp_path: Path, name: str, value: Any) -> None:
    """An argument of `pull` that is out of range is named; no page is read and no file made."""
    options: Any = {name: value}
    with pytest.raises(ConfigurationError, match=name):
        await pull(Unread(), tmp_path / "x.jsonl", state=tmp_path / "s.db", **options)
    assert not any(tmp_path.iterdir())


async def test_misspelt_argument_is_rejected_with_the_known_ones(tmp_path: Path) -> None:
    """A keyword that `push` and `pull` do not have is rejected before anything is read."""
    options: Any = {"max_faild": 1.0}
    with pytest.raises(ConfigurationError, match=r"no argument max_faild.*max_failed"):
        await push(Unread(), target, state=tmp_path / "s.db", **options)
    with pytest.raises(ConfigurationError, match=r"no argument max_faild.*max_failed"):
        await pull(Unread(), tmp_path / "o.jsonl", state=tmp_path / "s.db", **options)
    assert list(tmp_path.iterdir()) == []


async def test_push_accepts_numbers_at_the_limits(tmp_path: Path) -> None:
    """The smallest and largest allowed values are accepted, infinity as well."""
    accepted: list[PushOptions] = [
        {"max_failed": 0, "max_outage": inf, "concurrency": 1},
        {"max_failed": 1.0, "max_outage": 0},
    ]
    for number, options in enumerate(accepted):
        report = await push([1], target, state=tmp_path / f"{number}.db", **options)
        assert report.done == 1


@pytest.mark.parametrize("name", ["concurrency", "batch", "max_failed", "max_outage"])
async def test_push_step_rejects_negative_number(name: str) -> None:
    """A step of a push checks its numbers as a push does."""
    options: Any = {name: -1}
    with pytest.raises(ConfigurationError, match=name):
        await push_step([], PushTarget(target=target, **options), any_, flow="f")


@pytest.mark.parametrize(("name", "value"), [("max_pages", 0), ("max_outage", nan)])
async def test_pull_step_rejects_invalid_number(name: str, value: Any) -> None:
    """A step of a pull checks its numbers before it fetches a page."""

    async def fetch(_: int) -> Page[Any]:
        raise AssertionError("a page was read")

    options: Any = {name: value}
    with pytest.raises(ConfigurationError, match=name):
        await pull_step(Paginator(fetch=fetch), any_, after=None, flow="f", **options)


# --- Targets and sources --------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: target(None),
        lambda: "totango.touchpoints.create",
        lambda: NewContact,
        lambda: asynchronous_generator,
        lambda: generator,
        lambda: None,
    ],
    ids=["coroutine", "text", "type", "async-generator", "generator", "none"],
)
async def test_push_rejects_target_that_cannot_be_called(
    tmp_path: Path, make: Callable[[], Any]
) -> None:
    """A target that is no coroutine function is named, and a coroutine is closed unawaited."""
    with pytest.raises(ConfigurationError, match="target"):
        await push(Unread(), make(), state=tmp_path / "s.db")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: {"email": "a@example.com"}, "mapping"),
        (lambda: b"email\n", "bytes"),
        (lambda: {1, 2}, "set"),
        (lambda: 7, "iterated"),
        (lambda: asynchronous_generator, "Call the function"),
        (lambda: coroutine_function(1), "iterated"),
    ],
    ids=["mapping", "bytes", "set", "int", "function", "coroutine"],
)
async def test_push_rejects_source_without_rows(
    tmp_path: Path, make: Callable[[], Any], words: str
) -> None:
    """A source that gives no rows, or not in the same order each time, is named."""
    with pytest.raises(ConfigurationError, match=words):
        await push(make(), target, state=tmp_path / "s.db")


async def test_pull_rejects_operation_that_was_not_called(tmp_path: Path) -> None:
    """The method instead of its list is named."""
    operation: Any = coroutine_function
    with pytest.raises(ConfigurationError, match="Call the operation"):
        await pull(operation, tmp_path / "x.jsonl", state=tmp_path / "s.db")


# --- map ------------------------------------------------------------------------------


async def given(tmp_path: Path, header: str, row: str, map_: Any, row_type: Any = None) -> Any:
    """The first row that arrives of a file with *header* and *row*."""
    path = tmp_path / "in.csv"
    path.write_text(f"{header}\n{row}\n")
    rows: list[Any] = []

    async def take(row: Any) -> None:
        rows.append(row)

    await push(path, take, state=tmp_path / "s.db", map=map_, row_type=row_type)
    return rows[0]


async def test_push_maps_columns_to_fields(tmp_path: Path) -> None:
    """A mapping renames columns, drops one with an empty field, and nests dotted fields."""
    names = {"Mail": "email", "junk": "", "Colour": "custom_fields.colour"}
    row = await given(tmp_path, "Mail,junk,Colour,first_name", "a@x.org,1,red,A", names, NewContact)
    assert row == NewContact(email="a@x.org", first_name="A", custom_fields={"colour": "red"})


@pytest.mark.parametrize(
    "map_",
    [
        coroutine_function,
        asynchronous_generator,
        generator,
        Asynchronous(),
        partial(coroutine_function),
        NewContact,
        "Mail=email",
        7,
        {"Mail": 1},
        {0: "email"},
    ],
)
async def test_push_rejects_map_that_is_no_function(tmp_path: Path, map_: Any) -> None:
    """A map that is neither a plain function nor a mapping of names is named at once."""
    with pytest.raises(ConfigurationError, match="map"):
        await push(Unread(), target, state=tmp_path / "s.db", map=map_)
    with pytest.raises(ConfigurationError, match="map"):
        await given(tmp_path, "Mail", "a@x.org", map_)


async def test_push_rejects_map_of_unknown_names(tmp_path: Path) -> None:
    """A mapping from a missing column, to an unknown field, or of two columns to one is named."""
    with pytest.raises(InputError, match="no column 'Nail'"):
        await given(tmp_path, "Mail", "a@x.org", {"Nail": "email"})
    with pytest.raises(ConfigurationError, match=r"'emial'.*NewContact.*It has: email"):
        await given(tmp_path, "Mail", "a@x.org", {"Mail": "emial"}, NewContact)
    with pytest.raises(InputError, match="both become 'email'"):
        await given(tmp_path, "Mail,email", "a@x.org,b@x.org", {"Mail": "email"}, NewContact)


async def test_push_rejects_map_of_names_that_no_json_line_has(tmp_path: Path) -> None:
    """Without a header, a column is missing if no row has it; rare ones may come late."""
    path = tmp_path / "in.jsonl"
    rows: list[Any] = []

    async def take(row: Any) -> None:
        rows.append(row)

    path.write_text('{"Mail": "a"}\n' * 600 + '{"Mail": "b", "Nick": "n"}\n')
    state = tmp_path / "s.db"
    with pytest.raises(InputError, match="no row with 'Nail' and 'Nix'"):
        await push(path, take, state=state, map={"Nail": "email", "Nix": "nick", "Nick": "n"})
    assert (rows, state.exists()) == ([], False)
    report = await push(path, take, state=state, map={"Mail": "email", "Nick": "nick"})
    assert (report.done, rows[-1]) == (601, {"email": "b", "nick": "n"})
    path.write_text("")
    report = await push(path, take, state=tmp_path / "t.db", map={"Nail": "email"})
    assert report.done == 0


async def test_push_maps_to_names_of_its_own_where_there_is_extra(tmp_path: Path) -> None:
    """A row type with `extra` takes any field."""
    row = await given(tmp_path, "Mail,Debit", "a@x.org,1", {"Debit": "debit-card"}, Digital)
    assert row.extra["debit-card"] == "1"


async def test_two_names_of_one_field_fail_their_row(tmp_path: Path) -> None:
    """Without a header, the row in which two columns become one field fails; none is lost."""
    rows: list[Any] = []

    async def take(row: Any) -> None:
        rows.append(row)

    data = [{"Mail": "a"}, {"Mail": "b", "email": "c"}, {"email": "d"}]
    state = tmp_path / "s.db"
    report = await push(data, take, state=state, map={"Mail": "email"}, concurrency=1)
    assert rows == [{"email": "a"}, {"email": "d"}]
    assert (report.done, report.failed) == (2, 1)


async def test_map_that_returns_an_awaitable_fails_its_row(tmp_path: Path) -> None:
    """A coroutine that a map returns is not sent; the reason is that map must be plain."""
    state = tmp_path / "s.db"
    report = await push([1], target, state=state, map=lambda row: Asynchronous()(row))  # noqa: PLW0108
    assert report.failed == 1
    (line,) = Path(f"{state}.failed.jsonl").read_bytes().splitlines()
    assert "plain function" in msgspec.json.decode(line)["reason"]
