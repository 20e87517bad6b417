"""Rows that may or may not have been carried out: a table, which a person will read.

A row that was on the wire when its process was killed is known by its number
only, until the input is read again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from asyncclients.backfill.encoding import encode_row
from asyncclients.backfill.journal import Journal, Statement
from asyncclients.backfill.sources import Row


class Unknown(msgspec.Struct, frozen=True, kw_only=True):
    """A row that may or may not have been carried out; *row* is None until it is read again."""

    number: int
    line: int
    row: Any
    reason: str


class Unknowns:
    """The unknown rows of a push. Changes are saved with the journal's next commit."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._numbers: set[int] = set()
        self._unread: set[int] = set()
        self._news: list[Statement] = []

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._numbers))

    async def load(self) -> None:
        """Take what the journal holds."""
        for number, row in await self._journal.read("SELECT number, row FROM unknown"):
            self._numbers.add(number)
            if row is None:
                self._unread.add(number)

    async def all(self) -> list[Unknown]:
        """All of them, by number."""
        await self._journal.saved()
        found = await self._journal.read("SELECT * FROM unknown ORDER BY number")
        return [read_unknown(record) for record in found]

    def add(self, number: int, line: int, data: Any, reason: str) -> None:
        """Nobody can say what became of the row *number*; *data* is None if it was not read."""
        self._numbers.add(number)
        if data is None:
            self._unread.add(number)
        row = None if data is None else encode_row(data)
        self._note("INSERT OR REPLACE INTO unknown VALUES (?, ?, ?, ?)", number, line, row, reason)

    def seen(self, row: Row) -> None:
        """*row* was read again: an unknown one has its content now."""
        if row.number in self._unread:
            self._unread.discard(row.number)
            sql = "UPDATE unknown SET line = ?, row = ? WHERE number = ?"
            self._note(sql, row.line, encode_row(row.data), row.number)

    def remove(self, number: int) -> None:
        """The row *number* is not unknown any more."""
        self._numbers.discard(number)
        self._unread.discard(number)
        self._note("DELETE FROM unknown WHERE number = ?", number)

    def take(self) -> list[Statement]:
        """What has changed since the last time."""
        news, self._news = self._news, []
        return news

    def _note(self, sql: str, *parameters: Any) -> None:
        self._news.append(Statement(sql, [parameters]))
        self._journal.changed()


def read_unknown(record: tuple[int, int, bytes | None, str]) -> Unknown:
    """A row of the table of unknown rows."""
    number, line, row, reason = record
    data = None if row is None else msgspec.json.decode(row)
    return Unknown(number=number, line=line, row=data, reason=reason)
