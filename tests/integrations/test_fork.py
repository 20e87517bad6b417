"""Pools and forks, in processes of their own and in real time: a fork copies sockets."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from asyncclients.sandbox import Sandbox

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(quotas={"intouch": (200, 1.0)}) as opened:
        yield opened


async def _fork(sandbox: Sandbox, how: str) -> dict[str, dict[str, Any]]:
    """Return the lines that each process of `forking.py` printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(HERE / "forking.py"),
        how,
        env=os.environ | sandbox.environ,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        out, _ = await process.communicate()
    assert process.returncode == 0
    return {line["who"]: line for line in map(json.loads, out.splitlines())}


async def test_pool_created_before_a_fork_works_in_the_child(sandbox: Sandbox) -> None:
    """Each worker opens its copy on its first call, closes it, and draws waits of its own."""
    seen = await _fork(sandbox, "unused")
    assert seen["first"]["results"] == seen["second"]["results"] == ["ok", "ok"]
    assert seen["first"]["waits"] != seen["second"]["waits"]
    assert len(sandbox.state("intouch").tags) == 2


async def test_pool_used_before_a_fork_is_rejected_in_the_child(sandbox: Sandbox) -> None:
    """The child gets WrongEventLoopError from call and close, and sends nothing.

    The parent's pool works on: the child has touched none of its sockets.
    """
    seen = await _fork(sandbox, "used")
    assert seen["child"]["results"] == ["WrongEventLoopError"] * 2
    assert seen["parent"]["results"] == ["ok", "ok", "ok"]
    assert seen["parent"]["waits"] != seen["child"]["waits"]
    assert sandbox.summary("intouch").arrivals == 2


async def test_gunicorn_may_load_the_app_before_it_forks(sandbox: Sandbox, tmp_path: Path) -> None:
    """With --preload, workers forked after the pool was made answer, and end in peace."""
    socket = tmp_path / "gunicorn.sock"
    log = tmp_path / "log"
    with log.open("wb") as out:
        server = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "gunicorn", "preloaded:app", "--preload", "--workers", "2"),
            *("--worker-class", "aiohttp.GunicornWebWorker", "--bind", f"unix:{socket}"),
            cwd=HERE,
            env=os.environ | sandbox.environ,
            stderr=out,
        )
    try:
        answers = await _ask_both_workers(socket)
    finally:
        server.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            code = await server.wait()
    assert {answer["master"] for answer in answers} == {server.pid}
    assert len({answer["worker"] for answer in answers}) == 2
    assert (code, "Traceback" in log.read_text()) == (0, False), log.read_text()


async def _ask_both_workers(socket: Path) -> list[dict[str, Any]]:
    """POST until two workers have answered, on a new connection each time."""
    answers: list[dict[str, Any]] = []
    async with asyncio.timeout(30):
        while len({answer["worker"] for answer in answers}) < 2:
            try:
                async with (
                    aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as browser,
                    browser.post(f"http://app/tag-{len(answers)}") as answer,
                ):
                    answers.append(await answer.json())
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.05)  # not listening yet
    return answers
