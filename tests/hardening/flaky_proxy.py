"""A network on loopback: bytes that a client sends arrive after a random delay.

If the client closes a connection, bytes in transit are lost. If the connection of a killed
process is cut, bytes in transit arrive or are lost, as selected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Self
from urllib.parse import urlsplit


class Relay:
    """The connection of one process to *url*, with a delay of up to *longest* seconds.

    *step* is called when the client has sent bytes.
    """

    def __init__(self, url: str, random: Random, longest: float, step: Callable[[], None]) -> None:
        parts = urlsplit(url)
        assert parts.port is not None
        self._port, self._path = parts.port, parts.path
        self._random, self._longest, self._step = random, longest, step
        self._tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._listener: asyncio.Server
        self._delivers = False
        self.url = ""

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._listener.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}{self._path}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut(delivered=False)
        # asyncio leaks a connection that it is accepting when the listener closes (seen in
        # 3.11): wait for pending ones to be accepted, then close.
        for _turn in range(3):
            await asyncio.sleep(0)
        self._listener.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def cut(self, *, delivered: bool) -> None:
        """Stop all traffic; with *delivered*, bytes already sent still arrive."""
        self._delivers = delivered
        loop = asyncio.get_running_loop()
        for listening in self._listener.sockets:
            loop.remove_reader(listening.fileno())
        for task, writer in self._tasks.items():
            if delivered:
                writer.transport.abort()
            else:
                task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks[task] = writer
        ways: list[asyncio.Task[None]] = []
        there: asyncio.StreamWriter | None = None
        try:
            back, there = await asyncio.open_connection("127.0.0.1", self._port)
            under_way: asyncio.Queue[bytes] = asyncio.Queue()
            ways = [
                asyncio.create_task(self._forth(under_way, there)),
                asyncio.create_task(self._back(back, writer)),
            ]
            await self._take_in(reader, under_way)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            del self._tasks[task]
            for way in ways:
                way.cancel()
            writer.close()
            if there is not None:
                there.close()

    async def _take_in(self, reader: asyncio.StreamReader, under_way: asyncio.Queue[bytes]) -> None:
        while data := await reader.read(65536):
            under_way.put_nowait(data)
            self._step()
        if self._delivers:
            await under_way.join()

    async def _forth(self, under_way: asyncio.Queue[bytes], there: asyncio.StreamWriter) -> None:
        while True:
            data = await under_way.get()
            await asyncio.sleep(self._random.uniform(0.0, self._longest))
            there.write(data)
            under_way.task_done()

    async def _back(self, back: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await back.read(65536):
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.close()
