"""The priority classes of the queue."""

from __future__ import annotations

from enum import IntEnum


class Priority(IntEnum):
    """Class of a call, which decides its place in the queue when the quota is short.

    Interactive calls go before background calls. While both wait, one grant in ten goes
    to background, so that a flood of interactive calls does not starve it.
    """

    INTERACTIVE = 0
    BACKGROUND = 1
