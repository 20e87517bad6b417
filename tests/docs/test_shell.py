"""Every command on the pages is run in a shell.

The commands of a page run in order in one folder, against the sandbox and a real Valkey. Those
that install something or need a checkout run in a copy of it, with the marker `checkout`: the
sessions `docs` and `benchmarks` of nox run them. A command that is added to a page is run without
a change here; one that cannot run needs a line in `_INSTEAD`.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
import venv
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from asyncclients import IntouchClient, SessionPool, TotangoClient
from asyncclients.sandbox import Sandbox
from asyncclients.stores import RedisLimits
from asyncclients.vendors.totango import NewTouchpoint
from tests.support.valkey_server import Server

from .commands import fences, inline_commands, shell_blocks
from .pages import ROOT, name_of, pages

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="the commands are for a POSIX shell"
)

_BY_ANOTHER_TEST = {
    "docs/engines.md": "test_engines.py",
    "docs/tutorial.md": "test_tutorial.py",
}
"""Pages whose commands run at the same time in two terminals, and the tests that run them."""
_INSTEAD = {
    # The README's test command is the first line of .ci/run, which reads it from the page.
    "python3 -m venv .venv && .venv/bin/pip install -q 'nox>=2026.4' && .venv/bin/nox": (
        "python3 -m venv .venv && .venv/bin/pip install -q 'nox>=2026.4' && .venv/bin/nox --list"
    ),
    # docs/record_terminal.py runs the demo in full, docs/record_monitor.py with its live page.
    "python3 -m venv .venv && .venv/bin/pip install -q -e '.[cli]' && .venv/bin/asyncclients demo": (
        "python3 -m venv .venv && .venv/bin/pip install -q -e '.[cli]'"
        " && .venv/bin/asyncclients demo --fast"
    ),
    "asyncclients demo --web": "",
    # test_examples.py runs this one, and test_tutorial.py the other.
    "asyncclients limits pause intouch": "",
    "asyncclients sandbox | tee sandbox.env": "",
    # The sessions of nox run all tests and the recordings.
    ".venv/bin/pytest": ".venv/bin/pytest --collect-only -q",
    ".venv/bin/nox": ".venv/bin/nox --list",
    ".venv/bin/nox -s lint typing": ".venv/bin/nox --list -s lint typing",
    ".venv/bin/nox -s sweep": ".venv/bin/nox --list -s sweep",
    ".venv/bin/nox -s check": ".venv/bin/nox --list -s check",
    ".venv/bin/python docs/record_terminal.py": ".venv/bin/python docs/record_terminal.py --help",
    ".venv/bin/python docs/record_monitor.py": ".venv/bin/python docs/record_monitor.py --help",
    # These take minutes even with --quick; the last one needs valgrind.
    "python benchmarks/shared.py --json benchmarks/results/shared.json": (
        "python benchmarks/shared.py store --json benchmarks/results/shared.json"
    ),
    "python benchmarks/shared.py fleet kill": "python benchmarks/shared.py kill",
    "python benchmarks/overhead.py --instructions --calls 300 "
    "--json benchmarks/results/instructions.json": "",
    "pytest -m sweep tests/stores/test_processes.py": (
        "pytest -m sweep tests/stores/test_processes.py --collect-only -q"
    ),
    # These need a container engine with a registry, and a release on GitHub. test_production.py
    # builds the package from the files that the Containerfile copies, and checks its commands.
    "docker build -f docker/Containerfile -t asyncclients .": "",
    "docker run --rm --stop-timeout 60 -v ./data:/data -v ./secrets:/run/secrets:ro "
    "-e INTOUCH_API_KEY_FILE=/run/secrets/intouch -e ASYNCCLIENTS_LIMITS=/data/limits.db "
    "asyncclients run /data/jobs.toml --quiet": "",
    "gh attestation verify asyncclients-1.2.0-py3-none-any.whl --repo asyncclients/asyncclients": "",
}
"""The replacement of a command that takes hours or cannot run here; "" for none."""
_CHECKOUT = re.compile(r"(\.venv/bin/|pip |pytest |python3? )")
"""Beginnings of commands that need a checkout or install something."""
_BENCHMARK = re.compile(r"python benchmarks/(?!page)\w+\.py\b")
_FROM_PYPI = re.compile(r"(?<=pip install )'?asyncclients(?P<extras>[\[\w,\]]*)'?")
_PLACEHOLDER = re.compile(r" [A-Z]{3,}\b")
_REDIS = re.compile(r"redis://[\w:]+")
_BEFORE = {"docs/production.md": [["asyncclients run jobs.toml"]]}
"""Blocks that run before those of a page: there the timer has started the jobs."""
_JQ = """\
#!{python}
import json, sys
print(json.load(sys.stdin)[sys.argv[1].removeprefix(".")])
"""


def blocks_of(page: Path, *, checkout: bool) -> list[list[str]]:
    """Return the commands of *page* by block: those that need a checkout, or all others.

    Commands in the text, unless bare names or with placeholders, are the last block of the others.
    """
    if name_of(page) in _BY_ANOTHER_TEST and not checkout:
        return []
    blocks = [block for block in shell_blocks(page) if any(map(_CHECKOUT.match, block)) is checkout]
    if not checkout and not name_of(page).startswith(("CHANGELOG", "benchmarks/")):
        inline = [text for text in inline_commands(page) if not _PLACEHOLDER.search(text)]
        blocks.append([text for text in inline if text.count(" ") > 1])
    blocks = [[_INSTEAD.get(command, command) for command in block] for block in blocks]
    return [block for block in blocks if any(block)]


_PAGES = [page for page in pages() if blocks_of(page, checkout=False)]
_OF_CHECKOUTS = [page for page in pages() if blocks_of(page, checkout=True)]


async def shell(block: Sequence[str], folder: Path, environ: Mapping[str, str]) -> str:
    """Run the commands of *block* in *folder* and return what they print.

    Raises:
        AssertionError: a command failed; the message has all output, with the commands.
    """
    program = "set -eux -o pipefail\n" + "\n".join(block)
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", program),
        cwd=folder,
        env=environ,
        stdout=PIPE,
        stderr=STDOUT,
        start_new_session=True,
    )
    try:
        output = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    assert process.returncode == 0, output
    return output


def environment(folder: Path, sandbox: Sandbox) -> dict[str, str]:
    """Return the variables of the shell: the programs of this interpreter, and the sandbox."""
    programs = folder / "programs"
    programs.mkdir()
    if shutil.which("jq") is None:
        (programs / "jq").write_text(_JQ.format(python=sys.executable))
        (programs / "jq").chmod(0o755)
    path = (str(programs), str(Path(sys.executable).parent), os.environ["PATH"])
    return {**os.environ, **sandbox.environ, "PATH": os.pathsep.join(path)}


# --- In a folder with files, against the sandbox ----------------------------------------------


@asynccontextmanager
async def processes(sandbox: Sandbox, store: RedisLimits) -> AsyncGenerator[None]:
    """Pools as of three processes that call Intouch and of two that call Totango."""
    async with AsyncExitStack() as stack:
        for number in range(3):
            pool = await stack.enter_async_context(SessionPool(limits=store))
            await IntouchClient.from_env(pool, sandbox.environ).tags.list().first()
            if number:
                await TotangoClient.from_env(pool, sandbox.environ).activity_types.list()
        yield


async def fill(folder: Path, page: Path, sandbox: Sandbox) -> None:
    """Write the files that the commands of *page* read, and their items at the vendors."""
    sandbox.state("intouch").grow(contacts=3, tags=3)
    async with SessionPool() as pool:
        totango = TotangoClient.from_env(pool, sandbox.environ)
        old = await totango.touchpoints.create(NewTouchpoint(account_id="0042", content="x"))
    jobs = "".join(fence.text for fence in fences(page) if fence.language == "toml")
    for name, text in {
        "contacts.csv": "email,first_name\na@example.com,Ann\n",
        "jobs.toml": jobs,
        "notes.csv": "account,text\n0001,Hello\n",
        "old.csv": f"note_id\n{old.note_id}\n",
        "people.csv": "email,first_name\nb@example.com,Bob\n",
        "sales.csv": "book,price\nIt,5\n",
    }.items():
        (folder / name).write_text(text)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("page", _PAGES, ids=name_of)
async def test_page_commands_run(page: Path, tmp_path: Path) -> None:
    """The commands of a page, run in order in one folder, all succeed, and print what it shows."""
    blocks = blocks_of(page, checkout=False)
    output = ""
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(Sandbox())
        environ = environment(tmp_path, sandbox)
        await fill(tmp_path, page, sandbox)
        if "redis://" in str(blocks):
            url = stack.enter_context(Server()).url
            await stack.enter_async_context(processes(sandbox, RedisLimits(url)))
            environ["ASYNCCLIENTS_LIMITS"] = url  # as the first block exports it
            blocks = [[_REDIS.sub(url, command) for command in block] for block in blocks]
        for block in [*_BEFORE.get(name_of(page), []), *blocks]:
            output += await shell(block, tmp_path, environ)
    printed = [pattern_of(line) for line in output.splitlines()]
    texts = [text for language, text in fences(page) if language == "text"]
    shown = "".join(text for text in texts if not text.startswith("# /"))  # that is a file
    assert [line for line in shown.splitlines() if pattern_of(line) not in printed] == [], output


def pattern_of(line: str) -> str:
    """Return *line* with everything that differs from run to run as one character."""
    return re.sub(r"\b[\da-f]{8}\b|\d+|(?<= by )\S+", "0", line)


# --- In a copy of the checkout -----------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of the checkout, without what is built and installed in it."""
    no_copy = shutil.ignore_patterns(".git", ".nox", ".venv", "_build", "__pycache__", ".*_cache")
    return Path(shutil.copytree(ROOT, tmp_path / "asyncclients", ignore=no_copy))


@pytest.mark.checkout
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", _OF_CHECKOUTS, ids=name_of)
async def test_page_commands_run_in_a_checkout(page: Path, checkout: Path) -> None:
    """Installs, checks and benchmarks of a page succeed, and generated pages stay as they are.

    A benchmark runs with `--quick`, and what will be on PyPI is the wheel of this checkout.
    """
    blocks = blocks_of(page, checkout=True)
    before = pages_in(checkout)
    path = [str(Path(sys.executable).parent), os.environ["PATH"]]
    environ = {**os.environ, "PATH": os.pathsep.join(path)}
    if "pip install" in str(blocks):
        venv.create(checkout / "active", with_pip=True)
        environ["PATH"] = os.pathsep.join([str(checkout / "active" / "bin"), *path])
        environ.pop("PYTHONPATH", None)  # use the installed package
        await shell(["pip wheel -q --no-deps --wheel-dir dist ."], checkout, environ)
    wheel = "".join(map(str, checkout.glob("dist/*.whl")))
    for block in blocks:
        # The figures of a quick run do not replace those of the pages.
        commands = [command.replace(" benchmarks/results/", " ") for command in block]
        commands = [_BENCHMARK.sub(r"\g<0> --quick", command) for command in commands]
        commands = [_FROM_PYPI.sub(rf"'{wheel}\g<extras>'", command) for command in commands]
        await shell(commands, checkout, environ)
    assert [name for name, text in pages_in(checkout).items() if before[name] != text] == []


def pages_in(checkout: Path) -> dict[str, bytes]:
    """Return the pages and drawings of the documentation in *checkout*."""
    return {
        str(path): path.read_bytes()
        for pattern in ("*.md", "*.svg")
        for path in (checkout / "docs").rglob(pattern)
    }


# --- The table --------------------------------------------------------------------------------


def test_table_of_commands_is_not_outdated() -> None:
    """Each command of the table is on a page, and each page of another test has commands."""
    known = {
        text
        for page in pages()
        for text in (*inline_commands(page), *(line for b in shell_blocks(page) for line in b))
    }
    assert set(_INSTEAD) - known == set()
    for page, test in _BY_ANOTHER_TEST.items():
        assert shell_blocks(ROOT / page)
        assert f'"{Path(page).name}"' in (ROOT / "tests" / "docs" / test).read_text()


def test_blocks_without_a_language_have_no_commands() -> None:
    """A command is in a block for a shell, so that it is run."""
    program = re.compile(r"(\$ )?(asyncclients|docker|gh|nox|pip|pytest|python3?|\.venv/\S+) ")
    found = {
        name_of(page): line
        for page in pages()
        for language, text in fences(page)
        if language in {"", "text"}
        for line in text.splitlines()
        if program.match(line)
    }
    assert found == {}


async def test_failing_command_is_named(tmp_path: Path) -> None:
    """A command that fails, also inside of a pipe, ends its block, with all output."""
    with pytest.raises(AssertionError, match=r"\+ ls missing") as error:
        await shell(["echo first", "ls missing | cat", "echo never"], tmp_path, os.environ)
    assert "first" in str(error.value)
    assert "never" not in str(error.value)
