"""What has become of rows, as those who deliver them note it.

One run on one machine notes in its state file (`ledger`); a batch that any
worker may take over notes in a book that all of them share (`batch`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from typing import Protocol

from asyncclients.backfill.sources import Row


class RowLog(Protocol):
    """Where delivery notes what happens. All but `sending` is done at once."""

    @property
    def done(self) -> int:
        """Rows carried out, as far as this run knows."""
        ...

    def record_intent(self, rows: Iterable[Row]) -> Awaitable[None]:
        """Done when it is kept for good that *rows* go out now."""
        ...

    def mark_pending(self, rows: Iterable[Row]) -> None:
        """*rows* were certainly not carried out; they are pending again."""
        ...

    def mark_done(self, rows: Sequence[Row]) -> None:
        """*rows* were carried out."""
        ...

    def mark_skipped(self, rows: Sequence[Row]) -> None:
        """There is nothing to send for *rows*."""
        ...

    def mark_failed(self, row: Row, failure: BaseException) -> None:
        """*row* was refused."""
        ...

    def mark_unknown(self, rows: Sequence[Row], reason: str) -> None:
        """*rows* may or may not have been carried out."""
        ...
