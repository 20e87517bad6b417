"""A pull of a million items into a slow sink: `memory_probe.py STATE`. Prints its peak memory, bytes.

`memory_probe.py STATE FILE` refreshes a file instead.
"""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asyncclients.backfill import pull
from asyncclients.paging import Page, Paginator
from asyncclients.vendors.intouch import Contact

ITEMS, PAGE = 1_000_000, 100


class Slow:
    """Takes longer for a page than the vendor does to give it."""

    def __init__(self) -> None:
        self.taken = 0

    async def open(self, position: Any) -> None:
        pass

    async def write(self, items: Sequence[Any]) -> None:
        await asyncio.sleep(0.002)
        self.taken += len(items)

    async def flush(self) -> int:
        return self.taken

    async def finish(self) -> None:
        pass

    async def close(self) -> None:
        pass


async def page(number: int) -> Page[Contact]:
    start = (number - 1) * PAGE
    items = [
        Contact(uuid=f"{index:036}", email=f"{index}@example.com")
        for index in range(start, start + PAGE)
    ]
    return Page(items=items, number=number, total=ITEMS, last=start + PAGE >= ITEMS)


async def main(state: str, to: str = "") -> int:
    if to:
        report = await pull(Paginator(page), to, state=state, refresh=True)
        assert (report.done, report.unverified) == (ITEMS, ())
        return peak()
    sink = Slow()
    report = await pull(Paginator(page), sink, state=state)
    assert (report.done, sink.taken, report.unverified) == (ITEMS, ITEMS, ())
    return peak()


def peak() -> int:
    """The most memory that this program has taken; `ru_maxrss` would count its parent's too."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


if __name__ == "__main__":
    sys.stdout.write(f"{asyncio.run(main(*sys.argv[1:]))}\n")
