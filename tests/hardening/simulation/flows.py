"""A web process: the calls of one flow, one after another, some of them cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Final

from asyncclients import (
    AsyncClientsError,
    ConnectError,
    DeadlineExceededError,
    OutcomeUnknownError,
    Priority,
    RateLimitedError,
)
from tests.hardening.simulation.scenarios import TRADES, Call

from .machine import Machine
from .plan import FlowPlan

if TYPE_CHECKING:
    from .world import Simulation

_NOT_DONE: Final = (ConnectError, DeadlineExceededError, RateLimitedError)
"""Errors that say: this was not carried out."""


class Flow:
    """The calls of one flow.

    Attributes:
        outcomes: of each row that must not be repeated, in a word.
        kept: rows of idempotent operations; all must be there at the end.
    """

    def __init__(self, world: Simulation, plan: FlowPlan, machine: Machine) -> None:
        self._world, self.plan, self._machine = world, plan, machine
        self._draw = Random(f"{world.seed} {plan.name}")
        self.outcomes: dict[str, str] = {}
        self.kept: list[str] = []

    async def live(self) -> None:
        """Make all calls; at the end one that must succeed."""
        draw, plan = self._draw, self.plan
        client = self._machine.client(plan.vendor, plan.credential).with_options(
            flow=plan.name,
            priority=draw.choice([*Priority]),
            deadline=draw.choice([None, 15.0]),
        )
        trade = TRADES[plan.vendor]
        for number in range(plan.rows):
            await asyncio.sleep(draw.expovariate(2.0))
            label = f"{plan.name}-{number}"
            if trade.create is not None and (trade.upsert is None or draw.random() < 0.5):
                self.outcomes[label] = await self._try(partial(trade.create, client, label))
            elif trade.upsert is not None:
                self.kept.append(label)
                await self._until_done(trade.upsert, client, label)
        await self._until_done(trade.look, client, "")

    async def _until_done(self, call: Call, client: Any, label: str) -> None:
        word = ""
        while word != "done":
            word = await self._try(partial(call, client, label))
            await asyncio.sleep(1.0)

    async def _try(self, call: Callable[[], Awaitable[Any]]) -> str:
        """Make *call*, now and then not to its end; in a word, what came of it."""
        patience = self._draw.choice([None, None, None, self._draw.uniform(0.0, 2.0)])
        try:
            async with asyncio.timeout(patience):
                await call()
        except OutcomeUnknownError as error:
            return self._failed(error, "unknown")
        except _NOT_DONE as error:
            return self._failed(error, "not done")
        except AsyncClientsError as error:
            return self._failed(error, "failed")
        except TimeoutError:
            self._world.happened["cancelled call"] += 1
            return "cancelled"
        return "done"

    def _failed(self, error: AsyncClientsError, word: str) -> str:
        self._world.errors.append(error)
        return word
