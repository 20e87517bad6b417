"""The soak of `benchmarks/soak.py`: a short one, and a leak that it would find."""

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


def test_a_steady_day_is_flat(soak: Any) -> None:
    """What swings about the same height is flat in every column."""
    assert all(row["flat"] for row in soak.judge(samples(soak)).values())


@pytest.mark.parametrize(
    ("column", "growth"),
    [("rss", 8.0), ("fds", 6.0), ("tasks", 6.0), ("objects", 5.0), ("turn", 30.0)],
)
def test_a_column_that_grows_is_named(soak: Any, column: str, growth: float) -> None:
    """A leak turns the verdict of its own column, and of no other."""
    verdict = soak.judge(samples(soak, **{column: growth}))
    assert [name for name, row in verdict.items() if not row["flat"]] == [column]


@pytest.mark.sweep
def test_a_short_soak(tmp_path: Path) -> None:
    """Forty virtual minutes: nothing grows, no row is lost or sent twice, every pull is whole."""
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
