"""Fakes, rather than mocks: a server that speaks bytes, and a searcher for leaked credentials."""

from __future__ import annotations

import asyncio
import dataclasses
import pickle
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl
    from types import FrameType

HERE = str(Path(__file__).parent)
"""Where the tests' own frames are; an environment may be called `tests` as well."""
CANARY = "ii_Canary/Secret+4711=="
"""A credential with every character that some encoding changes."""


# --- A server that speaks bytes -------------------------------------------------


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
        """The next request without its body; EOFError when the client hangs up instead."""
        try:
            return (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError as gone:
            raise EOFError from gone

    async def request(self) -> RawRequest:
        """The next request; EOFError when the client hangs up instead."""
        first, *lines = (await self.head()).split("\r\n")
        method, target, _ = first.split(" ")
        fields = (line.partition(":") for line in lines if line)
        headers = {name.lower(): value.strip() for name, _, value in fields}
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        found = RawRequest(method, target, headers, body)
        self._server.arrived.append(found)
        return found

    async def send(self, data: bytes) -> None:
        """Write *data* as it is."""
        self._writer.write(data)
        await self._writer.drain()

    def abort(self) -> None:
        """Reset the connection."""
        self._writer.transport.abort()


Script = Callable[[Connection], Awaitable[None]]


class ByteServer:
    """What listens: its address, and what arrived."""

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
        """Run the script of this connection: the n-th for the n-th, the last for all others."""
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
        """End the scripts that still run."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)


@asynccontextmanager
async def byte_server(
    *scripts: Script, tls: ssl.SSLContext | None = None
) -> AsyncGenerator[ByteServer]:
    """A server on loopback that runs *scripts*, one for each connection."""
    server = ByteServer(scripts, "https" if tls else "http")
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.listens_at(listener.sockets[0].getsockname()[1])
    try:
        yield server
    finally:
        listener.close()
        await server.stop()


def http(status: int = 200, body: bytes = b"{}", headers: Mapping[str, str] | None = None) -> bytes:
    """A whole answer."""
    fields = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    fields |= dict(headers or {})
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Said\r\n{lines}\r\n".encode() + body


def answers(*replies: bytes) -> Script:
    """Answer each request of a connection with the next of *replies*, the last for ever."""

    async def script(connection: Connection) -> None:
        for reply in replies:
            await connection.request()
            await connection.send(reply)
        while True:
            await connection.request()
            await connection.send(replies[-1])

    return script


async def hangs_up(connection: Connection) -> None:
    """Read a request and close without an answer."""
    await connection.request()


# --- A searcher for credentials ---------------------------------------------------


def leaks(error: BaseException, *secrets: str) -> list[str]:
    """Where one of *secrets* shows: in the error's texts, its pickle, or its frames' locals."""
    texts: list[tuple[str, str]] = []
    for link in chain(error):
        texts += [("repr", repr(link)), ("str", str(link)), ("args", repr(link.args))]
        texts += [("attributes", repr(vars(link)))]
        texts.append(("traceback", traceback_of(link)))
        texts += [(f"local {name}", text) for name, text in locals_of(link)]
    found = {place for place, text in texts for secret in secrets if secret in text}
    try:
        pickled = pickle.dumps(error).decode("latin-1")
    except TypeError:
        return sorted({*found, "no pickle"})
    return sorted(found | {"pickle" for secret in secrets if secret in pickled})


def traceback_of(error: BaseException) -> str:
    """The traceback of *error* as printed with locals, without the tests' own frames."""
    printed = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames = [frame for frame in printed.stack if not frame.filename.startswith(HERE)]
    printed.stack = traceback.StackSummary.from_list(frames)
    return "".join(printed.format(chain=False))


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """*error* and all that it came from."""
    seen: set[int] = set()
    todo = [error]
    while todo:
        link = todo.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            yield link
            todo += [link.__cause__, link.__context__]


def locals_of(error: BaseException) -> Iterator[tuple[str, str]]:
    """The locals of all frames but the tests' own, looked into as crash reporters do."""
    trace = error.__traceback__
    while trace is not None:
        frame: FrameType = trace.tb_frame
        trace = trace.tb_next
        if not frame.f_code.co_filename.startswith(HERE):
            for name, value in frame.f_locals.items():
                yield from ((f"{frame.f_code.co_name}.{name}", text) for text in _look(value, 4))


def _look(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, (str, bytes)):
        yield value if isinstance(value, str) else value.decode("latin-1")
        return
    yield _repr(value)
    if depth == 0:
        return
    for part in _parts(value):
        yield from _look(part, depth - 1)


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception as broken:  # noqa: BLE001 - whatever a foreign repr raises
        return f"<unprintable: {type(broken).__name__}>"


def _parts(value: object) -> list[Any]:
    whole: Any = value
    if isinstance(value, Mapping):
        return [*whole.keys(), *whole.values()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [*whole]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    if hasattr(value, "__rich_repr__") and not isinstance(value, type):
        return list(whole.__rich_repr__())
    return []
