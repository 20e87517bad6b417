"""The state of a pull: how far it came, and which items it has.

The order of a checkpoint: items to the sink, the sink durable, then the checkpoint in the
journal. After a crash the sink is cut back to the last checkpoint.

An item is identified by its key, a line of text. The journal stores the keys, and for a refresh a
digest of the content of each item, 0 if it was not written. Memory holds hashes of the keys, about
75 bytes per item. Python's hash of a text has 64 bits: the probability
that two of a million ids share one is 3 in 100 million. Such an item would be dropped as a
duplicate, and the comparison with the vendor's total would report it.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import compress
from typing import Any, TypeVar, cast

import msgspec

from asyncclients.backfill.state.journal import Changes, Journal, Statement, put_value
from asyncclients.backfill.state.stored_rows import (
    DeadLetter,
    DeadLetterFile,
    Mark,
    digest,
    encode_row,
)
from asyncclients.errors import BackfillStoppedError, DecodeError
from asyncclients.own_files import finish_before_cancel
from asyncclients.paging import Page

T = TypeVar("T")
Key = str | Callable[[Any], Any]

_MIN_ITEMS = 500
"""Items above which the share of unreadable ones counts; a single bad page must not stop a pull."""
UNREADABLE = 0
"""Digest of an unreadable item: such a record only shows that it was counted."""
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

    def __init__(self) -> None:
        self._hashes: set[int] = set()

    def __contains__(self, key: str) -> bool:
        return hash(key) in self._hashes

    def add(self, keys: Sequence[str]) -> list[int]:
        """Add *keys*; return the indexes of those that were there, or earlier in *keys*."""
        duplicates: list[int] = []
        for index, key in enumerate(map(hash, keys)):
            if key in self._hashes:
                duplicates.append(index)
            else:
                self._hashes.add(key)
        return duplicates


class ItemKeys:
    """Computes the keys of items: a field, or the result of a function; else `uuid` or `id`."""

    def __init__(self, key: Key | None) -> None:
        names: tuple[Key, ...] = (key,) if key else ("uuid", "id")
        self._first, self._others = names[0], names[1:]

    def keys_of(self, items: Sequence[Any]) -> list[str]:
        """Return a line of text for each of *items* that identifies it in its list."""
        keys = _fields(self._first, items)
        with suppress(TypeError):  # some keys are no text
            if "\n" not in "".join(keys):
                return keys
        return [
            digest(encode_row(item)) if key is None else text_of(key)
            for item, key in zip(items, self.raw_keys(items), strict=True)
        ]

    def raw_keys(self, items: Sequence[Any]) -> list[Any]:
        """Return the value of the key field of each of *items*, None for items without one."""
        keys = _fields(self._first, items)
        for name in self._others:
            # Item by item: a key must not depend on the other items of its page.
            pairs = zip(keys, _fields(name, items), strict=True)
            keys = [other if key is None else key for key, other in pairs]
        return keys


def _fields(key: Key, items: Sequence[Any]) -> list[Any]:
    """Return *key* of each of *items*, None for items without the field."""
    if not isinstance(key, str):
        return [*map(key, items)]
    return [
        cast("dict[str, Any]", item).get(key)
        if isinstance(item, dict)
        else getattr(item, key, None)
        for item in items
    ]


def text_of(key: object) -> str:
    """Return *key* itself if it is one line of text, else its repr."""
    return key if isinstance(key, str) and "\n" not in key else repr(key)


class PullState(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The value that each checkpoint replaces; times are in seconds since 1970.

    Attributes:
        pass_number: 1 for the first reading of the list, 2 for the second.
        page: last page in the sink; 0 for none.
        position: of the sink after that page.
        skipped: duplicates that were dropped.
        failures: covers the unreadable items, which are in the dead-letter file.
        total: number of items that the vendor reported last.
        total_shrank: the reported total decreased during this pass.
        has_keys: the items have keys; None before the first item.
        read: the list was read to its end.
        complete: the sink is finished as well.
        seconds: from the beginning to the last save.
        file: of the complete file; None for a sink.
        passes: number of refreshes that were begun.
        refresh: the refresh in progress; the other fields describe the result before it.
        is_reported: the run that completed the last refresh has returned.
        watermark: all changes before this time of the vendor, in the field *since*, are in the
            result; None if only the items themselves show it.
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
    began_at: float = 0.0
    saved_at: float = 0.0
    seconds: float = 0.0
    file: Mark | None = None
    passes: int = 0
    refresh: RefreshPass | None = None
    refreshed: LastRefresh | None = None
    is_reported: bool = True
    watermark: float | None = None
    since: str = ""

    def note_total(self, total: int | None) -> None:
        """Take over the *total* of a page, None if it has none."""
        if total is not None:
            self.total_shrank |= self.total is not None and total < self.total
            self.total = total

    @property
    def found(self) -> int:
        """Number of items that were read, each counted once."""
        return self.done + self.failed

    @property
    def is_missing_some(self) -> bool:
        """True if the list may have items that were not seen."""
        return self.total_shrank or (self.total is not None and self.found < self.total)

    def find_unverified(self) -> tuple[str, ...]:
        """Return a sentence for each property of a completely read list that is not verified."""
        unverified: list[str] = []
        if self.has_keys is False:
            unverified.append(_NO_KEY)
        found = self.found
        if self.failed:
            unverified.append(f"{self.failed} items do not match the vendor's documentation")
        if self.total is None:
            unverified.append("the vendor gives no count to compare with")
        elif found < self.total:
            unverified.append(f"the vendor counts {self.total} items, {found} were found")
        elif found > self.total:
            gone = found - self.total
            unverified.append(f"{gone} of the {found} items were deleted while the list was read")
        if self.total_shrank:
            unverified.append("the list shrank while it was read: an item may have been hidden")
        return tuple(unverified)


class RefreshPass(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A refresh in progress.

    Attributes:
        since: the field by which the list is sorted, newest first; empty if all of it is read.
        watermark: all changes before this time of the vendor, in seconds since 1970, were known
            when it began.
        lag: seconds before the watermark that are read again.
        newest: the watermark of the next refresh.
        unnamed: unreadable items whose key is unreadable as well.
        has_number_keys: the keys of the items are whole numbers.
        reading: how far the list was read; `done` counts the items found by this refresh.
    """

    number: int
    since: str = ""
    watermark: float = 0.0
    lag: float = 0.0
    newest: float = 0.0
    unnamed: int = 0
    has_number_keys: bool = False
    reading: PullState = msgspec.field(default_factory=PullState)

    @property
    def may_remove(self) -> bool:
        """True if an item that was not found does not exist any more."""
        hidden = self.unnamed or self.reading.is_missing_some
        return not self.since and not hidden


class LastRefresh(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The last complete refresh of a pull.

    Attributes:
        ended_at: when it ended, in seconds since 1970.
        since: the field by which only new and changed items were read; empty for a whole list.
        added: items that were not in the result before.
        changed: items with another content.
        removed: items that the vendor does not have any more.
        unchanged: all others.
    """

    ended_at: float
    since: str = ""
    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0


class Checkpoint(ABC):
    """What a pull has in its state file; a subclass remembers the items.

    Attributes:
        state: the value that each save replaces.
        reading: how far the list was read.
        unsaved_bytes: of items that wait for the next save.
    """

    def __init__(self, journal: Journal, state: PullState) -> None:
        self._journal, self.state = journal, state
        self.reading = state
        journal.set_source(self._next_commit)
        self._failures = DeadLetterFile(journal.path)
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()
        self.unsaved_bytes = 0

    @property
    def position(self) -> Any:
        """The position of a sink that has the items; None if it has to start anew."""
        return self.state.position

    @abstractmethod
    async def known(self, keys: Sequence[str]) -> list[bool]:
        """Return for each of *keys* whether this reading has found it."""

    @abstractmethod
    def add_failed(self, keys: Sequence[str]) -> None:
        """Note that this reading has found the unreadable items with these *keys*."""

    @abstractmethod
    def take_unsaved(self) -> list[Statement]:
        """Return the statements that save the items added since the last call."""

    async def save(self) -> None:
        """Save everything so far, also when cancelled; raises `StateError` if that fails."""
        await finish_before_cancel(self._journal.saved())

    def _next_commit(self) -> Changes:
        write_failures, reading = self._failures.take(), self.reading
        reading.failures = self._failures.mark
        if not reading.complete:
            reading.saved_at = time.time()
            reading.seconds = self._loop.time() - self._started_at
        return Changes([put_value("state", self.state), *self.take_unsaved()], write_failures)

    @property
    def failures(self) -> str:
        """The path of the dead-letter file."""
        return str(self._failures.path)

    async def set_aside(self, page: Page[Any], max_failed: float) -> None:
        """Write the unreadable items of *page* to the dead-letter file, and count them, each once.

        Raises:
            BackfillStoppedError: their share is above *max_failed*; nothing was written.
        """
        # A page without readable items includes its number: a gateway's error page is always the
        # same. The prefix keeps these keys apart from those of items without an id.
        suffix = b"" if page.items else b" %d" % page.number
        keys = [digest(b"failed " + invalid.raw + suffix) for invalid in page.invalid_items]
        new = [not is_known for is_known in await self.known(keys)]
        failed = self.reading.failed + sum(each.items for each in compress(page.invalid_items, new))
        found = self.reading.done + failed
        if failed > max_failed * max(found, _MIN_ITEMS):
            raise BackfillStoppedError(
                f"{failed} of {found} items do not match the vendor's documentation; the last, "
                f"on page {page.number}: {page.invalid_items[-1].reason}",
                advice="The vendor may have changed its responses; all pages before are saved. To "
                "continue anyway, run again with a higher max_failed=",
            )
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
        self.reading.failed = failed
        self.add_failed(keys)

    async def _open_reading(self, *, is_new: bool) -> None:
        """Begin the reading, or continue it: its time and its file of unreadable items."""
        reading, now = self.reading, time.time()
        if reading.complete:  # the file may be that of an interrupted refresh
            self._failures.mark = reading.failures
            return
        if is_new:
            reading.began_at = now
            self._failures = DeadLetterFile(self._journal.path)
            await self._journal.run(self._failures.begin)
        # Differences of the wall clock count between two runs only, so that the vendor's clock
        # need not agree with ours.
        pause = max(0.0, now - reading.saved_at) if reading.saved_at else 0.0
        self._started_at = self._loop.time() - reading.seconds - pause
        await self._journal.run(partial(self._failures.resume, reading.failures, drop=True))


class SeenItems(Checkpoint):
    """The keys and digests of the items of a pull; in memory only a hash of each key."""

    def __init__(self, journal: Journal, state: PullState) -> None:
        super().__init__(journal, state)
        self._seen = SeenKeys()
        self._new_keys: list[bytes] = []
        self._new_digests = array("q")

    @classmethod
    async def load(cls, journal: Journal) -> SeenItems:
        """Return the items stored in *journal*, or none for a new one."""
        found = await journal.state(PullState)
        items = cls(journal, found or PullState())
        for (keys,) in await journal.read("SELECT keys FROM keys"):
            items._seen.add(keys.decode(errors="surrogatepass").split("\n"))
        await items._open_reading(is_new=found is None)
        return items

    async def known(self, keys: Sequence[str]) -> list[bool]:
        """Return for each of *keys* whether it was added."""
        return [key in self._seen for key in keys]

    def add(self, keys: Sequence[str], digests: Sequence[int]) -> list[int]:
        """Add items, a line for each key; return the indexes of those that were there."""
        duplicates = self._seen.add(keys)
        if new := drop_at(keys, duplicates):
            # One bytes object takes less memory than texts that outlive their page.
            self._new_keys.append("\n".join(new).encode(errors="surrogatepass"))
            self._new_digests.extend(drop_at(digests, duplicates))
        return duplicates

    def add_failed(self, keys: Sequence[str]) -> None:
        """Note that the unreadable items with these *keys* were found."""
        self.add(keys, [UNREADABLE] * len(keys))

    def take_unsaved(self) -> list[Statement]:
        """Return the statement that saves the items added since the last call."""
        if not self._new_keys:
            return []
        row = b"\n".join(self._new_keys), self._new_digests.tobytes()
        self._new_keys, self._new_digests = [], array("q")
        return [Statement("INSERT INTO keys (keys, digests) VALUES (?, ?)", [row])]
