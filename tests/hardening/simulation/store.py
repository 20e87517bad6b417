"""The store of limits that processes share: in memory, lost now and then."""

from __future__ import annotations

import asyncio
from typing import Protocol

from msgspec.structs import replace

from asyncclients.stores.config import StoreConfig
from asyncclients.stores.protocol import LeaseRequest, LeaseResponse
from asyncclients.stores.session import StoreSession
from tests.support.shared_quota import MemoryStore

from .plan import StorePlan


class Names:
    """Names of scopes, independent of the address at which a process reaches the vendor."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def know(self, scope: str, name: str) -> None:
        """*scope* is a process's word for *name*."""
        self._known[scope] = name

    def __getitem__(self, scope: str) -> str:
        return self._known[scope]


class _Backend(Protocol):
    async def apply(self, key: str, request: LeaseRequest) -> LeaseResponse: ...
    async def aclose(self) -> None: ...


class _Named:
    def __init__(self, backend: _Backend, names: Names) -> None:
        self._backend, self._names = backend, names

    async def apply(self, key: str, request: LeaseRequest) -> LeaseResponse:
        return await self._backend.apply(self._names[key], request)

    async def aclose(self) -> None:
        await self._backend.aclose()


class Store:
    """One store for all processes of a world."""

    def __init__(self, plan: StorePlan, names: Names) -> None:
        self._plan, self._names = plan, names
        self._backend = MemoryStore()
        self.losses = 0

    def seen_by(self, process: str) -> SeenStore:
        """What *process* gives its pool."""
        config = StoreConfig(process=process, display_name="memory", when_down=self._plan.when_down)
        return SeenStore(_Named(self._backend, self._names), config)

    def bury(self, process: str) -> None:
        """*process* sends nothing more."""
        self._backend.broken.add(process)

    async def be_lost(self) -> None:
        """Go through the losses of the plan, one after another."""
        began = asyncio.get_running_loop().time()
        for loss in sorted(self._plan.losses, key=lambda loss: loss.at):
            await asyncio.sleep(began + loss.at - asyncio.get_running_loop().time())
            self.losses += 1
            self._backend.down = loss.seconds > 0
            await asyncio.sleep(loss.seconds)
            if loss.forgets:
                self._backend.logs.clear()
            self._backend.down = False

    def reserved(self, process: str) -> list[str]:
        """The slots that *process* still holds unused."""
        slots = [slot for log in self._backend.logs.values() for slot in log.log]
        return [slot for slot in slots if slot.startswith(f"r:{process}:")]


class SeenStore:
    """Implements `asyncclients.ratelimit.protocol.LimitStore`."""

    def __init__(self, backend: _Backend, config: StoreConfig) -> None:
        self._backend, self._config = backend, config

    def open(self, *, assume_spent: bool) -> StoreSession:
        """Return a session for one pool."""
        return StoreSession(self._backend, replace(self._config, assume_spent=assume_spent))
