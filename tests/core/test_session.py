"""Differences between our sessions and aiohttp's."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

import pytest
from trustme import CA

from asyncclients.core.session import open_session
from tests.support.byte_server import answers, byte_server, http

BODY = b"x" * 300_000


@pytest.mark.parametrize("encrypted", [False, True])
async def test_session_reads_at_most_64_kib(
    encrypted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without TLS; on each loop a large body arrives complete."""
    authority = CA()
    served, trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(served)  # pyright: ignore[reportUnknownMemberType]
    authority.configure_trust(trusted)  # pyright: ignore[reportUnknownMemberType]
    tls = served if encrypted else None
    async with byte_server(answers(http(body=BODY)), tls=tls) as server, open_session() as session:
        asked = _watch(monkeypatch, server.url)
        async with session.get(server.url, ssl=trusted) as reply:
            assert await reply.read() == BODY
    if isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):  # uvloop reads in C
        reads = asked[encrypted:]  # the TLS handshake makes one more
        assert reads
        assert max(reads) <= 2**16


def _watch(monkeypatch: pytest.MonkeyPatch, url: str) -> list[int]:
    """Record the sizes that reads of clients of *url* request from now on."""
    port = int(url.rstrip("/").rsplit(":", 1)[1])
    asked: list[int] = []
    receive, decrypt = socket.socket.recv, ssl.SSLObject.read

    def recv(self: socket.socket, size: int) -> bytes:
        if self.getpeername()[1] == port:
            asked.append(size)
        return receive(self, size)

    def read(self: ssl.SSLObject, size: int = 1024, buffer: Any = None) -> Any:
        if not self.server_side:
            asked.append(size)
        return decrypt(self, size, buffer)

    monkeypatch.setattr(socket.socket, "recv", recv)
    monkeypatch.setattr(ssl.SSLObject, "read", read)
    return asked
