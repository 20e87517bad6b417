"""Output of the demo: frames or occasional lines while it runs, and the closing table."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from asyncclients.cli.demo.records import DemoResult, rows_served
from asyncclients.cli.demo.scenario import PULL, SHARE, Scenario


def frame(scene: Scenario) -> RenderableType:
    """Return the progress of all jobs: 16 lines that fit in 60 columns."""
    intouch, *others = scene.jobs
    record, naive = scene.record(intouch), scene.naive_record()
    total = len(intouch.expected)
    read = rows_served(scene.naive.sandbox, total)
    lines: list[RenderableType] = [
        _line(
            f"{scene.seconds():.0f} s, mock vendors with their real limits on this machine", "bold"
        ),
        _line(""),
        _line(f"$ asyncclients {' '.join(PULL)}", "cyan"),
        _bar("intouch", intouch.done(), total, _counts(record)),
        _line(f"  web requests, same key: {_waits(record)}"),
        _line(f"  {kill_text(scene)}", "yellow"),
        _line("The same by a naive client: aiohttp, semaphore, Retry-After", "cyan"),
        _bar("naive client", read, total, _counts(naive)),
        _line(f"  web requests, same key: {_waits(naive)}"),
        _line(""),
        _line("Meanwhile, a push and web requests for each other vendor", "cyan"),
    ]
    for job in others:
        found = scene.record(job)
        note = f"web p50 {_time(found.wait_p50)}" if found.web_requests else ""
        lines.append(_bar(job.vendor, job.done(), len(job.expected), note))
    return Group(*lines)


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="crop")


def _bar(name: str, done: int, total: int, note: str) -> Table:
    bar = ProgressBar(total=total, completed=done, complete_style="blue", finished_style="green")
    grid = Table.grid(padding=(0, 1, 0, 0), expand=True)
    grid.add_column(width=18, no_wrap=True)
    grid.add_column(ratio=1)
    grid.add_column(width=11, justify="right", no_wrap=True)
    grid.add_column(width=19, no_wrap=True)
    grid.add_row(name, bar, f"{done:,}/{total:,}", note)
    return grid


def _counts(record: DemoResult) -> str:
    return f"{record.calls} calls, {record.rejected} 429s"


def _waits(record: DemoResult) -> str:
    if not (record.web_requests or record.waiting):
        return "none yet"
    waiting = f"{record.waiting} waiting, " if record.waiting else ""
    p50, p99 = _time(record.wait_p50), _time(record.wait_p99)
    return f"{record.web_requests} sent, {waiting}p50 {p50}, p99 {p99}"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 0.9995 else f"{seconds * 1000:.0f} ms"


def kill_text(scene: Scenario) -> str:
    """Return when the backfill was killed and resumed, as far as it was."""
    backfill = scene.backfill
    if backfill.killed_at is None:
        return ""
    killed = f"{scene.seconds(backfill.killed_at):.0f} s: kill -9 {backfill.pid}"
    if backfill.resumed_at is None:
        return f"{killed} at {backfill.rows_before:,} rows"
    resumed = scene.seconds(backfill.resumed_at)
    return f"{killed} at {backfill.rows_before:,} rows; {resumed:.0f} s: resumed"


def progress_line(scene: Scenario) -> str:
    """Return the progress of all jobs in one line."""
    done = [f"{job.vendor} {job.done():,}/{len(job.expected):,}" for job in scene.jobs]
    return f"{scene.seconds():.0f} s: {', '.join(done)}"


def closing(scene: Scenario) -> RenderableType:
    """Return the table of the vendors' records."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    names = "\nvendor,\ncalls,\n429s,\nquota,web\np50,web\np99,rows\nlost,rows\ntwice"
    for name in names.split(","):
        table.add_column(name, justify="right" if table.columns else "left", no_wrap=True)
    *ours, naive = found = scene.results()
    for each in found:
        table.add_row(
            each.vendor.replace("naive", "naive client"),
            f"{each.calls}",
            f"{each.rejected}",
            f"{each.quota_share:.0%}",
            _time(each.wait_p50),
            _time(each.wait_p99),
            *("" if count is None else f"{count}" for count in (each.lost, each.duplicated)),
            style="dim" if each is naive else None,
        )
    waited, naively = _time(ours[0].wait_total), _time(naive.wait_total)
    return Group(
        Text(f"Done in {scene.seconds():.0f} s. The records of the vendors' servers:\n"),
        table,
        Text(f"\n{kill_text(scene)}"),
        Text(
            f"Web requests on intouch's key waited {waited} in all, the naive client's {naively}.\n"
            f"Cost: with --share {SHARE} the backfill leaves half of intouch's quota to them."
        ),
    )
