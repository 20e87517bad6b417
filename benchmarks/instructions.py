"""What one call costs in instructions: `overhead.py` without the noise of the machine.

    python benchmarks/instructions.py [--calls 400] [--json FILE]

Each client runs twice under `valgrind --tool=cachegrind`, with as many calls and
with three times as many; the difference is what the calls cost, in user space.
The server is another process and is not counted. Needs valgrind (`apt install
valgrind`); a client takes half a minute or more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import overhead
from overhead_server import serve

CLIENTS = (overhead.BASE, "asyncclients, no quota", "asyncclients", "aiohttp + json + dataclass")
TARGETS = {1: 1.15, 100: 1.12}


async def make_calls(url: str, name: str, calls: int, concurrency: int) -> None:
    async with AsyncExitStack() as stack:
        call = await overhead.CLIENTS[name](stack, url)
        await overhead.round_of(call, calls, concurrency)


def instructions(url: str, name: str, calls: int, concurrency: int) -> int:
    """Instructions of a whole process that makes *calls* calls."""
    arguments = [
        "--url",
        url,
        "--client",
        name,
        "--calls",
        str(calls),
        "--at-once",
        str(concurrency),
    ]
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=cachegrind", "--cache-sim=no"]
        command += [f"--cachegrind-out-file={folder}/out", sys.executable, __file__, *arguments]
        # A set's order depends on the seed of hashes, and with it how much is done.
        environment = os.environ | {"PYTHONHASHSEED": "0"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    assert found is not None, done.stderr
    return int(found[1].replace(",", ""))


def measure(url: str, calls: int, concurrency: int) -> dict[str, dict[str, float]]:
    each = {
        name: (
            instructions(url, name, 3 * calls, concurrency)
            - instructions(url, name, calls, concurrency)
        )
        / (2 * calls)
        for name in CLIENTS
    }
    base = each[overhead.BASE]
    return {
        name: {"instructions": round(count), "ratio": round(count / base, 3)}
        for name, count in each.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--json", type=Path)
    for internal in ("--url", "--client"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    parser.add_argument("--at-once", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        asyncio.run(make_calls(options.url, options.client, options.calls, options.at_once))
        return 0
    if shutil.which("valgrind") is None:
        print("valgrind is not installed")
        return 2
    queue: multiprocessing.Queue = multiprocessing.Queue()
    server = multiprocessing.Process(target=serve, args=(queue,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{queue.get(timeout=10)}/"
    results = {}
    for concurrency, target in TARGETS.items():
        results[concurrency] = rows = measure(url, options.calls, concurrency)
        print(f"\n{concurrency} at a time; target {target:.2f} x", flush=True)
        for name, row in rows.items():
            print(f"  {name:<28} {row['ratio']:>6.3f} x  {row['instructions']:>10,}", flush=True)
    server.terminate()
    if options.json:
        report = {"python": sys.version.split()[0], "results": results}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
