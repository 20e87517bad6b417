"""The progress of the jobs of one command, on standard error.

On a terminal each job has a bar that is drawn again with each report. Elsewhere there are lines:
the first after five seconds, then less often the longer the command runs. Output that fails, as
on a terminal that was closed, never ends a job.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self, TypeVar

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.text import Text

from asyncclients.backfill import Progress
from asyncclients.cli.output import duration, say
from asyncclients.errors import encodable

T = TypeVar("T")

_MIN_PAUSE = 5.0
"""Minimum seconds between two lines of a job."""
_PAUSE_SHARE = 0.1
"""Seconds after a line, per job, as a share of the seconds that the command had run before it."""
_MAX_LINES = 200
"""Lines of one command, whatever happens."""
_CAUSE_LENGTH = 120
"""Most characters of the cause of an outage."""
_NAME_CELLS = 24
_BAR_CELLS = 40
"""Maximum widths of a name and of a bar."""
_MIN_BAR_CELLS = 8
"""Cells that a bar keeps if a name would need them."""


@dataclass
class _Job:
    printed_at: float
    state: Progress | None = None
    failure: str = ""


class ProgressDisplay:
    """Shows the progress of jobs while its `with` block is open; nothing if it is *quiet*.

    Unless *bars* is False, it draws bars on *console*, by default standard error if that is a
    terminal.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        bars: bool = True,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._quiet, self._clock = quiet, clock
        self._started_at = clock()
        self._lines = 0
        self._jobs: dict[str, _Job] = {}
        self._live: Live | None = None
        console = _terminal() if console is None else console
        self._is_utf8 = console is not None and console.encoding.startswith("utf")
        if console is not None and bars and not quiet:
            self._live = Live(
                console=console,
                auto_refresh=False,
                redirect_stdout=False,  # the report may go to a file
                get_renderable=lambda: self.bars(console.width),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        live, self._live = self._live, None
        if live is not None and live.is_started:
            with suppress(OSError, ValueError):  # ValueError: the stream was closed
                live.stop()

    def job(self, name: str) -> Callable[[Progress], None]:
        """Return a `progress=` callback that shows a job as *name*."""
        name = encodable(name)
        job = self._jobs[name] = _Job(self._started_at)

        def show(progress: Progress) -> None:
            job.state = progress
            if not self._draw() and not self._quiet and self._is_due(job):
                say(f"{name}: {progress_text(progress)}", sys.stderr)

        return show

    async def showing_failure(self, name: str, work: Awaitable[T]) -> T:
        """Return the result of *work*, the job *name*; if it fails, show why while others go on."""
        try:
            return await work
        except Exception as failure:
            if len(self._jobs) > 1:
                job = self._jobs[encodable(name)]
                job.failure = _short(str(failure))
                if not self._draw() and not self._quiet:
                    say(f"{encodable(name)}: failed: {job.failure}", sys.stderr)
            raise

    def _is_due(self, job: _Job) -> bool:
        """Return whether a line of *job* is due; if so, count it."""
        now, last = self._clock(), job.printed_at
        pause = max(_MIN_PAUSE, _PAUSE_SHARE * len(self._jobs) * (last - self._started_at))
        if now - last < pause or self._lines >= _MAX_LINES:
            return False
        job.printed_at = now
        self._lines += 1
        return True

    def _draw(self) -> bool:
        """Draw the bars if there are any, and none any more if the terminal is gone."""
        live = self._live
        if live is None:
            return False
        try:
            if not live.is_started:
                live.start()
                live.console.show_cursor()  # a killed process cannot show it again
            live.refresh()
        except (OSError, ValueError):
            self._quiet = True
            self.__exit__()
        return True

    def bars(self, width: int) -> Group:
        """Return the bar of each job, with its notes below it if there are any."""
        jobs = {name: job for name, job in self._jobs.items() if job.state or job.failure}
        facts = {name: _facts(job) for name, job in jobs.items()}
        columns = [max(map(len, column)) for column in zip(*facts.values(), strict=True)]
        left = width - sum(columns) - 2 * len(columns) - 1 - _MIN_BAR_CELLS
        longest = max(map(cell_len, jobs), default=0)
        names = min(_NAME_CELLS, longest, max(width // 4, left))
        lines: list[RenderableType] = []
        for name, job in jobs.items():
            cells = [fact.rjust(size) for fact, size in zip(facts[name], columns, strict=True)]
            right = "  ".join(cells)
            title = Text(name)
            title.truncate(names, overflow="ellipsis" if self._is_utf8 else "crop", pad=True)
            room = min(width - names - len(right) - 3, _BAR_CELLS)
            line = Text.assemble(title, " ", _bar(job.state, room, is_utf8=self._is_utf8))
            line.append(f"  {right}")
            line.no_wrap, line.overflow = True, "crop"
            notes = job.failure or (", ".join(_notes(job.state)) if job.state else "")
            lines += [line, Padding(Text(notes, "dim"), (0, 0, 0, names + 1))] if notes else [line]
        return Group(*lines)


def _terminal() -> Console | None:
    """Return a console on standard error; None if it is no terminal that can redraw a line."""
    if sys.stderr is None or not sys.stderr.isatty():  # pyright: ignore[reportUnnecessaryComparison]
        return None
    console = Console(stderr=True)
    return console if console.is_interactive and not console.is_dumb_terminal else None


def _bar(state: Progress | None, cells: int, *, is_utf8: bool) -> Text:
    """Return a bar of *cells* cells; blank without a total, empty if there is no room."""
    if cells < 1:
        return Text()
    if state is None or state.total is None or state.remaining is None:
        return Text(" " * cells)
    full = cells - cells * state.remaining // max(1, state.total)
    full = min(full, cells - 1) if state.remaining else cells
    filled, rest = ("━", "─") if is_utf8 else ("#", "-")
    return Text.assemble((filled * full, "green"), (rest * (cells - full), "dim"))


def _facts(job: _Job) -> tuple[str, str, str]:
    """Return what stands beside the bar: the rows, the rate and the remaining time."""
    state = job.state
    if job.failure or state is None:
        return "", "", "failed"
    rows = f"{state.done:,}" + ("" if state.total is None else f"/{state.total:,}")
    if state.waiting:
        left = "waiting"
    elif state.eta is None:
        left = ""
    else:
        left = f"{duration(state.eta)} left" if state.eta else "done"
    return rows, f"{state.rate:.1f}/s", left


def _notes(state: Progress) -> list[str]:
    notes = [
        f"{count:,} {what}"
        for what in ("failed", "unknown", "skipped")
        if (count := getattr(state, what))
    ]
    if state.waiting:
        cause = f": {_short(state.cause)}" if state.cause else ""
        notes.append(f"vendor unavailable for {duration(state.waiting)}{cause}")
    elif state.cause and not state.paused:
        notes.append(f"last call failed: {_short(state.cause)}")
    elif state.paused:
        left = duration(math.ceil(state.paused))
        by_vendor = f"paused by the vendor for {left} (429 or 503)"
        by_operator = f"paused by {_short(state.paused_by)} for {left}"
        notes.append(by_operator if state.paused_by else by_vendor)
    elif state.limited_by_quota:
        notes.append("limited by quota")
    return notes


def _short(cause: str) -> str:
    text = encodable(" ".join(cause.split()))
    return text if len(text) <= _CAUSE_LENGTH else f"{text[: _CAUSE_LENGTH - 3]}..."


def progress_text(state: Progress) -> str:
    """Return *state* as one line."""
    of = "" if state.total is None else f" of {state.total:,}"
    parts = [f"{state.done:,}{of} done", f"{state.rate:.1f}/s"]
    if state.eta is not None:
        parts.append(f"{duration(state.eta)} left")
    return ", ".join(parts + _notes(state))
