"""`asyncclients sandbox`: a process of its own, which other programs use and Ctrl-C ends."""

from __future__ import annotations

import asyncio
import shlex
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec
import pytest

from asyncclients import EmmaClient, IntouchClient, SessionPool
from asyncclients.cli import run
from asyncclients.sandbox import Sandbox
from tests.support.posix import posix


@asynccontextmanager
async def started(*options: str) -> AsyncGenerator[tuple[Process, dict[str, str]]]:
    """The command, and what its `export` lines set."""
    arguments = ("-m", "asyncclients", "sandbox", *options)
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=PIPE, stderr=PIPE
    )
    assert process.stdout is not None
    try:
        async with Sandbox() as like:
            expected = len(like.environ)
        lines = [(await process.stdout.readline()).decode() for _ in range(expected)]
        words = [shlex.split(line) for line in lines]
        assert all(len(word) == 2 and word[0] == "export" for word in words), lines
        yield process, dict(word[1].split("=", 1) for word in words)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_sandbox_serves_until_a_signal(number: signal.Signals) -> None:
    """Clients work with the environment that it prints; a signal ends it with 0 and no output."""
    async with started() as (process, environ), SessionPool() as pool:
        assert await IntouchClient.from_env(pool, environ).tags.list().first() is None
        assert await EmmaClient.from_env(pool, environ).touchpoint_types.list() == []
        process.send_signal(number)
        out, err = await process.communicate()
    assert (process.returncode, out, err) == (0, b"", b"")


async def test_sandbox_takes_a_port() -> None:
    """`--port N` puts the vendors on N and the ports after it, on this machine alone."""
    port = _six_free_ports()
    async with started("--port", str(port)) as (_, environ):
        urls = [value for name, value in environ.items() if name.endswith("_BASE_URL")]
    assert [url.split("/")[2] for url in urls] == [f"127.0.0.1:{port + n}" for n in range(5)]


def test_sandbox_reports_a_port_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1 and the system's reason, no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert run(["sandbox", "--port", str(taken.getsockname()[1])]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "address already in use" in printed.err
    assert "Traceback" not in printed.err


def _six_free_ports() -> int:
    """The first of six ports in a row that are free now."""
    for port in range(20_000, 30_000, 6):
        try:
            for n in range(6):
                socket.create_server(("127.0.0.1", port + n)).close()
        except OSError:
            continue
        return port
    raise AssertionError("no six free ports")


@posix
async def test_sandbox_prints_its_variables_as_json() -> None:
    """With `--json` the variables are one object on one line."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "asyncclients", "sandbox", "--json"), stdout=PIPE, stderr=PIPE
    )
    assert process.stdout is not None
    environ = msgspec.json.decode(await process.stdout.readline(), type=dict[str, str])
    async with SessionPool() as pool:
        assert await IntouchClient.from_env(pool, environ).tags.list().first() is None
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (process.returncode, out, err) == (0, b"", b"")
