"""The cost of importing the package, and of ten thousand clients in one process.

    python benchmarks/imports.py [--runs 15] [--json FILE]

Each run is a new interpreter; the commands alternate. The cost beyond aiohttp is timed inside
an interpreter that has imported aiohttp: a difference of two interpreters would be smaller than
the noise of either. Bytecode exists before the first run, as after `pip install`, whatever
PYTHONDONTWRITEBYTECODE says.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
import tracemalloc

from harness import compare, exit_code, parser, save

AIOHTTP = "import aiohttp"
USED = "from asyncclients import SessionPool, IntouchClient"
TIMED = "from time import perf_counter as clock; "
EXTRAS = (
    "asyncclients.vendors",
    "asyncclients.sandbox",
    "asyncclients.backfill",
    "asyncclients.integrations",
    "asyncclients.stores",
    "asyncclients.cli",
    "redis",
    "sqlalchemy",
    "dbos",
    "opentelemetry",
    "argparse",
)
"""Modules that `import asyncclients` must not load."""
CLIENTS = 10_000
BEYOND = "ms to import the pool and one client, beyond aiohttp"
HELP = "ms of `asyncclients --help`, beyond the interpreter"
UNASKED = "modules that `import asyncclients` loads unasked"
TARGETS = {BEYOND: 50.0, HELP: 250.0, UNASKED: 0.0}


def milliseconds(command: list[str]) -> float:
    """Return the number that *command* prints if it times itself, else its duration."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    started = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    took = (time.perf_counter() - started) * 1000
    return float(done.stdout) if command[-1].startswith(TIMED) else took


def timed(statement: str, after: str = "pass") -> list[str]:
    """Return a command that prints the milliseconds of *statement*, *after* another."""
    code = f"{after}; started = clock(); {statement}; print((clock() - started) * 1000)"
    return [sys.executable, "-c", TIMED + code]


def starts(runs: int) -> dict[str, float]:
    """Return median milliseconds of imports and of the command line."""
    commands = {
        "python": [sys.executable, "-c", "pass"],
        AIOHTTP: timed(AIOHTTP),
        USED: timed(USED, after=AIOHTTP),
        "help": [sys.executable, "-m", "asyncclients", "--help"],
    }
    for command in commands.values():
        milliseconds(command)
    rounds = [{name: milliseconds(each) for name, each in commands.items()} for _ in range(runs)]
    median = {name: statistics.median(each[name] for each in rounds) for name in commands}
    return {
        BEYOND: median[USED],
        HELP: median["help"] - median["python"],
        "ms to start the interpreter": median["python"],
        "ms to import aiohttp": median[AIOHTTP],
    }


def unasked() -> list[str]:
    """Return the modules of EXTRAS that `import asyncclients` loads."""
    code = "import aiohttp, sys; had = set(sys.modules); import asyncclients; "
    code += "print(*(set(sys.modules) - had))"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return sorted(name for name in found if name.startswith(EXTRAS))


async def many_clients() -> dict[str, float]:
    """Return bytes and microseconds of one of many clients with a credential each."""
    from asyncclients import IntouchClient, SessionPool

    async with SessionPool() as pool:
        IntouchClient(pool, api_key="warm", base_url="http://127.0.0.1:1/").stats()
        started = time.perf_counter()
        timed = [IntouchClient(pool, api_key=f"timed-{n}") for n in range(CLIENTS)]
        built = time.perf_counter() - started
        for client in timed:
            client.stats()  # opens its scope
        opened = time.perf_counter() - started - built
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        clients = [IntouchClient(pool, api_key=f"weighed-{n}") for n in range(CLIENTS)]
        after_clients = tracemalloc.get_traced_memory()[0]
        for client in clients:
            client.eta()
        after_scopes = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return {
            "bytes of one of 10,000 clients": (after_clients - before) / CLIENTS,
            "bytes of its open, idle scope": (after_scopes - after_clients) / CLIENTS,
            "µs to make a client": built / CLIENTS * 1e6,
            "µs to open its scope": opened / CLIENTS * 1e6,
        }


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--runs", type=int, default=15)
    given = options.parse_args()
    loaded = unasked()
    figures = starts(1 if given.quick else given.runs) | {UNASKED: float(len(loaded))}
    rows = compare(figures | asyncio.run(many_clients()), TARGETS)
    print(*loaded)
    save(given.json, rows=rows)
    return exit_code(rows.values(), quick=given.quick)


if __name__ == "__main__":
    sys.exit(main())
