"""One process: its pool, its connections to the vendors, its folder, and its end.

A killed process is isolated: it sends and receives nothing more, and only a copy of the files
that were on the disk at that instant is left. The cleanup of its objects has no effect.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections import Counter
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from contextvars import ContextVar, copy_context
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final, Self

from asyncclients import Quota, RetryPolicy, SessionPool
from tests.hardening.flaky_proxy import Relay
from tests.hardening.simulation.scenarios import TRADES

from .plan import Crash, VendorName

if TYPE_CHECKING:
    from .world import Simulation

MACHINE: Final[ContextVar[Machine | None]] = ContextVar("MACHINE", default=None)
"""The process that runs."""
_RETRY: Final = RetryPolicy(max_retries=2, base=0.2, cap=2.0)


class Machine:
    """A process of *world*; with a *crash* it is killed, with a *folder* it leaves something.

    With *assume_spent* it starts with the quotas spent: it may come after another, or be the
    first to meet a store that has forgotten all.
    """

    def __init__(
        self,
        world: Simulation,
        name: str,
        *,
        crash: Crash | None = None,
        folder: Path | None = None,
        assume_spent: bool = False,
    ) -> None:
        self._world, self.name, self._crash = world, name, crash
        self.folder, self._assume_spent = folder, assume_spent
        self._steps: Counter[str] = Counter()
        self._died = asyncio.Event()
        self._task: asyncio.Task[Any] | None = None
        self._relays: dict[VendorName, Relay] = {}
        self._stack = AsyncExitStack()
        self.pool: SessionPool

    async def __aenter__(self) -> Self:
        world, plan = self._world, self._world.plan
        for vendor in plan.quotas:
            way = Random(f"{world.seed} {self.name} {vendor}")
            relay = Relay(world.sandbox.url(vendor), way, plan.on_the_way, self._sends)
            self._relays[vendor] = await self._stack.enter_async_context(relay)
        self.pool = await self._stack.enter_async_context(
            SessionPool(
                admission="exact",
                retry=_RETRY,
                timeout=4.0,
                limits=world.store.seen_by(self.name) if world.store else None,
                tokens=world.tokens,
                cold_start="full" if self._assume_spent else "empty",
            )
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        self._world.left(self)

    def client(self, vendor: VendorName, credential: int) -> Any:
        """A client of *vendor* with its *credential*."""
        environ = dict(self._world.environs[vendor][credential])
        environ[f"{vendor.upper()}_BASE_URL"] = self._relays[vendor].url
        quota = Quota(*self._world.plan.quotas[vendor])
        client = TRADES[vendor].client.from_env(self.pool, environ, quotas=[quota])
        self._world.names.know(client.stats().scope, f"{vendor} {credential}")
        return client

    async def greet(self) -> None:
        """Make a call with each credential: a process that knows the store recognises it."""
        for vendor, issued in self._world.environs.items():
            for credential in range(len(issued)):
                await TRADES[vendor].look(self.client(vendor, credential), "")

    # --- The end ------------------------------------------------------------------------

    @property
    def dead(self) -> bool:
        """It was killed."""
        return self._died.is_set()

    async def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run *work* in this process and return its result; None if the process is killed before."""
        context = copy_context()
        context.run(MACHINE.set, self)
        task = self._task = asyncio.create_task(work, context=context)
        timer: asyncio.TimerHandle | None = None
        if self._crash is not None and self._crash.at == "time":
            loop = asyncio.get_running_loop()
            timer = loop.call_later(self._crash.count, self.kill)
        dying = asyncio.create_task(self._died.wait())
        try:
            await asyncio.wait([task, dying], return_when=asyncio.FIRST_COMPLETED)
            return None if self.dead or self._is_stopped(task) else task.result()
        finally:
            dying.cancel()
            task.cancel()
            if timer is not None:
                timer.cancel()

    @staticmethod
    def _is_stopped(task: asyncio.Task[Any]) -> bool:
        """Return whether it ended on request."""
        return task.done() and task.cancelled()

    def works(self) -> None:
        """Something is about to be done on the disk, or was done."""
        self._reaches("disk")

    def _sends(self) -> None:
        self._reaches("wire")

    def _reaches(self, place: str) -> None:
        self._steps[place] += 1
        crash = self._crash
        if crash is not None and crash.at == place and self._steps[place] == crash.count:
            self.kill()

    def kill(self) -> None:
        """End as if by SIGKILL, or cleanly; after the period of faults, no process ends."""
        task, crash = self._task, self._crash
        if self.dead or self._world.calm or task is None or task.done() or crash is None:
            return
        if crash.orderly:
            task.cancel()
            self._world.happened["orderly end"] += 1
            return
        self._died.set()
        for relay in self._relays.values():
            relay.cut(delivered=crash.delivered)
        if self._world.store is not None:
            self._world.store.bury(self.name)
        if self.folder is not None:
            there = self.folder.with_name(f"{self.folder.name}x")
            shutil.copytree(self.folder, there)
            self.folder = there
        self._world.happened["crash"] += 1

    async def bury(self) -> None:
        """Clear away what is left of a process that was killed."""
        if self._task is not None:
            with contextlib.suppress(BaseException):
                await self._task
        await self.__aexit__()
