"""What the pretend Totango holds."""

from __future__ import annotations


class TotangoState:
    """One Totango account."""

    def __init__(self) -> None:
        self.tokens: set[str] = set()
