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


class Fence(NamedTuple):
    """A fenced block of a page: its language, or an empty text, and its content."""

    language: str
    text: str


def fences(page: Path) -> list[Fence]:
    """Return the fenced blocks of *page*, in order."""
    return [Fence(found["language"], found["text"]) for found in _FENCE.finditer(page.read_text())]


def commands(page: Path) -> list[list[str]]:
    """Return the arguments of each `asyncclients` command in a block or in the text of *page*."""
    lines: list[str] = []
    for fence in fences(page):
        if fence.language in {"sh", "ini"}:
            lines += fence.text.replace("\\\n", " ").splitlines()
    lines += [text.replace("\n", " ") for text in _INLINE.findall(_FENCE.sub("", page.read_text()))]
    found = (_COMMAND.search(line) for line in lines if not line.startswith("#"))
    return [_arguments(match[1]) for match in found if match]


def _arguments(text: str) -> list[str]:
    """Return the words of a command, up to a pipe or another command."""
    words = shlex.split(text, comments=True)
    return words[: min((words.index(end) for end in ("|", "&&") if end in words), default=None)]
