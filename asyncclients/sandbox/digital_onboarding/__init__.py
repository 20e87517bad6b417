"""The mock of Digital Onboarding."""

from __future__ import annotations

from .state import DigitalOnboardingState
from .vendor import DigitalOnboarding

__all__ = ["DigitalOnboarding", "DigitalOnboardingState"]
