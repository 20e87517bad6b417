"""One Valkey for the session, empty for each test; REDIS_URL names another server instead.

Whatever that server holds is deleted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from asyncclients.stores import redis_client
from tests.support.valkey_server import Server, command


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    if url := os.environ.get("REDIS_URL"):
        yield url
        return
    with Server() as server:
        yield server.url


@pytest.fixture
def url(valkey: str) -> str:
    """The URL of an empty server."""
    command(valkey, "FLUSHALL")
    return valkey


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a server that is up, however busy this machine is: no timeout is tested."""
    for name in ("TIMEOUT", "NODES_TIMEOUT", "_CONNECT_TIMEOUT"):
        monkeypatch.setattr(redis_client, name, 30.0)


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of one's own, to be killed."""
    with Server() as started:
        yield started
