"""The commands and options on the pages exist."""

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
        "Run `asyncclients status`.\n\n```sh\n$ /opt/bin/asyncclients push a.b \\\n"
        "  c.csv --wrong | jq .  # text\n```\n"
    )
    assert commands(page) == [["push", "a.b", "c.csv", "--wrong"], ["status"]]
    assert [fence.language for fence in fences(page)] == ["sh"]
    check(["status"])
    with pytest.raises(CycloptsError, match="--wrong"):
        check(["push", "a.b", "c.csv", "--wrong"])


def test_page_options_exist() -> None:
    """Each option that the text of a page names belongs to a command."""
    known = {"--help", "--version", "--install-completion", *_OF_OTHER_PROGRAMS}
    for name in app:
        if not name.startswith("-"):
            known.update(*(argument.names for argument in app[name].assemble_argument_collection()))
    named = {
        option: name_of(page) for page in _PAGES for option in _OPTION.findall(page.read_text())
    }
    assert {option: page for option, page in named.items() if option not in known} == {}
