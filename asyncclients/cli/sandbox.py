"""`asyncclients sandbox`: the mock vendors, until Ctrl-C."""

from __future__ import annotations

import asyncio
import shlex
from typing import Annotated

from cyclopts import Parameter, validators

from asyncclients.cli.output import show
from asyncclients.cli.signals import on_signals
from asyncclients.sandbox import Sandbox

_PORT = Parameter(
    help="first of six ports: one for each vendor, and one for the files that Intempt receives",
    validator=validators.Number(gte=0, lte=65_530),
)


async def sandbox(
    *,
    port: Annotated[int, _PORT] = 0,
    json: Annotated[bool, Parameter(negative="", help="print the variables as JSON")] = False,
) -> int:
    """Start all five mock vendors on 127.0.0.1 with their documented limits.

    Prints the `export` lines with which every client uses them; stops on Ctrl-C.
    """
    stopped = asyncio.Event()
    on_signals(stopped.set)
    async with Sandbox(port=port) as running:
        lines = (f"export {name}={shlex.quote(value)}" for name, value in running.environ.items())
        show(running.environ, as_json=json, describe=lambda _: "\n".join(lines))
        await stopped.wait()
    return 0
