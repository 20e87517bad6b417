"""What the pretend Digital Onboarding holds."""

from __future__ import annotations


class DigitalOnboardingState:
    """One Digital Onboarding team."""

    def __init__(self) -> None:
        self.clients: dict[str, str] = {}
        self.tokens: dict[str, str] = {}
