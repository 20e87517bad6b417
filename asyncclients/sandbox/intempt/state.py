"""What the pretend Intempt holds."""

from __future__ import annotations


class IntemptState:
    """One Intempt organization."""

    def __init__(self) -> None:
        self.org = "sandbox-org"
        self.keys: set[str] = set()
