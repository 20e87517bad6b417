"""`asyncclients demo`, with small files and high limits: the frame, not the sight."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from asyncclients import Quota
from asyncclients.cli import demo_jobs, run
from asyncclients.cli.demo import Retries
from asyncclients.cli.demo_jobs import QUOTAS, DemoJob, faster, rows
from asyncclients.core.events import AttemptStarted, CallStarted

FILES = {"navaids": 60, "earthquakes": 45, "airport-frequencies": 50, "airports-us": 40}
"""Rows used here of each data file."""


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def few(name: str, limit: int | None = None) -> list[dict[str, str]]:
        return rows(name, FILES[name])

    monkeypatch.setattr(demo_jobs, "rows", few)
    monkeypatch.setenv("COLUMNS", "120")


@pytest.mark.usefixtures("small_files")
def test_the_jobs_arrive_whole_and_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The closing table has one line for each vendor, from the servers' own counts; exit code 0."""
    assert run(["demo", "--fast"]) == 0
    printed = capsys.readouterr().out
    table = printed.partition("As the servers recorded it")[2]
    calls = {
        line.split()[1]: int(line.split()[3])
        for line in table.splitlines()
        if line.startswith("│") and re.match(r"│ [a-z_]+ +│ +\d", line)
    }
    # 60 nodes and 3 pages (the root is the 61st); 45 notes; a type and 5 batches; 50 rows and an
    # upload; 40 contacts and the token.
    assert calls == {
        "intouch": 63,
        "totango": 45,
        "emma": 6,
        "intempt": 51,
        "digital_onboarding": 41,
    }
    refused = [line.split("│")[5].strip() for line in table.splitlines() if line.startswith("│")]
    assert set(refused) == {"0"}
    assert re.search(r"Done in \d+\.\d s\.", printed)


def test_a_line_tells_how_far_every_job_is(
    capsys: pytest.CaptureFixture[str], small_files: None
) -> None:
    """Where nobody watches, progress is plain lines: each vendor, steps done of all."""
    assert run(["demo", "--fast"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert re.fullmatch(r"(?:[a-z_]+ \d+/\d+(?: \| )?){5}", first), first


def test_the_data_files_are_there_and_are_what_the_jobs_expect() -> None:
    """Real rows with the columns that the jobs read."""
    columns = {
        "navaids": {"id", "ident", "name", "latitude_deg", "longitude_deg", "iso_country"},
        "earthquakes": {"net", "title", "time_ms", "magnitude"},
        "airport-frequencies": {"id"},
        "airports-us": {"iata", "name", "city", "state", "country"},
    }
    for name, wanted in columns.items():
        found = rows(name, 3)
        assert len(found) == 3
        assert all(row.keys() >= wanted for row in found)


@pytest.mark.parametrize("name", QUOTAS)
def test_quotas_are_the_vendors_own_and_fast_is_a_hundredfold(name: str) -> None:
    """The demo runs at the limits that the clients know, or at a hundred times those."""
    client = demo_jobs.CLIENTS[name]
    limit, period = QUOTAS[name]
    assert client.vendor.quotas == (Quota(limit, period),)
    assert faster(name) == Quota(limit * 100, period)


def test_retries_are_the_attempts_after_the_first() -> None:
    """Counted by the vendor of their call."""
    retries = Retries()
    for call, vendor in ((1, "emma"), (2, "totango")):
        retries(
            CallStarted(call=call, vendor=vendor, operation="", method="", template="", origin="")
        )
    for call, attempt in ((1, 1), (2, 1), (1, 2), (1, 3)):
        retries(AttemptStarted(call=call, attempt=attempt, waited=0.0))
    assert retries.by_vendor == {"emma": 2}


async def test_a_job_counts_its_steps() -> None:
    """`each` calls every item once; `count` makes a step of each page, the last one included."""

    async def nothing(_: object) -> None:
        pass

    async def numbers(upto: int) -> AsyncIterator[object]:
        for number in range(upto):
            yield number

    no_client: Any = None
    job = DemoJob("intouch", no_client, "", 7)
    await job.each(range(5), nothing)
    assert job.done == 5
    assert await job.count(numbers(26), 25) == 26
    assert job.done == 7
