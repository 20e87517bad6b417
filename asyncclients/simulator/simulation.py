"""Prove a configuration in virtual time, before it meets a vendor."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Literal, TypeVar, cast

from asyncclients.errors import ConfigurationError
from asyncclients.ratelimit.limiter import Limiter
from asyncclients.simulator.latency import LATENCIES
from asyncclients.simulator.servers import SERVERS
from asyncclients.simulator.world import Simulation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncclients.ratelimit.protocol import LimiterProtocol
    from asyncclients.ratelimit.quota import Quota
    from asyncclients.simulator.report import SimulationReport
    from asyncclients.simulator.world import Client

_T = TypeVar("_T")


def simulate(
    quota: Quota,
    *,
    server: str = "sliding-log",
    latency: str = "wan",
    workers: int = 50,
    seconds: float = 3600.0,
    interactive: float = 0.0,
    admission: Literal["adaptive", "exact"] = "adaptive",
    retry_after: bool = True,
    seed: int = 0,
    client: Client | None = None,
) -> SimulationReport:
    """Send a backlog through a limiter at a server model, and report what came of it.

    Args:
        quota: the limit that the server enforces and the client knows.
        server: a name in `SERVERS`.
        latency: a name in `LATENCIES`.
        workers: the most calls of the backlog in flight.
        seconds: how long, in virtual time.
        interactive: calls per second, at random, that go before the backlog.
        admission: the limiter's.
        retry_after: refusals carry `Retry-After`.
        seed: the same seed gives the same run.
        client: another limiter than ours, for comparison.

    Raises:
        ConfigurationError: for an unknown name, or a run of no length.
    """
    model, route = _named("server", server, SERVERS), _named("latency", latency, LATENCIES)
    if not (seconds > 0 and workers > 0 and interactive >= 0):
        raise ConfigurationError(
            "a simulation needs seconds and workers above 0, and no less than 0 interactive calls",
            advice="Leave them out for an hour with 50 workers and a backlog alone",
        )
    random = Random(f"{server} {latency} {seed}")
    world = Simulation(
        Limiter((quota,), admission=admission)
        if client is None
        else cast("LimiterProtocol", client),
        model(quota, random),
        route,
        workers=workers,
        interactive=interactive,
        retry_after=retry_after,
        random=random,
    )
    record = world.run(seconds)
    return record.report(quota, server, latency, workers=workers, seconds=seconds, seed=seed)


def _named(kind: str, name: str, known: Mapping[str, _T]) -> _T:
    if name not in known:
        raise ConfigurationError(
            f"there is no {kind} model {name!r}", advice=f"Known are {', '.join(known)}"
        )
    return known[name]
