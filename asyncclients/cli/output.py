"""Output of commands, as text or JSON."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

from asyncclients.backfill import Plan, Report, Status, SyncReport
from asyncclients.errors import encodable

_VENDOR_MODULE = re.compile(r"^asyncclients\.vendors\.(\w+)\.client\.")
"""What precedes the resource in the stored name of an operation."""
_ROWS = ("done", "failed", "unknown", "skipped")
_CHANGES = ("created", "updated", "deleted", "unchanged", "missing")
_DIFFERENCES = ("added", "changed", "removed", "unchanged")
_COARSE = 10
"""Minutes; a longer duration is shown without its seconds."""
_PREVIEW_LENGTH = 1000
"""Most characters of a request that a plan shows; --json shows it completely."""


class JobError(msgspec.Struct, frozen=True, kw_only=True):
    """What `run --json` prints for a job that failed.

    Attributes:
        error: name of the error's class.
        reason: what happened, and what to do.
    """

    error: str
    reason: str


class Finding(msgspec.Struct, frozen=True):
    """One line of the report of `doctor`.

    Attributes:
        what: name of the check.
        found: the result.
        good: whether it is as it should be; None if it is only informative.
        advice: what to do, or empty.
    """

    what: str
    found: str
    good: bool | None
    advice: str = ""


def checked(what: str, found: str, advice: str = "") -> Finding:
    """Return the finding of a check, which has *advice* if *found* is not as it should be."""
    return Finding(what, found, not advice, advice)


def duration(seconds: float) -> str:
    """Return *seconds* as text, as in "45 s", "9 min 5 s", "12 min" or "1 h 5 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    if minutes >= _COARSE:
        return f"{minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def show(result: Any, *, as_json: bool, describe: Callable[[Any], str]) -> None:
    """Print *result* as JSON, or as the text that *describe* returns."""
    if not as_json:
        say(describe(result))
        return
    try:
        text = msgspec.json.encode(result).decode()
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a path or a terminal that is not UTF-8: escaped without loss
        text = json.dumps(msgspec.to_builtins(result))
    say(text)


def say(text: str, file: TextIO | None = None) -> None:
    """Print *text* to *file*, by default standard output.

    If the reader has exited (`| head`), the remaining output is discarded and the job continues.
    Characters that the stream cannot encode are escaped.
    """
    stream: TextIO = sys.stdout if file is None else file
    try:
        print(_printable(text, stream.encoding), file=stream, flush=True)
    except BrokenPipeError:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, stream.fileno())
        os.close(devnull)


def _printable(text: str, encoding: str | None) -> str:
    """Return *text* with an escape for each character that *encoding* does not have."""
    encoding = encoding or "utf-8"
    return encodable(text).encode(encoding, "backslashreplace").decode(encoding)


def result_text(result: Report | SyncReport | Plan) -> str:
    """Return *result* as a few lines."""
    return _plan_text(result) if isinstance(result, Plan) else _report_text(result)


def _plan_text(plan: Plan) -> str:
    subject = (
        f"Rows to handle: {plan.rows:,}, of which {plan.valid:,} valid, {plan.invalid:,} invalid"
    )
    if plan.create + plan.update + plan.delete + plan.unchanged + plan.missing:
        subject = (
            f"Items: {plan.create:,} to create, {plan.update:,} to update, {plan.delete:,} to delete, "
            f"{plan.unchanged:,} unchanged, {plan.missing:,} without a row; {plan.invalid:,} rows invalid"
        )
    counts = f"Nothing was sent. {subject}, {_counts(plan, 'skipped')}; {_counts(plan, 'requests')}"
    if plan.seconds is not None:
        counts += f", {duration(plan.seconds)} at the quota"
    parts = [counts, *(f"Note: {each}" for each in plan.warnings)]
    if plan.preview is not None:
        shown = f"{plan.preview.method} {plan.preview.path} {plan.preview.body or ''}".rstrip()
        more = "..." if len(shown) > _PREVIEW_LENGTH else ""
        parts.append(f"First request: {shown[:_PREVIEW_LENGTH]}{more}")
    for each in plan.reasons:
        which = (
            f"{each.rows:,} rows, first line {each.line}" if each.rows > 1 else f"line {each.line}"
        )
        parts.append(f"Invalid: {which}: {each.reason}")
    if others := plan.invalid - sum(each.rows for each in plan.reasons):
        parts.append(f"... and {others:,} more invalid rows")
    return "\n".join(parts)


def _counts(found: Any, *names: str) -> str:
    return ", ".join(f"{getattr(found, name):,} {name}" for name in names)


def _report_text(report: Report | SyncReport) -> str:
    use = f"{duration(report.seconds)}, {report.quota_use:.1%} of the quota"
    run = f"{_counts(report, 'requests', 'rejected')}, {use}"
    if isinstance(report, SyncReport):
        parts = [f"{_counts(report, *_CHANGES, *_ROWS[1:])}; {run}"]
        if report.remaining:
            parts.append(f"{report.remaining:,} changes remain: run the same command to continue")
        notes = [f"Note: {warning}" for warning in report.warnings]
    else:
        parts = [f"{_counts(report, *_ROWS)}; {run}"]
        if report.added or report.changed or report.removed or report.unchanged:
            parts.append(f"Refresh: {_counts(report, *_DIFFERENCES)}")
        if not report.complete:
            parts.append(
                "Not complete: run the same command again to continue, without --limit to the end"
            )
        notes = [f"Not verified: {why}" for why in report.unverified]
    if report.failures:
        parts.append(f"Failed rows, with the reason of each: {report.failures}")
    if report.unknown:
        parts.append("Unknown rows may or may not have arrived: see `asyncclients status`")
    return "\n".join(parts + notes)


def _refresh_lines(found: Status) -> list[str]:
    lines: list[str] = []
    if (last := found.refreshed) is not None:
        ended = datetime.fromtimestamp(last.ended_at, UTC)
        by = f" (since {last.since})" if last.since else ""
        lines.append(
            f"Last refresh{by}, {ended:%Y-%m-%d %H:%M} UTC: {_counts(last, *_DIFFERENCES)}"
        )
    if found.refreshing is not None:
        read = f"{found.refreshing:,} items read"
        interrupted = f"Refresh interrupted, {read}: run it again to resume"
        lines.append(interrupted if found.running is None else f"Refresh running, {read}")
    return lines


def status_text(found: Status) -> str:
    """Return *found* as a few lines, with one for each unknown row."""
    job = found.job
    condition = "complete" if found.complete else "not complete"
    if found.running is not None:
        condition = f"running (process {found.running})"
    of = "" if found.total is None else f" of {found.total:,}"
    left = "" if found.remaining is None else f"; {found.remaining:,} remain"
    counts = f"{found.done:,}{of} done, {_counts(found, *_ROWS[1:])}{left}"
    target = _VENDOR_MODULE.sub(r"\1.", job.target)
    parts = [f"{job.kind} {job.source} -> {target}: {condition}", counts]
    parts += _refresh_lines(found)
    if found.sync is not None and found.planned is not None:
        creates, updates, deletions = found.planned
        plan = f"{creates:,} creates, {updates:,} updates, {deletions:,} deletions"
        parts = [parts[0], f"Planned: {plan}", f"Last run: {_report_text(found.sync)}"]
    elif found.failures:
        parts.append(f"Failed rows, with the reason of each: {found.failures}")
    for row in found.unknown_rows:
        shown = msgspec.json.encode(row.row).decode() if row.row is not None else ""
        parts.append(f"unknown: line {row.line}: {row.reason} {shown}".rstrip())
    if found.unknown:
        parts.append(
            f"Check whether the vendor has them; then {job.kind} again with --resend-unknown "
            "or --drop-unknown"
        )
    parts += [f"Not verified: {reason}" for reason in found.unverified]
    return "\n".join(parts)
