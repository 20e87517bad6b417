"""Mock vendors for tests and trials: `async with Sandbox() as sandbox: ...`.

They are written from the vendors' manuals and import nothing of the clients, so that a
misinterpretation of a manual in one of the two is visible.
"""

from __future__ import annotations

from . import faults
from .faults import cut, delay, drop, hang, html, redirect, status
from .sandbox import Sandbox
from .server import Summary
from .vendor import SandboxRequest

__all__ = [
    "Sandbox",
    "SandboxRequest",
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
