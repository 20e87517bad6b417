"""The examples work against the mock vendors."""

from __future__ import annotations

import asyncio
import gzip
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestClient, TestServer

from asyncclients import IntouchClient, Quota
from asyncclients.sandbox import Sandbox
from asyncclients.sandbox.limits import SlidingLog
from asyncclients.vendors.intouch import NewContact
from tests.support.scripts import load_script
from tests.support.shared_quota import most_in

from .pages import ROOT

EXAMPLES = ROOT / "examples"
FILES = sorted(EXAMPLES.glob("*.py"))


def load(name: str) -> Any:
    """Return the example *name* as a module."""
    return load_script(EXAMPLES / f"{name}.py")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction] - autouse
    """Run each example in a directory of its own."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_example_is_short_and_listed(file: Path) -> None:
    """An example has fewer than 40 lines and a link in the list of examples."""
    assert len(file.read_text().splitlines()) < 40
    assert f"({file.name})" in (EXAMPLES / "README.md").read_text()


@pytest.mark.virtual_time
async def test_web_app_serves_requests_during_a_pull(
    sandbox: Sandbox, clients: dict[str, IntouchClient], tmp_path: Path
) -> None:
    """Requests are served during the pull, and a restarted app completes the pull."""
    for number in range(200):
        sandbox.state("intouch").tags[f"{number:036}"] = _tag(number)
    module, loop = load("web_app"), asyncio.get_running_loop()
    async with TestClient(TestServer(module.app)) as browser:
        waits: list[float] = []
        for number in range(3):
            asked_at = loop.time()
            answer = await browser.post(f"/tags/new-{number}")
            waits.append(loop.time() - asked_at)
            assert answer.status == 200
        assert not module.app[module.BACKFILL].done()
        assert max(waits) < 2.0
    assert not (tmp_path / "tags.jsonl").exists()
    await asyncio.sleep(1)  # a new process has no record of the last requests of the old one

    module = load("web_app")
    async with TestClient(TestServer(module.app)):
        report = await module.app[module.BACKFILL]
    assert report.done == 203
    assert len((tmp_path / "tags.jsonl").read_text().splitlines()) == 203
    assert sandbox.rejected("intouch") == 0


@pytest.mark.virtual_time
async def test_nightly_sync_logs_the_saved_hours(
    sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The second night sends the changed row only."""
    for name, value in sandbox.environ.items():
        monkeypatch.setenv(name, value)
    rows = [f"p{number}@example.com,Name" for number in range(100)]
    (tmp_path / "people.csv").write_text("\n".join(["email,first_name", *rows]) + "\n")
    module = load("nightly_sync")
    assert (await module.main("people.csv")).created == 100
    rows[0] = "p0@example.com,New"
    (tmp_path / "people.csv").write_text("\n".join(["email,first_name", *rows]) + "\n")
    caplog.set_level("INFO", "nightly_sync")
    report = await module.main("people.csv")
    assert (report.updated, report.unchanged) == (1, 99)
    assert "99 unchanged, which saved 0.0 h" in caplog.text


def _tag(number: int) -> dict[str, object]:
    at = "2025-01-01T00:00:00+00:00"
    return {"uuid": f"{number:036}", "name": f"old {number}", "created_at": at, "updated_at": at}


@pytest.mark.virtual_time
async def test_nightly_pull_writes_every_contact(
    sandbox: Sandbox, clients: dict[str, IntouchClient], tmp_path: Path
) -> None:
    """Every contact is in the Parquet file, and all of the report is verified."""
    parquet = pytest.importorskip("pyarrow.parquet")
    module = load("nightly_pull")
    emails = [f"user{number}@example.com" for number in range(60)]
    for email in emails:
        await clients["intouch"].contacts.create(NewContact(email=email))
    report = await module.main()
    assert (report.done, report.unverified) == (60, ())
    table = parquet.read_table(tmp_path / "contacts.parquet")
    assert table.column("email").to_pylist() == emails


async def test_intouch_to_duckdb_loads_changed_contacts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nights load every contact once, and the second one only reads the newest pages."""
    duckdb = pytest.importorskip("duckdb")
    monkeypatch.setenv("RUNTIME__DLTHUB_TELEMETRY", "false")
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    # Twice the quota of the client: the second night begins within a second of the first.
    async with Sandbox(quotas={"intouch": (4, 1.0)}) as sandbox:
        for name, value in sandbox.environ.items():
            monkeypatch.setenv(name, value)
        held = sandbox.state("intouch")
        held.grow(contacts=60, tags=2, every=60.0)
        module = load("intouch_to_duckdb")
        await module.main()
        uuid = next(iter(held.contacts))
        changed = {"status": "unsubscribed", "updated_at": "2026-01-01T00:00:01+00:00"}
        held.contacts[uuid] = held.contacts[uuid] | changed
        before = len(sandbox.requests("intouch"))
        await module.main()
        assert len(sandbox.requests("intouch")) - before == 2 + 1
        assert sandbox.rejected("intouch") == 0
    with duckdb.connect("crm.duckdb") as database:
        rows = database.sql("SELECT uuid, status FROM intouch.contacts").fetchall()
    assert len(rows) == 60
    assert dict(rows)[uuid] == "unsubscribed"


@pytest.mark.virtual_time
async def test_push_with_resume_sends_each_row_once(sandbox: Sandbox) -> None:
    """A push that is stopped after five minutes and resumed sends each row once, without a 429."""
    module = load("push_with_resume")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(300):
            await module.main()
    noted = len(sandbox.state("totango").touchpoints)
    report = await module.main()
    notes = sandbox.state("totango").touchpoints
    contents = Counter(note["content"] for note in notes.values())
    assert 400 < noted < 700
    assert (report.done, report.failed, report.unknown) == (len(notes), 0, 0)
    assert report.done + report.skipped == 1707
    assert set(contents.values()) == {1}
    assert sandbox.rejected("totango") == 0


async def test_worker_shares_quota_and_token(tmp_path: Path) -> None:
    """Two concurrent workers keep to one quota and request one token."""
    rows = 24
    head = _head(EXAMPLES / "data" / "airports-us.csv.gz", rows)
    (tmp_path / "airports.csv.gz").write_bytes(head)
    async with Sandbox(quotas={"digital_onboarding": (10, 1.0)}) as sandbox:
        workers = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, str(EXAMPLES / "worker.py"), "airports.csv.gz", str(n), "2"),
                env=os.environ | sandbox.environ,
            )
            for n in range(2)
        ]
        async with asyncio.timeout(30):
            codes = [await worker.wait() for worker in workers]
        assert codes == [0, 0]
        assert len(sandbox.state("digital_onboarding").contacts) == rows
        assert sandbox.rejected("digital_onboarding") == 0


def _head(path: Path, rows: int) -> bytes:
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    return gzip.compress(b"".join(lines[: rows + 1]))


@pytest.mark.virtual_time
async def test_plain_aiohttp_keeps_the_quota(sandbox: Sandbox) -> None:
    """Six requests of a plain session are sent at two per second, without a 429."""
    module, loop = load("plain_aiohttp"), asyncio.get_running_loop()
    began_at = loop.time()
    tags = await module.main([f"tag {number}" for number in range(6)])
    assert [tag["name"] for tag in tags] == [f"tag {number}" for number in range(6)]
    assert 2.0 <= loop.time() - began_at < 3.0
    assert sandbox.rejected("intouch") == 0


class ForeignClient:
    """A client of somebody else, which takes a session and knows nothing of quotas."""

    def __init__(self, session: ClientSession, url: str) -> None:
        self._session, self._url = session, url
        self._headers = {"x-api-key": os.environ["INTOUCH_API_KEY"]}
        self.statuses: list[int] = []

    async def read(self) -> None:
        async with self._session.get(f"{self._url}hierarchies", headers=self._headers) as response:
            self.statuses.append(response.status)


async def _shell(*arguments: str) -> None:
    """Run a command of asyncclients in a process of its own."""
    command = (sys.executable, "-m", "asyncclients", *arguments)
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == 0


async def test_one_account_keeps_its_quota_and_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four programs keep one quota of 40 per half second, without a 429, and a shell holds them."""
    account, quota = SlidingLog(40, 0.5), Quota(40, 0.5)
    loop = asyncio.get_running_loop()
    async with Sandbox(quotas={"intouch": lambda: account}) as sandbox:
        state = sandbox.state("intouch")
        state.keys.add("ii_worker")
        for number in range(1000):
            state.tags[f"{number:036}"] = _tag(number)
        environ = {
            **sandbox.environ,
            "INTOUCH_QUOTA_KEY": "acme",
            "INTOUCH_WORKER_KEY": "ii_worker",
        }
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        vendor = msgspec.structs.replace(IntouchClient.vendor, quotas=(quota,))
        monkeypatch.setattr(IntouchClient, "vendor", vendor)
        module = load("one_account")
        module.QUOTA = quota

        resumed = asyncio.Event()

        async def web_app() -> None:
            app = web.Application()
            app.cleanup_ctx.append(module.web_app)
            async with TestClient(TestServer(app)):
                while not resumed.is_set():
                    await app[module.INTOUCH].tags.get(f"{0:036}")

        async def use(session: ClientSession) -> None:
            foreign = ForeignClient(session, sandbox.url("intouch"))
            while not resumed.is_set():
                await foreign.read()
            assert set(foreign.statuses) == {200}

        async with asyncio.TaskGroup() as programs:
            programs.create_task(web_app())
            programs.create_task(module.sdk(use))
            programs.create_task(module.worker([f"worker {number}" for number in range(60)]))
            backfill = programs.create_task(module.backfill())
            await _shell("limits", "pause", "intouch", "--seconds", "600", "--limits", "limits.db")
            async with asyncio.timeout(10):
                while sandbox.requests("intouch")[-1].at > loop.time() - 0.6:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)  # every process hears of it within 2 s
            await _shell("limits", "resume", "intouch", "--limits", "limits.db")
            resumed.set()
        assert len(state.tags) == 1000 + 60
        assert backfill.result().done >= 1000
        assert sandbox.rejected("intouch") == 0
        pages = [each.at for each in sandbox.requests("intouch") if "sort_by" in dict(each.query)]
        assert len(pages) >= 1000 / 25
        assert most_in(0.5, pages) <= 20
