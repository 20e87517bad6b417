"""Pages that do not match the documentation: unreadable items are set aside with their bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asyncclients import (
    BackfillStoppedError,
    DecodeError,
    IntouchClient,
    NotFoundError,
    Quota,
    SessionPool,
)
from asyncclients.backfill import pull, read_status
from asyncclients.paging import Page, Paginator
from asyncclients.sandbox import Sandbox, html
from asyncclients.sandbox.faults import HTML
from tests.support.byte_server import Connection, byte_server, http

OPEN = {"intouch": (1_000_000, 1.0)}
PAGE = 10


class Drift:
    """A list of numbers in pages of ten; *broken* is what happens to a page instead."""

    def __init__(self, items: int) -> None:
        self.items = items
        self.broken: dict[int, Exception] = {}
        self.times: dict[int, int] = {}
        self.asked: list[int] = []

    async def page(self, number: int) -> Page[Any]:
        self.asked.append(number)
        if self.times.get(number, 1_000_000) > 0 and number in self.broken:
            self.times[number] = self.times.get(number, 1_000_000) - 1
            raise self.broken[number]
        found = range(PAGE * number - PAGE, min(self.items, PAGE * number))
        items = [{"id": item} for item in found]
        last = PAGE * number >= self.items
        return Page(items=items, number=number, total=self.items, last=last)

    def list(self) -> Paginator[Any]:
        return Paginator(self.page)


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "pull.db"


def ids(to: Path, name: str = "id") -> list[Any]:
    return [json.loads(line)[name] for line in to.read_bytes().splitlines()]


def failures(state: Path) -> list[dict[str, Any]]:
    lines = state.with_name("pull.db.failed.jsonl").read_bytes().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.virtual_time
async def test_pull_sets_item_of_another_type_aside(to: Path, state: Path) -> None:
    """The other items of the page are written; the bytes, place and reason are in the dead-letter file."""
    async with Sandbox(OPEN) as sandbox, SessionPool() as pool:
        held = sandbox.state("intouch")
        held.grow(contacts=100)
        bad = list(held.contacts)[60]
        held.contacts[bad]["email"] = {"address": "é"}
        intouch = IntouchClient.from_env(pool, sandbox.environ, quotas=[Quota(1000, 1.0)])
        report = await pull(intouch.contacts.list(sort_by="created_at"), to, state=state)
        requests = len(sandbox.requests("intouch"))
    assert ids(to, "uuid") == [uuid for uuid in held.contacts if uuid != bad]
    assert (report.done, report.failed, report.total) == (99, 1, 100)
    assert requests == 4 + 1, "the page was asked for once more, the list was not read again"
    assert report.unverified == ("1 items do not match the vendor's documentation",)
    found = failures(state)
    assert [(each["line"], each["error"]) for each in found] == [(3, "DecodeError")]
    assert "email" in found[0]["reason"]
    assert msgspec.json.decode(found[0]["row"])["email"] == {"address": "é"}
    assert msgspec.json.decode(found[0]["row"])["uuid"] == bad
    status = read_status(state)
    assert (status.done, status.failed, status.complete) == (99, 1, True)
    assert status.failures == report.failures == f"{state}.failed.jsonl"


@pytest.mark.virtual_time
async def test_pull_retries_unreadable_page(to: Path, state: Path) -> None:
    """A gateway's page of markup, twice, is requested again until the list's page arrives."""
    drift = Drift(100)
    drift.broken, drift.times = {4: DecodeError("markup")}, {4: 2}
    report = await pull(drift.list(), to, state=state)
    assert ids(to) == list(range(100))
    assert (report.done, report.failed, report.unverified) == (100, 0, ())
    assert drift.asked.count(4) == 3


@pytest.mark.virtual_time
async def test_pull_sets_unreadable_page_aside(to: Path, state: Path) -> None:
    """The later pages are written; the page counts as its number of items."""
    drift = Drift(200)
    drift.broken = {4: DecodeError("broken")}
    report = await pull(drift.list(), to, state=state)
    assert ids(to) == [*range(30), *range(40, 200)]
    assert (report.done, report.failed, report.total) == (190, 10, 200)
    assert [(each["line"], each["reason"]) for each in failures(state)] == [(4, "broken")]


@pytest.mark.virtual_time
async def test_pull_keeps_bytes_of_unreadable_page(to: Path, state: Path) -> None:
    """The dead-letter file has the whole body, even if it is not JSON."""
    async with Sandbox(OPEN) as sandbox, SessionPool() as pool:
        held = sandbox.state("intouch")
        held.grow(contacts=500)
        expected = list(held.contacts)
        sandbox.fail("intouch", html(), None, lambda call: call.query.get("page") == "3")
        intouch = IntouchClient.from_env(pool, sandbox.environ, quotas=[Quota(1000, 1.0)])
        report = await pull(intouch.contacts.list(sort_by="created_at"), to, state=state)
    assert ids(to, "uuid") == expected[:50] + expected[75:]
    assert (report.done, report.failed) == (475, 25)
    assert [each["row"] for each in failures(state)] == [HTML.decode()]


@pytest.mark.virtual_time
@pytest.mark.parametrize("number", [1, 2])
async def test_pull_sets_item_that_is_no_json_aside(to: Path, state: Path, number: int) -> None:
    """The other items are written and its bytes are kept, also on the first page."""
    invalid = b'{"uuid": "bad", "name": "\\ud83d"}'

    async def serve(connection: Connection) -> None:
        while True:
            target = (await connection.request()).target
            asked = int(target.partition("page=")[2])
            items = [b'{"uuid": "%d-%d", "name": "a"}' % (asked, n) for n in range(3)]
            if asked == number:
                items.insert(1, invalid)
            body = b'{"current_page": %d, "last_page": 2, "total": 7, "data": [%b]}'
            await connection.send(http(body=body % (asked, b",".join(items))))

    async with byte_server(serve) as running, SessionPool() as pool:
        quotas = [Quota(1000, 1.0)]
        intouch = IntouchClient(pool, api_key="k", base_url=running.url, quotas=quotas)
        report = await pull(intouch.tags.list(), to, state=state)
    assert ids(to, "uuid") == ["1-0", "1-1", "1-2", "2-0", "2-1", "2-2"]
    assert (report.done, report.failed, report.total) == (6, 1, 7)
    assert [each["row"].encode() for each in failures(state)] == [invalid]


@pytest.mark.virtual_time
async def test_pull_rejects_unreadable_first_page(to: Path, state: Path) -> None:
    """An unreadable first page is an error, because it may not be a list at all."""
    drift = Drift(100)
    drift.broken = {1: DecodeError("markup")}
    with pytest.raises(DecodeError, match="markup"):
        await pull(drift.list(), to, state=state)
    assert set(drift.asked) == {1}


@pytest.mark.virtual_time
async def test_pull_stops_above_max_failed(to: Path, state: Path) -> None:
    """Above the share it stops before it sets more aside; another run resumes there."""
    drift = Drift(200)
    drift.broken = {number: DecodeError("broken") for number in range(8, 15)}
    with pytest.raises(BackfillStoppedError, match="10 of 80 items") as caught:
        await pull(drift.list(), to, state=state, max_failed=0.01)
    assert caught.value.report is not None
    assert (caught.value.report.done, caught.value.report.failed) == (70, 0)
    drift.broken.clear()
    report = await pull(drift.list(), to, state=state)
    assert ids(to) == list(range(200))
    assert (report.done, report.failed, report.unverified) == (200, 0, ())


@pytest.mark.virtual_time
async def test_pull_tolerates_fifty_items_or_a_tenth(to: Path, state: Path) -> None:
    """By default fifty unreadable items are tolerated, and above five hundred items a tenth."""
    drift = Drift(2000)
    drift.broken = {number: DecodeError("broken") for number in range(101, 200, 2)}
    with pytest.raises(BackfillStoppedError, match="130 of 1250 items"):
        await pull(drift.list(), to, state=state)
    assert len(failures(state)) == 12


@pytest.mark.virtual_time
async def test_pull_sets_item_aside_once(to: Path, state: Path) -> None:
    """A resumed run counts and writes an unreadable item of the same page once."""
    drift = Drift(200)
    drift.broken = {4: DecodeError("broken"), 9: NotFoundError("gone")}
    with pytest.raises(NotFoundError):
        await pull(drift.list(), to, state=state, prefetch=0)
    with state.with_name("pull.db.failed.jsonl").open("ab") as file:
        file.write(b'{"line":9,"number":1,"row":"left')
    del drift.broken[9]
    report = await pull(drift.list(), to, state=state)
    assert (report.done, report.failed, len(failures(state))) == (190, 10, 1)


@pytest.mark.virtual_time
@pytest.mark.parametrize("ahead", [0, 8])
async def test_pull_reads_past_empty_pages(to: Path, state: Path, ahead: int) -> None:
    """Empty pages before the last one do not end the list."""
    sizes = [0, 2, 0, 0, 1, 3, 0]

    async def fetch(number: int) -> Page[Any]:
        before = sum(sizes[: number - 1])
        items = [{"id": before + n} for n in range(sizes[number - 1])]
        return Page(items=items, number=number, total=6, last=number == len(sizes))

    report = await pull(Paginator(fetch), to, state=state, prefetch=ahead)
    assert ids(to) == list(range(6))
    assert (report.done, report.total, report.unverified) == (6, 6, ())
