"""Backfills on DBOS keep the promises of the single machine, whoever is killed.

The workers are processes of their own and die by SIGKILL, and so does Postgres;
the vendors are a sandbox in this process, and its record is the witness.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryFile
from typing import Any

import pytest

pytest.importorskip("dbos", reason="needs the extra [dbos]")

from asyncclients import Quota, RetryPolicy, SessionPool
from asyncclients.backfill import Progress, Report
from asyncclients.errors import BackfillStoppedError, ConfigurationError, StateMismatchError
from asyncclients.integrations.dbos import Backfills
from asyncclients.integrations.dbos.heartbeat import record_heartbeat, remove_workers
from asyncclients.integrations.jobs.database import Database
from asyncclients.integrations.jobs.job_store import JobStore, Outage
from asyncclients.sandbox import Sandbox, drop, status
from tests.support.postgres_server import Postgres, postgres_server

from . import dbos_worker
from .dbos_worker import LEASE, resolve_with

WORKER = Path(__file__).with_name("dbos_worker.py")
OPEN = {"intouch": (1_000_000, 1.0), "digital_onboarding": (1_000_000, 1.0)}
LATENCY = (0.02, 0.02)


def nodes(sandbox: Sandbox, count: int) -> list[dict[str, str]]:
    root = sandbox.state("intouch").root_uuid
    return [
        {"client_code": f"node-{n}", "name": "Node", "type": "generic", "parent_uuid": root}
        for n in range(count)
    ]


def codes_of(sandbox: Sandbox) -> Counter[str]:
    """How often the server has each node of the tests."""
    held = sandbox.state("intouch").hierarchies.values()
    codes = (str(node["client_code"]) for node in held)
    return Counter(code for code in codes if code.startswith("node-"))


class Gang:
    """Worker processes."""

    def __init__(self, url: str, environ: dict[str, str]) -> None:
        self._url, self._environ = url, {**os.environ, **environ}
        self.workers: list[asyncio.subprocess.Process] = []
        self.kills = 0

    async def hire(self) -> None:
        with TemporaryFile() as words:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(WORKER),
                self._url,
                env=self._environ,
                stdout=asyncio.subprocess.PIPE,
                stderr=words,
            )
            assert process.stdout is not None
            said = await process.stdout.readline()
            words.seek(0)
            assert said == b"go\n", words.read().decode()
        self.workers.append(process)

    async def kill(self, number: int) -> None:
        process = self.workers.pop(number)
        process.kill()
        await process.wait()
        self.kills += 1

    async def end(self) -> None:
        for process in self.workers:
            with suppress(ProcessLookupError):
                process.terminate()
        for process in self.workers:
            assert await asyncio.wait_for(process.wait(), 40.0) == 0


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """A server of one test."""
    with postgres_server() as server:
        yield server


@asynccontextmanager
async def here(
    url: str,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
) -> AsyncGenerator[Any]:
    """A worker in this process."""
    for name, value in sandbox.environ.items():
        monkeypatch.setenv(name, value)
    async with (
        SessionPool(retry=retry) as pool,
        Backfills(url, lambda spec: resolve_with(pool, spec), lease=LEASE) as backfills,
    ):
        yield backfills


# --- Postgres, three workers, and kills ----------------------------------------------------


@pytest.mark.sweep
@pytest.mark.timeout(170)
@pytest.mark.parametrize("seed", range(2))
async def test_creates_arrive_once_or_are_unknown_whoever_is_killed(
    postgres: Postgres, seed: int
) -> None:
    """Three workers and Postgres die at random: no row arrives twice, none is lost unsaid."""
    random = Random(seed)
    count = 3000
    async with Sandbox(OPEN, latency=LATENCY) as sandbox:
        gang = Gang(postgres.url, dict(sandbox.environ))
        await asyncio.gather(*(gang.hire() for _ in range(3)))
        async with Backfills(postgres.url, _nothing, lease=LEASE, works=False) as backfills:
            job = asyncio.create_task(
                backfills.push("nodes", nodes(sandbox, count), spec="create", batch=50)
            )
            for turn in range(3):
                await asyncio.sleep(random.uniform(0.3, 1.2))
                await gang.kill(random.randrange(len(gang.workers)))
                if turn == 1:
                    postgres.kill()
                    await asyncio.sleep(random.uniform(0.5, 1.5))
                    await asyncio.to_thread(postgres.start)
                await gang.hire()
                assert not job.done(), "the kills came too late to mean anything"
            report: Report = await job
            unknown = await backfills.job_store.unknown("nodes")
        await gang.end()
        codes = codes_of(sandbox)
    doubtful = {row.row["client_code"] for row in unknown}
    assert gang.kills == 3
    assert not [code for code, times in codes.items() if times > 1]
    assert {f"node-{number}" for number in range(count)} - doubtful <= codes.keys()
    assert report.done + report.unknown == count
    assert report.unknown == len(doubtful)
    assert len(doubtful) <= 3 * 4 * 4, "only what was on the wire of a killed worker: 4 shards of 4"


def _nothing(spec: str) -> Any:
    raise AssertionError(f"{spec} is done by others")


@pytest.mark.sweep
@pytest.mark.timeout(170)
async def test_upserts_all_arrive_whoever_is_killed(postgres: Postgres) -> None:
    """If workers are killed, all rows of an idempotent operation arrive, and none is unknown."""
    count = 1500
    people = [{"email": f"p{n}@example.com", "first_name": "P"} for n in range(count)]
    async with Sandbox(OPEN, latency=LATENCY) as sandbox:
        gang = Gang(postgres.url, dict(sandbox.environ))
        await asyncio.gather(*(gang.hire() for _ in range(3)))
        async with Backfills(postgres.url, _nothing, lease=LEASE, works=False) as backfills:
            job = asyncio.create_task(backfills.push("people", people, spec="upsert", batch=30))
            await asyncio.sleep(0.8)
            await gang.kill(0)
            await gang.kill(0)
            postgres.kill()
            await asyncio.to_thread(postgres.start)
            assert not job.done()
            report = await job
        await gang.end()
        held = {
            str(each["email"]) for each in sandbox.state("digital_onboarding").contacts.values()
        }
    assert {f"p{n}@example.com" for n in range(count)} <= held
    assert (report.done, report.failed, report.unknown) == (count, 0, 0)


@pytest.mark.sweep
@pytest.mark.timeout(120)
async def test_suspended_worker_sends_nothing_twice(postgres: Postgres) -> None:
    """A worker taken for dead by mistake wakes up while another has its rows: no row goes twice."""
    count = 1200
    async with Sandbox(OPEN, latency=LATENCY) as sandbox:
        gang = Gang(postgres.url, dict(sandbox.environ))
        await asyncio.gather(gang.hire(), gang.hire())
        async with Backfills(postgres.url, _nothing, lease=LEASE, works=False) as backfills:
            job = asyncio.create_task(
                backfills.push("nodes", nodes(sandbox, count), spec="create", batch=50)
            )
            await asyncio.sleep(0.8)
            sleeper = gang.workers[0]
            sleeper.send_signal(signal.SIGSTOP)
            await asyncio.sleep(3 * LEASE)
            sleeper.send_signal(signal.SIGCONT)
            report = await job
            await gang.end()
            report = await backfills.job_store.report("nodes")
        codes = codes_of(sandbox)
    assert not [code for code, times in codes.items() if times > 1]
    assert report.done + report.unknown == count
    assert len(codes) >= report.done


# --- SQLite, in this process -----------------------------------------------------------------


async def test_push_on_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row arrives once; the same job sends nothing again; another input is rejected."""
    url = f"sqlite:///{tmp_path}/jobs.sqlite"
    async with Sandbox(OPEN) as sandbox, here(url, sandbox, monkeypatch) as backfills:
        rows = [*nodes(sandbox, 60), {"client_code": "node-bad", "name": "No parent"}]
        seen: list[Progress] = []
        report = await backfills.push("nodes", rows, spec="create", batch=10, progress=seen.append)
        assert (report.done, report.failed, report.requests) == (60, 1, 60)
        assert (seen[-1].done, seen[-1].failed, seen[-1].eta) == (60, 1, 0.0)
        assert report.quota_use == pytest.approx(60 / (100_000 * (1 + report.seconds)))
        assert codes_of(sandbox) == Counter(f"node-{n}" for n in range(60))
        (failure,) = await backfills.job_store.failures("nodes")
        assert b"node-bad" in failure
        sent = len(sandbox.requests("intouch"))
        again = await backfills.push("nodes", rows, spec="create", batch=10)
        assert (again.done, again.requests, again.quota_use) == (60, 0, 0.0)
        assert len(sandbox.requests("intouch")) == sent
        with pytest.raises(StateMismatchError, match="nodes"):
            await backfills.push("nodes", rows[:5], spec="create")


async def test_worker_reports_the_jobs_that_it_works_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker knows the progress of each job that runs in it, and forgets a job that has ended."""
    monkeypatch.setattr("asyncclients.integrations.dbos.backfills._PROGRESS_EVERY", 0.02)
    seen: dict[str, list[int]] = {}
    ended = asyncio.Event()

    def show(job: str) -> Callable[[Progress], None]:
        def on_progress(progress: Progress) -> None:
            seen.setdefault(job, []).append(progress.done)
            if progress.done == 40:
                ended.set()

        return on_progress

    url = f"sqlite:///{tmp_path}/jobs.sqlite"
    async with Sandbox(OPEN, latency=LATENCY) as sandbox, here(url, sandbox, monkeypatch) as worker:
        watching = asyncio.create_task(worker.watch(show))
        await worker.push("nodes", nodes(sandbox, 40), spec="create", batch=20, shards=1)
        await ended.wait()
        watching.cancel()
        await asyncio.wait([watching])
    assert seen.keys() == {"nodes"}
    assert seen["nodes"] == sorted(seen["nodes"])
    assert seen["nodes"][0] < 40


async def test_pull_on_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has every contact once, and the vendor's count agrees."""
    url = f"sqlite:///{tmp_path}/jobs.sqlite"
    to = tmp_path / "contacts.jsonl"
    async with Sandbox(OPEN) as sandbox, here(url, sandbox, monkeypatch) as backfills:
        async with SessionPool() as pool:
            source = resolve_with(pool, "create")
            for row in nodes(sandbox, 23):
                await source.target(source.row_type(**row))  # type: ignore[union-attr,misc]
        seen: list[Progress] = []
        report = await backfills.pull(
            "all", to, state=tmp_path / "all.state", spec="nodes", progress=seen.append
        )
    assert report.done == len(to.read_bytes().splitlines()) == 24
    assert (report.unverified, report.requests) == ((), 5)
    assert 0 < report.quota_use < 5 / 100_000
    assert {each.done for each in seen} >= {24}
    assert {each.total for each in seen if each.done} == {24}


async def test_jobs_keep_their_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A push and a pull with a share of half take no more, in all their steps together."""
    monkeypatch.setattr(dbos_worker, "ENOUGH", [Quota(20, 1.0)])
    strict = {"intouch": (10, 1.0)}
    url, loop = f"sqlite:///{tmp_path}/jobs.sqlite", asyncio.get_running_loop()
    async with Sandbox(strict, latency=LATENCY) as sandbox, here(url, sandbox, monkeypatch) as jobs:
        began, rows = loop.time(), nodes(sandbox, 30)
        report = await jobs.push("rows", rows, spec="create", batch=10, share=0.4)
        assert (report.done, loop.time() - began > 2.5) == (30, True)
        to, state = tmp_path / "nodes.jsonl", tmp_path / "nodes.state"
        pulled = await jobs.pull("list", to, state=state, spec="nodes", share=0.4)
        assert pulled.done == 31
        assert sandbox.rejected("intouch") == 0
        with pytest.raises(ConfigurationError, match="share must be a number above 0"):
            await jobs.push("more", rows, spec="create", share=2)


@pytest.mark.parametrize("kind", ["push", "pull"])
async def test_progress_has_the_total_and_the_eta_of_the_quota(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a job waits for its quota, its ETA is that of the scheduler, and its total is known."""
    monkeypatch.setattr("asyncclients.integrations.dbos.backfills._PROGRESS_EVERY", 0.0)
    monkeypatch.setattr(dbos_worker, "ENOUGH", [Quota(4, 1.0)])
    url, loop = f"sqlite:///{tmp_path}/jobs.sqlite", asyncio.get_running_loop()
    seen: list[tuple[float, Progress]] = []

    def on_progress(progress: Progress) -> None:
        seen.append((loop.time(), progress))

    async with Sandbox(OPEN) as sandbox, here(url, sandbox, monkeypatch) as backfills:
        if kind == "push":
            rows = nodes(sandbox, 24)
            await backfills.push("job", rows, spec="create", batch=8, progress=on_progress)
            ended_at = loop.time()
        else:
            sandbox.state("intouch").grow(contacts=120)
            to, state = tmp_path / "contacts.jsonl", tmp_path / "contacts.state"
            await backfills.pull("job", to, state=state, spec="list", progress=on_progress)
            ended_at = next(at for at, each in seen if each.remaining == 0)
    early = [each for each in seen if each[1].done and each[1].limited_by_quota]
    assert early
    for at, progress in early:
        assert progress.total == (24 if kind == "push" else 120)
        assert progress.remaining == (progress.total or 0) - progress.done
        assert progress.eta == pytest.approx(ended_at - at, rel=0.2, abs=1.5)


@pytest.mark.parametrize("kind", ["push", "pull"])
async def test_progress_shows_an_outage_of_the_vendor(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the vendor is unavailable, progress has the seconds, the cause and no ETA; then not."""
    monkeypatch.setattr("asyncclients.integrations.dbos.backfills._PROGRESS_EVERY", 0.0)
    monkeypatch.setattr("asyncclients.backfill.circuit_breaker._FIRST_PAUSE", 0.02)
    url, once = f"sqlite:///{tmp_path}/jobs.sqlite", RetryPolicy(max_attempts=1)
    seen: list[Progress] = []
    async with Sandbox(OPEN) as sandbox, here(url, sandbox, monkeypatch, once) as backfills:

        def on_progress(progress: Progress) -> None:
            seen.append(progress)
            if progress.waiting:
                sandbox.heal("intouch")

        sandbox.fail("intouch", status(408), None)
        if kind == "push":
            rows = nodes(sandbox, 12)
            await backfills.push("job", rows, spec="create", batch=6, progress=on_progress)
        else:
            to, state = tmp_path / "nodes.jsonl", tmp_path / "nodes.state"
            await backfills.pull("job", to, state=state, spec="nodes", progress=on_progress)
    outage = next(each for each in seen if each.waiting)
    assert outage.eta is None
    assert "408" in outage.cause
    assert (seen[-1].waiting, seen[-1].cause, seen[-1].remaining) == (0.0, "", 0)


async def test_outage_of_a_job_is_that_of_its_luckiest_worker(tmp_path: Path) -> None:
    """A job has an outage while no worker gets a response; those of lost workers are forgotten."""
    database = Database(f"sqlite:///{tmp_path}/jobs.sqlite")
    await database.create()
    store = JobStore(database)
    long, short = Outage(seconds=90.0, cause="HTTP 500"), Outage(seconds=60.0, cause="HTTP 503")
    await record_heartbeat(database, "one", {"job": long, "other": long})
    assert await store.outage("job") == long
    await record_heartbeat(database, "two", {"job": short})
    assert await store.outage("job") == short
    await record_heartbeat(database, "two", {"job": Outage()})
    assert await store.outage("job") == Outage()
    await remove_workers(database, ["two"])
    assert await store.outage("job") == long
    await record_heartbeat(database, "one", {})
    assert await store.outage("job") == await store.outage("other") == Outage()
    await database.aclose()


async def test_lost_response_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A create whose answer is lost is listed with its content, and not sent again."""
    url = f"sqlite:///{tmp_path}/jobs.sqlite"
    async with Sandbox(OPEN) as sandbox, here(url, sandbox, monkeypatch) as backfills:
        sandbox.fail("intouch", drop(committed=True), 1)
        report = await backfills.push("nodes", nodes(sandbox, 5), spec="create")
        (unknown,) = await backfills.job_store.unknown("nodes")
        assert (report.done, report.unknown) == (4, 1)
        assert unknown.row["client_code"].startswith("node-")
        assert set(codes_of(sandbox).values()) == {1}


async def test_too_many_failed_rows_stop_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If more than a tenth of the rows fail, the rest is not sent, and the report shows it."""
    url = f"sqlite:///{tmp_path}/jobs.sqlite"
    async with Sandbox(OPEN) as sandbox, here(url, sandbox, monkeypatch) as backfills:
        bad = [{"client_code": f"bad-{n}"} for n in range(1000)]
        with pytest.raises(BackfillStoppedError, match="failed") as stopped:
            await backfills.push("nodes", bad, spec="create", batch=20)
        assert 50 <= stopped.value.report.failed < 1000
        assert not stopped.value.report.complete
        assert not sandbox.requests("intouch")


async def test_second_engine_in_a_process_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second one in the same process is rejected with an explanation."""
    url = f"sqlite:///{tmp_path}/jobs.sqlite"
    async with Sandbox(OPEN) as sandbox, here(url, sandbox, monkeypatch):
        with pytest.raises(ConfigurationError, match="open Backfills"):
            await Backfills(url, _nothing).__aenter__()


@pytest.mark.parametrize("url", ["mysql://host/db", "nonsense"])
def test_invalid_database_url_is_rejected(url: str) -> None:
    """A wrong URL is rejected by the constructor, with an example of a right one."""
    with pytest.raises(ConfigurationError, match="postgresql://"):
        Backfills(url, _nothing)
