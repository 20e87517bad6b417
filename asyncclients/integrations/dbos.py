"""Backfills on DBOS: many workers, one database, no other server. Extra `[dbos]`.

* A push is cut into shards by ranges of its rows, a shard into batches. A shard
  is a durable workflow on a queue, and a batch a step of it (`push_step`). Any
  worker of any machine takes the next shard.
* A pull is one workflow, and some pages a step (`pull_step`); the file is
  written by who asked for it, from the pages in the database.
* What DBOS keeps is which steps are finished. What became of the rows inside a
  step is in our own table, by the rules in `asyncclients.backfill.steps`: so a
  step that runs again, or twice at the same time, sends no row twice.
* Workers show that they live by a counter (`heartbeat`). The shards of one that
  died are put back on the queue by the others, about one lease later.
* What DBOS keeps is JSON (`serializer`): a pickled value in the database is never loaded.
* DBOS's own limiter is not used: the quota is the pool's. Give each worker's
  pool `RedisLimits`, or `FileLimits` on one host, and they share it.
* DBOS is one per process, and so is `Backfills` while it is open.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from typing import Any, Self
from uuid import uuid4

try:
    from dbos import DBOS, DBOSConfig, SetWorkflowID, WorkflowStatus
except ImportError:
    raise ImportError("DBOS is not installed: pip install 'asyncclients[dbos]'") from None

from asyncclients import backfill
from asyncclients.backfill import Progress, Report, Sink
from asyncclients.backfill.completion import in_thread
from asyncclients.backfill.files.source import Rows, open_source
from asyncclients.backfill.report import RequestCounts
from asyncclients.errors import BackfillStoppedError, ConfigurationError, StateError, error_text
from asyncclients.integrations.database import Database
from asyncclients.integrations.heartbeat import (
    LOOKS,
    FailureDetector,
    record_heartbeat,
    remove_worker,
)
from asyncclients.integrations.job_progress import JobProgress
from asyncclients.integrations.job_store import DbPageStore, JobRecord, JobStore, digest_of
from asyncclients.integrations.serializer import JSONSerializer, no_pickles
from asyncclients.integrations.worker import Resolve, Worker
from asyncclients.integrations.workflows import (
    pull_pages,
    push_batches,
    register_worker,
    unregister_worker,
)

_log = logging.getLogger("asyncclients.backfill")

_QUEUE = "asyncclients"
_VERSION = "asyncclients-2"
"""Of the workflows below: workers of another version leave them alone."""
Tell = Callable[[Progress], None]
_LIVE = ("ENQUEUED", "PENDING", "DELAYED")
_POLL = 0.5
_SHARDS = 4
"""That one worker delivers at the same time; the queue holds it, so it is the same for all."""


class Backfills:
    """A worker, while its `async with` block is open; inside it, jobs can be added.

    Args:
        database_url: `sqlite:///FILE` for the processes of one host, or
            `postgresql://...` for many.
        resolve: makes of a job's spec where its rows go, or the list it pulls;
            called in each worker, inside the running loop.
        lease: seconds after which a silent worker is taken for dead.
        works: False for a process that only adds jobs and waits for them.
    """

    def __init__(
        self, database_url: str, resolve: Resolve, *, lease: float = 15.0, works: bool = True
    ) -> None:
        self._url, self._lease, self._works = database_url, lease, works
        self._database = Database(database_url)
        self.backlog = JobStore(self._database)
        self.worker = Worker(self._database, resolve)
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._heart: asyncio.Task[None] | None = None
        self._safe = ExitStack()

    # --- Life -------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        register_worker(self.worker)
        self._safe.enter_context(no_pickles())
        try:
            await self._database.create()
            await record_heartbeat(self._database, self.name)
            await self._launch()
        except BaseException:
            await self.__aexit__()
            raise
        self._heart = asyncio.create_task(self._live())
        return self

    async def _launch(self) -> None:
        config = DBOSConfig(
            name="asyncclients",
            system_database_url=self._url,
            executor_id=self.name,
            application_version=_VERSION,
            log_level="WARNING",
            serializer=JSONSerializer(),
        )
        DBOS(config=config)
        DBOS.listen_queues([_QUEUE] if self._works else [])
        DBOS.launch()
        await DBOS.register_queue_async(
            _QUEUE, worker_concurrency=_SHARDS, polling_interval_sec=_POLL
        )

    async def __aexit__(self, *_: object) -> None:
        """Land what is on the wire, and leave; other workers go on with the rest."""
        if self._heart is not None:
            self._heart.cancel()
        async with AsyncExitStack() as stack:  # all of it, also when a part fails or is cancelled
            stack.push_async_callback(self._database.aclose)
            stack.push_async_callback(remove_worker, self._database, [self.name])
            stack.callback(unregister_worker)
            stack.callback(self._safe.close)
            stack.push_async_callback(self._destroy)
            await self.worker.leave()

    async def _destroy(self) -> None:
        # DBOS made its own threads the loop's, and ends them; the loop goes on.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor())
        await in_thread(DBOS.destroy)

    async def _live(self) -> None:
        watcher = FailureDetector()
        while True:
            try:
                await self._look(watcher)
            except BaseException as failure:  # DBOS's and its database's, of any class
                task = asyncio.current_task()
                cancelled = task is not None and task.cancelling()
                if cancelled or isinstance(failure, (KeyboardInterrupt, SystemExit)):
                    raise
                words = error_text(failure)
                _log.warning("This worker could not show that it lives: %s", words)
            await asyncio.sleep(self._lease / LOOKS)

    async def _look(self, watcher: FailureDetector) -> None:
        beats = await record_heartbeat(self._database, self.name)
        working = await DBOS.list_workflows_async(
            status="PENDING", queue_name=_QUEUE, load_input=False, load_output=False
        )
        names = {found.executor_id for found in working if found.executor_id} | beats.keys()
        mine = {found.workflow_id for found in working if found.executor_id == self.name}
        still = watcher.observe((names - {self.name}) | (mine - self.worker.running), beats)
        for workflow in mine.intersection(still):
            # It was given to this worker while the database died, and never came here.
            await DBOS.resume_workflow_async(workflow, queue_name=_QUEUE)
        dead = [name for name in still if name not in mine]
        if dead:
            # Puts back what a dead one had; what another worker has taken since is not touched.
            put_back = DBOS._recover_pending_workflows  # pyright: ignore[reportPrivateUsage]
            await asyncio.to_thread(put_back, dead)
            await remove_worker(self._database, dead)

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
        progress: Tell | None = None,
    ) -> Report:
        """Send each row of *source*, by all workers; ask again with the same *job* to resume.

        Args:
            job: its name in the database.
            source: a file or an iterable of plain rows, as for `push`; read at once, and copied.
            spec: what `resolve` is given; the job's name by default.
            target: what the job is, for a spec that says more, and may change; the spec by default.
            batch: rows of one step.
            shards: parts that workers take.
            progress: called about every two seconds, while this process waits.

        The report's quota use is that of all workers, over the seconds of this run.

        Raises:
            StateMismatchError: *job* has another target or other rows.
            BackfillStoppedError: too many rows failed, or the vendor stayed away.
            AsyncClientsError: what no row can be blamed for.
        """
        _check_name(job)
        spec = spec or job
        rows = await open_source(source)
        try:
            total = await self.backlog.submit(
                job, rows, spec=spec, target=target or spec, batch=batch
            )
        finally:
            await rows.aclose()
        before = await self.backlog.tally(job)
        onlooker = JobProgress(partial(self.backlog.report, job), progress, total)
        await onlooker.begin()
        await self._enqueue(job, shards)
        await self._ended(job, onlooker)
        tally = (await self.backlog.tally(job)).since(before)
        report = onlooker.report(await self.backlog.report(job), tally)
        if await self.backlog.left(job):
            await self._raise_what_stopped(job, report)
        return report

    async def pull(
        self,
        job: str,
        to: str | os.PathLike[str] | Sink,
        *,
        state: str | os.PathLike[str],
        spec: str = "",
        key: str | None = None,
        progress: Tell | None = None,
    ) -> Report:
        """Pull a list into the database, by any worker, and from there into *to*.

        Args:
            job: its name in the database; a complete one is not pulled again.
            to: as for `asyncclients.backfill.pull`, as are *state* and *key*.
            state: the file that remembers how much of the file is written.
            spec: what `resolve` is given; the job's name by default.
            key: what tells an item from all others.
            progress: as for `push`, while pages come and while the file is written.

        Raises:
            StateMismatchError: *job* has another spec.
            AsyncClientsError: as for `asyncclients.backfill.pull`.
        """
        _check_name(job)
        spec = spec or job
        await self.backlog.add(job, JobRecord(kind="pull", spec=spec, digest=digest_of(spec)))
        onlooker = JobProgress(partial(self._pulled, job), progress)
        await onlooker.begin()
        found = await self._workflows(job)
        if not any(each.status in (*_LIVE, "SUCCESS") for each in found):
            await self._put(f"{job}/{len(found)}", pull_pages, job)
        await self._ended(job, onlooker)
        done = [each for each in await self._workflows(job) if each.status == "SUCCESS"]
        if not done:
            await self._raise_what_stopped(job, Report())
        pages = DbPageStore(self._database, job).pages()
        report = await backfill.pull(pages, to, state=state, key=key, progress=progress)
        before = any(each.status == "SUCCESS" for each in found)
        tally = None if before else await DBOS.get_result_async(done[0].workflow_id)
        return onlooker.report(
            report, tally if isinstance(tally, RequestCounts) else RequestCounts()
        )

    async def _pulled(self, job: str) -> Report:
        return Report(done=await self.backlog.pulled(job))

    # --- Workflows --------------------------------------------------------------------

    async def _workflows(self, job: str, *, load: bool = False) -> list[WorkflowStatus]:
        return await self._database.with_retry(
            lambda: DBOS.list_workflows_async(
                workflow_id_prefix=f"{job}/", load_input=load, load_output=load
            )
        )

    async def _enqueue(self, job: str, shards: int) -> None:
        """Put what is left of *job*, and not on the queue, on the queue."""
        found = await self._workflows(job, load=True)
        queued: set[int] = set()
        for each in found:
            if each.status in _LIVE and each.input is not None:
                queued.update(_readable(job, each.input)["args"][1])
        left = [number for number in await self.backlog.left(job) if number not in queued]
        size = -(-len(left) // shards) or 1
        for first in range(0, len(left), size):
            # Who asks at the same time makes the same ids, and they mean the same workflows.
            name = f"{job}/{len(found)}/{first}"
            await self._put(name, push_batches, job, left[first : first + size])

    async def _put(self, name: str, workflow: Callable[..., Any], *arguments: Any) -> None:
        """Put *workflow* on the queue; under the same *name* it is there once."""

        async def put() -> None:
            with SetWorkflowID(name):
                await DBOS.enqueue_workflow_async(_QUEUE, workflow, *arguments)

        await self._database.with_retry(put)

    async def _ended(self, job: str, onlooker: JobProgress) -> None:
        """Return when no workflow of *job* is left to do."""
        while any(each.status in _LIVE for each in await self._workflows(job)):
            await onlooker.look()
            await asyncio.sleep(_POLL)  # they end in other processes
        await onlooker.look(last=True)

    async def _raise_what_stopped(self, job: str, report: Report) -> None:
        found = await self._workflows(job, load=True)
        error: Any = next((each.error for each in reversed(found) if each.error), None)
        if error is None:
            error = BackfillStoppedError(
                f"the workflows of {job!r} were ended from outside", advice="Run the job again"
            )
        error = _readable(job, error)
        if isinstance(error, BackfillStoppedError):
            error.report = report
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


def _check_name(job: str) -> None:
    if not job or "/" in job:
        raise ConfigurationError(f"a job needs a name without '/', not {job!r}")
