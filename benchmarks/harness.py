"""Shared by all benchmarks: arguments, reports, processes that take turns, a fast server.

Compared clients run in separate processes, as they do in real programs. In one process, each
would use the heap that the others left behind: fragmentation, garbage collection and cache
hits would then depend on the other clients. Rounds alternate between the processes, so that
a slow phase of the machine affects all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import sys
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # for tests.support

Serve = Callable[..., Coroutine[Any, Any, None]]
Answer = Callable[[bytes], bytes]
_ROUNDS_PER_LIFE = 3
"""Rounds after which processes are restarted: the memory layout of a process is random."""
_SPAWN = multiprocessing.get_context("spawn")


# --- Arguments and reports ------------------------------------------------------------


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    found = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    found.add_argument("--json", type=Path, help="write the figures into this file")
    found.add_argument("--quick", action="store_true", help="check that it works: small, short")
    return found


def save(file: Path | None, **figures: Any) -> None:
    """Write *figures* into *file*, and keep those that this run has not measured."""
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(file.read_text()) if file.exists() else {}
    command = " ".join(["python", *sys.argv])
    report = {**kept, "python": sys.version.split()[0], "command": command, **figures}
    file.write_text(json.dumps(report, indent=1, default=float) + "\n")


def compare(figures: Mapping[str, float], targets: Mapping[str, float]) -> dict[str, Any]:
    """Print each figure beside its upper bound, if it has one, and return the rows."""
    rows: dict[str, Any] = {}
    for name, value in figures.items():
        rows[name] = {"figure": round(value, 2), "target": targets.get(name)}
        verdict = ""
        if name in targets:
            rows[name]["met"] = met = value <= targets[name]
            verdict = f"   ≤ {targets[name]:g}   {'met' if met else 'MISSED'}"
        print(f"{name:60} {value:10.2f}{verdict}")
    return rows


def exit_code(rows: Any, *, quick: bool = False) -> int:
    """Return 1 if a target in *rows* is missed; a quick run does not measure targets."""
    return 0 if quick or all(row.get("met", True) is not False for row in rows) else 1


# --- Processes that take turns --------------------------------------------------------


def lives(rounds: int) -> Iterator[int]:
    """Split *rounds* into the rounds of each generation of processes."""
    for left in range(rounds, 0, -_ROUNDS_PER_LIFE):
        yield min(_ROUNDS_PER_LIFE, left)


class Worker:
    """A process that runs `serve(connection, *given)` and works when it gets a turn.

    *serve* receives the arguments of `turn` and sends back its result, until it receives None.
    """

    def __init__(self, serve: Serve, *given: Any) -> None:
        self._ours, theirs = _SPAWN.Pipe()
        arguments = (theirs, serve, *given)
        self._process = _SPAWN.Process(target=_run, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def turn(self, *given: Any) -> Any:
        """Run one turn and return its result."""
        self._ours.send(given)
        return self._ours.recv()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.send(None)
        self._process.join()


def _run(connection: Connection, serve: Serve, *given: Any) -> None:
    asyncio.run(serve(connection, *given))


# --- A server that is several times faster than any client ----------------------------

CONTACT: dict[str, Any] = {
    "uuid": "56b01b44-ba2e-11e5-875c-0a5a4bfb150c",
    "first_name": "John",
    "last_name": "Doe",
    "email": "john.doe@example.com",
    "phone_number": "5555555555",
    "language": "en_US",
    "status": "subscribed",
    "deliverable": True,
    "created_at": "2021-05-11T11:52:47+00:00",
    "updated_at": "2021-08-11T11:52:47+00:00",
    "contact_lists": [],
    "custom_fields": {"member_since": "2020-02-02"},
}


def response(status: int, body: bytes) -> bytes:
    """Return the bytes of a JSON response."""
    head = f"HTTP/1.1 {status} OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


class _Protocol(asyncio.Protocol):
    """Write `answer(data)` for all data that arrives."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(self._answer(data))


def _serve(connection: Connection, make: Callable[..., Answer], *given: Any) -> None:
    async def main() -> None:
        answer = make(*given)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Protocol(answer), "127.0.0.1", 0)
        connection.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


@contextmanager
def server(make: Callable[..., Answer], *given: Any) -> Generator[str]:
    """Run a server in a process of its own; yield its URL.

    `make(*given)` returns the function from the received bytes to those of the response.
    Clients send each request in one piece and wait for the response.
    """
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_serve, args=(theirs, make, *given), daemon=True)
    process.start()
    yield f"http://127.0.0.1:{ours.recv()}/"
    process.terminate()
    process.join()
