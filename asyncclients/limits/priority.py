"""The strict classes of the queue."""

from __future__ import annotations

from enum import IntEnum


class Priority(IntEnum):
    """Who goes first when the quota is short. Strict: lower goes before higher."""

    INTERACTIVE = 0
    BACKGROUND = 1
