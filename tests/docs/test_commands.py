"""The commands and options on the pages exist; `test_shell.py` runs the commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cyclopts import CycloptsError, MissingArgumentError

from asyncclients.cli import app

from .commands import commands, fences
from .pages import name_of, pages

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
