"""The event loops on which the suites run, and the suites that run on all of them.

`pytest --every-loop` runs every asynchronous test on each loop that it can run on.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import pytest

from asyncclients.testing import VirtualClock

Factory = Callable[[], asyncio.AbstractEventLoop]

SUITES: Final = frozenset(
    {
        "backfill/test_pull.py",
        "backfill/test_push.py",
        "core/test_attempt_timeouts.py",
        "core/test_pool.py",
        "core/test_timeouts.py",
        "hardening/test_loops.py",
        "ratelimit/test_scheduler.py",
        "ratelimit/test_timer.py",
        "stores/test_files.py",
        "stores/test_sqlite.py",
        "test_middleware.py",
    }
)


def _debugging() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.01
    return loop


def _uvloop() -> asyncio.AbstractEventLoop:
    found: asyncio.AbstractEventLoop = importlib.import_module("uvloop").new_event_loop()
    return found


def _virtual(factory: Factory) -> asyncio.AbstractEventLoop:
    loop = factory()
    VirtualClock(loop, start=0.0).start()
    return loop


DEFAULT: Final[dict[str, Factory]] = {"asyncio": asyncio.new_event_loop}
VIRTUAL: Final = DEFAULT | {"debug": _debugging}
"""Those whose clock can be replaced by a virtual one."""
ALL: Final = VIRTUAL | ({"uvloop": _uvloop} if find_spec("uvloop") else {})


def loops_of(item: pytest.Item, *, everywhere: bool) -> dict[str, Factory]:
    """The loops on which *item* runs."""
    suite = item.path.relative_to(Path(__file__).parents[1]).as_posix()
    factories = ALL if everywhere or suite in SUITES else DEFAULT
    is_virtual = item.get_closest_marker("virtual_time") is not None
    if is_virtual or "virtual_time" in getattr(item, "fixturenames", ()):
        factories = {name: factories[name] for name in factories if name in VIRTUAL}
    return {
        name: partial(_virtual, factory) if is_virtual else factory
        for name, factory in factories.items()
    }
