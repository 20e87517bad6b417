"""The tutorial's commands work in a shell, with fewer rows than on the page."""

from __future__ import annotations

import asyncio
import csv
import os
import re
import signal
import sys
import venv
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path

import pytest

from asyncclients.backfill import read_status
from asyncclients.errors import StateError

from .pages import ROOT

ROWS = 8
_SH = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the page is for a POSIX shell")


def commands() -> list[str]:
    """Return the shell blocks of the page, in order."""
    page = (ROOT / "docs" / "tutorial.md").read_text()
    return [block.replace("seq 60", f"seq {ROWS}") for block in _SH.findall(page)]


async def start(command: str, where: Path) -> Process:
    """Start *command* in a shell with the variables of the second terminal."""
    have = "[ -e sandbox.env ] && source sandbox.env\n"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return await asyncio.create_subprocess_exec(
        *("bash", "-c", have + command),
        cwd=where,
        env={"PATH": path},
        stdout=PIPE,
        stderr=PIPE,
        start_new_session=True,
    )


async def finish(command: str, where: Path) -> tuple[int | None, str]:
    """Run *command* and return its exit code and its output."""
    process = await start(command, where)
    out, err = await process.communicate()
    return process.returncode, f"{out.decode()}{err.decode()}"


async def wait_until(condition: Callable[[], bool]) -> None:
    """Poll *condition*, because a process has no event to wait for."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.02)


def has_text(file: Path, text: str) -> bool:
    """Return whether *file* exists and contains *text*."""
    return file.exists() and text in file.read_text()


def done(state: Path) -> int:
    """Return the number of rows that the job of *state* has done."""
    try:
        return read_status(state).done
    except (StateError, OSError):
        return 0  # not there yet


@pytest.mark.timeout(60)
async def test_tutorial_commands_push_every_row_once(tmp_path: Path) -> None:
    """An interrupted and repeated push sends every person once, and the pull has all of them."""
    # tests/docs/test_shell.py runs the first block, which installs the program.
    _, sandbox, people, push, status, push_again, pull = commands()
    venv.create(tmp_path / ".venv")
    state = tmp_path / "people.csv.state"
    vendors = await start(sandbox, tmp_path)
    try:
        await wait_until(lambda: has_text(tmp_path / "sandbox.env", "DIGITAL_ONBOARDING_BASE_URL"))
        assert await finish(people, tmp_path) == (0, "")

        pushing = await start(push, tmp_path)
        await wait_until(lambda: done(state) >= 2)
        os.killpg(pushing.pid, signal.SIGINT)
        _, messages = await pushing.communicate()
        assert (pushing.returncode, b"the state is saved" in messages) == (130, True)
        assert done(state) < ROWS

        assert push_again == push
        assert "not complete" in (await finish(status, tmp_path))[1]
        code, output = await finish(push_again, tmp_path)
        assert (code, output.startswith(f"{ROWS} done, 0 failed, 0 unknown")) == (0, True), output
        assert (await finish(pull, tmp_path))[0] == 0
    finally:
        os.killpg(vendors.pid, signal.SIGINT)
        await vendors.communicate()

    with (tmp_path / "contacts.csv").open(newline="") as file:
        emails = sorted(row["email"] for row in csv.DictReader(file))
    assert emails == [f"user{number}@example.com" for number in range(1, ROWS + 1)]
