"""The commands of the page about engines work with a real Postgres and a real Valkey."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("dbos", reason="needs the extra [dbos]")

from asyncclients.sandbox import Sandbox
from tests.support.postgres_server import Postgres, postgres_server
from tests.support.valkey_server import Server

from .commands import commands
from .pages import ROOT, blocks, module_of

_JOBS = """
[jobs.contacts]
pull = "intouch.contacts"
to = "contacts.csv"

[jobs.notes]
push = "totango.touchpoints"
file = "notes.csv"
"""


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """A server of one test."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def valkey() -> Iterator[Server]:
    """A server of one test."""
    with Server() as server:
        yield server


def _at(arguments: list[str], servers: Mapping[str, str]) -> list[str]:
    """Return *arguments* with the URLs of *servers*, by scheme, in place of the page's."""
    return [servers[urlsplit(word).scheme] if "://" in word else word for word in arguments]


async def test_engines_page_commands_run(
    postgres: Postgres, valkey: Server, tmp_path: Path
) -> None:
    """A worker and `run`, as on the page, do a pull and a push together, and the worker stops."""
    (tmp_path / "jobs.toml").write_text(_JOBS)
    rows = "".join(f"{n:04},Hello {n}\n" for n in range(10))
    (tmp_path / "notes.csv").write_text(f"account_id,content\n{rows}")
    servers = {"postgresql": postgres.url, "redis": valkey.url}
    worker, run = (_at(words, servers) for words in commands(ROOT / "docs" / "engines.md"))
    assert (worker[0], run[0]) == ("worker", "run")
    async with Sandbox() as sandbox:
        sandbox.state("intouch").grow(contacts=60)
        working = await _start(worker, tmp_path, sandbox)
        try:
            assert working.stderr is not None
            assert await working.stderr.readline() == b"At work; press Ctrl-C to stop\n"
            running = await _start(run, tmp_path, sandbox)
            printed, messages = await running.communicate()
        finally:
            working.terminate()
            _, complaints = await working.communicate()
        assert running.returncode == 0, messages
        # A job that takes longer than five seconds prints its progress.
        others = [line for line in complaints.splitlines() if b" done, " not in line]
        assert (working.returncode, others) == (0, [])
        touchpoints = sandbox.state("totango").touchpoints.values()
    assert b"contacts: 60 done, 0 failed" in printed
    assert b"notes: 10 done, 0 failed" in printed
    assert len((tmp_path / "contacts.csv").read_text().splitlines()) == 61
    assert {each["content"] for each in touchpoints} == {f"Hello {n}" for n in range(10)}
    assert len(touchpoints) == 10


async def test_engines_page_program_runs(
    clients: dict[str, Any], sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program of the page sends every row of its file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.csv").write_text("account_id,content\n0001,Hello\n0002,World\n")
    (block,) = blocks(ROOT / "docs" / "engines.md")
    namespace = module_of(monkeypatch, totango=clients["totango"])
    await block.run(namespace)
    assert namespace["report"].done == 2
    contents = [str(each["content"]) for each in sandbox.state("totango").touchpoints.values()]
    assert sorted(contents) == ["Hello", "World"]


async def _start(arguments: list[str], folder: Path, sandbox: Sandbox) -> Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "asyncclients", *arguments),
        cwd=folder,
        env={**os.environ, **sandbox.environ},
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
    )
