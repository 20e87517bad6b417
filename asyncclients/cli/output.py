"""What pulls and pushes say to a person."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import msgspec

from asyncclients.backfill import Progress, Report, Status

_LINE_EVERY = 5.0
"""Seconds between lines where nobody watches."""


class ProgressPrinter:
    """Prints progress: in place on a terminal, else a line every five seconds."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._terminal = sys.stderr.isatty()
        self._printed_at = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """Show *progress*, if it is time."""
        now = time.monotonic()
        if now - self._printed_at >= (0.9 if self._terminal else _LINE_EVERY):
            self._printed_at = now
            say(f"{self._name}: {line_of(progress)}", sys.stderr)


def line_of(progress: Progress) -> str:
    """One line about *progress*."""
    parts = [f"{progress.done:,} done"]
    parts += [
        f"{count:,} {what}"
        for what in ("failed", "unknown", "skipped")
        if (count := getattr(progress, what))
    ]
    parts.append(f"{progress.rate:.1f}/s")
    if progress.quota_use:
        parts.append(f"{progress.quota_use:.1%} of the quota")
    if progress.eta is not None:
        parts.append(f"{_duration(progress.eta)} left")
    if progress.waiting:
        parts.append(f"the vendor has not answered for {_duration(progress.waiting)}")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def show(result: Any, *, as_json: bool, describe: Callable[[Any], str]) -> None:
    """Print *result* as JSON, or what *describe* says about it."""
    say(_as_json(result) if as_json else describe(result))


def _as_json(result: Any) -> str:
    try:
        return msgspec.json.encode(result).decode()
    except UnicodeEncodeError:  # a path whose bytes are not UTF-8: escaped, so that it stays exact
        return json.dumps(msgspec.to_builtins(result))


def say(text: str, file: TextIO | None = None) -> None:
    """Print *text* to *file*, standard output by default.

    A reader that has gone, as `head` after its last line, fails no job: the rest
    of the output goes nowhere.
    """
    stream: TextIO = sys.stdout if file is None else file
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def report_text(report: Report) -> str:
    """A few lines about *report*."""
    counts = (
        f"{report.done:,} done, {report.failed:,} failed, {report.unknown:,} unknown, "
        f"{report.skipped:,} skipped; {report.requests:,} requests, {report.rejected:,} rejected, "
        f"{_duration(report.seconds)}, {report.quota_use:.1%} of the quota"
    )
    parts = [counts]
    if report.failures:
        parts.append(f"Failed rows, with the reason of each: {report.failures}")
    if report.unknown:
        parts.append("Unknown rows may or may not have arrived: see `asyncclients status`")
    parts += [f"Not proved: {doubt}" for doubt in report.unverified]
    return "\n".join(parts)


def status_text(found: Status) -> str:
    """A few lines about *found*, and one for each unknown row."""
    job = found.job
    doing = "complete" if found.complete else "not complete"
    if found.running is not None:
        doing = f"running (process {found.running})"
    of = "" if found.total is None else f" of {found.total:,}"
    counts = (
        f"{found.done:,}{of} done, {found.failed:,} failed, {found.unknown:,} unknown, "
        f"{found.skipped:,} skipped"
    )
    parts = [f"{job.kind} {job.source} -> {job.target}: {doing}", counts]
    if found.failures:
        parts.append(f"Failed rows, with the reason of each: {found.failures}")
    for row in found.unknown_rows:
        shown = msgspec.json.encode(row.row).decode() if row.row is not None else ""
        parts.append(f"unknown: line {row.line}: {row.reason} {shown}".rstrip())
    if found.unknown:
        parts.append(
            "Look for them on the vendor's side; then push again with --resend-unknown "
            "or --drop-unknown"
        )
    parts += [f"Not proved: {doubt}" for doubt in found.unverified]
    return "\n".join(parts)
