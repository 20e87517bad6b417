"""Retry: the failed rows of a state are sent again, and nothing is lost or sent twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from asyncclients import (
    BackfillStoppedError,
    ConfigurationError,
    StateError,
    StateMismatchError,
    UnauthorizedError,
)
from asyncclients.backfill import Report, push, read_status
from asyncclients.backfill.files.csv import Cells
from asyncclients.backfill.state.stored_rows import DeadLetterFile


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "push.db"


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text("n,name\n" + "".join(f"{n},row {n}\n" for n in range(10)))
    return path


class Vendor:
    """A target that rejects rows and keeps the others."""

    def __init__(self, *rejected: str) -> None:
        self.rejected = set(rejected)
        self.held: list[Any] = []

    async def take(self, row: Any) -> None:
        if row["n"] in self.rejected:
            raise ValueError(f"{row['n']} is rejected")
        self.held.append(row)

    def numbers(self) -> list[int]:
        return sorted(int(row["n"]) for row in self.held)


def failed(state: Path) -> list[dict[str, Any]]:
    lines = Path(f"{state}.failed.jsonl").read_bytes().splitlines()
    return [msgspec.json.decode(line) for line in lines]


def edit(state: Path, change: Callable[[str], str]) -> None:
    path = Path(f"{state}.failed.jsonl")
    path.write_text(change(path.read_text()))


def counts(report: Report) -> tuple[int, int, int, int]:
    return report.done, report.failed, report.unknown, report.skipped


async def test_retry_sends_the_failed_rows_and_lists_those_that_still_fail(
    csv: Path, state: Path
) -> None:
    """Counts move from failed to done; the file of failed rows holds only what failed again."""
    vendor = Vendor("2", "5", "7")
    assert counts(await push(csv, vendor.take, state=state)) == (7, 3, 0, 0)
    vendor.rejected = {"5"}
    report = await push(csv, vendor.take, state=state, retry_failed=True)
    assert (counts(report), report.complete) == ((9, 1, 0, 0), True)
    assert vendor.numbers() == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    (row,) = failed(state)
    assert (row["line"], row["number"], row["row"]) == (7, 6, {"n": "5", "name": "row 5"})
    vendor.rejected.clear()
    assert counts(await push(csv, vendor.take, state=state)) == (9, 1, 0, 0)
    report = await push(csv, vendor.take, state=state, retry_failed=True)
    assert (counts(report), report.failures) == ((10, 0, 0, 0), None)
    assert vendor.numbers() == [*range(10)]
    assert counts(await push(csv, vendor.take, state=state, retry_failed=True)) == (10, 0, 0, 0)
    assert sorted(path.name for path in state.parent.iterdir()) == ["push.db", "rows.csv"]


async def test_retry_uses_a_corrected_map(csv: Path, state: Path) -> None:
    """Rows that failed in the conversion are converted again; later runs need the new mapping."""

    class Item(msgspec.Struct, frozen=True, kw_only=True):
        key: int

    sent: list[Item] = []

    async def take(item: Item) -> None:
        sent.append(item)

    async def run(field: str, *, retry_failed: bool = False) -> Report:
        names = {field: "key"}
        return await push(
            csv,
            take,
            state=state,
            row_type=Item,
            map=names,
            max_failed=1,
            retry_failed=retry_failed,
        )

    assert counts(await run("name")) == (0, 10, 0, 0)
    with pytest.raises(StateMismatchError, match="--retry-failed"):
        await run("n")
    assert counts(await run("n", retry_failed=True)) == (10, 0, 0, 0)
    assert [item.key for item in sent] == [*range(10)]
    assert counts(await run("n")) == (10, 0, 0, 0)
    with pytest.raises(StateMismatchError, match="its map is"):
        await run("name")


async def test_retry_sends_a_row_as_edited_in_the_file(csv: Path, state: Path) -> None:
    """An edited row replaces that of the input; empty cells read as in the input."""
    csv.write_text("n,name,note\n1,a,\n2,b,x\n")
    seen: list[Any] = []

    def mapped(row: Any) -> Any:
        seen.append((type(row), row["n"], row["note"]))
        return row

    vendor = Vendor("1", "2")

    async def run(*, retry_failed: bool) -> Report:
        return await push(
            csv, vendor.take, state=state, map=mapped, max_failed=1, retry_failed=retry_failed
        )

    await run(retry_failed=False)
    edit(state, lambda text: text.replace('"n":"1"', '"n":"11"').replace('"note":"x"', '"note":""'))
    seen.clear()
    vendor.rejected = {"2"}
    report = await run(retry_failed=True)
    assert counts(report) == (1, 1, 0, 0)
    assert sorted(seen, key=str) == [(Cells, "11", ""), (Cells, "2", "")]
    assert vendor.held == [{"n": "11", "name": "a"}]
    assert failed(state)[0]["row"] == {"n": "2", "name": "b"}
    vendor.rejected.clear()
    report = await run(retry_failed=True)
    assert (counts(report), vendor.held[1]) == ((2, 0, 0, 0), {"n": "2", "name": "b"})


async def test_retry_does_not_send_an_unreadable_row_until_it_is_corrected(
    csv: Path, state: Path
) -> None:
    """Bytes that are not UTF-8 are not sent as U+FFFD, neither by a retry nor from the file."""
    rows = "".join(f"{n},thé\n" for n in range(5000)).encode()
    csv.write_bytes(b"n,name\n" + rows + b"5000,caf\xe9\n5001\n")
    vendor = Vendor()
    assert counts(await push(csv, vendor.take, state=state)) == (5000, 2, 0, 0)
    report = await push(csv, vendor.take, state=state, retry_failed=True)
    assert counts(report) == (5000, 2, 0, 0)
    other = state.with_name("other.db")
    file = state.with_name("push.db.failed.jsonl")
    assert counts(await push(file, vendor.take, state=other)) == (0, 2, 0, 0)
    assert "was unreadable and is not corrected: is not UTF-8" in failed(other)[0]["reason"]
    assert [row for row in vendor.held if "\ufffd" in row.get("name", "")] == []
    edit(state, lambda text: text.replace("caf\ufffd", "café"))
    assert counts(await push(file, vendor.take, state=state.with_name("third.db"))) == (1, 1, 0, 0)
    assert counts(await push(csv, vendor.take, state=state, retry_failed=True)) == (5001, 1, 0, 0)
    assert vendor.held[-1] == {"n": "5000", "name": "café"}


async def test_retry_with_a_limit_is_continued(csv: Path, state: Path) -> None:
    """Failed rows come before rows that were never sent; the next run continues a limited retry."""
    vendor = Vendor("0", "1", "2")
    report = await push(csv, vendor.take, state=state, limit=5, concurrency=1)
    assert (counts(report), report.complete) == ((2, 3, 0, 0), False)
    vendor.rejected = {"1"}
    report = await push(csv, vendor.take, state=state, retry_failed=True, limit=2, concurrency=1)
    assert (counts(report), vendor.numbers()) == ((3, 1, 0, 0), [0, 3, 4])
    report = await push(csv, vendor.take, state=state, limit=1, concurrency=1)
    assert (counts(report), vendor.numbers()) == ((4, 1, 0, 0), [0, 2, 3, 4])
    assert [row["row"]["n"] for row in failed(state)] == ["1"]
    report = await push(csv, vendor.take, state=state)
    assert (counts(report), report.complete) == ((9, 1, 0, 0), True)


async def test_retry_of_rows_that_an_iterable_gives_again(state: Path) -> None:
    """The rows of an iterable keep their types: the map gets the objects themselves."""

    class Thing(msgspec.Struct, frozen=True):
        n: int

    vendor = Vendor("1", "3")

    def mapped(thing: Thing) -> dict[str, str]:
        return {"n": str(thing.n)}

    things = [Thing(n) for n in range(5)]
    assert counts(await push(things, vendor.take, state=state, map=mapped)) == (3, 2, 0, 0)
    vendor.rejected.clear()
    report = await push(things, vendor.take, state=state, map=mapped, retry_failed=True)
    assert (counts(report), vendor.numbers()) == ((5, 0, 0, 0), [*range(5)])


async def test_retry_that_stops_is_continued_without_loss(csv: Path, state: Path) -> None:
    """A run that fails halfway leaves the edited rows to the next one."""
    vendor = Vendor(*"0123456789")
    assert counts(await push(csv, vendor.take, state=state, max_failed=1)) == (0, 10, 0, 0)
    edit(state, lambda text: text.replace('"row 7"', '"corrected"'))

    async def broken(row: Any) -> None:
        if row["n"] == "4":
            raise BackfillStoppedError("stopped")
        await vendor.take(row)

    broken.__qualname__ = Vendor.take.__qualname__
    vendor.rejected = {"1"}
    with pytest.raises(BackfillStoppedError, match="stopped"):
        await push(csv, broken, state=state, retry_failed=True, concurrency=1)
    assert (read_status(state).done, read_status(state).failed) == (3, 1)
    assert counts(await push(csv, vendor.take, state=state)) == (9, 1, 0, 0)
    assert vendor.numbers() == [n for n in range(10) if n != 1]
    assert [row["name"] for row in vendor.held if row["n"] == "7"] == ["corrected"]
    assert [row["row"]["n"] for row in failed(state)] == ["1"]


async def test_plan_of_a_retry_has_the_failed_rows(csv: Path, state: Path) -> None:
    """A dry run plans the failed rows, edited ones as edited, and changes no file."""
    vendor = Vendor("2", "5")
    await push(csv, vendor.take, state=state, limit=7)
    edit(state, lambda text: text.replace('"row 5"', '"bad"'))

    def mapped(row: Any) -> Any:
        if row["name"] == "bad":
            raise ValueError("bad name")
        return row

    before = {path: path.read_bytes() for path in state.parent.iterdir()}
    plan = await push(csv, vendor.take, state=state, map=mapped, dry_run=True)
    retry = await push(csv, vendor.take, state=state, map=mapped, dry_run=True, retry_failed=True)
    assert (plan.rows, plan.valid, plan.invalid) == (3, 3, 0)
    assert (retry.rows, retry.valid, retry.invalid) == (5, 4, 1)
    assert (retry.failures[0].line, retry.failures[0].reason) == (7, "bad name")
    assert {path: path.read_bytes() for path in state.parent.iterdir()} == before


UNUSABLE: list[tuple[Callable[[str], str], str]] = [
    (lambda text: "", "has no row, but 2 rows of this state have failed"),
    (lambda text: text[:-20] + "\n", "line 2: is not a failed row"),
    (lambda text: text * 2, "line 3: is not a failed row, or the second one"),
    (lambda text: text.replace('"number":6', '"number":60'), "has row 60, which has not failed"),
]


@pytest.mark.parametrize(("change", "words"), UNUSABLE)
async def test_retry_rejects_an_unusable_file_of_failed_rows(
    csv: Path, state: Path, change: Callable[[str], str], words: str
) -> None:
    """An unusable file is named in the error, and nothing is sent or changed."""
    vendor = Vendor("2", "5")
    await push(csv, vendor.take, state=state)
    edit(state, change)
    sent = len(vendor.held)
    for dry_run in (True, False):
        with pytest.raises(StateMismatchError, match=words) as raised:
            await push(csv, vendor.take, state=state, retry_failed=True, dry_run=dry_run)
        assert raised.value.file == f"{state}.failed.jsonl"
        assert raised.value.message.startswith(f"{state}.failed.jsonl")
    assert (len(vendor.held), read_status(state).failed) == (sent, 2)


async def test_retry_rejects_a_changed_input(csv: Path, state: Path) -> None:
    """An input that has changed is rejected before any row becomes pending."""
    vendor = Vendor("2")
    await push(csv, vendor.take, state=state)
    csv.write_text(csv.read_text().replace("row 2", "row two"))
    with pytest.raises(StateMismatchError, match="has changed since"):
        await push(csv, vendor.take, state=state, retry_failed=True)
    assert (read_status(state).failed, len(failed(state))) == (1, 1)
    with pytest.raises(ConfigurationError, match="retry_failed must be"):
        await push(csv, vendor.take, state=state, retry_failed=cast("bool", 1))


async def test_retry_leaves_rows_failed_whose_lines_were_deleted(csv: Path, state: Path) -> None:
    """A row without its line stays failed, and is not sent."""
    vendor = Vendor("2", "5")
    await push(csv, vendor.take, state=state)
    edit(state, lambda text: text.splitlines(keepends=True)[0])
    vendor.rejected.clear()
    report = await push(csv, vendor.take, state=state, retry_failed=True)
    assert counts(report) == (9, 1, 0, 0)
    assert Counter(vendor.numbers())[5] == 0


@pytest.mark.parametrize(
    ("before", "after"), [("unused", '"corrected"'), ('"corrected"', '"again"')]
)
async def test_retry_interrupted_before_its_file_is_removed_is_continued(
    csv: Path, state: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str
) -> None:
    """A run killed before it removes the file loses no edits, not even later ones, and no counts."""
    vendor = Vendor("2", "5")
    await push(csv, vendor.take, state=state)
    edit(state, lambda text: text.replace('"row 5"', '"corrected"'))
    vendor.rejected = {"2"}

    def die(file: DeadLetterFile) -> None:
        raise OSError("died")

    with monkeypatch.context() as patch:
        patch.setattr(DeadLetterFile, "begin", die)
        with pytest.raises(StateError, match="died"):
            await push(csv, vendor.take, state=state, retry_failed=True)
    assert len(failed(state)) == 2
    assert (read_status(state).failed, read_status(state).remaining) == (0, 2)
    edit(state, lambda text: text.replace(before, after))
    report = await push(csv, vendor.take, state=state)
    assert counts(report) == (9, 1, 0, 0)
    assert [row["row"]["n"] for row in failed(state)] == ["2"]
    assert [row["name"] for row in vendor.held if row["n"] == "5"] == [after.strip('"')]


async def test_retry_keeps_the_edits_of_an_interrupted_one(csv: Path, state: Path) -> None:
    """A second retry sends the rows that failed in the first, and the others as edited before it."""
    vendor = Vendor("2", "5")
    await push(csv, vendor.take, state=state)
    edit(state, lambda text: text.replace('"row 5"', '"corrected"'))
    await push(csv, vendor.take, state=state, retry_failed=True, limit=1, concurrency=1)
    assert [row["row"]["n"] for row in failed(state)] == ["2"]
    vendor.rejected.clear()
    report = await push(csv, vendor.take, state=state, retry_failed=True)
    assert counts(report) == (10, 0, 0, 0)
    assert [row["name"] for row in vendor.held if row["n"] == "5"] == ["corrected"]


async def test_retry_keeps_the_edits_of_an_unknown_row(csv: Path, state: Path) -> None:
    """A row that became unknown in a retry is sent as edited, also by a run after an interruption."""
    vendor, failure = Vendor("5"), list[Exception]()

    async def take(row: Any) -> None:
        if failure:
            raise failure[0]
        await vendor.take(row)

    await push(csv, take, state=state)
    edit(state, lambda text: text.replace('"row 5"', '"corrected"'))
    failure[:] = [ConnectionResetError("cut")]
    assert counts(await push(csv, take, state=state, retry_failed=True)) == (9, 0, 1, 0)
    failure[:] = [UnauthorizedError("revoked")]
    with pytest.raises(UnauthorizedError):
        await push(csv, take, state=state, unknown="resend")
    failure[:] = [ConnectionResetError("cut")]
    assert counts(await push(csv, take, state=state)) == (9, 0, 1, 0)
    failure.clear()
    assert counts(await push(csv, take, state=state, unknown="resend")) == (9, 1, 0, 0)
    vendor.rejected.clear()
    assert counts(await push(csv, take, state=state, retry_failed=True)) == (10, 0, 0, 0)
    assert [row["name"] for row in vendor.held if row["n"] == "5"] == ["corrected"]
