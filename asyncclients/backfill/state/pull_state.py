"""The state of a pull: how far it came, and which items it has.

The order of a checkpoint: items to the sink, the sink durable, then the checkpoint in the
journal. After a crash the sink is cut back to the last checkpoint.

An item is identified by its key, a line of text. The journal stores the keys; memory holds
their hashes, about 75 bytes per item. Python's hash of a text has 64 bits: the probability
that two of a million ids share one is 3 in 100 million. Such an item would be dropped as a
duplicate, and the comparison with the vendor's total would report it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import compress, repeat
from typing import Any, TypeVar, cast

import msgspec

from asyncclients.backfill.encoding import digest, encode_row
from asyncclients.backfill.state.dead_letters import DeadLetter, DeadLetterFile, Mark
from asyncclients.backfill.state.journal import Changes, Journal, Statement
from asyncclients.errors import BackfillStoppedError, DecodeError
from asyncclients.paging import Page

T = TypeVar("T")
Key = str | Callable[[Any], Any]

_MIN_ITEMS = 500
"""Items above which the share of unreadable ones counts; a single bad page must not stop a pull."""
_NO_KEY = (
    "the items do not all have the field given as key= (by default uuid or id), so duplicates "
    "could not be detected"
)


def drop_at(items: Sequence[T], indexes: Sequence[int]) -> Sequence[T]:
    """Return *items* without those at *indexes*."""
    if not indexes:
        return items
    dropped = {*indexes}
    return [item for index, item in enumerate(items) if index not in dropped]


class SeenKeys:
    """The set of keys that were written, as hashes."""

    __slots__ = ("_hashes",)

    def __init__(self) -> None:
        self._hashes: set[int] = set()

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, key: str) -> bool:
        return hash(key) in self._hashes

    def add(self, keys: Sequence[str]) -> list[int]:
        """Add *keys*; return the indexes of those that were there, or earlier in *keys*."""
        hashes = self._hashes
        new: set[int] = {*map(hash, keys)}
        duplicates: list[int] = []
        if len(new) < len(keys) or not hashes.isdisjoint(new):
            new = set()
            for index, each in enumerate(map(hash, keys)):
                if each in hashes or each in new:
                    duplicates.append(index)
                else:
                    new.add(each)
        hashes |= new
        return duplicates


class ItemKeys:
    """Computes the keys of items.

    Args:
        key: the name of a field, or a function of an item; None for `uuid`, else `id`.
    """

    def __init__(self, key: Key | None) -> None:
        readers = [partial(_fields, name) for name in ((key,) if key else ("uuid", "id"))]
        self._first, *self._others = readers

    def keys_of(self, items: Sequence[Any]) -> list[str]:
        """Return a line of text for each of *items* that identifies it in its list."""
        keys = self._first(items)
        if are_lines(keys):
            return keys
        return [
            digest(encode_row(item)) if key is None else text_of(key)
            for item, key in zip(items, self.raw_keys(items), strict=True)
        ]

    def raw_keys(self, items: Sequence[Any]) -> list[Any]:
        """Return the value of the key field of each of *items*, None for items without one."""
        keys = self._first(items)
        for read in self._others:
            # Item by item: a key must not depend on the other items of its page.
            pairs = zip(keys, read(items), strict=True)
            keys = [other if key is None else key for key, other in pairs]
        return keys


def _fields(key: Key, items: Sequence[Any]) -> list[Any]:
    """Return *key* of each of *items*, None for items without the field."""
    if not isinstance(key, str):
        return [*map(key, items)]
    if not any(map(isinstance, items, repeat(dict))):
        return [*map(getattr, items, repeat(key), repeat(None))]
    return [
        cast("dict[str, Any]", item).get(key)
        if isinstance(item, dict)
        else getattr(item, key, None)
        for item in items
    ]


def text_of(key: object) -> str:
    """Return *key* itself if it is one line of text, else its repr."""
    return key if isinstance(key, str) and "\n" not in key else repr(key)


def are_lines(keys: Sequence[Any]) -> bool:
    """Return whether each of *keys* is a text of one line."""
    try:
        return "\n" not in "".join(keys)
    except TypeError:
        return False


class PullState(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The value that each checkpoint replaces.

    Attributes:
        pass_number: 1 for the first reading of the list, 2 for the second.
        page: last page in the sink; 0 for none.
        position: of the sink after that page.
        done: items in the sink.
        skipped: duplicates that were dropped.
        failed: unreadable items, which are in the dead-letter file.
        failures: size and checksum of that file.
        total: number of items that the vendor reported last.
        total_shrank: the reported total decreased during this pass.
        has_keys: the items have keys; None before the first item.
        read: the list was read to its end.
        complete: the sink is finished as well.
        unverified: see `Report`.
    """

    pass_number: int = 1
    page: int = 0
    position: Any = None
    done: int = 0
    skipped: int = 0
    failed: int = 0
    failures: Mark = Mark()
    total: int | None = None
    total_shrank: bool = False
    has_keys: bool | None = None
    read: bool = False
    complete: bool = False
    unverified: tuple[str, ...] = ()

    @property
    def is_missing_some(self) -> bool:
        """True if the list may have items that were not seen."""
        found = self.done + self.failed
        return self.total_shrank or (self.total is not None and found < self.total)

    def doubts(self) -> tuple[str, ...]:
        """Return a sentence for each property of a completely read list that is not verified."""
        doubts: list[str] = []
        if self.has_keys is False:
            doubts.append(_NO_KEY)
        found = self.done + self.failed
        if self.failed:
            doubts.append(f"{self.failed} items do not match the vendor's documentation")
        if self.total is None:
            doubts.append("the vendor gives no count to compare with")
        elif found < self.total:
            doubts.append(f"the vendor counts {self.total} items, {found} were found")
        elif found > self.total:
            gone = found - self.total
            doubts.append(f"{gone} of the {found} items were deleted while the list was read")
        if self.total_shrank:
            doubts.append("the list shrank while it was read: an item may have been hidden")
        return tuple(doubts)


class Checkpoint:
    """The state of one pull and the keys of its items, in memory and in the journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.state = PullState()
        self.seen = SeenKeys()
        self._new_keys: list[bytes] = []
        self._next = Changes(())
        self._failures = DeadLetterFile(journal.path)

    @classmethod
    async def load(cls, journal: Journal) -> Checkpoint:
        """Return the checkpoint stored in *journal*, or a new one."""
        checkpoint = cls(journal)
        found = await journal.state(PullState)
        checkpoint.state = found or PullState()
        for (keys,) in await journal.read("SELECT keys FROM keys"):
            checkpoint.seen.add(keys.decode(errors="surrogatepass").split("\n"))
        if found is None:
            await journal.run(checkpoint._failures.begin)
        mark = checkpoint.state.failures
        await journal.run(partial(checkpoint._failures.resume, mark, drop=True))
        journal.set_source(checkpoint._hand_over)
        return checkpoint

    def add_keys(self, keys: Sequence[str]) -> list[int]:
        """Add *keys*, a line each; return the indexes of duplicates."""
        duplicates = self.seen.add(keys)
        if new := drop_at(keys, duplicates):
            # One bytes object takes less memory than texts that outlive their page.
            self._new_keys.append("\n".join(new).encode(errors="surrogatepass"))
        return duplicates

    @property
    def failures(self) -> str | None:
        """The path of the dead-letter file, None while there are no unreadable items."""
        return str(self._failures.path) if self.state.failed else None

    def set_aside(self, page: Page[Any], max_failed: float) -> None:
        """Write the unreadable items of *page* to the dead-letter file, each once.

        Raises:
            BackfillStoppedError: their share is above *max_failed*; nothing was written.
        """
        state = self.state
        # A page without readable items includes its number: a gateway's error page is always the
        # same. The prefix keeps these keys apart from those of items without an id.
        suffix = b"" if page.items else b" %d" % page.number
        keys = [digest(b"failed " + invalid.raw + suffix) for invalid in page.invalid_items]
        new = [key not in self.seen for key in keys]
        failed = state.failed + sum(each.items for each in compress(page.invalid_items, new))
        found = state.done + failed
        if failed > max_failed * max(found, _MIN_ITEMS):
            raise BackfillStoppedError(
                f"{failed} of {found} items do not match the vendor's documentation; the last, "
                f"on page {page.number}: {page.invalid_items[-1].reason}",
                advice="The vendor may have changed its responses; all pages before are saved. To "
                "continue anyway, run again with a higher max_failed=",
            )
        self.add_keys(keys)
        for index, invalid in compress(enumerate(page.invalid_items, 1), new):
            self._failures.add(
                DeadLetter(
                    line=page.number,
                    number=index,
                    row=invalid.raw.decode("utf-8", "backslashreplace"),
                    reason=invalid.reason,
                    error=DecodeError.__name__,
                )
            )
        state.failed = failed

    def save(self, changes: Changes) -> Awaitable[None]:
        """Return an awaitable that saves *changes*. Await it before the next call."""
        self._next = changes
        return self._journal.saved()

    def _hand_over(self) -> Changes:
        changes, self._next = self._next, Changes(())
        return changes

    def snapshot(self) -> Changes:
        """Return the changes since the last snapshot, to be passed to `save` once."""
        write_failures = self._failures.take()
        self.state.failures = self._failures.mark
        state = msgspec.json.encode(self.state)
        statements = [Statement("INSERT OR REPLACE INTO job VALUES ('state', ?)", [(state,)])]
        if self._new_keys:
            keys = b"\n".join(self._new_keys)
            statements.append(Statement("INSERT INTO keys (keys) VALUES (?)", [(keys,)]))
            self._new_keys = []
        return Changes(statements, write_failures)
