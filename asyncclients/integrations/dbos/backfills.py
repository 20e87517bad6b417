"""Run backfills as durable workflows of DBOS.

* A push is split into shards by ranges of its rows, and a shard into batches. A shard is a
  durable workflow on a queue, and a batch is one of its steps (`push_step`). Any worker on any
  machine dequeues the next shard.
* A pull is one workflow, with several pages per step (`pull_step`). The process that requested
  it writes the file, from the pages in the database.
* DBOS records which steps are finished. The outcomes of the rows of a step are in our own table
  (`asyncclients.backfill.steps`), so a step that runs again, or twice at the same time, sends no
  row twice.
* Workers prove their liveness by counters (`heartbeat`). About one lease after a worker died,
  the others put its shards back on the queue.
* DBOS stores JSON (`serializer`): a pickled value in the database is never loaded.
* The pool limits the rate, not DBOS. Workers share a quota if the pool of each has `RedisLimits`
  (or `FileLimits`, on one host).
* A process has one DBOS, and so at most one open `Backfills`.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing
from typing import Any, Self
from uuid import uuid4

import msgspec
from dbos import DBOS, DBOSConfig, SetWorkflowID, WorkflowStatus

from asyncclients import backfill
from asyncclients.arguments import QuotaShare, check_value
from asyncclients.backfill import Report, Sink
from asyncclients.backfill.files.source import Rows, open_source
from asyncclients.backfill.report import RequestCounts
from asyncclients.core.events import logger
from asyncclients.errors import BackfillStoppedError, ConfigurationError, StateError, error_text
from asyncclients.integrations.dbos.heartbeat import (
    READS,
    FailureDetector,
    record_heartbeat,
    remove_workers,
)
from asyncclients.integrations.dbos.progress import JobProgress, OnProgress
from asyncclients.integrations.dbos.serializer import JSONSerializer, no_pickles
from asyncclients.integrations.dbos.sqlite import Connection
from asyncclients.integrations.dbos.workflows import pull_pages, push_batches, serving
from asyncclients.integrations.jobs.database import Database
from asyncclients.integrations.jobs.job_store import DbPageStore, JobRecord, JobStore, digest_of
from asyncclients.integrations.jobs.worker import Resolve, Worker
from asyncclients.own_files import in_thread

_QUEUE = "asyncclients"
_VERSION = "asyncclients-4"
"""Version of the workflows; workers of another version do not run them."""
_UNFINISHED = ("ENQUEUED", "PENDING", "DELAYED")
_POLL = 0.5
_SHARDS = 4
"""Shards that a worker runs concurrently. It is a property of the queue, so equal for all."""
_PROGRESS_EVERY = 2.0
"""Seconds between two progress reports; each counts the rows of the job."""


class Backfills:
    """A worker while its `async with` block is open; jobs can be added inside the block.

    Args:
        database_url: `sqlite:///FILE` for the processes of one host, `postgresql://...` for many.
        resolve: returns the target or list of a job's spec; called in each worker, inside the
            running loop.
        lease: seconds without a heartbeat after which a worker is dead.
        works: False for a process that only adds jobs and waits for them.

    Attributes:
        job_store: the jobs in the database.
        worker: runs the steps of this process.
        name: the name of this worker.
    """

    def __init__(
        self, database_url: str, resolve: Resolve, *, lease: float = 15.0, works: bool = True
    ) -> None:
        self._url, self._lease, self._works = database_url, lease, works
        self._database = Database(database_url)
        self.job_store = JobStore(self._database)
        self.worker = Worker(self._database, resolve)
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._exit = AsyncExitStack()

    # --- Lifecycle --------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:  # runs every callback, even if one fails
            stack.enter_context(serving(self.worker))
            stack.push_async_callback(self._database.aclose)
            stack.enter_context(no_pickles())
            await self._database.create()
            stack.push_async_callback(remove_workers, self._database, [self.name])
            await record_heartbeat(self._database, self.name, {})
            stack.push_async_callback(self._destroy)
            stack.push_async_callback(self.worker.aclose)
            await self._launch()
            heartbeats = asyncio.create_task(self._send_heartbeats())
            stack.callback(heartbeats.cancel)
            self._exit = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Finish the attempts in flight and close; other workers continue the jobs."""
        await self._exit.aclose()

    async def _launch(self) -> None:
        config = DBOSConfig(
            name="asyncclients",
            system_database_url=self._url,
            executor_id=self.name,
            application_version=_VERSION,
            log_level="WARNING",
            serializer=JSONSerializer(),
        )
        if self._url.startswith("sqlite"):
            config["db_engine_kwargs"] = {"connect_args": {"factory": Connection}}
        DBOS(config=config)
        DBOS.listen_queues([_QUEUE] if self._works else [])
        DBOS.launch()
        await DBOS.register_queue_async(
            _QUEUE, worker_concurrency=_SHARDS, polling_interval_sec=_POLL
        )

    async def _destroy(self) -> None:
        # DBOS replaced the loop's executor and shuts it down, but the loop is still in use.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor())
        await in_thread(DBOS.destroy)

    async def _send_heartbeats(self) -> None:
        detector = FailureDetector()
        while True:
            try:
                await self._heartbeat(detector)
            except BaseException as failure:  # DBOS raises errors of any class
                task = asyncio.current_task()
                cancelled = task is not None and task.cancelling()
                if cancelled or isinstance(failure, (KeyboardInterrupt, SystemExit)):
                    raise
                logger.warning("Heartbeat of worker %s failed: %s", self.name, error_text(failure))
            await asyncio.sleep(self._lease / READS)

    async def _heartbeat(self, detector: FailureDetector) -> None:
        beats = await record_heartbeat(self._database, self.name, self.worker.outages())
        working = await DBOS.list_workflows_async(
            status="PENDING", queue_name=_QUEUE, load_input=False, load_output=False
        )
        names = {found.executor_id for found in working if found.executor_id} | beats.keys()
        mine = {found.workflow_id for found in working if found.executor_id == self.name}
        lost = detector.observe((names - {self.name}) | (mine - self.worker.running), beats)
        for workflow in mine.intersection(lost):
            # Assigned to this worker during a database outage, but never started here.
            await DBOS.resume_workflow_async(workflow, queue_name=_QUEUE)
        dead = [name for name in lost if name not in mine]
        if dead:
            await _requeue_workflows_of(dead)
            await remove_workers(self._database, dead)

    # --- Jobs -------------------------------------------------------------------------

    async def push(
        self,
        job: str,
        source: Rows,
        *,
        spec: str = "",
        target: str = "",
        batch: int = 100,
        shards: int = 16,
        share: float | None = None,
        progress: OnProgress | None = None,
    ) -> Report:
        """Send each row of *source*, by all workers; call again with the same *job* to resume.

        Args:
            job: its name in the database.
            source: a file or an iterable of plain rows, as for `push`; it is copied first.
            spec: the argument of `resolve`, by default the job's name.
            target: the identity of the target, by default *spec*. With a *target*, the spec of a
                job may change.
            batch: rows per step.
            shards: number of parts to distribute.
            share: most of every quota that the job takes, of all workers together if their pools
                share the quotas; by default that of the target. It applies to what is queued now.
            progress: called about every two seconds while this process waits.

        The report's quota use is that of all workers, over the seconds of this run.

        Raises:
            StateMismatchError: *job* has another target or other rows.
            BackfillStoppedError: too many rows failed, or the vendor was unavailable for too long.
            AsyncClientsError: an error that does not concern a single row.
        """
        _check(job, share)
        spec = spec or job
        async with aclosing(await open_source(source)) as rows:
            await self.job_store.submit(job, rows, spec=spec, target=target or spec, batch=batch)
        before = await self.job_store.request_counts(job)
        reporter = JobProgress(self.job_store, self.worker, "push", job, progress)
        await reporter.begin()
        await self._enqueue_batches(job, shards, share)
        await self._wait(job, reporter)
        counts = (await self.job_store.request_counts(job)).since(before)
        report = reporter.report(await self.job_store.report(job), counts)
        if await self.job_store.pending(job):
            await self._raise_failure(job, report)
        return report

    async def pull(
        self,
        job: str,
        to: str | os.PathLike[str] | Sink,
        *,
        state: str | os.PathLike[str],
        spec: str = "",
        key: str | None = None,
        share: float | None = None,
        progress: OnProgress | None = None,
    ) -> Report:
        """Pull a list into the database, by any worker, and from there into *to*.

        Args:
            job: its name in the database; a complete job is not pulled again.
            to: the file or sink, as for `asyncclients.backfill.pull`.
            state: the file that records how much of *to* is written.
            spec: the argument of `resolve`, by default the job's name.
            key: the field that identifies an item.
            share: as for `push`.
            progress: as for `push`, while pages arrive and while the file is written.

        Raises:
            StateMismatchError: *job* has another spec.
            AsyncClientsError: as for `asyncclients.backfill.pull`.
        """
        _check(job, share)
        spec = spec or job
        await self.job_store.add(job, JobRecord(kind="pull", spec=spec, digest=digest_of(spec)))
        reporter = JobProgress(self.job_store, self.worker, "pull", job, progress)
        await reporter.begin()
        found = await self._workflows(job)
        if not any(each.status in (*_UNFINISHED, "SUCCESS") for each in found):
            await self._enqueue(f"{job}/{len(found)}", pull_pages, job, share)
        await self._wait(job, reporter)
        done = [each for each in await self._workflows(job) if each.status == "SUCCESS"]
        if not done:
            await self._raise_failure(job, Report())
        pages = DbPageStore(self._database, job).pages()
        report = await backfill.pull(pages, to, state=state, key=key, progress=progress)
        before = any(each.status == "SUCCESS" for each in found)
        counts = None if before else await DBOS.get_result_async(done[0].workflow_id)
        return reporter.report(
            report, counts if isinstance(counts, RequestCounts) else RequestCounts()
        )

    async def watch(self, show: Callable[[str], OnProgress]) -> None:
        """Report the progress of each job that this worker works on, until it is cancelled.

        Args:
            show: returns the callback for the progress of the job with a name.
        """
        watched: dict[str, JobProgress] = {}
        while True:
            try:
                await self._report_running(watched, show)
            except Exception as failure:  # noqa: BLE001 - the work goes on without it
                logger.warning("The progress of the jobs is unknown: %s", error_text(failure))
            await asyncio.sleep(_PROGRESS_EVERY)

    async def _report_running(
        self, watched: dict[str, JobProgress], show: Callable[[str], OnProgress]
    ) -> None:
        jobs = {workflow.partition("/")[0] for workflow in self.worker.running}
        for job in jobs - watched.keys():
            if (record := await self.job_store.find(job)) is not None:
                reporter = JobProgress(self.job_store, self.worker, record.kind, job, show(job))
                await reporter.begin()
                watched[job] = reporter
        for job in [*watched]:
            await watched[job].report_progress(await self._workflows(job))
            if job not in jobs:
                watched.pop(job).close()

    # --- Workflows --------------------------------------------------------------------

    async def _workflows(self, job: str, *, load: bool = False) -> list[WorkflowStatus]:
        return await self._database.with_retry(
            lambda: DBOS.list_workflows_async(
                workflow_id_prefix=f"{job}/", load_input=load, load_output=load
            )
        )

    async def _enqueue_batches(self, job: str, shards: int, share: float | None) -> None:
        """Enqueue the unfinished batches of *job* that are not on the queue."""
        found = await self._workflows(job, load=True)
        queued: set[int] = set()
        for each in found:
            if each.status in _UNFINISHED and each.input is not None:
                queued.update(_readable(job, each.input)["args"][1])
        left = [number for number in await self.job_store.pending(job) if number not in queued]
        size = -(-len(left) // shards) or 1
        for first in range(0, len(left), size):
            # Concurrent callers compute the same ids, so each workflow is enqueued once.
            name = f"{job}/{len(found)}/{first}"
            await self._enqueue(name, push_batches, job, left[first : first + size], share)

    async def _enqueue(self, name: str, workflow: Callable[..., Any], *arguments: Any) -> None:
        """Enqueue *workflow* under the id *name*, unless this id exists."""

        async def enqueue() -> None:
            with SetWorkflowID(name):
                await DBOS.enqueue_workflow_async(_QUEUE, workflow, *arguments)

        await self._database.with_retry(enqueue)

    async def _wait(self, job: str, reporter: JobProgress) -> None:
        """Wait until all workflows of *job* have ended."""
        due_at, loop = 0.0, asyncio.get_running_loop()
        try:
            while True:
                found = await self._workflows(job)
                ended = not any(each.status in _UNFINISHED for each in found)
                if ended or loop.time() >= due_at:
                    due_at = loop.time() + _PROGRESS_EVERY
                    await reporter.report_progress(found)
                if ended:
                    return
                await asyncio.sleep(_POLL)  # they end in other processes
        finally:
            reporter.close()

    async def _raise_failure(self, job: str, report: Report) -> None:
        found = await self._workflows(job, load=True)
        error: Any = next((each.error for each in reversed(found) if each.error), None)
        if error is None:
            error = BackfillStoppedError(
                f"the workflows of {job!r} were cancelled", advice="Run the job again"
            )
        error = _readable(job, error)
        if isinstance(error, BackfillStoppedError):
            error.report = msgspec.structs.replace(report, complete=False)
        raise error


def _readable(job: str, value: Any) -> Any:
    """Return *value*; DBOS returns the stored text if it could not decode it.

    Raises:
        StateError: it is such a text.
    """
    if isinstance(value, str):
        raise StateError(
            f"the job database holds a value of the job {job!r} that is not this version's JSON",
            advice="It was written by an older version or by another program: use a new database",
        )
    return value


def _check(job: str, share: float | None) -> None:
    if not job or "/" in job:
        raise ConfigurationError(f"a job needs a name without '/', not {job!r}")
    if share is not None:
        check_value("share", share, QuotaShare)


async def _requeue_workflows_of(dead: list[str]) -> None:
    """Put the workflows of *dead* workers back on the queue, unless another worker has them.

    `DBOS._recover_pending_workflows` is private. Without it, DBOS resumes the workflows of a
    worker only when a process with the same name starts.
    """
    recover = getattr(DBOS, "_recover_pending_workflows", None)
    if recover is not None:
        await asyncio.to_thread(recover, dead)
