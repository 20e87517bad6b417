"""The commands on the pages."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

_FENCE = re.compile(
    r"^```(?P<language>[\w{}-]*)[^\n]*\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
_INLINE = re.compile(r"`(asyncclients [a-z][^`]*)`")
_COMMAND = re.compile(r"(?:^|[\s/])asyncclients ((?:[a-z]|--).*)")
_SHELL = ("bash", "console", "sh")


class Fence(NamedTuple):
    """A fenced block of a page: its language, or an empty text, and its content."""

    language: str
    text: str


def fences(page: Path) -> list[Fence]:
    """Return the fenced blocks of *page*, in order."""
    return [Fence(found["language"], found["text"]) for found in _FENCE.finditer(page.read_text())]


def shell_blocks(page: Path) -> list[list[str]]:
    """Return the commands of each block for a shell, without comments and prompts."""
    return [_lines(fence.text) for fence in fences(page) if fence.language in _SHELL]


def inline_commands(page: Path) -> list[str]:
    """Return the `asyncclients` commands in the text of *page*."""
    found = _INLINE.findall(_FENCE.sub("", page.read_text()))
    return [" ".join(text.split()) for text in found]


def commands(page: Path) -> list[list[str]]:
    """Return the arguments of each `asyncclients` command in a block or in the text of *page*."""
    lines = [line for block in shell_blocks(page) for line in block]
    for fence in fences(page):
        if fence.language == "ini":
            lines += _lines(fence.text)
    found = (_COMMAND.search(line) for line in [*lines, *inline_commands(page)])
    return [_arguments(match[1]) for match in found if match]


def _lines(text: str) -> list[str]:
    """Return the lines of a block that are not comments, with those that continue joined."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = (re.sub(r"^\$ |\s+# .*$", "", line) for line in joined.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _arguments(text: str) -> list[str]:
    """Return the words of a command, up to a pipe or another command."""
    words = shlex.split(text)
    return words[: min((words.index(end) for end in ("|", "&&") if end in words), default=None)]
