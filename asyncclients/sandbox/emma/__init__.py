"""The mock of Emma."""

from __future__ import annotations

from .state import EmmaState
from .vendor import Emma

__all__ = ["Emma", "EmmaState"]
