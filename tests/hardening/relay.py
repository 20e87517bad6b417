"""A network on loopback: what a client sends arrives later, by a time drawn anew each time.

A connection that the client gives up takes what is still under way with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from random import Random
from urllib.parse import urlsplit


class _Relay:
    def __init__(self, port: int, random: Random, longest: float) -> None:
        self._port, self._random, self._longest = port, random, longest
        self.tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        ways: list[asyncio.Task[None]] = []
        there: asyncio.StreamWriter | None = None
        try:
            back, there = await asyncio.open_connection("127.0.0.1", self._port)
            under_way: asyncio.Queue[bytes] = asyncio.Queue()
            ways = [
                asyncio.create_task(self._forth(under_way, there)),
                asyncio.create_task(self._back(back, writer)),
            ]
            while data := await reader.read(65536):
                under_way.put_nowait(data)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self.tasks.discard(task)
            for way in ways:
                way.cancel()
            writer.close()
            if there is not None:
                there.close()

    async def _forth(self, under_way: asyncio.Queue[bytes], there: asyncio.StreamWriter) -> None:
        while True:
            data = await under_way.get()
            await asyncio.sleep(self._random.uniform(0.0, self._longest))
            there.write(data)

    async def _back(self, back: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await back.read(65536):
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def relay(url: str, random: Random, longest: float) -> AsyncGenerator[str]:
    """The address at which *url* is reached with up to *longest* seconds on the way."""
    parts = urlsplit(url)
    assert parts.port is not None
    carrier = _Relay(parts.port, random, longest)
    listener = await asyncio.start_server(carrier.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}{parts.path}"
    finally:
        listener.close()
        tasks = list(carrier.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
