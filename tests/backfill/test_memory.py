"""The memory of a pull stays bounded."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

PROBE = Path(__file__).with_name("memory_probe.py")


@pytest.mark.sweep
@pytest.mark.timeout(900)
async def test_pull_of_a_million_items_takes_bounded_memory(tmp_path: Path) -> None:
    """A pull into a slow sink stays below 150 MB, and its state takes 50 bytes per item."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROBE),
        str(tmp_path / "pull.db"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert int(out) < 150 * 2**20
    assert (tmp_path / "pull.db").stat().st_size < 50e6
