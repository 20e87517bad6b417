"""The memory of a pull stays bounded, and is freed."""

from __future__ import annotations

import asyncio
import gc
import sys
from pathlib import Path
from weakref import WeakSet

import pytest

from asyncclients.backfill import pull
from asyncclients.backfill.state import pull_state
from asyncclients.paging import Page, Paginator

PROBE = Path(__file__).with_name("memory_probe.py")


async def peak(*arguments: str) -> int:
    """Return the peak memory of the probe with *arguments*, in bytes."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROBE),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return int(out)


@pytest.mark.sweep
@pytest.mark.timeout(900)
async def test_pull_of_a_million_items_takes_bounded_memory(tmp_path: Path) -> None:
    """A pull into a slow sink stays below 150 MB, and its state takes 50 bytes per item."""
    assert await peak(str(tmp_path / "pull.db")) < 150 * 2**20
    assert (tmp_path / "pull.db").stat().st_size < 50e6


@pytest.mark.sweep
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
async def test_refresh_of_a_million_items_takes_bounded_memory(tmp_path: Path, suffix: str) -> None:
    """The first refresh of a file and the second one stay below 150 MB."""
    arguments = (str(tmp_path / "pull.db"), str(tmp_path / f"out{suffix}"))
    assert await peak(*arguments) < 150 * 2**20
    assert await peak(*arguments) < 150 * 2**20


async def test_pull_frees_its_keys_when_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys of a pull are freed at once, not by a later search for unreachable objects."""
    kept = WeakSet[pull_state.SeenKeys]()

    class Seen(pull_state.SeenKeys):
        def __init__(self) -> None:
            super().__init__()
            kept.add(self)

    async def fetch(number: int) -> Page[dict[str, int]]:
        return Page(items=[{"id": 1}], number=number, total=1, last=True)

    monkeypatch.setattr(pull_state, "SeenKeys", Seen)
    gc.disable()
    try:
        await pull(Paginator(fetch), tmp_path / "out.jsonl", state=tmp_path / "pull.db")
        assert not kept
    finally:
        gc.enable()
