"""Pretend vendors for tests and trials: `async with Sandbox() as sandbox: ...`.

Written from the vendors' manuals and from nothing of the client's, so that a
manual misread by one of the two shows.
"""

from __future__ import annotations

from . import faults
from .faults import cut, delay, drop, hang, html, redirect, status
from .journal import Arrival, Summary
from .sandbox import Sandbox

__all__ = [
    "Arrival",
    "Sandbox",
    "Summary",
    "cut",
    "delay",
    "drop",
    "faults",
    "hang",
    "html",
    "redirect",
    "status",
]
