"""The changes of a sync: the action for each row, and the record of its outcome.

`decide` compares a row with what is known of its item. A change may need several calls: an item
that has to be looked up is updated or created after that, and an item that is gone at the vendor is
created again. `ChangeLog` sets the next action of a change after each call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import msgspec

from asyncclients.backfill.delivery import PartialResult, RowStatus, classify_error
from asyncclients.backfill.files.source import Row
from asyncclients.backfill.state.sync_state import Intent, Item, SyncMemory
from asyncclients.backfill.sync_targets import Shape, Target, key_digest, shape_of
from asyncclients.errors import NotFoundError, error_text, row_reason


class Action(IntEnum):
    """What to do for a row or an item."""

    NOTHING = 0
    """No row: it is invalid or skipped."""
    KEEP = 1
    """Unchanged."""
    CREATE = 2
    UPDATE = 3
    LOCATE = 4
    """Look the item up by its key; then update it, or create it if there is none."""
    DELETE = 5
    FAIL = 6
    """It was rejected, and has not changed since."""
    WAIT = 7
    """Its create may or may not have been executed, and there is no way to find out."""
    CHECK = 8
    """Look up a create of unknown outcome whose row is gone."""

    WITHOUT_ID = 9
    """It has changed, but its item can neither be updated nor looked up: its id is not known."""


_MAX_WARNINGS = 20
SENT = (Action.CREATE, Action.UPDATE, Action.LOCATE)
"""The actions that send a row."""


def decide(
    digest: int, listed: int | None, known: Item | None, rejected: int | None, *, may_find: bool
) -> Action:
    """Return the action for a row without a pending create.

    Args:
        digest: of the row in the form that is sent.
        listed: that an equal item would have in the vendor's list.
        known: its item; None without one.
        rejected: digest of the row that was rejected last; None if none was, or to retry it.
        may_find: an item can be looked up by its key.
    """
    if known is not None and known.agrees(digest, listed):
        return Action.KEEP
    if rejected == digest:
        return Action.FAIL
    if known is None or (known.is_lost and not may_find):
        return Action.CREATE
    if known.is_known:
        return Action.UPDATE
    return Action.LOCATE if may_find else Action.WITHOUT_ID


_NO_ROW = Row(0, 0, None)


class Change(msgspec.Struct, eq=False):
    """One row to send, or one item to delete; the `data` of its `Row`.

    Attributes:
        action: the next call to make; NOTHING at the end.
        key: digest of the key; *name* is the key itself.
        digest: of the row in the form that is sent.
        new: the value for a create.
        value: the value for an update, with None for fields to clear.
        item_id: the vendor's id; None if it is not known.
        parent: id of the parent of the item, in a tree.
        result: of the last call.
        is_gone: the last call found that the item does not exist.
    """

    action: Action
    key: int
    name: str
    row: Row = _NO_ROW
    digest: int = 0
    new: Any = None
    value: Any = None
    item_id: str | None = None
    parent: str | None = None
    result: Any = None
    is_gone: bool = False

    @property
    def is_idempotent(self) -> bool:
        """True if the next call may be sent twice."""
        return self.action is not Action.CREATE


class SyncCalls:
    """Makes the call of a change; a batch of changes is one call."""

    def __init__(self, target: Target) -> None:
        self._subject = target.subject
        self.call: Callable[[Any], Awaitable[Any]] = self._many if target.batch else self._one

    async def _one(self, change: Change) -> None:
        subject, action = self._subject, change.action
        change.result, change.is_gone = None, False
        if action in (Action.LOCATE, Action.CHECK):
            change.result = await subject.find(change.name)
        elif action is Action.CREATE:
            change.result = await subject.create(change.new)
        else:
            try:
                if action is Action.UPDATE:
                    change.result = await subject.update(change.item_id, change.value)
                else:
                    await subject.delete(change.item_id)
            except NotFoundError:
                change.is_gone = True

    async def _many(self, changes: Sequence[Change]) -> _BatchResult:
        sent = [
            change.new if change.action is Action.CREATE else change.value for change in changes
        ]
        return _BatchResult(changes, sent, await self._subject.upsert_many(sent))


class _BatchResult(NamedTuple):
    """The `PartialResult` of a batch of changes: *result* is that of the values *sent* for them."""

    changes: Sequence[Change]
    sent: list[Any]
    result: PartialResult

    def unacknowledged(self, _: list[Any], /) -> list[Any]:
        """Return the changes that are not in the response."""
        missing = {id(value) for value in self.result.unacknowledged(self.sent)}
        pairs = zip(self.changes, self.sent, strict=True)
        return [change for change, value in pairs if id(value) in missing]


WriteFailure = Callable[[Row, BaseException], None]


class ChangeLog:
    """The `RowLog` of a sync: the data of each row is its `Change`."""

    def __init__(self, memory: SyncMemory, target: Target, write_failure: WriteFailure) -> None:
        self._memory, self._target, self._write_failure = memory, target, write_failure
        self._state = memory.state
        self.warnings: list[str] = []
        self.settled = 0  # changes that need no further call

    def _settle(self, change: Change) -> None:
        self.settled += change.action is not Action.CHECK
        change.action = Action.NOTHING

    def warn(self, warning: str) -> None:
        """Keep *warning* for a person, unless there are enough."""
        if len(self.warnings) < _MAX_WARNINGS:
            self.warnings.append(warning)

    @property
    def done(self) -> int:
        """Number of items that are known, or were changed in this run."""
        state = self._state
        return self._memory.count + state.created + state.updated + state.deleted

    def record_intent(self, rows: Sequence[Row]) -> Awaitable[None]:
        """Record that the creates among *rows* are about to be sent; done when that is on disk."""
        for row in rows:
            change: Change = row.data
            if change.action is Action.CREATE:
                self._add_intent(change, "")
        return self._memory.journal.saved()

    def _add_intent(self, change: Change, reason: str) -> None:
        row = change.row
        intent = Intent(name=change.name, line=row.line, row=row.data, reason=reason)
        self._memory.add_intent(change.key, intent)

    def mark(
        self, rows: Sequence[Row], status: RowStatus, error: BaseException | None = None
    ) -> None:
        """Record the *status* of the calls of *rows*; set the next actions of those that are done."""
        journal = self._memory.journal
        for row in rows:
            change: Change = row.data
            if status == "done":
                self._on_done(change)
            elif status == "pending":
                if change.action is Action.CREATE:
                    self._memory.remove_intent(change.key)
            elif status == "failed" and error is not None:
                self._on_failed(change, error)
            elif error is not None:
                self._add_intent(change, error_text(error))
                self._state.unknown += 1
                self._settle(change)
        if status == "done":
            journal.commit_later()
        else:
            journal.commit_now()

    def _on_done(self, change: Change) -> None:
        if change.action is Action.CREATE:
            self._on_created(change)
        elif change.action is Action.UPDATE:
            self._on_updated(change)
        elif change.action is Action.LOCATE:
            self._on_located(change)
        elif change.action is Action.CHECK:
            self._on_checked(change)
        else:
            self._memory.forget(change.key)
            self._state.deleted += 1
            self._state.missing -= 1
            self._settle(change)

    def _on_created(self, change: Change) -> None:
        change.item_id = self._id_of(change)
        self._remember(change)
        self._state.created += 1
        self._memory.journal.commit_now()

    def _on_updated(self, change: Change) -> None:
        if change.is_gone:
            self._memory.forget(change.key)
            change.action = Action.CREATE
            return
        self._remember(change)
        self._state.updated += 1

    def _on_located(self, change: Change) -> None:
        item = change.result
        if item is None:
            self._memory.remove_intent(change.key)
            self._memory.forget(change.key)
            change.action = Action.CREATE
            return
        change.item_id = self._id_of(change)
        shape: Shape = {}
        shape_of(self._target.fields(change.new), shape)
        found = self._target.listed(item, shape)
        self._memory.remember(change.key, found)
        same_parent = self._target.parent_field is None or found.parent == change.parent
        if same_parent and found.listed == self._target.as_listed(change.new):
            self._remember(change)
            self._state.unchanged += 1
        else:
            change.action = Action.UPDATE

    def _on_checked(self, change: Change) -> None:
        if change.result is None:
            self._memory.remove_intent(change.key)
        else:
            self._memory.remember(change.key, self._target.listed(change.result, {}))
        self._settle(change)

    def _id_of(self, change: Change) -> str | None:
        """Return the id of the item in the last response; None if it has none."""
        if self._target.batch:
            return change.name
        if change.result is None:
            self.warn(f"{change.name}: its id is not known: the vendor returned nothing")
            return None
        try:
            found = self._target.subject.item_id(change.result)
            key = self._target.subject.key(change.result)
        except Exception as error:  # noqa: BLE001 - a user's method may raise anything
            self.warn(f"{change.name}: its id is not known: {error_text(error)}")
            return None
        if key and key_digest(key) != change.key:
            self.warn(f"{change.name}: the vendor changed the key to {key!r}")
        return str(found) if found else None

    def _remember(self, change: Change) -> None:
        self._memory.remember(change.key, Item(change.item_id, change.digest, None, change.parent))
        self._memory.accept(change.key)
        self._settle(change)

    def _on_failed(self, change: Change, failure: BaseException) -> None:
        memory = self._memory
        if change.action is not Action.CREATE and change.key in memory.intents:
            self._state.unknown += 1  # it could not be looked up
            self._settle(change)
            return
        memory.remove_intent(change.key)
        self._write_failure(change.row, failure)
        self._state.failed += 1
        is_final = classify_error(failure, maybe_sent=True, idempotent=True) == "failed"
        if is_final and change.action in SENT:
            memory.reject(change.key, change.digest, row_reason(failure))
        self._settle(change)
