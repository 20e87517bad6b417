"""Commands in processes of their own that are forked with the package imported.

To import it takes longer than most commands. A process without threads and event loops has
imported it and forks each command, which has its own pipes, folder and environment, and exit
code. Tests of what is read at import (as SSL_CERT_FILE), of the start and of the end of the
interpreter run `python -m asyncclients`.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import runpy
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from contextlib import chdir
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from .forked import Order

_FORKED = str(Path(__file__).with_name("forked.py"))
_IMPORTED = (
    *("pytest", "asyncclients.cli.backfill", "asyncclients.cli.jobs", "asyncclients.backfill"),
    *("asyncclients.vendors.intouch.client", "asyncclients.vendors.totango.client"),
)


class Command:
    """A running command, with what tests use of `asyncio.subprocess.Process`."""

    def __init__(self, process: Any, out: asyncio.StreamReader, err: asyncio.StreamReader) -> None:
        self._process, self.stdout, self.stderr = process, out, err
        self.pid: int = process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        code: int | None = self._process.exitcode
        return code

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    async def communicate(self) -> tuple[bytes, bytes]:
        """Return the rest of standard output and standard error when it has ended."""
        out, err = await asyncio.gather(self.stdout.read(), self.stderr.read())
        await asyncio.to_thread(self._process.join)
        return out, err


async def start(
    *arguments: str, environ: Mapping[str, str], directory: Path | None = None, script: str = ""
) -> Command | Process:
    """Start `asyncclients`, or *script*, in *directory*, by default the current one."""
    directory = directory or Path.cwd()
    if sys.platform == "win32":  # it cannot fork
        return await asyncio.create_subprocess_exec(
            *(sys.executable, *([script] if script else ["-m", "asyncclients"]), *arguments),
            cwd=directory,
            env=environ,
            stdout=PIPE,
            stderr=PIPE,
        )
    from multiprocessing import forkserver  # Windows has none

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_IMPORTED])
    with chdir("/"):  # it imports what is installed, not what is in the current directory
        forkserver.ensure_running()
    pipes = [context.Pipe(duplex=False) for _ in range(2)]
    writers = [writer for _, writer in pipes]
    order = Order(script, [*arguments], str(directory), {**environ}, writers)
    process = context.Process(
        target=runpy.run_path, args=(_FORKED, {"ORDER": (*order,)}, "forked"), daemon=True
    )
    process.start()
    for writer in writers:
        writer.close()
    return Command(process, *[await _reader(reader) for reader, _ in pipes])


async def _reader(pipe: Connection[Any, Any]) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    file = os.fdopen(os.dup(pipe.fileno()), "rb", buffering=0)
    pipe.close()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
    return reader
