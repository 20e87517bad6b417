"""What happens in the demo: five backfills, one of them killed and resumed, and a naive client."""

from __future__ import annotations

import asyncio
import csv
import os
import sys
from asyncio.subprocess import DEVNULL
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
import msgspec

from asyncclients import IntouchClient, SessionPool
from asyncclients.backfill import Progress
from asyncclients.cli.demo.jobs import DemoJob, OnProgress, push_jobs, send_at_random
from asyncclients.cli.demo.naive import NaiveClient
from asyncclients.cli.demo.records import DemoResult, rows_served
from asyncclients.sandbox import Sandbox
from asyncclients.stores import FileLimits

QUOTAS = "q.db"
SHARE = "0.5"
"""Of Intouch's quota for the backfill. One of two slots per second stays free for web requests."""
PULL = (
    *("pull", "intouch.contacts", "--to", "contacts.csv"),
    *("--share", SHARE, "--limits", QUOTAS),
)
ROWS = {"intouch": 900, "totango": 48, "emma": 780, "intempt": 280, "digital_onboarding": 280}
_FAST = 6
"""With `--fast`, the rows are divided by this."""
_LATENCY = (0.02, 0.005)
"""Seconds until a vendor responds, and the mean of what is added at random."""
_PAUSE = 1.5
"""Seconds between the kill and the second start."""
_POLL = 0.05


class Backfill:
    """`asyncclients pull` in a process of its own, which is killed once, at `rows_before` rows."""

    def __init__(self, sandbox: Sandbox, folder: Path, total: int) -> None:
        self._sandbox, self._folder, self._total = sandbox, folder, total
        self.pid = self.rows_before = 0
        self.killed_at: float | None = None
        self.resumed_at: float | None = None

    async def run(self, progress: OnProgress) -> None:
        """Pull, be killed after a third of the rows, and pull the others."""
        loop = asyncio.get_running_loop()
        self.pid = await self._pull(progress, self._total // 3)
        self.rows_before, self.killed_at = self.done(), loop.time()
        await asyncio.sleep(_PAUSE)
        self.resumed_at = loop.time()
        await self._pull(progress)

    async def _pull(self, progress: OnProgress, rows: int | None = None) -> int:
        """Run the command, and kill it when the vendor has sent *rows*; return its process id."""
        log = self._folder / "messages.txt"
        with log.open("ab") as messages:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "asyncclients", *PULL),
                cwd=self._folder,
                env={**os.environ, **self._sandbox.environ},
                stdin=DEVNULL,
                stdout=DEVNULL,
                stderr=messages,
            )
        loop = asyncio.get_running_loop()
        started_at, done_before = loop.time(), self.done()
        try:
            while process.returncode is None and (rows is None or self.done() < rows):
                await asyncio.sleep(_POLL)
                if progress is not None:
                    rate = (self.done() - done_before) / (loop.time() - started_at)
                    progress(self._progress(rate))
            if (code := process.returncode) != (0 if rows is None else None):
                last = log.read_text(errors="replace").strip().rpartition("\n")[2]
                raise ChildProcessError(f"asyncclients pull ended with exit code {code}: {last}")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return process.pid

    def _progress(self, rate: float) -> Progress:
        remaining = self._total - self.done()
        return Progress(
            done=self.done(),
            failed=0,
            skipped=0,
            total=self._total,
            remaining=remaining,
            rate=rate,
            quota_use=0.0,
            eta=remaining / rate if rate else None,
            limited_by_quota=remaining > 0,
        )

    def done(self) -> int:
        """Return the number of rows that the vendor has sent."""
        return rows_served(self._sandbox, self._total)

    def found(self) -> list[str]:
        """Return the ids in the file that the pull wrote."""
        path = self._folder / "contacts.csv"
        if not path.exists():
            return []
        with path.open(encoding="utf-8", newline="") as file:
            return [row["uuid"] for row in csv.DictReader(file)]


@dataclass(eq=False)
class Scenario:
    """All jobs of the demo, Intouch's first, and the naive client."""

    sandbox: Sandbox
    pools: tuple[SessionPool, SessionPool]
    jobs: Sequence[DemoJob]
    backfill: Backfill
    naive: NaiveClient
    _ended_at: float | None = None

    def __post_init__(self) -> None:
        self._started_at = asyncio.get_running_loop().time()

    async def run(self, watch: Callable[[str], OnProgress] | None = None) -> None:
        """Do all jobs; the naive client is stopped after them, if it has not ended before."""
        naive = asyncio.create_task(self._run_naive())
        try:
            async with asyncio.TaskGroup() as group:
                for job in self.jobs:
                    progress = watch(job.vendor) if watch else None
                    group.create_task(job.work(progress))
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None
        finally:
            self._ended_at = asyncio.get_running_loop().time()
            naive.cancel()
            await asyncio.gather(naive, return_exceptions=True)

    async def _run_naive(self) -> None:
        """Do what the job of Intouch does, and send web requests until cancelled."""
        uuid = next(iter(self.naive.sandbox.state("intouch").contacts))
        asking = send_at_random(lambda: self.naive.contact(uuid), self.jobs[0].every)
        await asyncio.gather(self.naive.pull(), asking)

    @property
    def now(self) -> float:
        """Loop time, at most that of the end."""
        return self._ended_at or asyncio.get_running_loop().time()

    def seconds(self, at: float | None = None) -> float:
        """Return the seconds from the start to the loop time *at*, by default until now."""
        return (self.now if at is None else at) - self._started_at

    def record(self, job: DemoJob) -> DemoResult:
        """Return what the vendor of *job* recorded, without its rows."""
        return job.record(self.sandbox, self.now)

    def naive_record(self) -> DemoResult:
        """Return what the naive client's vendor recorded."""
        record = self.jobs[0].record(self.naive.sandbox, self.now)
        return msgspec.structs.replace(record, vendor="naive")

    def results(self) -> list[DemoResult]:
        """Return the figures of each vendor, then those of the naive client."""
        found: list[DemoResult] = []
        for job in self.jobs:
            expected, rows = Counter(job.expected), Counter(job.found())
            lost, surplus = (expected - rows).total(), (rows - expected).total()
            found.append(msgspec.structs.replace(self.record(job), lost=lost, duplicated=surplus))
        return [*found, self.naive_record()]

    def broken_promises(self) -> list[str]:
        """Return a text for each vendor and promise that was not kept."""
        found: list[str] = []
        for result in self.results()[:-1]:
            counts = {
                "requests rejected": result.rejected,
                "rows lost": result.lost,
                "rows duplicated": result.duplicated,
            }
            found += [f"{result.vendor}: {count} {what}" for what, count in counts.items() if count]
        return found


@asynccontextmanager
async def open_scenario(*, fast: bool) -> AsyncGenerator[Scenario]:
    """Start the vendors and open the clients; their files are in a temporary folder."""
    rows = {vendor: count // _FAST for vendor, count in ROWS.items()} if fast else ROWS
    # On Windows a process that was just killed may still have a file open.
    with TemporaryDirectory(prefix="asyncclients-demo-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        async with (
            Sandbox(latency=_LATENCY) as sandbox,
            Sandbox(latency=_LATENCY) as naive_sandbox,
            # `exact`: no request arrives too early, however busy this machine is.
            SessionPool(admission="exact") as pool,
            SessionPool(admission="exact", limits=FileLimits(folder / QUOTAS)) as shared,
            aiohttp.ClientSession() as session,
        ):
            for each in (sandbox, naive_sandbox):
                each.state("intouch").grow(contacts=rows["intouch"])
            backfill = Backfill(sandbox, folder, rows["intouch"])
            uuids = list(sandbox.state("intouch").contacts)
            intouch = DemoJob(
                client=IntouchClient.from_env(shared, sandbox.environ),
                expected=uuids,
                found=backfill.found,
                done=backfill.done,
                run=backfill.run,
                web=lambda client: client.contacts.get(uuids[0]),
                every=2.5,
            )
            jobs = [intouch, *await push_jobs(sandbox, pool, folder, rows)]
            naive = NaiveClient(session, naive_sandbox)
            yield Scenario(sandbox, (pool, shared), jobs, backfill, naive)
