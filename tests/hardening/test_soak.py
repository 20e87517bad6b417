"""A short soak of `benchmarks/soak.py`, and leaks that its verdict must find."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STEADY = {"rss": 60.0, "fds": 30, "tasks": 80, "objects": 65.0, "turn": 1.0}


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return import_module("soak")


def samples(soak: Any, **growth: float) -> list[Any]:
    """A day of samples, every half hour, that swing a little; *growth* is what a column gains."""
    return [
        soak.Sample(
            hours=number / 2,
            turn_wall=0.0,
            requests=number,
            **{
                name: value + (number % 3) * 0.2 + growth.get(name, 0.0) * number / 47
                for name, value in STEADY.items()
            },
        )
        for number in range(48)
    ]


def test_soak_verdict_is_flat_for_a_steady_day(soak: Any) -> None:
    """Columns that only vary around a mean are flat."""
    assert all(row["flat"] for row in soak.judge(samples(soak)).values())


@pytest.mark.parametrize(
    ("column", "growth"),
    [("rss", 8.0), ("fds", 6.0), ("tasks", 6.0), ("objects", 5.0), ("turn", 30.0)],
)
def test_soak_verdict_names_a_growing_column(soak: Any, column: str, growth: float) -> None:
    """A leak changes the verdict of its own column only."""
    verdict = soak.judge(samples(soak, **{column: growth}))
    assert [name for name, row in verdict.items() if not row["flat"]] == [column]


@pytest.mark.sweep
def test_soak_of_forty_minutes_is_flat(tmp_path: Path) -> None:
    """Nothing grows, no row is lost or sent twice, every pull is complete."""
    report = tmp_path / "soak.json"
    script = str(BENCHMARKS / "soak.py")
    arguments = ["--hours", "0.67", "--every", "1", "--json", str(report)]
    command = [sys.executable, "-W", "error", script, *arguments]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads(report.read_text())
    assert found["wrong"] == []
    assert found["world"]["pushes"] >= 1
    assert found["world"]["pulls"] >= 1
    assert len(found["samples"]) >= 40
