"""The progress of jobs: bars on a terminal, a few lines elsewhere, or nothing."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from asyncclients.backfill import Progress, Report
from asyncclients.cli.output import duration, say, show
from asyncclients.cli.progress import ProgressDisplay, progress_text
from asyncclients.errors import StateError
from asyncclients.sandbox import Sandbox
from tests.support.command import start
from tests.support.posix import posix

HALFWAY = Progress(
    done=104_997,
    failed=2,
    unknown=1,
    skipped=0,
    total=200_000,
    remaining=95_000,
    rate=12.5,
    quota_use=0.99,
    eta=7625.0,
    limited_by_quota=True,
)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def drawn(jobs: Mapping[str, Progress], width: int, **options: object) -> str:
    """The bars of *jobs* on a terminal of *width* cells, after the last redraw."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, **options)  # type: ignore[arg-type]
    with ProgressDisplay(console=console) as display:
        for name, state in jobs.items():
            display.job(name)(state)
        shown = plain(display, width)
    assert file.getvalue()
    return shown


def plain(display: ProgressDisplay, width: int) -> str:
    """The bars of *display* on *width* cells, without colours."""
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(display.bars(width))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


@pytest.mark.parametrize("width", [60, 80, 200])
def test_bar_fits_the_terminal(width: int) -> None:
    """At 60 columns and more, each job has its name, counts, rate, end and notes, uncut."""
    shown = drawn({"contacts": HALFWAY, "übermäßig langer Name 漢字": HALFWAY}, width)
    lines = shown.splitlines()
    assert len(lines) == 4
    assert max(map(len, lines)) <= width
    for name, bar, notes in zip(("contacts", "übermäßig"), lines[::2], lines[1::2], strict=True):
        assert bar.startswith(name)
        assert bar.endswith("104,997/200,000  12.5/s  2 h 7 min left")
        assert notes.strip() == "2 failed, 1 unknown, limited by quota"
    assert "━" in shown


def test_bar_shows_the_share_that_is_settled() -> None:
    """The bar is full only when nothing remains; without a total there is none."""
    nearly = msgspec.structs.replace(HALFWAY, remaining=1)
    done = msgspec.structs.replace(HALFWAY, remaining=0, eta=0.0)
    unknown = msgspec.structs.replace(HALFWAY, total=None, remaining=None, eta=None)
    assert drawn({"a": HALFWAY}, 120).count("━") == 21
    assert drawn({"a": nearly}, 120).count("━") == 39
    assert drawn({"a": done}, 120).count("━") == 40
    assert "done" in drawn({"a": done}, 120)
    assert "104,997  12.5/s" in drawn({"a": unknown}, 120)
    assert {"━", "─"}.isdisjoint(drawn({"a": unknown}, 120))


def test_bar_says_that_the_vendor_is_unavailable() -> None:
    """In an outage there is no end, but how long it lasts and what the last failure was."""
    failing = msgspec.structs.replace(HALFWAY, cause="answered 503")
    assert progress_text(failing).endswith("last call failed: answered 503")
    out = msgspec.structs.replace(HALFWAY, eta=None, waiting=125.0)
    refused = msgspec.structs.replace(out, cause="could not connect to 127.0.0.1:9: refused\n")
    assert progress_text(refused).endswith(
        "unavailable for 2 min 5 s: could not connect to 127.0.0.1:9: refused"
    )
    endless = msgspec.structs.replace(out, cause="x" * 1000)
    assert progress_text(endless).endswith(f": {'x' * 117}...")
    shown = drawn({"a": out}, 80)
    assert "waiting" in shown
    assert "vendor unavailable for 2 min 5 s" in shown
    assert "vendor unavailable for 2 min 5 s" in progress_text(out)


def test_bar_wraps_a_long_cause_on_a_narrow_terminal() -> None:
    """On 60 columns the cause of an outage is readable to its end, and so is a name of 16 cells."""
    cause = "could not connect to api.intouchinsight.com:443: Connection refused"
    out = msgspec.structs.replace(
        HALFWAY, done=151, total=500, remaining=349, eta=None, waiting=125.0, cause=cause
    )
    lines = drawn({"intouch.contacts": out}, 60).splitlines()
    assert lines[0].startswith("intouch.contacts ━")
    assert max(map(len, lines)) <= 60
    assert " ".join(line.strip() for line in lines[1:]).endswith(f"for 2 min 5 s: {cause}")


@pytest.mark.parametrize("bars", [True, False])
async def test_failure_of_a_job_is_shown_while_others_run(
    bars: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job that fails states the reason at once, not only at the end of all; a job that is alone does not."""
    console = Console(file=io.StringIO(), force_terminal=True, width=80) if bars else None

    async def fail() -> None:
        raise StateError("the state belongs to another job")

    with ProgressDisplay(console=console) as display:
        display.job("a")(HALFWAY)
        for others in ([], ["b", "c"]):
            for name in others:
                display.job(name)
            with pytest.raises(StateError):
                await display.showing_failure(others[0] if others else "a", fail())
            shown = plain(display, 80) if bars else ""
            shown += capsys.readouterr().err
            assert ("the state belongs to another job" in shown) is bool(others)
            assert ("failed" in shown.replace("2 failed", "")) is bool(others)


def test_bar_says_that_the_vendor_paused_it() -> None:
    """After a 429 the bar names the vendor's pause, not the quota."""
    paused = msgspec.structs.replace(HALFWAY, limited_by_quota=False, paused=2.3)
    for text in (drawn({"a": paused}, 80), progress_text(paused)):
        assert text.endswith("2 failed, 1 unknown, paused by the vendor for 3 s (429 or 503)")


def test_bar_names_the_operator_who_paused_it() -> None:
    """A pause of an operator is not taken for one of the vendor."""
    paused = msgspec.structs.replace(HALFWAY, limited_by_quota=False, paused=590.1, paused_by="ann")
    for text in (drawn({"a": paused}, 80), progress_text(paused)):
        assert text.endswith("2 failed, 1 unknown, paused by ann for 9 min 51 s")


def test_bar_has_no_colour_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """`NO_COLOR` draws the same bars without colours."""
    for variable, has_colour in (("", True), ("1", False)):
        monkeypatch.setenv("NO_COLOR", variable)
        file = io.StringIO()
        console = Console(file=file, force_terminal=True, width=80, color_system="standard")
        with ProgressDisplay(console=console) as display:
            display.job("a")(HALFWAY)
        assert "104,997/200,000" in file.getvalue()
        assert ("\x1b[32m" in file.getvalue()) is has_colour


def test_bar_leaves_the_cursor_visible() -> None:
    """A process that is killed leaves a terminal that shows its cursor."""
    file = io.StringIO()
    with ProgressDisplay(console=Console(file=file, force_terminal=True, width=80)) as display:
        display.job("a")(HALFWAY)
        drawn_so_far = file.getvalue()
    assert drawn_so_far.rindex("\x1b[?25h") > drawn_so_far.rindex("\x1b[?25l")


def test_terminal_that_is_gone_does_not_end_a_job() -> None:
    """An error of the terminal ends the drawing, quietly."""

    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(5, "Input/output error")

    stderr = sys.stderr
    console = Console(file=Gone(), force_terminal=True, width=80)
    with ProgressDisplay(console=console) as display:
        show = display.job("a")
        show(HALFWAY)
        show(HALFWAY)
    assert sys.stderr is stderr


def test_pipe_that_is_closed_does_not_end_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the reader of the lines has gone, further lines are dropped."""
    reading, writing = os.pipe()
    os.close(reading)
    clock = Clock()
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with ProgressDisplay(clock=clock) as display:
            show = display.job("a")
            for clock.now in (6.0, 12.0):
                show(HALFWAY)


@pytest.mark.parametrize(("jobs", "days"), [(1, 365), (5, 30), (60, 30)])
def test_lines_become_rare_and_never_exceed_two_hundred(
    jobs: int, days: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a terminal: a line after five seconds, at most 200 in all, however long it takes."""
    clock, said = Clock(), 0
    with ProgressDisplay(clock=clock) as display:
        shows = [display.job(f"job {number}") for number in range(jobs)]
        while clock.now < days * 86_400:
            clock.now += max(1.0, clock.now / 100)
            for show in shows:
                show(HALFWAY)
            if clock.now == 4.0:
                assert capsys.readouterr().err == ""
            if clock.now == 6.0:
                assert capsys.readouterr().err.count("\n") == jobs
                said = jobs
    said += capsys.readouterr().err.count("\n")
    assert min(jobs * 10, 200) <= said <= 200


def test_line_has_all_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """A line names the job, its counts, rate, end and what limits it; no line if quiet."""
    for quiet in (False, True):
        clock = Clock()
        with ProgressDisplay(clock=clock, quiet=quiet) as display:
            show = display.job("intouch.contacts")
            clock.now = 6.0
            show(HALFWAY)
        assert capsys.readouterr().err == (
            ""
            if quiet
            else (
                "intouch.contacts: 104,997 of 200,000 done, 12.5/s, 2 h 7 min left, 2 failed, "
                "1 unknown, limited by quota\n"
            )
        )


def test_display_without_bars_prints_lines_on_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A worker prints lines, because it may have any number of jobs."""
    clock, file = Clock(), io.StringIO()
    console = Console(file=file, force_terminal=True, width=80)
    with ProgressDisplay(bars=False, console=console, clock=clock) as display:
        show = display.job("a")
        clock.now = 6.0
        show(HALFWAY)
    assert capsys.readouterr().err.startswith("a: 104,997 of 200,000 done")
    assert file.getvalue() == ""


def test_duration_is_short() -> None:
    """Seconds are left out from ten minutes on, and minutes are not."""
    seconds = (0.4, 59.6, 65, 599, 600, 3599, 3600, 90_000)
    shown = ["0 s", "1 min 0 s", "1 min 5 s", "9 min 59 s", "10 min", "59 min", "1 h 0 min"]
    assert [duration(each) for each in seconds] == [*shown, "25 h 0 min"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_say_prints_text_that_the_stream_cannot_encode(encoding: str) -> None:
    """Characters that a stream lacks, and bytes of a file name, are escaped."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    say("naïve\udcff 漢", stream)
    assert raw.getvalue().decode(encoding).startswith("na")
    assert b"\\udcff" in raw.getvalue()


# --- The command in a process of its own ------------------------------------------------------


@posix
@pytest.mark.parametrize("columns", [60, 100])
async def test_push_draws_one_bar_on_a_terminal(
    sandbox: Sandbox, tmp_path: Path, columns: int
) -> None:
    """On a pseudo-terminal, `push` redraws its bar in place and prints the report to a pipe."""
    (tmp_path / "x.csv").write_text("name\n" + "".join(f"tag {n}\n" for n in range(8)))
    ours, theirs = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "asyncclients", "push", "intouch.tags", "x.csv"),
        cwd=tmp_path,
        env={**os.environ, **sandbox.environ, "TERM": "xterm", "COLUMNS": str(columns)},
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    reading = asyncio.create_task(asyncio.to_thread(_read_all, ours))
    out, _ = await process.communicate()
    shown = (await reading).decode()
    assert process.returncode == 0, shown
    assert out.startswith(b"8 done, 0 failed")
    assert "intouch.tags" in shown
    assert "8/8" in shown
    assert "limited by quota" in shown
    assert "#" not in shown
    assert shown.count("\n") < 12
    assert "Traceback" not in shown


def _read_all(terminal: int) -> bytes:
    parts: list[bytes] = []
    while True:
        try:
            part = os.read(terminal, 65_536)
        except OSError:  # the other side is closed
            part = b""
        if not part:
            os.close(terminal)
            return b"".join(parts)
        parts.append(part)


async def test_push_prints_any_file_name_in_any_locale(sandbox: Sandbox, tmp_path: Path) -> None:
    """Neither a name that is not UTF-8 nor a locale without UTF-8 ends a job."""
    path = os.fsencode(tmp_path) + b"/caf\xe9.csv"
    with open(path, "w") as file:  # noqa: ASYNC230, PTH123 - a name in bytes
        file.write("email\na@example.com\nnobody\n")
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for command in (("push", "intouch.contacts", path), ("status", path + b".state")):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "asyncclients", *command),
            env={**os.environ, **sandbox.environ, **locale},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == 3, err
        assert b"1 done, 1 failed" in out.replace(b" of 2", b"")
        assert b"caf\\udce9.csv.state.failed.jsonl" in out


async def test_quiet_prints_only_what_went_wrong(sandbox: Sandbox, tmp_path: Path) -> None:
    """`--quiet` prints nothing on success, for cron, and reports failed rows."""
    (tmp_path / "x.csv").write_text("email\na@example.com\n")
    (tmp_path / "y.csv").write_text("email\nnobody\n")
    (tmp_path / "jobs.toml").write_text('[jobs.z]\npull = "intouch.tags"\nto = "z.jsonl"\n')
    results: list[tuple[int | None, bytes]] = []
    for command in (
        ["push", "intouch.contacts", "x.csv"],
        ["pull", "intouch.tags", "--to", "tags.jsonl"],
        ["run", "jobs.toml"],
        ["push", "intouch.contacts", "y.csv"],
    ):
        environ = {**os.environ, **sandbox.environ}
        process = await start(*command, "--quiet", environ=environ, directory=tmp_path)
        out, err = await process.communicate()
        results.append((process.returncode, out + err))
    assert results[:3] == [(0, b"")] * 3
    code, out = results[3]
    assert (code, out.startswith(b"0 done, 1 failed")) == (3, True)


def test_json_is_valid_on_any_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that is not UTF-8, or a path that is not, gets JSON with escapes."""
    for encoding, path in (("ascii", "naïve 漢"), ("utf-8", "caf\udce9")):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        show(Report(failures=path), as_json=True, describe=str)
        assert json.loads(raw.getvalue())["failures"] == path
