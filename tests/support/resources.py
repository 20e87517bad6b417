"""Tasks, open files and sockets that a client might leak."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

_DESCRIPTORS: Final = Path("/proc/self/fd")


def descriptors() -> dict[str, str]:
    """Return the open descriptors of this process by number; empty without /proc."""
    found: dict[str, str] = {}
    for entry in _DESCRIPTORS.iterdir() if _DESCRIPTORS.exists() else ():
        with contextlib.suppress(OSError):  # the descriptor of this listing
            found[entry.name] = str(entry.readlink())
    return found


class Traces:
    """The tasks, files and sockets of one instant."""

    def __init__(self) -> None:
        self._tasks, self._open = asyncio.all_tasks(), set(descriptors().values())

    async def gone(self) -> None:
        """Assert that nothing was added, after some turns of the loop."""
        for _ in range(10):
            await asyncio.sleep(0)
        await asyncio.sleep(1.0)
        tasks = asyncio.all_tasks() - self._tasks
        assert not tasks, tasks
        left = set(descriptors().values()) - self._open
        assert not left, left


async def cancel_without_a_free_thread(work: Coroutine[Any, Any, object]) -> None:
    """Cancel *work* while all threads of the loop are busy; return when they have ended."""
    loop, may_end = asyncio.get_running_loop(), threading.Event()
    with ThreadPoolExecutor(1) as only:
        loop.set_default_executor(only)
        busy = asyncio.create_task(asyncio.to_thread(may_end.wait))
        working = asyncio.create_task(work)
        await asyncio.sleep(0)
        working.cancel()
        await asyncio.sleep(0)
        may_end.set()
        await asyncio.wait([working, busy])
        assert working.cancelled()
    loop.set_default_executor(ThreadPoolExecutor())
