"""The memory of a sync: digests of the rows that were sent, in tables of the journal.

| table       | a row                                                                          |
|-------------|--------------------------------------------------------------------------------|
| item        | digest of the key; the vendor's id; digest of the row that was sent last;      |
|             | digest of the item as it was last listed; id of its parent, in a tree          |
| sync_intent | a create that is on the wire, or whose outcome is unknown                      |
| rejected    | digest of a row that the vendor rejected, and the reason                       |
| line        | digests of the lines and keys of the rows that agree with their items, in the  |
|             | order of the input; one row                                                    |

Keys and rows are stored as 64-bit digests, so that an item costs less than 100 bytes. An item without either digest was not in the vendor's list when it was last read.

The lines are valid as long as no item and no intent changes: the commit of the first change also
clears `SyncState.layout`, and a run that ends writes all lines anew.
"""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple, Self

import msgspec

from asyncclients.backfill.files.source import Row
from asyncclients.backfill.report import SyncReport
from asyncclients.backfill.state.journal import Changes, Journal, Statement, put_value
from asyncclients.backfill.state.stored_rows import DeadLetterFile, Mark, describe, encode_row

_KNOWN = "id IS NOT NULL AND (sent IS NOT NULL OR listed IS NOT NULL)"
_KILLED = "the run was killed before the response arrived"
_PAGE = 5_000
"""Items read from the journal at once."""
_NO_DIGEST = 0
"""Digest of no row."""


class Item(NamedTuple):
    """The known facts of an item.

    Attributes:
        id: the vendor's id; None if the vendor did not return it.
        sent: digest of the row that was sent last; None after the item was listed.
        listed: digest of the item as it was listed; None if it was sent since, or is lost.
        parent: id of its parent.
    """

    id: str | None
    sent: int | None = None
    listed: int | None = None
    parent: str | None = None

    @property
    def is_known(self) -> bool:
        """True if the item has an id, and was in the vendor's list when it was last read."""
        return self.id is not None and not self.is_lost

    @property
    def is_lost(self) -> bool:
        """True if the item was not in the vendor's list when it was last read."""
        return self.sent is None and self.listed is None

    def agrees(self, digest: int, listed: int | None) -> bool:
        """Return whether the item agrees with a row.

        Args:
            digest: of the row in the form that is sent.
            listed: digest that an equal item would have in the vendor's list.
        """
        if self.is_lost:
            return False
        return self.listed == listed if self.sent is None else self.sent == digest


class RememberedLines(NamedTuple):
    """Digests of the lines of an input whose rows agree with their items, and of the rows' keys."""

    digests: array[int]
    keys: array[int]


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """A create that may or may not have been executed.

    Attributes:
        name: the key.
        line: of the row in the input of the run that sent it.
        reason: why its outcome is unknown; empty while it is on the wire.
    """

    name: str
    line: int
    row: Any
    reason: str = ""


class SyncState(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The value that each commit replaces: the counts of the last run, as in `SyncReport`.

    Attributes:
        source: name of its input.
        planned: number of creates, updates and deletions that it decided on, a row that has to be
            looked up being a create.
        page: the page of the vendor's list at which an interrupted adoption resumes; 0 if none.
        shape: the fields that the adoption compares.
        failures: how much of the file of failed rows is saved.
        layout: identifies how a line of the input becomes a row; empty if the lines are not valid.
        complete: the last run reached its end.
    """

    source: str = ""
    created: int = 0
    updated: int = 0
    deleted: int = 0
    unchanged: int = 0
    missing: int = 0
    failed: int = 0
    unknown: int = 0
    skipped: int = 0
    planned: tuple[int, int, int] = (0, 0, 0)
    requests: int = 0
    rejected: int = 0
    seconds: float = 0.0
    quota_use: float = 0.0
    remaining: int = 0
    warnings: tuple[str, ...] = ()
    page: int = 0
    shape: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    failures: Mark = Mark()
    layout: str = ""
    complete: bool = False

    def report(self, failures: str | None) -> SyncReport:
        """Return the report of the run; *failures* is the path of the file of failed rows."""
        counts = {name: getattr(self, name) for name in _REPORTED}
        return SyncReport(failures=failures if self.failed else None, **counts)


_REPORTED = [name for name in SyncReport.__struct_fields__ if name != "failures"]


class SyncMemory:
    """The tables of a sync, and their changes that the next commit saves.

    Attributes:
        journal: saves the changes.
        state: saved with the next commit.
        intents: by the digest of the key.
        rejected: digest of the row, and reason, by the digest of the key.
        count: number of items with an id.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.state = SyncState()
        self.intents: dict[int, Intent] = {}
        self.rejected: dict[int, tuple[int, str]] = {}
        self.count = 0
        self._failures = DeadLetterFile(journal.path)
        self._changed: dict[str, dict[int, tuple[Any, ...] | None]] = {
            table: {} for table in ("item", "sync_intent", "rejected")
        }
        self._before: list[Statement] = []

    @classmethod
    async def load(cls, journal: Journal) -> Self:
        """Return the memory stored in *journal*."""
        memory = cls(journal)
        found = await journal.state(SyncState) or SyncState()
        memory.state = SyncState(page=found.page, shape=found.shape, layout=found.layout)
        for key, name, line, row, reason in await journal.read("SELECT * FROM sync_intent"):
            data = msgspec.json.decode(row)
            intent = Intent(name=name, line=line, row=data, reason=reason or _KILLED)
            memory.intents[key] = intent
        for key, digest, reason in await journal.read("SELECT * FROM rejected"):
            memory.rejected[key] = digest, reason
        memory.count = await memory.known_count()
        await journal.run(memory._failures.begin)
        journal.set_source(memory._next_commit)
        return memory

    @property
    def failures(self) -> str:
        """Path of the file of failed rows."""
        return str(self._failures.path)

    # --- Reading --------------------------------------------------------------------------

    async def items(self, keys: Sequence[int]) -> dict[int, Item]:
        """Return the items with the *keys* that are known."""
        places = ",".join("?" * len(keys))
        sql = f"SELECT key, id, sent, listed, parent FROM item WHERE key IN ({places})"  # noqa: S608 - only ?
        changed = self._changed_items(keys)  # a commit that starts during the read takes them away
        rows = {row[0]: row for row in await self.journal.read(sql, *keys)}
        rows |= changed | self._changed_items(keys)
        return {key: Item(*row[1:]) for key, row in rows.items() if row is not None}

    def _changed_items(self, keys: Sequence[int]) -> dict[int, Any]:
        changed = self._changed["item"]
        return {key: changed[key] for key in changed.keys() & set(keys)}

    async def known_count(self) -> int:
        """Return the number of items with an id that were not missing in the vendor's list."""
        ((count,),) = await self.journal.read(f"SELECT count(*) FROM item WHERE {_KNOWN}")  # noqa: S608
        return int(count)

    async def known_keys(self) -> AsyncIterator[list[int]]:
        """Yield the digests of the keys of these items in ascending order, some at a time."""
        sql = f"SELECT key FROM item WHERE key > ? AND {_KNOWN} ORDER BY key LIMIT ?"  # noqa: S608
        last = -(2**63)
        while page := await self.journal.read(sql, last, _PAGE):
            yield [key for (key,) in page]
            last = page[-1][0]

    async def lost_keys(self) -> list[int]:
        """Return the digests of the keys of items that are not in the vendor's list."""
        sql = "SELECT key FROM item WHERE sent IS NULL AND listed IS NULL"
        return [key for (key,) in await self.journal.read(sql)]

    async def has_listed(self) -> bool:
        """Return whether any item was listed and not sent since."""
        sql = "SELECT 1 FROM item WHERE listed IS NOT NULL LIMIT 1"
        return bool(await self.journal.read(sql))

    async def lines(self, layout: str) -> RememberedLines:
        """Return the lines of the last run, none if they are not valid or had another *layout*."""
        found = RememberedLines(array("q"), array("q"))
        if layout and layout == self.state.layout:
            for digests, keys in await self.journal.read("SELECT digests, keys FROM line"):
                found.digests.frombytes(digests)
                found.keys.frombytes(keys)
        return found

    # --- Changes ----------------------------------------------------------------------------

    def remember_lines(self, layout: str, lines: RememberedLines) -> None:
        """Replace the lines by those of this run, whose changes are all saved."""
        row = (lines.digests.tobytes(), lines.keys.tobytes())
        self._before.append(Statement("DELETE FROM line", [()]))
        self._before.append(Statement("INSERT INTO line VALUES (0, ?, ?)", [row]))
        self.state.layout = layout

    def remember(self, key: int, item: Item) -> None:
        """Store *item*; its create, if one was recorded, has succeeded."""
        self._changed["item"][key] = (key, *item)
        self.state.layout = ""
        self.remove_intent(key)

    def doubt(self, key: int, item: Item) -> None:
        """Store that *item* is about to be changed: until that is confirmed, no row agrees with it."""
        self.remember(key, Item(item.id, _NO_DIGEST, parent=item.parent))

    def forget(self, key: int) -> None:
        """Remove the item and the rejection of *key*."""
        self._changed["item"][key] = None
        self.state.layout = ""
        self.accept(key)

    def add_intent(self, key: int, intent: Intent) -> None:
        """Record that a create is about to be sent, or that its outcome is unknown."""
        self.intents[key] = intent
        self.state.layout = ""
        row = encode_row(intent.row)
        self._changed["sync_intent"][key] = (key, intent.name, intent.line, row, intent.reason)

    def remove_intent(self, key: int) -> None:
        """Remove the intent: the outcome of the create is known."""
        if self.intents.pop(key, None) is not None:
            self._changed["sync_intent"][key] = None

    def reject(self, key: int, digest: int, reason: str) -> None:
        """Remember that the vendor rejected the row with *digest*."""
        self.rejected[key] = digest, reason
        self._changed["rejected"][key] = (key, digest, reason)

    def accept(self, key: int) -> None:
        """Forget that a row was rejected."""
        if self.rejected.pop(key, None) is not None:
            self._changed["rejected"][key] = None

    def begin_adoption(self, shape: dict[str, Any]) -> None:
        """Regard all items as lost until they are listed."""
        self.state.page, self.state.shape, self.state.layout = 1, shape, ""
        self._before.append(Statement("UPDATE item SET sent = NULL, listed = NULL", [()]))

    def write_failure(self, row: Row, failure: BaseException) -> None:
        """Add *row* to the file of failed rows."""
        self._failures.add(describe(row, failure))

    def _next_commit(self) -> Changes:
        statements, self._before = self._before, []
        for table, changed in self._changed.items():
            gone = [(key,) for key, row in changed.items() if row is None]
            rows = [row for row in changed.values() if row is not None]
            if gone:
                statements.append(Statement(f"DELETE FROM {table} WHERE key = ?", gone))  # noqa: S608
            if rows:
                places = ",".join("?" * len(rows[0]))
                sql = f"INSERT OR REPLACE INTO {table} VALUES ({places})"  # noqa: S608
                statements.append(Statement(sql, rows))
            changed.clear()
        write_failures = self._failures.take()
        self.state.failures = self._failures.mark
        statements.append(put_value("state", self.state))
        return Changes(statements, write_failures)
