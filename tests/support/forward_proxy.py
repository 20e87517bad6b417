"""A forward proxy on loopback: it opens tunnels by CONNECT and records all that it can read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl


class ForwardProxy:
    """A proxy that resolves *names* to ports of loopback and rejects all other names.

    Attributes:
        url: its address.
        heads: the head of each request, as it arrived.
        relayed: the bytes of clients that passed through the tunnels.
        rejection: the response to each CONNECT in place of a tunnel; empty to close at once.
    """

    def __init__(self, names: Mapping[str, int]) -> None:
        self._names = dict(names)
        self.url = ""
        self.heads: list[str] = []
        self.relayed = bytearray()
        self.rejection: bytes | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._tunnel(reader, writer)
        self._tasks.discard(task)
        writer.close()

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        self.heads.append(head)
        if self.rejection is not None:
            writer.write(self.rejection)
            await writer.drain()
            return
        method, target, _ = head.split(" ", 2)
        port = self._names.get(target.rpartition(":")[0])
        if method != "CONNECT" or port is None:
            writer.write(b"HTTP/1.1 502 No Such Host\r\nContent-Length: 0\r\n\r\n")
            return
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        back = asyncio.ensure_future(self._relay(server_reader, writer))
        try:
            await self._relay(reader, server_writer, self.relayed)
        finally:
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)
            server_writer.close()

    async def _relay(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        record: bytearray | None = None,
    ) -> None:
        while data := await source.read(2**16):
            if record is not None:
                record += data
            target.write(data)
            await target.drain()
        target.close()

    async def stop(self) -> None:
        """Close all tunnels."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def forward_proxy(
    names: Mapping[str, int], *, tls: ssl.SSLContext | None = None
) -> AsyncGenerator[ForwardProxy]:
    """Run a proxy on loopback, by https with *tls*."""
    proxy = ForwardProxy(names)
    listener = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, ssl=tls)
    port = listener.sockets[0].getsockname()[1]
    proxy.url = f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}"
    try:
        yield proxy
    finally:
        listener.close()
        await proxy.stop()
