"""The code for Temporal on the page about task queues delivers a job, called as by a worker."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from .pages import ROOT, blocks, module_of


async def test_temporal_workflow_delivers_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workflow executes one activity for each batch, in order, with time for a long one."""

    def same(decorated: Any) -> Any:
        return decorated

    async def execute(activity: Any, *, args: list[Any], start_to_close_timeout: Any) -> None:
        assert start_to_close_timeout.total_seconds() == 1800
        await activity(*args)

    temporal: Any = ModuleType("temporalio")
    temporal.activity = SimpleNamespace(defn=same)
    temporal.workflow = SimpleNamespace(defn=same, run=same, execute_activity=execute)
    monkeypatch.setitem(sys.modules, "temporalio", temporal)
    delivered: list[tuple[str, int]] = []

    async def deliver(job: str, number: int) -> None:
        delivered.append((job, number))

    namespace = module_of(monkeypatch, worker=SimpleNamespace(deliver=deliver))
    (block,) = (b for b in blocks(ROOT / "docs" / "task-queues.md") if "temporalio" in b.code)
    await block.run(namespace)
    await namespace["Push"]().run("tags", [0, 1, 2])
    assert delivered == [("tags", 0), ("tags", 1), ("tags", 2)]
