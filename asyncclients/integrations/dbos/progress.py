"""The progress of a job that several processes work on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import msgspec
from dbos import WorkflowStatus

from asyncclients.backfill import Progress, Report
from asyncclients.backfill.report import EtaEstimator, RequestCounts
from asyncclients.core.events import Callback
from asyncclients.integrations.jobs.job_store import JobStore, Outage
from asyncclients.integrations.jobs.worker import Worker, flow_of

OnProgress = Callable[[Progress], None]


class JobProgress:
    """Reports the progress of one job.

    The counts and an outage of the vendor are those of the database. The quota's part of the
    estimate is that of this process's schedulers, with the calls that are left divided among
    the processes at work; a process that sends no call of the job knows only the measured rate.
    """

    def __init__(
        self,
        job_store: JobStore,
        worker: Worker,
        kind: str,
        job: str,
        on_progress: OnProgress | None,
    ) -> None:
        self._worker, self._kind, self._job = worker, kind, job
        self._read = job_store.pulled if kind == "pull" else job_store.report
        self._outage = job_store.outage
        self._on_progress = None if on_progress is None else Callback(on_progress)
        self._began_at = asyncio.get_running_loop().time()
        self._estimator: EtaEstimator | None = None

    async def begin(self) -> None:
        """Start the run; rows settled before do not count towards its rate."""
        if self._on_progress is not None:
            settled = _settled(await self._read(self._job))
            counter, flow = self._worker.counters[self._job], flow_of(self._kind, self._job)
            self._estimator = EtaEstimator(counter, flow, settled, is_shared=True)

    async def report_progress(self, workflows: Iterable[WorkflowStatus]) -> None:
        """Report the progress of the job, whose *workflows* these are."""
        if self._on_progress is None or self._estimator is None:
            return
        report = await self._read(self._job)
        self._estimator.batch_size = self._batch_size(report)
        at_work = {each.executor_id for each in workflows if each.status == "PENDING"}
        self._estimator.processes = max(1, len(at_work))
        # A worker records its view every few seconds: it may be that of a job that has ended.
        outage = await self._outage(self._job) if at_work else Outage()
        progress = self._estimator.progress(
            done=report.done,
            failed=report.failed,
            unknown=report.unknown,
            skipped=report.skipped,
            settled=_settled(report),
            total=report.total,
            waiting=outage.seconds,
            cause=outage.cause,
        )
        self._on_progress(progress)

    def _batch_size(self, report: Report) -> float | None:
        """Return the rows or items per call; None if it is unknown."""
        if self._kind == "push":
            return self._worker.batch_sizes.get(self._job)
        return report.done / report.requests if report.requests else None

    def close(self) -> None:
        """Withdraw the plans of this job from the schedulers."""
        if self._estimator is not None:
            self._estimator.close()

    def report(self, report: Report, counts: RequestCounts) -> Report:
        """Return *report* with the requests and seconds of this run."""
        seconds = asyncio.get_running_loop().time() - self._began_at
        return msgspec.structs.replace(
            report,
            requests=counts.requests,
            rejected=counts.rejected,
            seconds=seconds,
            quota_use=counts.quota_use(seconds),
        )


def _settled(report: Report) -> int:
    return report.done + report.failed + report.unknown + report.skipped
