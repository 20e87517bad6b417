"""A backfill that is killed at any instant loses nothing and sends nothing twice.

The job runs in a process of its own and dies by SIGKILL; the vendors are a
sandbox in this one. Real time: a kill is no matter of a clock.
"""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from asyncclients.backfill import Report, read_status
from asyncclients.sandbox import Sandbox, drop, status
from asyncclients.vendors.intouch import Contact

from .conftest import Killer

OPEN = {"intouch": (1_000_000, 1.0), "digital_onboarding": (1_000_000, 1.0)}
LATENCY = (0.005, 0.005)


@pytest.fixture
def paths(tmp_path: Path) -> tuple[str, str]:
    return str(tmp_path / "rows.csv"), str(tmp_path / "state.db")


def unknown_rows(state: str) -> dict[int, dict[str, str]]:
    """The unknown rows that the journal lists, by number."""
    return {row.number: row.row for row in read_status(state).unknown_rows}


async def create(
    paths: tuple[str, str], rows: int, kills: int, *, dropping: float = 0.0, seed: int = 0
) -> tuple[Report, int, int]:
    """Push *rows* nodes under fire; the last report, kills, and rows the server has.

    At eight calls a time of 10 ms each, 1,000 rows take more than a second.
    """
    source, state = paths
    async with Sandbox(OPEN, latency=LATENCY) as sandbox:
        held = sandbox.state("intouch")
        lines = [f"node-{number},Node,generic,{held.root_uuid}\n" for number in range(rows)]
        Path(source).write_text("client_code,name,type,parent_uuid\n" + "".join(lines))
        random = Random(seed)
        if dropping:
            fault = drop(committed=True)
            sandbox.fail("intouch", fault, None, lambda _: random.random() < dropping)
        killer = Killer(sandbox.environ, seed)
        report = await killer.run("create", source, state, kills=kills, longest=0.4)
        codes = Counter(str(node["client_code"]) for node in held.hierarchies.values())
        codes = Counter({code: n for code, n in codes.items() if code.startswith("node-")})
    unknown = {row["client_code"] for row in unknown_rows(state).values()}
    assert not [code for code, times in codes.items() if times > 1]
    assert {f"node-{number}" for number in range(rows)} - unknown <= codes.keys()
    assert report.unknown == len(unknown)
    assert report.done + report.unknown == rows
    assert report.failed == report.skipped == 0
    return report, killer.kills, len(codes)


async def test_killed_push_sends_no_row_twice(paths: tuple[str, str]) -> None:
    """Rows that are not idempotent arrive exactly once, or are reported as unknown."""
    report, kills, _ = await create(paths, 1000, 2)
    assert kills == 2
    assert report.unknown <= 2 * 8  # what was on the wire: eight calls at a time


async def test_killed_push_with_lost_responses(paths: tuple[str, str]) -> None:
    """Lost responses make rows unknown, never duplicates, even if the run is killed."""
    report, kills, held = await create(paths, 700, 1, dropping=0.02, seed=1)
    assert kills == 1
    assert report.unknown > 0
    assert held >= report.done


async def retry(paths: tuple[str, str], rows: int, kills: int) -> int:
    """Retry *rows* nodes that failed under fire; how often it was killed."""
    source, state = paths
    async with Sandbox(OPEN, latency=LATENCY) as sandbox:
        held = sandbox.state("intouch")
        lines = [f"node-{number},Node,generic,{held.root_uuid}\n" for number in range(rows)]
        Path(source).write_text("client_code,name,type,parent_uuid\n" + "".join(lines))
        sandbox.fail("intouch", status(422), times=rows)
        killer, random = Killer(sandbox.environ), Random(0)
        report = await killer.run("create", source, state, kills=0, longest=0.0)
        assert (report.done, report.failed) == (0, rows)
        failed = Path(f"{state}.failed.jsonl")
        failed.write_text(failed.read_text().replace('"Node"', '"Edited"'))
        share = 0.1
        sandbox.fail("intouch", status(422), None, lambda _: random.random() < share)
        await killer.run("retry", source, state, kills=kills, longest=0.25)
        kills, share = killer.kills, 0.0
        report = await killer.run("retry", source, state, kills=0, longest=0.0)
        nodes = [node for node in held.hierarchies.values() if node["client_code"] in codes(rows)]
    unknown = {row["client_code"] for row in unknown_rows(state).values()}
    created = Counter(str(node["client_code"]) for node in nodes)
    assert max(created.values()) == 1
    assert codes(rows) - unknown <= created.keys()
    assert report.done + report.unknown == rows
    assert {node["name"] for node in nodes} == {"Edited"}
    assert not failed.exists()
    return kills


def codes(rows: int) -> set[str]:
    return {f"node-{number}" for number in range(rows)}


async def test_killed_retry_loses_nothing_and_sends_no_row_twice(paths: tuple[str, str]) -> None:
    """Failed rows, edited in their file, arrive exactly once as edited, or are unknown."""
    assert await retry(paths, 400, 2) == 2


async def upsert(paths: tuple[str, str], rows: int, kills: int, *, dropping: float = 0.0) -> int:
    """Push *rows* contacts that may be repeated under fire; how often it was killed."""
    source, state = paths
    lines = [f"u-{number},Name {number}\n" for number in range(rows)]
    Path(source).write_text("unique_id,name_first\n" + "".join(lines))
    async with Sandbox(OPEN, latency=LATENCY) as sandbox:
        random = Random(0)
        if dropping:
            fault = drop(committed=True)
            match = "POST /v1/contacts"
            sandbox.fail(
                "digital_onboarding",
                fault,
                None,
                lambda call: match.endswith(call.path) and random.random() < dropping,
            )
        killer = Killer(sandbox.environ)
        report = await killer.run("upsert", source, state, kills=kills, longest=0.4)
        held = Counter(
            str(row["unique_id"]) for row in sandbox.state("digital_onboarding").contacts.values()
        )
    assert held == Counter(f"u-{number}" for number in range(rows))
    assert (report.done, report.failed, report.unknown) == (rows, 0, 0)
    return killer.kills


async def test_killed_upsert_writes_every_row_once(paths: tuple[str, str]) -> None:
    """Idempotent rows all arrive, and none is unknown."""
    assert await upsert(paths, 1200, 2, dropping=0.01) > 0


async def fetch(tmp_path: Path, contacts: int, kills: int, *, dropping: float = 0.0) -> int:
    """Pull *contacts* under fire; how often it was killed."""
    target, state = tmp_path / "contacts.jsonl", str(tmp_path / "pull.db")
    async with Sandbox(OPEN, latency=LATENCY) as sandbox:
        held = sandbox.state("intouch")
        held.grow(contacts=contacts)
        random = Random(0)
        if dropping:
            sandbox.fail("intouch", drop(), None, lambda _: random.random() < dropping)
        killer = Killer(sandbox.environ)
        report = await killer.run("pull", str(target), state, kills=kills, longest=0.4)
        expected = list(held.contacts)
    found = [msgspec.json.decode(line)["uuid"] for line in target.read_bytes().splitlines()]
    assert found == expected
    assert (report.done, report.total, report.unverified) == (contacts, contacts, ())
    assert not target.with_name("contacts.jsonl.part").exists()
    return killer.kills


async def test_killed_pull_writes_every_item_once(tmp_path: Path) -> None:
    """The file has every item of the server once, in the server's order."""
    assert await fetch(tmp_path, 15_000, 2, dropping=0.01) > 0


class Copy:
    """A reader of the changes of a refreshed file, who keeps a copy of it.

    It looks after each kill and each run: the file has to be the old or the new one, and what was
    recorded as the last refresh has to have left its changes.
    """

    def __init__(self, target: Path, state: str) -> None:
        self._target, self._state = target, state
        self._changes = Path(f"{target}.changes")
        self._refreshed_at = 0.0
        self.rows = self._read()
        self.old, self.new = self.rows, dict[str, Any]()

    def _read(self) -> dict[str, Any]:
        rows = map(msgspec.json.decode, self._target.read_bytes().splitlines())
        return {row["uuid"]: row for row in rows}

    def look(self) -> None:
        """Check the file, and apply the changes if a refresh has ended."""
        found = self._read()
        assert found in (self.old, self.new)
        last = read_status(self._state).refreshed
        if last is None or last.ended_at == self._refreshed_at:
            return
        self._refreshed_at = last.ended_at
        for change in map(msgspec.json.decode, self._changes.read_bytes().splitlines()):
            assert (change["op"] == "added") == (change["key"] not in self.rows)
            if change["op"] == "removed":
                del self.rows[change["key"]]
            else:
                self.rows[change["key"]] = change["item"]
        assert self.rows == found
        self.old = found


async def refresh(tmp_path: Path, contacts: int, kills: int, *, dropping: float) -> None:
    """Refresh a file of *contacts*, which change after each refresh, until it was killed *kills* times."""
    target, state = tmp_path / "contacts.jsonl", str(tmp_path / "pull.db")
    async with Sandbox(OPEN, latency=LATENCY) as sandbox:
        held, random = sandbox.state("intouch"), Random(4)
        held.grow(contacts=contacts, every=1.0)
        killer = Killer(sandbox.environ, seed=5)
        await killer.run("pull", str(target), state, kills=0, longest=0.0)
        copy = Copy(target, state)
        sandbox.fail("intouch", drop(), None, lambda _: random.random() < dropping)
        for number in itertools.count():
            kind = "since" if number % 2 else "refresh"
            change(held, random, number, kind)
            copy.new = {uuid: shown(row) for uuid, row in held.contacts.items()}
            for _ in range(min(8, kills - killer.kills)):
                await killer.kill(kind, str(target), state, longest=0.6)
                copy.look()
            report = msgspec.json.decode(await killer.finish(kind, str(target), state))
            copy.look()
            assert [*copy.old] == [*held.contacts]
            assert copy.old == copy.new
            assert (report["done"], report["total"]) == (len(held.contacts), len(held.contacts))
            if killer.kills >= kills:
                break
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"contacts.jsonl", "contacts.jsonl.changes", "pull.db"}


def change(held: Any, random: Random, number: int, kind: str) -> None:
    """Add contacts, change a third of the others, delete some if the refresh notices it."""
    contacts = held.contacts
    at = f"2026-01-01T{number // 60:02}:{number % 60:02}:00+00:00"
    for uuid in random.sample([*contacts], len(contacts) // 3):
        if kind == "refresh" and random.random() < 0.1:
            del contacts[uuid]
        else:
            contacts[uuid] = {**contacts[uuid], "first_name": f"N{number}", "updated_at": at}
    known = {*contacts}
    held.grow(contacts=len(contacts) // 100)
    for uuid in contacts.keys() - known:
        contacts[uuid] = {**contacts[uuid], "updated_at": at}


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """Return *row* as the client writes it."""
    contact = msgspec.convert({**row, "custom_fields": {}}, Contact)
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(contact))
    return found


async def test_killed_refresh_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    """At any instant the file is the old or the new one, and the changes lead from one to the other."""
    await refresh(tmp_path, 1_500, 2, dropping=0.01)


@pytest.mark.sweep
@pytest.mark.timeout(1800)
async def test_refresh_killed_two_hundred_times(tmp_path: Path) -> None:
    """The file and its changes are exact after 200 kills at random instants."""
    await refresh(tmp_path, 8_000, 200, dropping=0.01)


@pytest.mark.sweep
@pytest.mark.timeout(1800)
async def test_push_killed_two_hundred_times(paths: tuple[str, str]) -> None:
    """No row is sent twice after 200 kills at random instants, with and without lost responses."""
    _, kills, _ = await create(paths, 60_000, 100, seed=2)
    Path(paths[1]).unlink()
    _, more, _ = await create(paths, 60_000, 100, dropping=0.01, seed=3)
    assert kills + more == 200


@pytest.mark.sweep
@pytest.mark.timeout(1800)
async def test_upsert_killed_two_hundred_times(paths: tuple[str, str]) -> None:
    """All rows of an upsert arrive after 200 kills at random instants."""
    assert await upsert(paths, 60_000, 200, dropping=0.01) == 200


@pytest.mark.sweep
@pytest.mark.timeout(1800)
async def test_pull_killed_two_hundred_times(tmp_path: Path) -> None:
    """The file is exact after 200 kills at random instants."""
    assert await fetch(tmp_path, 500_000, 200, dropping=0.01) == 200
