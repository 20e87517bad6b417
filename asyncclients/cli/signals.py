"""React to Ctrl-C and to requests to terminate, on each platform."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from typing import Any

STOP = ("SIGINT", "SIGTERM")


def on_signals(callback: Callable[[], object], names: Sequence[str] = STOP) -> Callable[[], None]:
    """Call *callback* in the running loop at each signal of *names* that this platform has.

    Returns a function that restores the former handlers.
    """
    loop = asyncio.get_running_loop()
    replaced: dict[signal.Signals, Any] = {}
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]

    def handle(*_: object) -> None:
        if not loop.is_closed():  # as while the interpreter ends
            loop.call_soon_threadsafe(callback)

    def restore() -> None:
        for number in numbers:
            if number in replaced:
                signal.signal(number, replaced[number])
            else:
                loop.remove_signal_handler(number)

    for number in numbers:
        try:
            loop.add_signal_handler(number, callback)
        except NotImplementedError:  # the loops of Windows
            replaced[number] = signal.signal(number, handle)
    return restore
