"""The units, the cron line, the image and the advice of the page about production."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping, Sequence
from pathlib import Path
from zipfile import ZipFile

import pytest

from asyncclients.backfill import push
from asyncclients.cli import INTERRUPTED, PARTLY, USAGE
from asyncclients.sandbox import Sandbox

from .commands import commands, fences
from .pages import ROOT
from .test_commands import check

PAGE = ROOT / "docs" / "production.md"
FILES = {
    match[1]: fence.text
    for fence in fences(PAGE)
    if (match := re.match(r"# /etc/\S+/(\S+)\n", fence.text))
}
SERVICE = FILES["asyncclients.service"]
_SYSTEMD = shutil.which("systemd-analyze")
_PROGRAM = "/opt/asyncclients/bin/asyncclients"


def settings(unit: str, name: str) -> list[str]:
    """Return the values of the setting *name* in *unit*."""
    return re.findall(rf"^{name}=(.*)$", unit, re.MULTILINE)


async def run(arguments: Sequence[str], environ: Mapping[str, str], folder: Path) -> int | None:
    """Run `asyncclients` in *folder* and return its exit code."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "asyncclients", *arguments),
        cwd=folder,
        env={**os.environ, **environ},
        stdout=DEVNULL,
        stderr=PIPE,
    )
    _, errors = await process.communicate()
    assert errors == b""
    return process.returncode


@pytest.mark.skipif(_SYSTEMD is None, reason="systemd is not installed")
async def test_production_units_are_valid(tmp_path: Path) -> None:
    """Systemd accepts the service and the timer without a warning."""
    for name in ("asyncclients.service", "asyncclients.timer"):
        (tmp_path / name).write_text(FILES[name].replace(_PROGRAM, sys.executable))
    assert _SYSTEMD is not None
    process = await asyncio.create_subprocess_exec(
        *(_SYSTEMD, "verify", *map(str, tmp_path.glob("asyncclients.*"))), stderr=PIPE
    )
    _, warnings = await process.communicate()
    own = [line for line in warnings.decode().splitlines() if "asyncclients" in line]
    assert (process.returncode, own) == (0, [])


@pytest.mark.parametrize("timer", ["systemd", "cron"])
async def test_production_command_runs_its_jobs(timer: str, tmp_path: Path) -> None:
    """The command of the service and the one of cron, with their variables, run the jobs, twice."""
    (jobs,) = (fence.text for fence in fences(PAGE) if fence.language == "toml")
    (tmp_path / "jobs.toml").write_text(jobs)
    (tmp_path / "people.csv").write_text("email,first_name\na@example.com,Ann\n")
    folders = {"%d": tmp_path, "/etc/asyncclients": tmp_path, "/var/lib/asyncclients": tmp_path}
    if timer == "systemd":
        command, variables = settings(SERVICE, "ExecStart")[0], settings(SERVICE, "Environment")
    else:
        *variables, line = FILES["asyncclients"].splitlines()[1:]
        command = line.split(maxsplit=6)[6]
    program, *arguments = shlex.split(_in(folders, command))
    assert program == _PROGRAM
    async with Sandbox() as sandbox:
        (tmp_path / "intouch").write_text(sandbox.environ["INTOUCH_API_KEY"] + "\n")
        environ = {"INTOUCH_BASE_URL": sandbox.environ["INTOUCH_BASE_URL"]}
        environ |= dict(_in(folders, variable).split("=", 1) for variable in variables)
        assert await run(arguments, environ, tmp_path) == 0
        assert await run(arguments, environ, tmp_path) == 0
        created = [r for r in sandbox.requests("intouch") if r.method == "POST"]
    assert len(created) == 1
    assert {"contacts.csv", "people.csv.state", "limits.db"} <= {f.name for f in tmp_path.iterdir()}


def _in(folders: Mapping[str, Path], text: str) -> str:
    """Return *text* with the paths of *folders* in place of those of the page."""
    for name, folder in folders.items():
        text = text.replace(name, str(folder))
    return text


def test_production_service_knows_the_exit_codes() -> None:
    """The service is not restarted after the codes that a person has to handle."""
    assert settings(SERVICE, "SuccessExitStatus") == [str(INTERRUPTED)]
    assert settings(SERVICE, "RestartPreventExitStatus") == [f"{USAGE} {PARTLY}"]


def test_production_cron_line_runs_the_command_of_the_service() -> None:
    """The cron line has five fields of time, a user, and the command of the service."""
    lines = FILES["asyncclients"].splitlines()[1:]
    *variables, line = lines
    assert all(re.fullmatch(r"[A-Z_]+=\S+", variable) for variable in variables)
    *times, user, program, command, jobs, option = line.split()
    assert times == ["0", "2", "*", "*", "*"]
    assert (user, program, command, option) == ("backfill", _PROGRAM, "run", "--quiet")
    assert jobs == "/var/lib/asyncclients/jobs.toml"
    assert [command, "jobs.toml", option] in commands(PAGE)


def test_production_image_copies_what_exists_and_runs_a_worker() -> None:
    """The image copies existing files, installs existing extras, and runs a command that exists."""
    text = (ROOT / "docker" / "Containerfile").read_text()
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE)
    assert [name for line in copied for name in line.split() if not (ROOT / name).exists()] == []
    (extras,) = re.findall(r'"\.\[(.*)\]"', text)
    project = (ROOT / "pyproject.toml").read_text()
    assert [name for name in extras.split(",") if f"\n{name} = [" not in project] == []
    program, *arguments = [
        word
        for kind in ("ENTRYPOINT", "CMD")
        for word in ast.literal_eval(re.findall(rf"^{kind} (.*)$", text, re.MULTILINE)[0])
    ]
    assert program == "asyncclients"
    check(arguments)
    assert re.findall(r"--uid (\d+)", text) == re.findall(r"has the number (\d+)", PAGE.read_text())


@pytest.mark.checkout
@pytest.mark.timeout(300)
def test_production_image_is_built_from_what_it_copies(tmp_path: Path) -> None:
    """The files that the Containerfile copies, and no others, are enough to build the package."""
    text = (ROOT / "docker" / "Containerfile").read_text()
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        for name in line.split():
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            copy(ROOT / name, tmp_path / name)
    command = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", "dist", ".")
    subprocess.run(command, cwd=tmp_path, check=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = ZipFile(wheel).namelist()
    assert {"asyncclients/cli/__init__.py", "asyncclients/stores/quota_log.lua"} <= {*names}
    assert any(name.startswith("asyncclients/cli/data/") for name in names)


def test_production_log_lines_are_logged() -> None:
    """Each text of the table of log lines is a part of a log message."""
    _, _, table = PAGE.read_text().partition("| line contains | meaning |")
    rows = table.partition("\n\n")[0].splitlines()[2:]
    texts = [text for row in rows for text in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    assert len(texts) == len(rows) + 1
    sources = [ast.parse(path.read_text()) for path in ROOT.glob("asyncclients/**/*.py")]
    logged = [
        node.value
        for source in sources
        for node in ast.walk(source)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value
    ]
    assert [text for text in texts if not any(text in message for message in logged)] == []


async def test_production_backup_of_a_state(tmp_path: Path) -> None:
    """A restored state sends nothing again, but for the rows that were sent after the backup."""
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in range(6)))
    backup = tmp_path / "backup"
    sent: list[int] = []

    async def send(row: Mapping[str, int]) -> None:
        sent.append(row["n"])

    async def work(limit: int | None = None) -> None:
        state = tmp_path / "rows.state"
        await push(tmp_path / "rows.jsonl", send, state=state, limit=limit, concurrency=1)

    def copy(source: Path, target: Path) -> None:
        target.mkdir(exist_ok=True)
        for path in source.glob("rows.state*"):
            shutil.copy(path, target)

    await work(limit=4)
    copy(tmp_path, backup)
    copy(backup, tmp_path)
    await work()
    assert sent == [0, 1, 2, 3, 4, 5]
    copy(backup, tmp_path)
    await work()
    assert sent == [0, 1, 2, 3, 4, 5, 4, 5]
