"""What is compared, each in a process of its own; they take turns.

A program has one of them. In one process each would work in the heap that the others have
left: how large a piece of memory is mapped anew for every read, how much the collector
walks, and how well the caches are used would be theirs to decide.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable, Coroutine, Iterator
from multiprocessing.connection import Connection
from typing import Any, Self

Serve = Callable[..., Coroutine[Any, Any, None]]
_LIFE = 3
"""Rounds after which processes are started anew: how a heap comes to lie is luck."""


def lives(rounds: int) -> Iterator[int]:
    """How many of *rounds* each life of the processes has."""
    for left in range(rounds, 0, -_LIFE):
        yield min(_LIFE, left)


class Apart:
    """A process that runs `serve(connection, *given)` and is asked for one turn after another.

    *serve* receives what `turn` was given, and sends what it returns, until it receives None.
    """

    def __init__(self, serve: Serve, *given: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        arguments = (theirs, serve, *given)
        self._process = context.Process(target=_run, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def turn(self, *given: Any) -> Any:
        """Have it work, and wait for what it says."""
        self._ours.send(given)
        return self._ours.recv()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.send(None)
        self._process.join()


def _run(connection: Connection, serve: Serve, *given: Any) -> None:
    asyncio.run(serve(connection, *given))
