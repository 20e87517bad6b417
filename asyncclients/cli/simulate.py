"""`asyncclients simulate`: test a configuration in virtual time, without a vendor."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cyclopts import Parameter

from asyncclients.errors import ConfigurationError
from asyncclients.ratelimit.quota import Quota
from asyncclients.simulator import LATENCIES, SERVERS, draw_image, draw_text
from asyncclients.simulator import simulate as run

LEFT_OUT = ("accepted_at", "rejected_at")
"""Long fields of the report that are not printed."""
_SERVERS = ", ".join(SERVERS)
_LATENCIES = ", ".join(LATENCIES)


def simulate(
    *,
    quota: Annotated[str, Parameter(help="LIMIT/SECONDS, as in 2/1 or 100/60")] = "2/1",
    server: Annotated[str, Parameter(help=f"how the server counts: {_SERVERS}")] = "sliding-log",
    latency: Annotated[str, Parameter(help=f"the network: {_LATENCIES}")] = "wan",
    workers: Annotated[int, Parameter(help="calls that the backlog keeps in flight")] = 50,
    hours: Annotated[float, Parameter(help="length of the run, in virtual time")] = 1.0,
    interactive: Annotated[float, Parameter(help="interactive calls per second beside it")] = 0.0,
    admission: Annotated[Literal["adaptive", "exact"], Parameter(help="as SessionPool's")] = (
        "adaptive"
    ),
    seed: Annotated[int, Parameter(help="another seed, another run")] = 0,
    image: Annotated[Path | None, Parameter(help="draw into this .png or .svg file too")] = None,
    json: Annotated[bool, Parameter(negative="", help="print the figures as JSON")] = False,
) -> int:
    """Send a backlog through the limiter to a model of a server, in virtual time.

    Prints the rejected calls, the used share of the quota and the waits of interactive calls,
    and draws the arrivals against the limit. An hour takes seconds.
    """
    if image is not None and not image.parent.is_dir():
        raise ConfigurationError(f"{image} is in a directory that does not exist")
    report = run(
        read_quota(quota),
        server=server,
        latency=latency,
        workers=workers,
        seconds=hours * 3600,
        interactive=interactive,
        admission=admission,
        seed=seed,
    )
    if json:
        figures = msgspec.to_builtins(report)
        for name in LEFT_OUT:
            del figures[name]
        print(msgspec.json.encode(figures).decode())
    else:
        print(draw_text(report, ascii_only=not sys.stdout.encoding.startswith("utf")))
    if image is not None:
        draw_image(report, image)
    return 0


def read_quota(text: str) -> Quota:
    """Return the quota in *text*, `LIMIT/SECONDS`."""
    limit, _, period = text.partition("/")
    try:
        return Quota(int(limit), float(period))
    except ValueError:
        raise ConfigurationError(
            f"{text!r} is not a quota", advice="Write LIMIT/SECONDS, as in 2/1 or 100/60"
        ) from None
