"""One seed, one world: clients of several flows and credentials, vendors that fail, virtual time.

For a while everything goes wrong that can: lost answers, cut ones, refusals, delays,
calls that are cancelled, requests that are long on their way. Then the vendors heal. What
must hold all the same is checked by `violations`, in words.

The seed decides all that is drawn. In which order the kernel hands over what arrives at
the same instant is not drawn: runs of one seed are alike, not the same to the last call.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random as global_random
from bisect import bisect_left
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import AsyncExitStack
from functools import partial
from random import Random
from typing import Any, Final, Literal

from asyncclients import (
    AsyncClientsError,
    DigitalOnboardingClient,
    IntouchClient,
    OutcomeUnknownError,
    Priority,
    Quota,
    RetryPolicy,
    SessionPool,
)
from asyncclients.sandbox import Sandbox, cut, delay, drop, hang, html, status
from asyncclients.sandbox.faults import Fault
from asyncclients.vendors.digital_onboarding import NewContact
from tests.fakes import leaks

from .relay import relay
from .traces import Traces

QUOTAS: Final = {"intouch": (4, 1.0), "digital_onboarding": (8, 1.0)}
VENDORS: Final[tuple[Literal["intouch", "digital_onboarding"], ...]] = (
    "intouch",
    "digital_onboarding",
)
TROUBLE: Final = 20.0
"""Seconds for which things go wrong."""
FLOWS: Final = 4
ROWS: Final = 12
"""Rows that each flow brings to its vendor."""
HEALING: Final = 120.0
"""Seconds within which all is done once the trouble is over."""
FAULTS: Final[tuple[Fault, ...]] = (
    drop(),
    drop(committed=True),
    cut(),
    hang(),
    hang(committed=True),
    delay(0.7),
    delay(6.0),
    html(),
    status(429, "", {"Retry-After": "1"}),
    status(500),
    status(502, "", committed=True),
    status(503),
)


class Simulation:
    """The world of *seed*; `run` it, then ask for `violations`."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.seed = seed
        self.outcomes: dict[str, str] = {}
        self.errors: list[AsyncClientsError] = []
        self.violations: list[str] = []
        self._log = _Log()
        self._secrets: list[str] = []

    async def run(self) -> None:
        """Live through it all."""
        state = global_random.getstate()
        global_random.seed(self.seed)
        with self._log.heard():
            try:
                traces = Traces()
                async with Sandbox(QUOTAS, seed=self.seed, latency=(0.02, 0.05)) as sandbox:
                    await self._live(sandbox)
                    self._check(sandbox)
                await self._check_traces(traces)
            finally:
                global_random.setstate(state)

    async def _live(self, sandbox: Sandbox) -> None:
        async with AsyncExitStack() as stack:
            environs = [sandbox.environ, {**sandbox.environ, **sandbox.issue("intouch")}]
            for name in ("INTOUCH", "DIGITAL_ONBOARDING"):
                url = sandbox.environ[f"{name}_BASE_URL"]
                way = await stack.enter_async_context(
                    relay(url, Random(f"{self.seed} {name}"), 0.3)
                )
                environs = [{**environ, f"{name}_BASE_URL": way} for environ in environs]
            policy = RetryPolicy(max_attempts=3, base=0.2, cap=2.0)
            pool = await stack.enter_async_context(
                SessionPool(admission="exact", retry=policy, timeout=4.0)
            )
            self._secrets += [environ["INTOUCH_API_KEY"] for environ in environs]
            self._secrets.append(sandbox.environ["DIGITAL_ONBOARDING_CLIENT_SECRET"])
            await self._work(sandbox, pool, environs)
            self._at_rest(pool)

    async def _work(
        self, sandbox: Sandbox, pool: SessionPool, environs: list[dict[str, str]]
    ) -> None:
        quotas = {name: [Quota(*quota)] for name, quota in QUOTAS.items()}
        flows: list[Coroutine[Any, Any, None]] = []
        for number, environ in enumerate(environs):
            intouch = IntouchClient.from_env(pool, environ, quotas=quotas["intouch"])
            flows += [self._creates(intouch, f"{number}-{flow}") for flow in range(FLOWS)]
        onboarding = DigitalOnboardingClient.from_env(
            pool, environs[0], quotas=quotas["digital_onboarding"]
        )
        flows += [self._upserts(onboarding, f"u-{flow}") for flow in range(FLOWS)]
        trouble = asyncio.create_task(self._trouble(sandbox))
        work = asyncio.gather(*flows)
        try:
            async with asyncio.timeout(TROUBLE + HEALING):
                await work
        except TimeoutError:
            waiting = [stats.queued for stats in pool.stats()]
            self.violations.append(f"no progress after the trouble: {waiting} wait")
        await trouble

    async def _trouble(self, sandbox: Sandbox) -> None:
        loop = asyncio.get_running_loop()
        ends = loop.time() + TROUBLE
        while loop.time() < ends:
            await asyncio.sleep(self.random.expovariate(2.0))
            for vendor in VENDORS:
                sandbox.fail(vendor, self.random.choice(FAULTS), self.random.randint(1, 2))
            if self.random.random() < 0.1:
                tokens = sandbox.state("digital_onboarding").tokens
                self._secrets += tokens
                tokens.clear()
        for vendor in VENDORS:
            sandbox.heal(vendor)
        self._secrets += sandbox.state("digital_onboarding").tokens

    # --- What the clients do ------------------------------------------------------------

    async def _creates(self, client: IntouchClient, name: str) -> None:
        """Rows that must not be repeated, each tried once."""
        draw = Random(f"{self.seed} {name}")
        mine = client.with_options(**_options(draw, name))
        for row in range(ROWS):
            await asyncio.sleep(draw.expovariate(5.0))
            label = f"{name}-{row}"
            self.outcomes[label] = await self._try(draw, partial(mine.tags.create, label))
        await self._until_done(draw, lambda: mine.tags.list().first())

    async def _upserts(self, client: DigitalOnboardingClient, name: str) -> None:
        """Rows that may be repeated, each until it is there."""
        draw = Random(f"{self.seed} {name}")
        mine = client.with_options(**_options(draw, name))
        for row in range(ROWS):
            await asyncio.sleep(draw.expovariate(5.0))
            contact = NewContact(unique_id=f"{name}-{row}", email=f"{name}{row}@example.com")
            await self._until_done(draw, partial(mine.contacts.upsert, contact))

    async def _until_done(self, draw: Random, call: Callable[[], Awaitable[Any]]) -> None:
        while True:
            if await self._try(draw, call) == "done":
                return
            await asyncio.sleep(1.0)

    async def _try(self, draw: Random, call: Callable[[], Awaitable[Any]]) -> str:
        """Make *call*, now and then not to its end; in a word, what came of it."""
        patience = draw.choice([None, None, None, draw.uniform(0.0, 2.0)])
        try:
            async with asyncio.timeout(patience):
                await call()
        except OutcomeUnknownError as error:
            self.errors.append(error)
            return "unknown"
        except AsyncClientsError as error:
            self.errors.append(error)
            return "failed"
        except TimeoutError:
            return "cancelled"
        return "done"

    # --- What must hold -----------------------------------------------------------------

    def _at_rest(self, pool: SessionPool) -> None:
        for stats in pool.stats():
            if stats.in_flight or any(stats.queued.values()):
                self.violations.append(f"permits are not back: {stats}")

    def _check(self, sandbox: Sandbox) -> None:
        for vendor in VENDORS:
            self._check_quota(sandbox, vendor)
        made = Counter(str(tag["name"]) for tag in sandbox.state("intouch").tags.values())
        for name, times in made.items():
            if times > 1:
                self.violations.append(f"row {name} is there {times} times")
        for name, outcome in self.outcomes.items():
            if outcome == "done" and made[name] != 1:
                self.violations.append(f"row {name} is done and {made[name]} times there")
        held = Counter(
            str(row["unique_id"]) for row in sandbox.state("digital_onboarding").contacts.values()
        )
        if held != Counter(f"u-{flow}-{row}" for flow in range(FLOWS) for row in range(ROWS)):
            self.violations.append(f"rows that may be repeated are not there once: {held}")
        self._check_secrets()

    async def _check_traces(self, traces: Traces) -> None:
        try:
            await traces.gone()
        except AssertionError as left:
            self.violations.append(f"something is left: {left}")

    def _check_quota(self, sandbox: Sandbox, vendor: Any) -> None:
        limit, period = QUOTAS[vendor]
        arrivals: dict[str, list[float]] = {}
        for arrival in sandbox.requests(vendor):
            arrivals.setdefault(arrival.credential, []).append(arrival.at)
        for instants in arrivals.values():
            for index, at in enumerate(instants):
                inside = index + 1 - bisect_left(instants, at - period + 1e-6)
                if inside > limit:
                    self.violations.append(f"{vendor} saw {inside} within {period} s before {at}")

    def _check_secrets(self) -> None:
        said = "\n".join(self._log.lines)
        if any(secret in said for secret in self._secrets):
            self.violations.append("a credential is in the log")
        for error in self.errors:
            if found := leaks(error, *self._secrets):
                self.violations.append(f"a credential is in {type(error).__name__}: {found}")


def _options(draw: Random, flow: str) -> dict[str, Any]:
    return {
        "flow": flow,
        "priority": draw.choice([*Priority]),
        "deadline": draw.choice([None, 15.0]),
    }


class _Log(logging.Handler):
    """All that the library logs."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    @contextlib.contextmanager
    def heard(self) -> Generator[None]:
        """Listen inside the block."""
        logger = logging.getLogger("asyncclients")
        level = logger.level
        logger.addHandler(self)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        try:
            yield
        finally:
            logger.removeHandler(self)
            logger.setLevel(level)
            logger.propagate = True
