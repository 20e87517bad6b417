"""`asyncclients demo`, with fewer rows."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import aiohttp
import msgspec
import pytest
from rich.console import Console, RenderableType

from asyncclients import Quota
from asyncclients.cli import demo, run
from asyncclients.cli.demo import scenario
from asyncclients.cli.demo.jobs import data_rows, send_at_random
from asyncclients.cli.demo.records import (
    ASKED_AT,
    DemoResult,
    quota_share,
    read_record,
    rows_served,
)
from asyncclients.cli.demo.scenario import open_scenario
from asyncclients.cli.demo.screen import closing, frame, progress_line
from asyncclients.sandbox import Sandbox

VENDORS = ("intouch", "totango", "emma", "intempt", "digital_onboarding")
ROWS = {"intouch": 125, "totango": 4, "emma": 20, "intempt": 5, "digital_onboarding": 5}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Move few rows, keep temporary files in *tmp_path*, and restart at once after the kill."""
    monkeypatch.setattr(scenario, "ROWS", ROWS)
    monkeypatch.setattr(scenario, "_PAUSE", 0.0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")


def shown(what: RenderableType, width: int) -> list[str]:
    """Return the lines of *what* on a terminal that has *width* columns."""
    console = Console(width=width, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(what)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_demo_keeps_its_promises(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The pull is killed and resumed without a rejection, loss or duplicate; no file is left.

    The live page has a row and a complete job for each vendor.
    """
    printed: list[str] = []
    scopes: set[str] = set()
    done: dict[str, int] = {}

    async def visit(_: Console) -> None:
        printed.append(capfd.readouterr().out)
        (url,) = re.findall(r"Live page: (\S+)", printed[0])
        async with aiohttp.ClientSession() as session, session.get(f"{url}events") as events:
            while done != ROWS:  # the page receives a sample four times a second
                line = await events.content.readline()
                if line.startswith(b"data: "):
                    sample = msgspec.json.decode(line.removeprefix(b"data: "))[-1]
                    scopes.update(row["name"] for row in sample["scopes"])
                    done.update((job["name"].split(":")[0], job["done"]) for job in sample["jobs"])

    monkeypatch.setattr(demo, "_until_interrupted", visit)
    assert run(["demo", "--web"]) == 0
    assert (scopes, done) == (set(VENDORS), ROWS)
    for vendor in VENDORS:
        cells = re.search(rf"^{vendor} +(\d+) +(\d+) .* (\d+) +(\d+) *$", printed[0], re.MULTILINE)
        assert cells is not None, printed[0]
        assert int(cells[1]) > 0
        assert cells.groups()[1:] == ("0", "0", "0")
    assert re.search(r"kill -9 \d+ at (50|75|100) rows; \d+ s: resumed", printed[0]), printed[0]
    assert list(tmp_path.iterdir()) == []


def test_demo_prints_its_results_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    """With `--json`, standard output has the figures of each client and nothing else."""
    assert run(["demo", "--json"]) == 0
    found = msgspec.json.decode(capfd.readouterr().out, type=list[DemoResult])
    assert [each.vendor for each in found] == [*VENDORS, "naive"]
    assert [(each.rejected, each.lost, each.duplicated) for each in found[:-1]] == [(0, 0, 0)] * 5


def test_demo_fails_with_the_reason(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backfill that cannot run ends the demo with exit code 1 and its message."""
    monkeypatch.setattr(scenario, "PULL", ("pull", "intouch.nothing", "--to", "contacts.csv"))
    assert run(["demo"]) == 1
    error = capfd.readouterr().err
    assert "asyncclients pull ended with exit code 2: intouch has no 'nothing'" in error
    assert error.count("\n") == 1


async def start(folder: Path, stdout: int = PIPE) -> Process:
    """Start the demo with its temporary files in *folder*."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "asyncclients", "demo", "--fast"),
        env={**os.environ, "TMPDIR": str(folder), "LC_ALL": "C"},
        stdout=stdout,
        stderr=PIPE,
    )


def processes_in(folder: Path) -> list[str]:
    """Return the processes whose working directory is in *folder*."""
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            where = str((process / "cwd").readlink())
        except OSError:
            continue
        if where.startswith(str(folder)):
            found.append(process.name)
    return found


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="reads /proc")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
async def test_demo_interrupted_leaves_nothing(tmp_path: Path, name: str) -> None:
    """Ctrl-C, SIGTERM and a closed terminal end with 130 and one sentence; no process and no file is left."""
    process = await start(tmp_path)
    assert process.stdout is not None
    await process.stdout.readline()
    while not processes_in(tmp_path):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    process.send_signal(signal.Signals[name])
    _, error = await process.communicate()
    assert process.returncode == 130
    assert re.fullmatch(
        r"Interrupted after \d s, with \d+ of \d+ contacts [^\n]+\n", error.decode()
    )
    assert (processes_in(tmp_path), list(tmp_path.iterdir())) == ([], [])


async def test_demo_ends_with_its_reader(tmp_path: Path) -> None:
    """If the reader has gone (`| head -1`), the demo ends without a traceback, and its files go."""
    reader, writer = os.pipe()
    os.close(reader)
    process = await start(tmp_path, writer)
    os.close(writer)
    _, error = await process.communicate()
    assert (process.returncode, error) == (1, b"")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("width", [60, 80])
async def test_screen_fits(width: int) -> None:
    """A frame and the closing table fit 24 lines of 60 and of 80 columns."""
    async with open_scenario(fast=False) as scene:
        lines = shown(frame(scene), width)
        assert len(lines) <= 24
        assert max(map(len, lines)) <= width
        assert any(line.startswith("digital_onboarding") and "0/5" in line for line in lines)
        assert progress_line(scene).startswith("0 s: intouch 0/125, totango 0/4, emma 0/20")
        lines = shown(closing(scene), width)
        assert "vendor             calls 429s quota" in lines[3]
        assert lines[3].endswith("lost twice")
        assert len(lines) <= 24
        assert max(map(len, lines)) <= width


def test_demo_that_breaks_a_promise_fails(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1, with each broken promise and its vendor, if the rows did not arrive."""

    async def nothing(*_: object) -> None:
        pass

    monkeypatch.setattr(demo, "_show", nothing)
    assert run(["demo"]) == 1
    broken = [f"Not as promised: {vendor}: {ROWS[vendor]} rows lost" for vendor in VENDORS]
    assert capfd.readouterr().err.splitlines() == broken


async def test_broken_promises_are_named() -> None:
    """Lost rows, duplicated rows and rejected requests are counted for each vendor."""
    async with open_scenario(fast=False) as scene:
        totango = next(job for job in scene.jobs if job.vendor == "totango")
        for _ in range(2):
            await totango.run(None)
            assert "totango" not in " ".join(scene.broken_promises())
        touchpoints = scene.sandbox.state("totango").touchpoints
        number = next(iter(touchpoints))
        touchpoints[0] = {**touchpoints[number], "content": "not asked for"}
        del touchpoints[number]
        broken = [text for text in scene.broken_promises() if text.startswith("totango")]
        assert broken == ["totango: 1 rows lost", "totango: 1 rows duplicated"]


async def test_record_is_what_the_vendor_saw() -> None:
    """Calls, rejections, pages and waits come from the requests that arrived."""
    at = asyncio.get_running_loop().time()
    async with Sandbox({"intouch": (2, 60.0)}) as strict, aiohttp.ClientSession() as session:
        strict.state("intouch").grow(contacts=30)
        for query, asked_at in (("page=1", ""), ("page=1", str(at - 3)), ("page=2", str(at - 5))):
            headers = {"x-api-key": strict.environ["INTOUCH_API_KEY"]}
            headers |= {ASKED_AT: asked_at} if asked_at else {}
            async with session.get(f"{strict.url('intouch')}contacts?{query}", headers=headers):
                pass
        record = read_record(strict, "intouch", Quota(2, 60.0), at + 1)
        assert rows_served(strict, 30) == 25
    assert (record.calls, record.rejected, record.quota_share) == (3, 1, 1.0)
    assert (record.web_requests, record.waiting) == (1, 1)
    assert record.wait_p50 == pytest.approx(3, abs=0.9)
    assert record.wait_p99 == pytest.approx(6)
    assert record.wait_total == pytest.approx(9, abs=0.9)


@pytest.mark.parametrize(
    ("calls", "seconds", "quota", "share"),
    [
        (30, 20.0, Quota(180, 60.0), 0.5),  # half of an even pace, with the rest still to come
        (100, 40.0, Quota(100, 60.0), 1.0),
        (82, 40.0, Quota(2, 1.0), 1.0),  # two at once, and two in each second after it
        (41, 40.0, Quota(2, 1.0), 0.5),
        (0, 0.0, Quota(2, 1.0), 0.0),
        (1, 0.0, Quota(2, 1.0), 0.0),
    ],
)
def test_quota_share(calls: int, seconds: float, quota: Quota, share: float) -> None:
    """A run of several periods is compared with the limit, a shorter one with an even pace."""
    assert quota_share(calls, seconds, quota) == pytest.approx(share)


@pytest.mark.virtual_time
async def test_web_requests_do_not_wait_for_each_other() -> None:
    """They start at random times with the given mean, and the unfinished ones end at the end."""
    loop = asyncio.get_running_loop()
    started: list[float] = []
    ended: list[float] = []

    async def ask() -> None:
        started.append(loop.time())
        await asyncio.sleep(50.0)
        ended.append(loop.time())

    asking = asyncio.create_task(send_at_random(ask, 2.0))
    await asyncio.sleep(200.0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert 80 <= len(started) <= 120
    assert len(ended) == len(started)


def test_data_files_have_the_columns_of_the_jobs() -> None:
    """The data files have rows with the columns that the jobs read."""
    columns: dict[str, set[str]] = {
        "earthquakes": {"id", "net", "title", "time_ms", "magnitude"},
        "airport-frequencies": {"id"},
        "airports-us": {"iata", "name", "city", "state", "country"},
    }
    for name, wanted in columns.items():
        found = data_rows(name, 3)
        assert len(found) == 3
        assert all(row.keys() >= wanted for row in found)
