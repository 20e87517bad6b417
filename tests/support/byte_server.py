"""A server on loopback that writes scripted bytes, and reads requests as they arrive."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl


@dataclasses.dataclass(frozen=True, slots=True)
class RawRequest:
    """One request as it arrived."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """One accepted connection, as a script sees it."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: ByteServer
    ) -> None:
        self._reader, self._writer, self._server = reader, writer, server

    async def head(self) -> str:
        """Return the head of the next request; EOFError if the client closes the connection."""
        try:
            return (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError as gone:
            raise EOFError from gone

    async def request(self) -> RawRequest:
        """Return the next request; EOFError if the client closes the connection."""
        first, *lines = (await self.head()).split("\r\n")
        method, target, _ = first.split(" ")
        fields = (line.partition(":") for line in lines if line)
        headers = {name.lower(): value.strip() for name, _, value in fields}
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        found = RawRequest(method, target, headers, body)
        self._server.arrived.append(found)
        return found

    async def send(self, data: bytes) -> None:
        """Write *data* unchanged."""
        self._writer.write(data)
        await self._writer.drain()

    def abort(self) -> None:
        """Reset the connection."""
        self._writer.transport.abort()


Script = Callable[[Connection], Awaitable[None]]


class ByteServer:
    """A server: its address and the requests that arrived."""

    def __init__(self, scripts: tuple[Script, ...], scheme: str) -> None:
        self._scripts, self._scheme = scripts, scheme
        self.arrived: list[RawRequest] = []
        self.connections = 0
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()

    def listens_at(self, port: int) -> None:
        """Learn the port."""
        self.url = f"{self._scheme}://127.0.0.1:{port}/"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Run the script of this connection: the n-th for the n-th, the last for all later ones."""
        script = self._scripts[min(self.connections, len(self._scripts) - 1)]
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await script(Connection(reader, writer, self))
        except (EOFError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def stop(self) -> None:
        """Cancel the scripts that still run."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)


@asynccontextmanager
async def byte_server(
    *scripts: Script, tls: ssl.SSLContext | None = None
) -> AsyncGenerator[ByteServer]:
    """Run a server on loopback that runs *scripts*, one for each connection."""
    server = ByteServer(scripts, "https" if tls else "http")
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.listens_at(listener.sockets[0].getsockname()[1])
    try:
        yield server
    finally:
        listener.close()
        await server.stop()


def http(status: int = 200, body: bytes = b"{}", headers: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes of a response."""
    fields = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    fields |= dict(headers or {})
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Said\r\n{lines}\r\n".encode() + body


def answers(*replies: bytes) -> Script:
    """Return a script that sends the next of *replies* per request, the last one repeatedly."""

    async def script(connection: Connection) -> None:
        for reply in replies:
            await connection.request()
            await connection.send(reply)
        while True:
            await connection.request()
            await connection.send(replies[-1])

    return script


def sends(*pieces: bytes, pause: float = 0.0, then: bytes | None = None) -> Script:
    """Return a script that reads a request and sends *pieces*.

    It then closes the connection, or sends *then* for each further request.
    """

    async def script(connection: Connection) -> None:
        await connection.request()
        for piece in pieces:
            await connection.send(piece)
            await asyncio.sleep(pause)
        while then is not None:
            await connection.request()
            await connection.send(then)

    return script


async def hangs_up(connection: Connection) -> None:
    """Read a request and close without a response."""
    await connection.request()


async def resets(connection: Connection) -> None:
    """Read a request and reset the connection."""
    await connection.request()
    connection.abort()


async def resets_at_once(connection: Connection) -> None:
    """Reset the connection before anything is read."""
    connection.abort()


async def never_responds(connection: Connection) -> None:
    """Read a request and wait without end."""
    await connection.request()
    await asyncio.Event().wait()


async def drips(connection: Connection) -> None:
    """Send one byte of a body each second, without end."""
    await connection.request()
    await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        await connection.send(b" ")
        await asyncio.sleep(1.0)


async def never_ends(connection: Connection) -> None:
    """Send a chunked body as fast as possible, without end."""
    await connection.request()
    await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await connection.send(b"8000\r\n" + b" " * 0x8000 + b"\r\n")
