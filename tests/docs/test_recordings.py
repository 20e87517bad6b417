"""The recordings of terminals are those of the script, and show what the commands print today."""

from __future__ import annotations

import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
from rich.console import Console

from asyncclients.backfill import Plan, Report
from asyncclients.cli import app
from asyncclients.cli.demo.scenario import open_scenario
from asyncclients.cli.demo.screen import closing, frame
from asyncclients.cli.output import result_text

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
    assert {*_WORD.findall(capture.get())} - {"none", "yet"} <= words("demo")


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("pull", Report(quota_use=0.9)),
        ("push", Report(quota_use=0.9)),
        ("dry_run", Plan(rows=1, valid=1, requests=1, seconds=1.0)),
    ],
)
def test_recording_has_the_words_of_its_result(name: str, result: Report | Plan) -> None:
    """The words with which a command reports its result are on its recording."""
    assert {*_WORD.findall(result_text(result))} <= words(name)


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
