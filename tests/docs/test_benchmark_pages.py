"""The tables of the benchmark pages match the figures in `benchmarks/results/`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("page", ["rate_limits", "overhead", "backfill", "shared", "soak", "sync"])
def test_benchmark_page_is_up_to_date(page: str) -> None:
    """Each page has the tables that `python benchmarks/page.py` writes."""
    command = [sys.executable, str(BENCHMARKS / "page.py"), page, "--check"]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, f"run python benchmarks/page.py: {ran.stdout}{ran.stderr}"
