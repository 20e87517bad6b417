"""How much code one journey passes through: a tracer, and the journeys that the house test measures."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Self

import asyncclients
from asyncclients import IntouchClient, Quota, SessionPool
from asyncclients.backfill import push
from asyncclients.sandbox import Sandbox
from asyncclients.vendors.intouch import NewContact

ROOT = Path(asyncclients.__file__).parent
_LEFT_OUT = ("sandbox", "testing")
_QUOTA = (1000, 1.0)


@dataclass
class Walk:
    """The functions of the package that run inside `with`, sandbox and `testing` left out.

    Attributes:
        switches: entries into another file than the one entered before.
        path: the files in the order in which they are first entered, relative to the package.
    """

    switches: int = 0
    path: list[str] = field(default_factory=list[str])
    _codes: set[CodeType] = field(default_factory=set[CodeType])
    _last: str = ""

    @property
    def files(self) -> int:
        """Number of files."""
        return len(self.path)

    @property
    def functions(self) -> int:
        """Number of functions."""
        return len(self._codes)

    @property
    def lines(self) -> int:
        """Lines of those functions, without docstrings, comments and blank lines."""
        return sum(map(_code_lines, self._codes))

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> None:
        if event != "call":
            return
        file = Path(frame.f_code.co_filename)
        if not file.is_relative_to(ROOT):
            return
        name = file.relative_to(ROOT).as_posix()
        if name.startswith(_LEFT_OUT):
            return
        self._codes.add(frame.f_code)
        self.switches += name != self._last
        self._last = name
        if name not in self.path:
            self.path.append(name)

    def __enter__(self) -> Self:
        sys.setprofile(self)
        threading.setprofile(self)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)


def _code_lines(code: CodeType) -> int:
    """Lines of one function that hold code."""
    try:
        node = ast.parse(textwrap.dedent(inspect.getsource(code))).body[0]
    except (OSError, SyntaxError):
        return 0
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return len(inspect.getsource(code).splitlines())
    body = node.body[1:] if ast.get_docstring(node) else node.body
    lines = {
        line
        for part in body
        for each in ast.walk(part)
        if isinstance(each, (ast.stmt, ast.expr)) and each.end_lineno is not None
        for line in range(each.lineno, each.end_lineno + 1)
    }
    return len(lines) + 1


@asynccontextmanager
async def _warm_client() -> AsyncGenerator[IntouchClient]:
    """A client of a fast sandbox that has made some calls."""
    async with Sandbox(quotas={"intouch": _QUOTA}) as sandbox, SessionPool() as pool:
        client = IntouchClient.from_env(pool, sandbox.environ, quotas=[Quota(*_QUOTA)])
        for number in range(60):
            await client.contacts.create(NewContact(email=f"warm{number}@example.com"))
        yield client


async def create() -> Walk:
    """A warm `contacts.create`."""
    async with _warm_client() as client:
        contact = NewContact(email="walk@example.com")
        with Walk() as walk:
            await client.contacts.create(contact)
    return walk


async def push_rows(folder: Path) -> Walk:
    """A push of thirty rows from a CSV file into a fresh state."""
    source = folder / "rows.csv"
    rows = "".join(f"row{number}@example.com,Ada\n" for number in range(30))
    source.write_text("email,first_name\n" + rows)
    async with _warm_client() as client:
        with Walk() as walk:
            await push(source, client.contacts.create, state=folder / "push")
    return walk
