"""The commands and options on the pages exist, and the commands work."""

from __future__ import annotations

import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from cyclopts import CycloptsError, MissingArgumentError

from asyncclients.cli import app
from asyncclients.sandbox import Sandbox
from asyncclients.vendors.totango import NewTouchpoint

from .commands import commands, fences
from .pages import ROOT, name_of, pages

# The pages of benchmarks have options of scripts, the changelog parts of commands.
_PAGES = [page for page in pages() if name_of(page).startswith(("docs/", "README"))]
_OPTION = re.compile(r"`(--[a-z][a-z-]*)")
_OF_OTHER_PROGRAMS = {"--stop-timeout", "--sockets"}


def check(arguments: list[str]) -> None:
    """Raise unless *arguments* are a command, or the bare name of one."""
    try:
        app.parse_args(arguments, exit_on_error=False, print_error=False)
    except MissingArgumentError:
        if len(arguments) > 1:
            raise


@pytest.mark.parametrize("page", [p for p in _PAGES if commands(p)], ids=name_of)
def test_page_commands_exist(page: Path) -> None:
    """Each command of a page exists, with its options and arguments."""
    for arguments in commands(page):
        check(arguments)


_RUN = (
    "README.md",
    "docs/command-line.md",
    "docs/json-output.md",
    "docs/keep-a-copy.md",
    "docs/keep-a-vendor.md",
    "docs/limits.md",
    "docs/production.md",
)
"""The other pages have no command, or, as the tutorial and that of engines, a test of their own."""


def _is_local(argument: str) -> bool:
    return "://" not in argument and not argument.startswith("/")


@pytest.mark.virtual_time
@pytest.mark.parametrize("page", [ROOT / name for name in _RUN], ids=name_of)
async def test_page_commands_run(
    page: Path,
    sandbox: Sandbox,
    clients: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The commands of a page, run in order in one directory, end with 0 against mock vendors."""
    monkeypatch.chdir(tmp_path)
    sandbox.state("intouch").grow(contacts=3, tags=3)
    old = await clients["totango"].touchpoints.create(NewTouchpoint(account_id="0042", content="x"))
    for name, text in {
        "notes.csv": "account,text\n0001,Hello\n",
        "contacts.csv": "email,first_name\na@example.com,Ann\n",
        "people.csv": "email,first_name\nb@example.com,Bob\n",
        "sales.csv": "book,price\nIt,5\n",
        "old.csv": f"note_id\n{old.note_id}\n",
        "jobs.toml": "".join(f.text for f in fences(page) if f.language == "toml"),
    }.items():
        (tmp_path / name).write_text(text)
    codes = {
        shlex.join(arguments): await _run(arguments)
        for arguments in commands(page)
        if len(arguments) > 1 and all(map(_is_local, arguments))
    }
    assert codes
    assert {command: code for command, code in codes.items() if code != 0} == {}


async def _run(arguments: list[str]) -> int:
    """Run a command as `asyncclients.cli.run` does, but in the running loop."""
    command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    result: Any = command(*bound.args, **bound.kwargs)
    code: int = await result if inspect.iscoroutine(result) else result
    return code


def test_page_commands_are_found(tmp_path: Path) -> None:
    """Commands are found in blocks and in the text; a wrong option is reported."""
    page = tmp_path / "page.md"
    page.write_text(
        "Run `asyncclients status`.\n\n```{image} a.svg\n```\n\n```sh\n$ /opt/bin/asyncclients push a.b \\\n"
        "  c.csv --wrong | jq .  # text\n```\n"
    )
    assert commands(page) == [["push", "a.b", "c.csv", "--wrong"], ["status"]]
    assert [fence.language for fence in fences(page)] == ["{image}", "sh"]
    check(["status"])
    with pytest.raises(CycloptsError, match="--wrong"):
        check(["push", "a.b", "c.csv", "--wrong"])


def _options(command: str) -> set[str]:
    """Return the options of *command* and of its subcommands, with two dashes."""
    found = app[command]
    subcommands = [found[name] for name in found if not name.startswith("-")] or [found]
    names = (
        argument.names for each in subcommands for argument in each.assemble_argument_collection()
    )
    return {name for each in names for name in each if name.startswith("--")}


def test_page_options_exist() -> None:
    """Each option that the text of a page names belongs to a command."""
    known = {"--help", "--version", "--install-completion", *_OF_OTHER_PROGRAMS}
    known.update(*(_options(name) for name in app if not name.startswith("-")))
    named = {
        option: name_of(page) for page in _PAGES for option in _OPTION.findall(page.read_text())
    }
    assert {option: page for option, page in named.items() if option not in known} == {}


@pytest.mark.parametrize("command", ["pull", "push", "sync", "status", "run", "worker", "limits"])
def test_page_options_are_complete(command: str) -> None:
    """Each option of a command for daily use is on a page."""
    text = "".join(page.read_text() for page in _PAGES)
    assert {option for option in _options(command) if option not in text} == set()
