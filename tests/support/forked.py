"""Run a script, or `asyncclients`, in a process that `command.py` has forked for it.

It is run by its path, because a test's process need not find `tests` by its name.
"""

from __future__ import annotations

import os
import runpy
import sys
from multiprocessing.connection import Connection
from typing import Any, NamedTuple


class Order(NamedTuple):
    """The program, its folder, and the pipes for standard output and standard error."""

    script: str
    arguments: list[str]
    directory: str
    environ: dict[str, str]
    pipes: list[Connection[Any, Any]]


def run(order: Order) -> None:
    """Become the program: its pipes, arguments, environment and folder."""
    for number, pipe in enumerate(order.pipes, 1):
        os.dup2(pipe.fileno(), number)
        pipe.close()
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
    sys.argv = [order.script, *order.arguments]
    os.environ.clear()
    os.environ.update(order.environ)
    os.chdir(order.directory)
    if order.script:
        runpy.run_path(order.script, run_name="__main__")
    else:
        runpy.run_module("asyncclients", run_name="__main__", alter_sys=True)


if __name__ == "forked":
    run(Order(*globals()["ORDER"]))
