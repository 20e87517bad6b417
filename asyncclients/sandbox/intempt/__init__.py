"""The mock of Intempt."""

from __future__ import annotations

from .state import IntemptState
from .vendor import Intempt

__all__ = ["Intempt", "IntemptState"]
