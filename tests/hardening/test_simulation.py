"""Random systems with faults, and bugs that they must find."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, Final

import msgspec
import pytest

from asyncclients.backfill.pull import Pull
from asyncclients.core import call
from asyncclients.core.auth import Token
from asyncclients.core.events import logger
from asyncclients.core.retry import decide_failure
from asyncclients.core.tokens import TokenSource
from asyncclients.ratelimit.limiter import Limiter
from asyncclients.ratelimit.quota import ONE, Demand
from asyncclients.ratelimit.scheduler import Scheduler
from asyncclients.ratelimit.slots import Permit

from .simulation.world import Simulation

SEEDS: Final = 6
"""Seeds of the default run; `ASYNCCLIENTS_SEEDS=5000`, or `=700-799`, adds others."""


def more_seeds() -> range:
    """The seeds of the long run."""
    first, _, last = os.environ.get("ASYNCCLIENTS_SEEDS", "2000").rpartition("-")
    return range(int(first), int(last) + 1) if first else range(SEEDS, SEEDS + int(last))


async def lived(seed: int) -> Simulation:
    """The world of *seed*, after all of it."""
    simulation = Simulation(seed)
    await simulation.run()
    return simulation


async def violations(seed: int) -> list[str]:
    """Return the broken invariants of *seed*, and how to reproduce them."""
    again = f"ASYNCCLIENTS_SEEDS={seed}-{seed} pytest -m sweep tests/hardening/test_simulation.py"
    found = (await lived(seed)).violations
    return [f"seed {seed}: {violation} (again: {again})" for violation in found]


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_simulation_keeps_all_promises(seed: int) -> None:
    """The quota holds, rows are sent once, lost responses are unknown, all is released."""
    assert await violations(seed) == []


@pytest.mark.sweep
@pytest.mark.parametrize("seed", more_seeds())
async def test_simulation_keeps_all_promises_long(seed: int) -> None:
    """The same for as many seeds as `ASYNCCLIENTS_SEEDS`."""
    assert await violations(seed) == []


async def test_simulation_is_reproducible() -> None:
    """Two runs of a seed have the same requests, with the same times and bytes."""
    first, second = [(await lived(3)).story for _ in range(2)]
    assert len(first) > 20
    assert first == second


# --- Bugs that are planted, and found ---------------------------------------------------


def keeps_a_cancelled_slot(patch: pytest.MonkeyPatch) -> None:
    """A call that is cancelled in flight is never released."""
    on_done = Scheduler.on_done

    def finish(self: Scheduler) -> None:
        task = asyncio.current_task()
        if task is None or not task.cancelling():
            on_done(self)

    patch.setattr(Scheduler, "on_done", finish)


def checkpoints_before_the_data(patch: pytest.MonkeyPatch) -> None:
    """A checkpoint is saved before the items of its page."""
    save = Pull._save  # pyright: ignore[reportPrivateUsage]

    async def note_and_save(self: Any) -> None:
        await self._checkpoint.save()
        await save(self)

    patch.setattr(Pull, "_save", note_and_save)


def retries_every_operation(patch: pytest.MonkeyPatch) -> None:
    """A creation whose response was lost is retried."""

    def decide_all_alike(request: Any, *rest: Any) -> Any:
        return decide_failure(msgspec.structs.replace(request, idempotent=True), *rest)

    patch.setattr(call, "decide_failure", decide_all_alike)


def counts_from_the_send(patch: pytest.MonkeyPatch) -> None:
    """A slot is free one period after the send instead of after the arrival."""
    acquire = Limiter.acquire

    def acquire_too_early(self: Any, now: float, demand: Demand = ONE) -> Permit:
        permit = acquire(self, now, demand)
        for window in permit.taken.windows:
            window.move_bound(permit.bound(window), now, permit.taken.cost)
        permit.bounds = dict.fromkeys(permit.taken.windows, now)
        return permit

    patch.setattr(Limiter, "acquire", acquire_too_early)


def logs_the_token(patch: pytest.MonkeyPatch) -> None:
    """Each new token is logged."""
    fetch = TokenSource.fetch

    async def fetch_and_tell(self: TokenSource) -> Token:
        token = await fetch(self)
        logger.info("got %s", token.value.reveal())
        return token

    patch.setattr(TokenSource, "fetch", fetch_and_tell)


PLANTED: Final = [
    (keeps_a_cancelled_slot, (1, 2), "permits of"),
    (checkpoints_before_the_data, (218, 236, 292), "not in the file"),
    (retries_every_operation, (0, 2), "times"),
    (counts_from_the_send, (1, 2), "within"),
    (logs_the_token, (1, 3), "a credential is in the log"),
]
"""Each bug, seeds that find it, and what it is found by.

More than one, because what the library does between two steps decides what a crash meets.
"""


@pytest.mark.parametrize(
    ("plant", "seeds", "said"), PLANTED, ids=[planted[0].__name__ for planted in PLANTED]
)
async def test_simulation_finds_a_planted_bug(
    plant: Callable[[pytest.MonkeyPatch], None],
    seeds: tuple[int, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One of a few seeds finds it; without the bug they find nothing."""
    for seed in seeds:
        assert await violations(seed) == []
    plant(monkeypatch)
    found = [violation for seed in seeds for violation in await violations(seed)]
    assert any(said in violation for violation in found)
