"""The mock of Totango."""

from __future__ import annotations

from .state import TotangoState
from .vendor import Totango

__all__ = ["Totango", "TotangoState"]
