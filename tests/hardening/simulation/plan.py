"""The plan of a simulation, which its seed determines before the run.

Worlds are small and unlike each other: a seed has one to three vendors and some of all
that can go wrong, and breadth comes from many seeds. Of two processes on one credential
both speak to the store; without a store each process has credentials of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final, Literal

from asyncclients.sandbox import cut, delay, drop, hang, html, status
from asyncclients.sandbox.faults import Fault
from asyncclients.stores.config import WhenDown

VendorName = Literal["intouch", "totango", "intempt", "emma", "digital_onboarding"]
JobKind = Literal["create", "upsert", "pull"]

VENDORS: Final[tuple[VendorName, ...]] = (
    "intouch",
    "totango",
    "intempt",
    "emma",
    "digital_onboarding",
)
TROUBLE: Final = 20.0
"""Seconds for which things go wrong."""
QUOTAS: Final = ((2, 1.0), (4, 1.0), (8, 1.0), (5, 2.0), (12, 5.0))
JOBS: Final[dict[VendorName, tuple[JobKind, ...]]] = {
    "intouch": ("create", "pull"),
    "totango": ("create", "pull"),
    "intempt": ("upsert",),
    "emma": ("create",),
    "digital_onboarding": ("create", "upsert"),
}
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


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowPlan:
    """Calls of a web process, one after another; *web* is which process."""

    name: str
    vendor: VendorName
    credential: int
    web: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """The end of a process: at an instant, or at a step of the disk or the network.

    *count* is seconds or a number of steps. With *delivered*, bytes already sent still arrive.
    *rest* is seconds until the restart. An *orderly* end is a cancellation.
    """

    orderly: bool
    at: Literal["time", "disk", "wire"]
    count: float
    delivered: bool
    rest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPlan:
    """A backfill and its crashes. *settles*: at the end it asks about unknown rows."""

    name: str
    kind: JobKind
    vendor: VendorName
    credential: int
    rows: int
    from_file: bool
    settles: bool
    crashes: tuple[Crash, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Jump:
    """A clock that jumps: the loop stands still for *seconds*, or the wall clock is set."""

    at: float
    clock: Literal["loop", "wall"]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """The store is unreachable for *seconds* from *at*; with *forgets* it comes back empty."""

    at: float
    seconds: float
    forgets: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StorePlan:
    """The store of limits that all processes share."""

    when_down: WhenDown
    losses: tuple[Loss, ...]

    @property
    def forgets(self) -> bool:
        """It loses what it knew."""
        return any(loss.forgets for loss in self.losses)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One world.

    Attributes:
        quotas: the quota of a credential at each vendor.
        credentials: how many each vendor has issued.
        webs: processes that serve users.
        on_the_way: seconds for which a request is on its way, at the most.
        faults: the faults of the vendors, all with equal probability.
        haste: faults a second.
        revokes: access tokens end at once, now and then.
        token_life: seconds for which an access token is good.
        keeps_tokens: tokens are shared in a file.
    """

    quotas: dict[VendorName, tuple[int, float]]
    credentials: int
    webs: int
    flows: tuple[FlowPlan, ...]
    jobs: tuple[JobPlan, ...]
    on_the_way: float
    faults: tuple[Fault, ...]
    haste: float
    revokes: bool
    token_life: float
    keeps_tokens: bool
    store: StorePlan | None
    jumps: tuple[Jump, ...]

    @property
    def forgets(self) -> bool:
        """Has it a store that loses what it knew?"""
        return self.store is not None and self.store.forgets


def plan_of(seed: int) -> Plan:
    """The world of *seed*."""
    draw = Random(f"{seed} plan")
    vendors = draw.sample(VENDORS, draw.choice((1, 2, 2, 3)))
    quotas: dict[VendorName, tuple[int, float]] = {
        vendor: draw.choice(QUOTAS) for vendor in vendors
    }
    store = _store(draw) if draw.random() < 0.25 else None
    webs = draw.choice((1, 2)) if store else 1
    issued = draw.choice((1, 1, 2))
    count = draw.randint(2, 7)
    flows = tuple(_flow(draw, number, vendors, issued, webs) for number in range(count))
    jobs: list[JobPlan] = []
    for number in range(draw.choice((0, 1, 1, 1, 2))):
        credential = draw.randrange(issued) if store else issued + number
        jobs.append(_job(draw, number, draw.choice(vendors), credential))
    return Plan(
        quotas=quotas,
        credentials=issued if store else issued + len(jobs),
        webs=webs,
        flows=flows,
        jobs=tuple(jobs),
        # The store takes it that a call of a killed process is not long on its way.
        on_the_way=draw.choice((0.01, 0.1)) if store else draw.choice((0.01, 0.1, 0.3)),
        faults=tuple(draw.sample(FAULTS, draw.randint(0, len(FAULTS)))),
        haste=draw.choice((0.5, 2.0)),
        revokes=draw.random() < 0.5,
        token_life=draw.choice((3600.0, 3600.0, 70.0)),
        keeps_tokens=draw.random() < 0.5,
        store=store,
        jumps=_jumps(draw, paused=store is None),
    )


def _store(draw: Random) -> StorePlan:
    losses = [
        Loss(
            at=draw.uniform(0.0, TROUBLE / 2),
            seconds=draw.choice((0.0, draw.uniform(0.1, TROUBLE / 3))),
            forgets=draw.random() < 0.5,
        )
        for _ in range(draw.choice((0, 1, 1, 2)))
    ]
    when_down: WhenDown = draw.choice(("safe_share", "pause"))
    return StorePlan(when_down=when_down, losses=tuple(losses))


def _flow(draw: Random, number: int, vendors: list[VendorName], issued: int, webs: int) -> FlowPlan:
    return FlowPlan(
        name=f"flow{number}",
        vendor=draw.choice(vendors),
        credential=draw.randrange(issued),
        web=draw.randrange(webs),
        rows=draw.randint(2, 10),
    )


def _job(draw: Random, number: int, vendor: VendorName, credential: int) -> JobPlan:
    kind = draw.choice(JOBS[vendor])
    return JobPlan(
        name=f"job{number}",
        kind=kind,
        vendor=vendor,
        credential=credential,
        rows=draw.randint(3, 40),
        from_file=draw.random() < 0.5,
        settles=vendor == "totango" and kind == "create" and draw.random() < 0.7,
        crashes=tuple(_crash(draw) for _ in range(draw.choice((0, 1, 1, 2)))),
    )


def _crash(draw: Random) -> Crash:
    at: Literal["time", "disk", "wire"] = draw.choice(("time", "disk", "disk", "wire"))
    count = draw.uniform(0.0, TROUBLE / 2) if at == "time" else 1 + int(draw.expovariate(0.1))
    return Crash(
        orderly=draw.random() < 0.2,
        at=at,
        count=count,
        delivered=draw.random() < 0.5,
        rest=draw.choice((0.4, 1.0, 5.0)),
    )


def _jumps(draw: Random, *, paused: bool) -> tuple[Jump, ...]:
    """With a store, the loop is never blocked: that would delay all bytes for seconds."""
    jumps: list[Jump] = []
    for _ in range(draw.choice((0, 0, 1, 2))):
        at = draw.uniform(0.0, TROUBLE)
        if paused and draw.random() < 0.7:
            jumps.append(Jump(at=at, clock="loop", seconds=draw.choice((0.5, 3.0, 30.0))))
        else:
            seconds = draw.choice((-86_400.0, -30.0, 30.0, 86_400.0))
            jumps.append(Jump(at=at, clock="wall", seconds=seconds))
    return tuple(sorted(jumps, key=lambda jump: jump.at))
