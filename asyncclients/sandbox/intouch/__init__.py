"""The mock of Intouch: tags, hierarchies, contacts, external programs."""

from __future__ import annotations

from .state import IntouchState
from .vendor import Intouch

__all__ = ["Intouch", "IntouchState"]
