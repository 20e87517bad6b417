"""Threads in virtual time: work of a thread runs on the loop after a random delay.

So the seed decides when a commit is on the disk, and a process can be killed between any
two steps there. One executor does one thing after another, as a thread would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from random import Random
from typing import Any

_USUAL = 0.002
_SLOW = 0.3
"""Maximum seconds of one step on a busy disk, one step in thirty."""


class Disk:
    """Takes the place of the loop's threads; *step* is called before and after each step."""

    def __init__(self, random: Random, step: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._random, self._step = random, step
        self._free_at: dict[int, float] = {}

    @contextmanager
    def in_place(self) -> Generator[None]:
        """Serve the loop inside the block."""
        before = vars(self._loop)["run_in_executor"]
        vars(self._loop)["run_in_executor"] = self._run
        try:
            yield
        finally:
            vars(self._loop)["run_in_executor"] = before

    def _run(
        self, executor: object, work: Callable[..., Any], *arguments: Any
    ) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        now = self._loop.time()
        begins = now if executor is None else max(now, self._free_at.get(id(executor), now))
        begins += self._while()
        ends = begins + self._while()
        self._free_at[id(executor)] = ends
        self._loop.call_at(begins, self._do, future, ends, work, arguments)
        return future

    def _while(self) -> float:
        longest = _SLOW if self._random.random() < 1 / 30 else _USUAL
        return self._random.uniform(1e-6, longest)

    def _do(
        self,
        future: asyncio.Future[Any],
        ends: float,
        work: Callable[..., Any],
        arguments: tuple[Any, ...],
    ) -> None:
        if future.cancelled():
            return
        self._step()
        try:
            result: Any = work(*arguments)
        except BaseException as failure:  # noqa: BLE001 - a thread would hand on any
            self._loop.call_at(ends, _tell, future, future.set_exception, failure)
        else:
            self._loop.call_at(ends, _tell, future, future.set_result, result)
        self._step()


def _tell(future: asyncio.Future[Any], tell: Callable[[Any], None], what: Any) -> None:
    if not future.cancelled():
        tell(what)
