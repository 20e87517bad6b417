"""The store of limits that processes share: in memory, lost now and then."""

from __future__ import annotations

import asyncio
from typing import Protocol

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
    async def apply(self, key: str, claim: LeaseRequest) -> LeaseResponse: ...
    async def aclose(self) -> None: ...


class _Named:
    def __init__(self, ledgers: _Backend, names: Names) -> None:
        self._ledgers, self._names = ledgers, names

    async def apply(self, key: str, claim: LeaseRequest) -> LeaseResponse:
        return await self._ledgers.apply(self._names[key], claim)

    async def aclose(self) -> None:
        await self._ledgers.aclose()


class Store:
    """One store for all processes of a world."""

    def __init__(self, plan: StorePlan, names: Names) -> None:
        self._plan, self._names = plan, names
        self._ledgers = MemoryStore()
        self.losses = 0

    def seen_by(self, process: str) -> SeenStore:
        """What *process* gives its pool."""
        terms = StoreConfig(
            process=process,
            display_name="memory",
            when_down=self._plan.when_down,
            lease=0.1,
            timeout=self._ledgers.timeout,
            assume_spent=False,
        )
        return SeenStore(_Named(self._ledgers, self._names), terms)

    def bury(self, process: str) -> None:
        """*process* sends nothing more."""
        self._ledgers.broken.add(process)

    async def be_lost(self) -> None:
        """Go through the losses of the plan, one after another."""
        began = asyncio.get_running_loop().time()
        for loss in sorted(self._plan.losses, key=lambda loss: loss.at):
            await asyncio.sleep(began + loss.at - asyncio.get_running_loop().time())
            self.losses += 1
            self._ledgers.down = loss.seconds > 0
            await asyncio.sleep(loss.seconds)
            if loss.forgets:
                self._ledgers.ledgers.clear()
            self._ledgers.down = False

    def reserved(self, process: str) -> list[str]:
        """The slots that *process* still holds unused."""
        slots = [slot for ledger in self._ledgers.ledgers.values() for slot in ledger.log]
        return [slot for slot in slots if slot.startswith(f"p:{process}:")]


class SeenStore:
    """Implements `asyncclients.ratelimit.protocol.LimitStore`."""

    def __init__(self, backend: _Backend, terms: StoreConfig) -> None:
        self._backend, self._terms = backend, terms

    def open(self, *, cold: bool) -> StoreSession:
        """A line for one pool."""
        terms = StoreConfig(
            process=self._terms.process,
            display_name=self._terms.display_name,
            when_down=self._terms.when_down,
            lease=self._terms.lease,
            timeout=self._terms.timeout,
            assume_spent=cold,
        )
        return StoreSession(self._backend, terms)
