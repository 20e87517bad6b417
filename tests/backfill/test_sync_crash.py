"""A sync that is killed at any instant ends in agreement, and creates no item twice.

As in `test_crash.py`, the job runs in a process of its own and dies by SIGKILL.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import msgspec
import pytest

from asyncclients.backfill import SyncReport
from asyncclients.sandbox import Sandbox, drop

from .conftest import Killer

OPEN = {"intouch": (1_000_000, 1.0)}
LATENCY = (0.005, 0.005)
_RUNS = 20
"""Runs after which vendor and file agree, or never will."""


class World:
    """A file, a vendor, and the job that keeps the vendor in agreement with the file.

    Args:
        kind: `hierarchies`, which are read in each run, or `contacts`, whose new lines alone are read.
    """

    def __init__(self, sandbox: Sandbox, directory: Path, kind: str, seed: int) -> None:
        self._arguments = (kind, str(directory / "items.csv"), str(directory / "items.sync"))
        self._is_tree = kind == "hierarchies"
        self._key_end = "" if self._is_tree else "@x.org"
        self._vendor = sandbox.state("intouch")
        self._random = Random(seed)
        self.killer = Killer(sandbox.environ, seed)
        self.names: dict[str, str] = {}
        self._before: dict[str, str] = {}

    def edit(self, size: int) -> None:
        """Give the file *size* rows: a tenth of the old ones is gone, and another one changed."""
        kept = {key: name for key, name in self.names.items() if self._random.random() > 0.1}
        for key in kept:
            if self._random.random() < 0.1:
                kept[key] = f"Name {self._random.random()}"
        while len(kept) < size:
            kept[f"item-{self._random.getrandbits(60)}{self._key_end}"] = "New"
        self._before, self.names = self.names, kept
        self._write()

    def revert(self) -> None:
        """Write the file as it was before the last edit."""
        self.names = self._before
        self._write()

    def _write(self) -> None:
        root = self._vendor.root_uuid
        header, rest = "email,first_name\n", "\n"
        if self._is_tree:
            header, rest = "client_code,name,type,parent_uuid\n", f",generic,{root}\n"
        lines = [f"{key},{name}{rest}" for key, name in self.names.items()]
        Path(self._arguments[1]).write_text(header + "".join(lines))

    async def kill(self, kills: int, longest: float) -> None:
        """Kill *kills* runs, each within *longest* seconds, or until one ends."""
        for _ in range(kills):
            if not await self.killer.kill(*self._arguments, longest=longest):
                return

    async def agree(self) -> None:
        """Run until nothing is unknown; the vendor then has each row once, and nothing else."""
        report = SyncReport(unknown=1)
        for _ in range(_RUNS):
            if not report.unknown:
                break
            output = await self.killer.finish(*self._arguments)
            report = msgspec.json.decode(output, type=SyncReport)
            assert report.failed == 0
        if self._is_tree:
            nodes = [row for row in self._vendor.hierarchies.values() if row["parent_uuid"]]
            items = [(str(row["client_code"]), row["name"]) for row in nodes]
        else:
            contacts = self._vendor.contacts.values()
            items = [(str(row["email"]), row["first_name"]) for row in contacts]
        keys = Counter(key for key, _ in items)
        assert [key for key, times in keys.items() if times > 1] == []
        assert dict(items) == self.names
        again = await self.killer.finish(*self._arguments)
        assert msgspec.json.decode(again, type=SyncReport).requests == 0


async def survive(
    directory: Path, kind: str, *, size: int, kills: int, edits: int, seed: int, longest: float
) -> int:
    """Edit the file and kill the job, again and again; return the number of kills.

    At eight calls a time of 10 ms each, the 150 changes of the second edit of 500 rows take more
    than 0.18 s.
    """
    async with Sandbox(OPEN, latency=LATENCY) as sandbox:
        random = Random(seed)
        fault = drop(committed=True)
        sandbox.fail("intouch", fault, None, lambda _: random.random() < 0.02)
        world = World(sandbox, directory, kind, seed)
        for _ in range(edits):
            world.edit(size)
            await world.kill(kills // edits, longest)
            if random.random() < 0.3:
                world.revert()
            await world.agree()
        return world.killer.kills


@pytest.mark.parametrize("kind", ["hierarchies", "contacts"])
async def test_killed_sync_ends_in_agreement(tmp_path: Path, kind: str) -> None:
    """Killed runs and lost responses lose nothing and create nothing twice."""
    assert await survive(tmp_path, kind, size=500, kills=2, edits=2, seed=0, longest=0.15) == 2


@pytest.mark.sweep
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["hierarchies", "contacts"])
async def test_sync_killed_two_hundred_times(tmp_path: Path, kind: str) -> None:
    """After each of ten edits, killed up to twenty times, vendor and file agree."""
    kills, seed = 0, 1
    while kills < 200:
        directory = tmp_path / str(seed)
        directory.mkdir()
        kills += await survive(
            directory, kind, size=3000, kills=200, edits=10, seed=seed, longest=0.5
        )
        seed += 1
