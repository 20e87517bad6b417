"""Invariants that hold after each run, whatever failed in it."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tests.hardening.simulation.scenarios import TRADES
from tests.support.leaks import leaks

from .plan import VendorName

if TYPE_CHECKING:
    from .machine import Machine
    from .world import Simulation

_TOLD = ("BASE_URL", "ACCOUNT_ID", "ORG", "CLIENT_ID", "PUBLIC_KEY")
"""Ends of variables that hold no secret."""
_ALIKE = 3
"""Errors of one kind and place that are looked through."""


def all_violations(world: Simulation) -> Iterator[str]:
    """All that is not as it should be, in words."""
    for vendor in world.plan.quotas:
        yield from _quota(world, vendor)
        yield from _rows(world, vendor)
    for job in world.jobs:
        yield from job.violations()
    yield from _secrets(world)


def at_rest(world: Simulation, machine: Machine) -> Iterator[str]:
    """Permits that *machine*, which is gone, has not given back."""
    for stats in machine.pool.stats():
        if stats.in_flight or any(stats.queued.values()):
            yield f"permits of {machine.name} are not back: {stats}"
    if world.store is not None and world.calm and not machine.dead:
        for slot in world.store.reserved(machine.name):
            yield f"the store still holds {slot} for {machine.name}, which has left"


def complaints(world: Simulation) -> Iterator[str]:
    """The messages of the event loop."""
    for said in world.log.complaints:
        yield f"the loop complains: {said}"


def _quota(world: Simulation, vendor: VendorName) -> Iterator[str]:
    limit, period = world.plan.quotas[vendor]
    arrivals: dict[str, list[float]] = {}
    for arrival in world.sandbox.requests(vendor):
        if arrival.credential:
            arrivals.setdefault(arrival.credential, []).append(arrival.at)
    for instants in map(sorted, arrivals.values()):
        for index, at in enumerate(instants):
            inside = index + 1 - bisect_left(instants, at - period + 1e-6)
            if inside > limit:
                yield f"{vendor} saw {inside} calls, of {limit}, within {period} s before {at}"


def _rows(world: Simulation, vendor: VendorName) -> Iterator[str]:
    made, kept = TRADES[vendor].made(world.sandbox), TRADES[vendor].kept(world.sandbox)
    for flow in world.flows:
        if flow.plan.vendor != vendor:
            continue
        for label, word in flow.outcomes.items():
            world.happened[f"{word} row"] += 1
            if made[label] > 1:
                yield f"row {label} ({word}) is there {made[label]} times"
            if (word == "done" and not made[label]) or (word == "not done" and made[label]):
                yield f"row {label} is {word} and {made[label]} times there"
        held = Counter({label: kept[label] for label in flow.kept})
        if held != Counter(flow.kept):
            yield f"rows of idempotent operations are not there once: {held}"


# --- Secrets --------------------------------------------------------------------------------


def secrets_of(environs: Mapping[VendorName, list[dict[str, str]]]) -> Iterator[str]:
    """The credentials in *environs*."""
    for vendor, issued in environs.items():
        for environ in issued:
            for name, value in environ.items():
                if name.startswith(vendor.upper()) and not name.endswith(_TOLD):
                    yield value


def _secrets(world: Simulation) -> Iterator[str]:
    secrets = set(world.secrets)
    said = "\n".join(world.log.lines)
    if any(secret in said for secret in secrets):
        yield "a credential is in the log"
    alike: Counter[Any] = Counter()
    for error in world.errors:
        kind = _kind(error)
        alike[kind] += 1
        if alike[kind] <= _ALIKE and (found := leaks(error, *secrets)):
            yield f"a credential is in {type(error).__name__}: {found}"
    for path in world.folder.rglob("*"):
        if path.is_file() and path.name != "tokens.json":
            content = path.read_bytes()
            if any(secret.encode() in content for secret in secrets):
                yield f"a credential is in {path.name}"


def _kind(error: BaseException) -> Any:
    frames: list[Any] = []
    trace = error.__traceback__
    while trace is not None:
        frames.append((trace.tb_frame.f_code.co_name, trace.tb_lineno))
        trace = trace.tb_next
    return type(error), type(error.__cause__), type(error.__context__), tuple(frames)
