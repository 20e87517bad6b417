"""What the pretend Emma holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random


class EmmaState:
    """One Emma account."""

    def __init__(self, random: Random) -> None:
        self.account_id = random.randrange(10**6, 10**7)
        self.keys: dict[str, str] = {}
