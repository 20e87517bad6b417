"""A random system from one seed: processes that are killed and restarted, vendors that fail.

For a while, all faults in the plan of the seed occur. Then the vendors recover, the store is
back and no process is killed any more. `violations` describes the invariants that do not hold.

Sockets are real and time is virtual, for threads as well (`disk.py`). So the seed determines
everything: two runs of a seed have the same requests, which `story` lists.
"""

from __future__ import annotations

import asyncio
import random as global_random
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any, Final
from unittest.mock import patch

from asyncclients import AsyncClientsError
from asyncclients.backfill.state import identity
from asyncclients.core.call import ClientConfig
from asyncclients.sandbox import Sandbox
from asyncclients.stores.file_tokens import FileTokens
from tests.hardening.simulation.scenarios import set_scene
from tests.support.resources import Traces

from . import checks
from .clock import Clock
from .disk import Disk
from .flows import Flow
from .jobs import Job
from .log import Log
from .machine import MACHINE, Machine
from .plan import TROUBLE, Jump, VendorName, plan_of
from .store import Names, Store
from .tokens import Tokens

HEALING: Final = 400.0
"""Seconds to complete all work after the period of faults."""
_DISK: Final = next((path for path in ("/dev/shm",) if Path(path).is_dir()), None)
"""In memory, if the system supports it: no test here needs a real disk."""


_ACCOUNT: Final = identity._account  # pyright: ignore[reportPrivateUsage]


def _without_origin(config: ClientConfig | None) -> dict[str, str]:
    return _ACCOUNT(config) | {"origin": ""}


_ONE_ORIGIN = patch.object(identity, "_account", new=_without_origin)
"""Each process reaches the vendors through its own proxy, so one job has several addresses."""


class Simulation:
    """The simulation of *seed*; `run` it, then read `violations`."""

    sandbox: Sandbox
    folder: Path

    def __init__(self, seed: int) -> None:
        self.seed, self.plan = seed, plan_of(seed)
        self.names = Names()
        self.store = Store(self.plan.store, self.names) if self.plan.store else None
        self.tokens: Tokens | None = None
        self.environs: dict[VendorName, list[dict[str, str]]] = {}
        self.flows: list[Flow] = []
        self.jobs: list[Job] = []
        self.graves: list[asyncio.Task[None]] = []
        self.errors: list[AsyncClientsError] = []
        self.secrets: list[str] = []
        self.happened: Counter[str] = Counter()
        self.log = Log()
        self.calm = False
        self.violations: list[str] = []
        self._wall = 1_770_000_000.0

    async def run(self) -> None:
        """Live through it all."""
        state = global_random.getstate()
        global_random.seed(self.seed)
        self.folder = Path(tempfile.mkdtemp(prefix="simulation-", dir=_DISK))
        try:
            with self.log.heard(), _ONE_ORIGIN, Clock.in_place() as clock:
                disk = Disk(Random(f"{self.seed} disk"), _step)
                with disk.in_place():
                    await self._run(clock)
        finally:
            global_random.setstate(state)
            shutil.rmtree(self.folder)

    async def _run(self, clock: Clock) -> None:
        traces = Traces()
        quotas = {str(vendor): quota for vendor, quota in self.plan.quotas.items()}
        async with Sandbox(quotas, seed=self.seed, latency=(0.02, 0.05)) as self.sandbox:
            self._issue()
            await self._live(clock)
            self.violations += checks.all_violations(self)
        try:
            await traces.gone()
        except AssertionError as left:
            self.violations.append(f"something is left: {left}")
        self.violations += checks.complaints(self)

    def _issue(self) -> None:
        set_scene(self.sandbox)
        state = self.sandbox.state("digital_onboarding")
        state.lifetime, state.expires_in = self.plan.token_life, int(self.plan.token_life)
        for vendor in self.plan.quotas:
            more = [self.sandbox.issue(vendor) for _ in range(self.plan.credentials - 1)]
            self.environs[vendor] = [self.sandbox.environ, *more]
        self.secrets += checks.secrets_of(self.environs)
        if self.plan.keeps_tokens:
            kept = FileTokens(self.folder / "tokens.json", clock=self._wall_clock)
            self.tokens = Tokens(kept, self.names)

    def _wall_clock(self) -> float:
        return self._wall + asyncio.get_running_loop().time()

    # --- Life -----------------------------------------------------------------------------

    async def _live(self, clock: Clock) -> None:
        async with AsyncExitStack() as stack:
            webs = [Machine(self, f"web{number}") for number in range(self.plan.webs)]
            for web in webs:
                await stack.enter_async_context(web)
            if self.plan.forgets:
                await asyncio.gather(*(web.greet() for web in webs))
            self.flows = [Flow(self, plan, webs[plan.web]) for plan in self.plan.flows]
            self.jobs = [Job(self, plan) for plan in self.plan.jobs]
            trouble = asyncio.gather(*self._trouble(clock))
            lives = [flow.live() for flow in self.flows] + [job.live() for job in self.jobs]
            work = asyncio.gather(*lives)
            try:
                async with asyncio.timeout(TROUBLE + HEALING):
                    await trouble
                    self._heal()
                    await work
            except TimeoutError:
                waiting = [stats.queued for web in webs for stats in web.pool.stats()]
                self.violations.append(f"no progress after the trouble: {waiting} wait")
            await asyncio.gather(*self.graves)
        self._count()

    def _count(self) -> None:
        """Note what the world had, for who counts over many seeds."""
        for job in self.plan.jobs:
            self.happened[f"{job.kind} of {job.vendor}"] += 1
        if self.store is not None:
            self.happened["shared store"] += 1
            self.happened["store lost"] += self.store.losses
        for error in self.errors:
            self.happened[type(error).__name__] += 1

    def left(self, machine: Machine) -> None:
        """*machine* is gone: nothing of it may be."""
        self.violations += checks.at_rest(self, machine)

    # --- Trouble --------------------------------------------------------------------------

    def _trouble(self, clock: Clock) -> list[Coroutine[Any, Any, None]]:
        trouble: list[Coroutine[Any, Any, None]] = [self._fail(), self._jump(clock)]
        if self.store is not None:
            trouble.append(self.store.be_lost())
        return trouble

    async def _fail(self) -> None:
        loop, draw, plan = asyncio.get_running_loop(), Random(f"{self.seed} faults"), self.plan
        ends = loop.time() + TROUBLE
        while loop.time() < ends:
            await asyncio.sleep(draw.expovariate(plan.haste))
            for vendor in plan.quotas:
                if plan.faults:
                    self.sandbox.fail(vendor, draw.choice(plan.faults), draw.randint(1, 2))
                    self.happened["fault"] += 1
            if plan.revokes and draw.random() < 0.1:
                self._note_tokens()
                self.sandbox.state("digital_onboarding").revoke_tokens()

    async def _jump(self, clock: Clock) -> None:
        began = asyncio.get_running_loop().time()
        for jump in self.plan.jumps:
            await asyncio.sleep(began + jump.at - asyncio.get_running_loop().time())
            self._let_jump(clock, jump)

    def _let_jump(self, clock: Clock, jump: Jump) -> None:
        self.happened[f"{jump.clock} jump"] += 1
        if jump.clock == "wall":
            self._wall += jump.seconds
        else:
            clock.jump(jump.seconds)

    def _heal(self) -> None:
        for vendor in self.plan.quotas:
            self.sandbox.heal(vendor)
        self._note_tokens()
        self.calm = True

    def _note_tokens(self) -> None:
        self.secrets += self.sandbox.state("digital_onboarding").tokens

    @property
    def story(self) -> list[str]:
        """All requests and all outcomes of the run."""
        told = [
            f"{at.at:.6f} {vendor} {at.method} {at.path} {at.status} {at.body!r}"
            for vendor in self.plan.quotas
            for at in self.sandbox.requests(vendor)
        ]
        told += [f"{label} {word}" for flow in self.flows for label, word in flow.outcomes.items()]
        return [*told, *(f"{type(error).__name__}" for error in self.errors)]


def _step() -> None:
    machine = MACHINE.get()
    if machine is not None:
        machine.works()
