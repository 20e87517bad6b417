"""What importing costs, and what ten thousand clients in one process cost.

    python benchmarks/imports.py [--runs 15] [--json FILE]

Each run is an interpreter of its own; they take turns. What ours costs beyond
aiohttp is timed inside one that has imported aiohttp: as the difference of two
interpreters it would be smaller than the noise of either. Bytecode is there
before the first run, as it is after `pip install`, whatever the environment
says about writing it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

BARE = "pass"
AIOHTTP = "import aiohttp"
OURS = "import asyncclients"
USED = "from asyncclients import SessionPool, IntouchClient"
TIMED = "from time import perf_counter as clock; "
CLI = [sys.executable, "-m", "asyncclients", "--help"]
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
CLIENTS = 10_000


def milliseconds(command: list[str]) -> float:
    """What *command* prints, or how long it takes if that is nothing to go by."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    started = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    took = (time.perf_counter() - started) * 1000
    return float(done.stdout) if command[-1].startswith(TIMED) else took


def timed(statement: str, after: str = "pass") -> list[str]:
    """An interpreter that prints the milliseconds of *statement*, *after* another."""
    code = f"{after}; started = clock(); {statement}; print((clock() - started) * 1000)"
    return [sys.executable, "-c", TIMED + code]


def starts(runs: int) -> dict[str, object]:
    """Milliseconds to start an interpreter, and of what it does."""
    commands = {
        "python": [sys.executable, "-c", BARE],
        AIOHTTP: timed(AIOHTTP),
        OURS: timed(OURS),
        f"{USED}, after aiohttp": timed(USED, after=AIOHTTP),
        "asyncclients --help": CLI,
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for command in commands.values():
        milliseconds(command)
    for _ in range(runs):
        for name, command in commands.items():
            times[name].append(milliseconds(command))
    median = {name: statistics.median(values) for name, values in times.items()}
    # `import asyncclients` alone loads next to nothing: what counts is the first name used.
    beyond = median[f"{USED}, after aiohttp"]
    shown = median["asyncclients --help"] - median["python"]
    return {
        "milliseconds": {name: round(value, 1) for name, value in median.items()},
        "best": {name: round(min(values), 1) for name, values in times.items()},
        "beyond aiohttp": {"ms": round(beyond, 1), "target": 50, "met": beyond < 50},
        "--help beyond python": {"ms": round(shown, 1), "target": 250, "met": shown < 250},
    }


def loaded() -> list[str]:
    """Modules that `import asyncclients` loads although nobody asked for them."""
    code = "import aiohttp, sys; had = set(sys.modules); import asyncclients; "
    code += "print(*(set(sys.modules) - had))"
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    return sorted(name for name in found if name.startswith(EXTRAS))


async def crowd() -> dict[str, object]:
    """Ten thousand clients with a credential each: bytes and microseconds of one."""
    from asyncclients import IntouchClient, SessionPool

    async with SessionPool() as pool:
        warm = IntouchClient(pool, api_key="warm", base_url="http://127.0.0.1:1/")
        warm.stats()
        started = time.perf_counter()
        timed = [IntouchClient(pool, api_key=f"timed-{n}") for n in range(CLIENTS)]
        built = time.perf_counter() - started
        for client in timed:
            client.stats()  # its scope is opened here
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
            "clients": CLIENTS,
            "bytes a client": round((after_clients - before) / CLIENTS),
            "bytes a scope": round((after_scopes - after_clients) / CLIENTS),
            "microseconds a client": round(built / CLIENTS * 1e6, 1),
            "microseconds a scope": round(opened / CLIENTS * 1e6, 1),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    extras = loaded()
    result = {
        "python": sys.version.split()[0],
        "starts": starts(options.runs),
        "loaded without being asked for": extras,
        "crowd": asyncio.run(crowd()),
    }
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    starting = result["starts"]
    met = not extras and all(
        starting[name]["met"] for name in ("beyond aiohttp", "--help beyond python")
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
