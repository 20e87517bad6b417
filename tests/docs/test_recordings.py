"""The recordings of terminals are those of the script, and show what the commands print today."""

from __future__ import annotations

import re
import subprocess
import sys
from html import unescape
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from asyncclients import IntouchClient, SessionPool
from asyncclients.backfill import Plan, Progress, Report, Status, push
from asyncclients.backfill.state.identity import JobIdentity, name_of
from asyncclients.cli import app
from asyncclients.cli.demo.scenario import open_scenario
from asyncclients.cli.demo.screen import closing, frame
from asyncclients.cli.output import result_text, status_text
from asyncclients.cli.progress import ProgressDisplay
from asyncclients.vendors.intouch import NewContact

from .pages import ROOT

STATIC = ROOT / "docs" / "_static"
NAMES = re.findall(
    r"^async def (\w+)\(terminal", (ROOT / "docs" / "record_terminal.py").read_text(), re.MULTILINE
)
_WORD = re.compile(r"[a-zA-Z]{3,}")


def screen(name: str) -> list[str]:
    """Return the lines of a recording."""
    drawing = (STATIC / f"terminal-{name}.svg").read_text()
    rows: dict[float, str] = {}
    for y, text in re.findall(r'<text [^>]* y="([\d.]+)"[^>]*>([^<]*)', drawing):
        rows[float(y)] = rows.get(float(y), "") + unescape(text).replace("\xa0", " ")
    return [row.rstrip() for _, row in sorted(rows.items())]


def test_every_recording_is_drawn() -> None:
    """Each recording of the script has a drawing, and no other drawing exists."""
    assert NAMES
    assert {path.stem for path in STATIC.glob("terminal-*.svg")} == {f"terminal-{n}" for n in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_recording_has_valid_commands(name: str) -> None:
    """Each command of a recording exists, and the drawing is small and refers to nothing else."""
    commands = [line[2:] for line in screen(name) if line.startswith("$ ")]
    assert commands
    for command in commands:
        program, *arguments = command.split()
        assert program == "asyncclients"
        app.parse_args(arguments, exit_on_error=False, print_error=False)
    drawing = (STATIC / f"terminal-{name}.svg").read_text()
    assert len(drawing) < 25_000
    assert "url(http" not in drawing
    assert "/tmp" not in drawing


def words(name: str) -> set[str]:
    """Return the words on a recording, also those that continue on the next line."""
    lines = screen(name)
    return {word for text in ("\n".join(lines), "".join(lines)) for word in _WORD.findall(text)}


async def test_recording_of_the_demo_has_its_words() -> None:
    """The words of a frame and of the closing table are on the recording of the demo."""
    async with open_scenario(fast=True) as scene:
        console = Console(width=80, force_terminal=True, color_system=None)
        with console.capture() as capture:
            console.print(frame(scene), closing(scene))
    missing = {*_WORD.findall(capture.get())} - {"none", "yet"} - words("demo")
    assert missing == set(), "run python docs/record_terminal.py demo"


def unfigured(text: str) -> str:
    """Return *text* without spaces, line breaks and bars, with 0 for each figure."""
    return re.sub(r"\d[\d,.]*", "0", re.sub(r"[\s━─]", "", text))


def bar(rows: int, total: int) -> str:
    """Return the bar of a job of the recordings."""
    remaining = total - rows
    progress = Progress(
        done=rows,
        failed=0,
        skipped=0,
        rate=2.0,
        quota_use=0.9,
        eta=20.0 if remaining else 0.0,
        total=total,
        remaining=remaining,
        limited_by_quota=remaining > 0,
    )
    console = Console(width=80, file=StringIO(), color_system=None)
    display = ProgressDisplay(quiet=True, console=console)
    display.job("intouch.contacts")(progress)
    with console.capture() as capture:
        console.print(display.bars(80))
    return capture.get()


async def dry_run(folder: Path, pool: SessionPool) -> Plan:
    """Return the plan of the recorded dry run."""
    csv = folder / "people.csv"
    people = "".join(f"person{n}@example.com,Person {n}\n" for n in range(59))
    csv.write_text(f"email,first_name\n{people},Bob\n")
    create = IntouchClient(pool, api_key="ii_key").contacts.create
    return await push(csv, create, row_type=NewContact, state=folder / "state", dry_run=True)


async def test_recordings_have_the_words_of_today(tmp_path: Path, pool: SessionPool) -> None:
    """Apart from its figures, each recording of a job shows what its commands print today."""
    target = name_of(IntouchClient(pool, api_key="ii_key").contacts.create)
    job = JobIdentity(kind="push", source="people.csv", target=target)
    status = status_text(Status(job=job, done=20, total=60, remaining=40))
    report = result_text(Report(quota_use=0.9))
    plan = result_text(await dry_run(tmp_path, pool))
    printed = {
        "pull": [bar(250, 500), bar(500, 500), report],
        "push": [bar(20, 60), "Killed", status, bar(60, 60), report],
        "dry_run": [plan],
    }
    assert printed.keys() == {*NAMES} - {"demo"}
    for name, texts in printed.items():
        shown = "".join(line for line in screen(name) if not line.startswith("$ "))
        assert unfigured(shown) == unfigured("".join(texts)), "run python docs/record_terminal.py"


def test_picture_of_the_page_is_kept_without_a_browser(tmp_path: Path) -> None:
    """Without Chromium the script of the page prints a note, draws nothing and succeeds."""
    command = [sys.executable, "docs/record_monitor.py", "--to", str(tmp_path)]
    environ = {"PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        command, check=False, cwd=ROOT, env=environ, capture_output=True, text=True
    )
    expected = "Chromium is not installed: the committed live-page.png is kept\n"
    assert (ran.returncode, ran.stderr) == (0, expected)
    assert [*tmp_path.iterdir()] == []
