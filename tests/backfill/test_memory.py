"""The memory of a pull stays bounded."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

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
