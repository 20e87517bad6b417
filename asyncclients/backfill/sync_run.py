"""One run of a sync: examine, adopt, decide, send; see `sync`."""

from __future__ import annotations

import asyncio
from array import array
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial
from itertools import compress
from typing import Any, Literal

import msgspec

from asyncclients.arguments import Ratio
from asyncclients.backfill.delivery import Delivery, PushTarget
from asyncclients.backfill.files.source import Row
from asyncclients.backfill.plan import InvalidRows, Plan, RequestBuilder, silenced
from asyncclients.backfill.prefetch import PagePrefetcher
from asyncclients.backfill.push import RunOptions
from asyncclients.backfill.report import EtaEstimator, Progress, SyncReport, reporting_progress
from asyncclients.backfill.state.sync_state import Item, RememberedLines, SyncMemory
from asyncclients.backfill.sync_changes import (
    SENT,
    Action,
    Change,
    ChangeLog,
    SyncCalls,
    WriteFailure,
    decide,
)
from asyncclients.backfill.sync_input import CHUNK, SyncInput, Tree, deletion_order
from asyncclients.backfill.sync_targets import Target, key_digest
from asyncclients.core.call import config_of
from asyncclients.errors import BackfillStoppedError, InputError
from asyncclients.paging import Page

_PREFETCH = 16
"""Pages of the vendor's list that are requested ahead."""
_ALWAYS_DELETED = 20
"""Deletions that are never too many."""
_MIN_ROWS = 50
"""Minimum number of rows for `max_failed` to apply to invalid rows."""


_READ = (*SENT, Action.FAIL, Action.WITHOUT_ID)
"""The actions that need the row itself."""


class SyncOptions(RunOptions, frozen=True, kw_only=True):
    """The options of one run of a sync; the fields are arguments of `sync`."""

    on_missing: Literal["keep", "delete"]
    max_deleted: Ratio
    adopt: bool


class Sync:
    """One run of a sync, or of its plan."""

    def __init__(
        self,
        rows: SyncInput,
        target: Target,
        to: PushTarget,
        memory: SyncMemory,
        options: SyncOptions,
    ) -> None:
        self._rows, self._target, self._memory, self._options = rows, target, memory, options
        self._state = memory.state
        self._builder, self._invalid = RequestBuilder(None, None), InvalidRows()
        call = to.target if target.is_operation else None
        self._write_failure: WriteFailure = memory.write_failure
        if options.dry_run:
            to = msgspec.structs.replace(to, concurrency=1, max_failed=1.0)
            call, self._write_failure = self._build, self._invalid.add
            self._builder = _builder(target)
        self._max_failed, self._may_find = to.max_failed, target.has("find")
        self._log = ChangeLog(memory, target, self._write_failure)
        self._tree = Tree(target, rows, memory)
        self._is_list_uncertain = False
        self._total: int | None = None
        self._missing: list[int] = []
        self._deletions: list[int] = []
        self._planned: int | None = None
        self._handed_out = 0
        self._delivery = Delivery(
            to,
            rows.converter,
            self._log,
            flow=options.flow,
            call=call,
            is_idempotent=lambda change: change.is_idempotent,
        )
        self._counter, self._breaker = self._delivery.counter, self._delivery.breaker
        self._estimator = EtaEstimator(self._counter, options.flow, 0, max(1, target.batch))

    async def run(self) -> SyncReport:
        """Examine the input, send what is needed, and return the report."""
        async with reporting_progress(self._progress, self._estimator, self._options.progress):
            await self._work()
        return self._report()

    async def _work(self) -> None:
        try:
            await self._examine()
            self._check_invalid()
            await self._adopt()
            await self._settle_absent_intents()
            await self._decide()
            self._check_deletions()
            await self._send()
            await self._remember_lines()
        except (BackfillStoppedError, InputError) as error:
            if isinstance(error, InputError) and not self._counter.requests:
                raise
            raise BackfillStoppedError(
                error.message, advice=error.advice, report=self._report()
            ) from None
        else:
            self._state.complete = self._handed_out == self._planned
        finally:
            self._report()  # saved with the next commit
            self._memory.journal.commit_now()

    # --- Examine ----------------------------------------------------------------------------

    async def _examine(self) -> None:
        memory, rows, state = self._memory, self._rows, self._state
        has_listed = self._options.adopt or state.page > 0 or await memory.has_listed()
        if self._options.adopt:
            state.layout = ""  # the list is compared with all rows
        await rows.examine(self._write_failure, memory.lines, compare_listed=has_listed)
        state.source, state.failed = rows.name, rows.invalid

    def _check_invalid(self) -> None:
        memory, rows = self._memory, self._rows
        if len(rows) >= _MIN_ROWS and rows.invalid > self._max_failed * len(rows):
            raise BackfillStoppedError(
                f"{rows.invalid:,} of {len(rows):,} rows are invalid; nothing was sent",
                advice=f"See {memory.failures} and correct the input or its mapping. To continue "
                "anyway, run again with a higher max_failed=",
            )

    # --- Adopt ------------------------------------------------------------------------------

    async def _adopt(self) -> None:
        """Remember the items of the vendor's list, if that is asked for or was interrupted."""
        memory, state = self._memory, self._state
        if not self._options.adopt and not state.page:
            return
        resumed = state.page > 0 and state.shape == self._rows.shape
        self._is_list_uncertain = resumed
        if not resumed:
            memory.begin_adoption(self._rows.shape)
        await memory.journal.saved()
        flow, counter, breaker = self._options.flow, self._counter, self._breaker
        reader = PagePrefetcher(self._target.list(), _PREFETCH, flow, counter, breaker)
        await reader.read(state.page if resumed else reader.start, self._remember)
        state.page = 0
        await memory.journal.saved()
        for key in await memory.lost_keys():
            if key not in self._rows:
                memory.forget(key)
        await memory.journal.saved()

    async def _remember(self, page: Page[Any]) -> None:
        if page.total is not None:
            self._is_list_uncertain |= self._total is not None and page.total < self._total
            self._total = page.total
        target, memory = self._target, self._memory
        keys = [target.key_of(item) for item in page.items]
        known = await memory.items([key_digest(text) for text in keys])
        for text, item in zip(keys, page.items, strict=True):
            key, found = key_digest(text), target.listed(item, self._state.shape)
            earlier = known.get(key)
            if not text or found.id is None:
                continue
            if earlier is not None and earlier.listed is not None and earlier.id != found.id:
                self._log.warn(f"the vendor has several items with the key {text!r}")
                continue
            known[key] = found
            memory.remember(key, found)
        self._state.page = page.number
        memory.journal.commit_later()

    # --- Decide -----------------------------------------------------------------------------

    async def _decide(self) -> None:
        """Set the action of each row, and find the missing items."""
        rows, memory, state = self._rows, self._memory, self._state
        found = rows.agrees.count(1)
        for indexes in rows.read_rows():
            found += await self._decide_some(indexes)
        await self._compare_parents()
        if circle := self._tree.set_levels():
            raise await rows.circle(circle)
        count = rows.actions.count
        state.unchanged, state.skipped = count(Action.KEEP), count(Action.NOTHING) - rows.invalid
        state.failed += count(Action.FAIL) + count(Action.WITHOUT_ID)
        state.unknown += count(Action.WAIT)
        memory.count = await memory.known_count()
        if found < memory.count:
            await rows.sort_keys()
            async for keys in memory.known_keys():
                self._missing += [key for key in keys if key not in rows]
        state.missing = len(self._missing)
        self._deletions = self._to_delete()
        creates = count(Action.CREATE) + count(Action.LOCATE)
        state.planned = (creates, count(Action.UPDATE), len(self._deletions))
        self._planned = sum(state.planned)

    async def _decide_some(self, indexes: Sequence[int]) -> int:
        """Set the actions of the rows at *indexes*; return how many have a known item."""
        keys, found = self._rows.keys, 0
        known = await self._memory.items([keys[index] for index in indexes])
        for index in indexes:
            item = known.get(keys[index])
            found += item is not None and item.is_known
            self._rows.actions[index] = self._action_of(index, item)
        return found

    def _action_of(self, index: int, known: Item | None) -> Action:
        rows, memory, options = self._rows, self._memory, self._options
        key, digest, may_find = rows.keys[index], rows.digests[index], self._may_find
        if key in memory.intents:
            if may_find:
                return Action.LOCATE
            if options.unknown == "drop":
                memory.remember(key, Item(None, digest))
                return Action.NOTHING
            return Action.CREATE if options.unknown == "resend" else Action.WAIT
        rejected = None if options.retry_failed else memory.rejected.get(key, (None,))[0]
        listed = rows.listed[index] if rows.listed else None
        action = decide(digest, listed, known, rejected, may_find=may_find)
        is_doubtful = action is Action.CREATE and self._is_list_uncertain and may_find
        return Action.LOCATE if is_doubtful else action

    async def _settle_absent_intents(self) -> None:
        """Settle creates of unknown outcome whose rows are gone."""
        memory, unknown = self._memory, self._options.unknown
        if memory.intents:
            await self._rows.sort_keys()
        absent = deque(key for key in memory.intents if key not in self._rows)
        if absent and self._may_find:

            async def look_up() -> None:
                while absent:
                    key = absent.popleft()
                    change = Change(Action.CHECK, key, memory.intents[key].name)
                    await self._make_calls(Row(0, 0, change))

            await self._delivery.run(look_up, absent.clear)
        elif unknown == "keep":
            self._state.unknown += len(absent)
        else:
            for key in absent:
                memory.remove_intent(key)
        await memory.journal.saved()

    async def _compare_parents(self) -> None:
        """Update nodes that were adopted, and whose parent is not that of their row."""
        rows, actions = self._rows, self._rows.actions
        numbers = [number for number in rows.parents if actions[number - 1] == Action.KEEP]
        for first in range(0, len(numbers), CHUNK):
            some = numbers[first : first + CHUNK]
            parents = await self._tree.parents_of(some)
            items = await self._memory.items([rows.keys[number - 1] for number in some])
            for number in some:
                item = items[rows.keys[number - 1]]
                if item.sent is None and item.parent != parents[number]:
                    actions[number - 1] = Action.UPDATE

    def _to_delete(self) -> list[int]:
        """Return the keys of the items to delete; none while the key of a row is not known."""
        if self._options.on_missing == "keep":
            return []
        if self._rows.unkeyed and self._missing:
            self._log.warn(
                f"nothing was deleted: {self._rows.unkeyed} invalid rows may be those of the "
                f"{len(self._missing)} items that the input lacks"
            )
            return []
        return self._missing

    def _check_deletions(self) -> None:
        count, known = self._state.planned[2], self._memory.count
        if count <= max(_ALWAYS_DELETED, self._options.max_deleted * known):
            return
        raise BackfillStoppedError(
            f"{count:,} of {known:,} known items are not in {self._rows.name} and would be "
            "deleted; nothing was changed",
            advice="Check that the input is complete. To delete them, run again with a higher "
            f"max_deleted=, at least {count / known:.2f}",
        )

    # --- Send -------------------------------------------------------------------------------

    async def _send(self) -> None:
        actions = self._rows.actions
        if any(actions.count(action) for action in _READ):
            for level in range(self._tree.height):
                await self._deliver(self._changes(level))
        self._delivery.settle_forbidden_rows()
        for keys in await self._deletion_order():
            await self._deliver(self._items_to_delete(keys))
        self._delivery.settle_forbidden_rows()

    async def _remember_lines(self) -> None:
        """Remember the lines of the rows that agree with their items, for the next run."""
        rows, memory = self._rows, self._memory
        if not rows.layout:
            return
        await memory.journal.saved()
        for indexes in rows.read_rows():
            known = await memory.items([rows.keys[index] for index in indexes])
            for index in indexes:
                key = rows.keys[index]
                item, listed = known.get(key), rows.listed[index] if rows.listed else None
                rows.agrees[index] = (
                    rows.lines[index] != 0
                    and key not in memory.intents
                    and item is not None
                    and item.is_known
                    and item.agrees(rows.digests[index], listed)
                )
        lines = RememberedLines(
            array("q", compress(rows.lines, rows.agrees)),
            array("q", compress(rows.keys, rows.agrees)),
        )
        if lines != rows.remembered or not memory.state.layout:
            memory.remember_lines(rows.layout, lines)

    async def _deliver(self, changes: AsyncGenerator[list[Row]]) -> None:
        feed = _Feed(changes, self._hand_out)
        try:
            await self._delivery.run(partial(self._send_changes, feed), feed.stop)
        finally:
            await changes.aclose()

    def _hand_out(self, count: int) -> int:
        """Return how many of *count* changes may be sent, and count them."""
        if self._options.limit is not None:
            count = min(count, self._options.limit - self._handed_out)
        self._handed_out += count
        return count

    async def _send_changes(self, feed: _Feed) -> None:
        size = max(1, self._target.batch)
        while rows := await feed.take(size):
            if self._target.batch:
                await self._delivery.deliver([(row, row.data) for row in rows])
            else:
                await self._make_calls(rows[0])

    async def _make_calls(self, row: Row) -> None:
        """Make the calls that the change in *row* needs, one after the other."""
        change: Change = row.data
        while change.action is not Action.NOTHING:
            action = change.action
            await self._delivery.deliver([(row, change)])
            if change.action is action:
                return  # `ForbiddenRows` decides about it later

    async def _changes(self, level: int) -> AsyncGenerator[list[Row]]:
        """Yield the changes of the rows that are sent at *level* of the tree."""
        rows, memory, tree, actions = self._rows, self._memory, self._tree, self._rows.actions

        def is_wanted(number: int) -> bool:
            return actions[number - 1] in _READ and tree.level(number) == level

        async for found in rows.rows(is_wanted):
            items = await memory.items([rows.keys[row.number - 1] for row in found])
            parents = await tree.parents_of(row.number for row in found)
            changes: list[Row] = []
            for row, value in zip(found, rows.values(found), strict=True):
                number, key = row.number, rows.keys[row.number - 1]
                name, action = rows.key_of(value.data, row.data), Action(actions[number - 1])
                change = Change(action, key, name, row, rows.digests[number - 1], value.data)
                if self._fails(change, parents.get(number, "")):
                    continue
                item = items.get(key)
                change.item_id = None if item is None else item.id
                change.parent = parents.get(number)
                data = rows.converter.with_nulls(row.data)
                change.value = rows.converter.convert(data, coerce=rows.coerce)
                if change.parent is not None:
                    change.new = tree.with_parent(change.new, change.parent)
                    change.value = tree.with_parent(change.value, change.parent)
                changes.append(Row(number, row.line, change))
            await self._doubt(changes, items)
            yield changes

    async def _doubt(self, changes: Sequence[Row], items: Mapping[int, Item]) -> None:
        """Record, before they are sent, that *changes* may have changed their *items*.

        After a kill the next run changes them again, even if the input is that of the run before.
        """
        sent = [row.data for row in changes if row.data.action in (Action.UPDATE, Action.DELETE)]
        for change in sent:
            self._memory.doubt(change.key, items[change.key])
        if sent:
            await self._memory.journal.saved()

    def _fails(self, change: Change, parent: str | None) -> bool:
        """Record the failure of a row that is not sent; return False for any other."""
        if change.action is Action.FAIL:
            reason = self._memory.rejected[change.key][1]
            problem = f"rejected in an earlier run, and not changed since: {reason}"
        elif change.action is Action.WITHOUT_ID:
            problem = "its item cannot be updated: the vendor did not return the id"
        elif parent is None and not self._options.dry_run:
            self._state.failed += 1
            self._handed_out += 1
            problem = "its parent was not created"
        else:
            return False
        self._write_failure(change.row, ValueError(problem))
        self._memory.journal.commit_later()
        return True

    async def _deletion_order(self) -> list[list[int]]:
        """Return the keys of the items to delete, in groups, one after the other."""
        if self._target.parent_field is None:
            return [self._deletions] if self._deletions else []
        items: dict[int, Item] = {}
        for first in range(0, len(self._deletions), CHUNK):
            items |= await self._memory.items(self._deletions[first : first + CHUNK])
        return deletion_order(items)

    async def _items_to_delete(self, keys: Sequence[int]) -> AsyncGenerator[list[Row]]:
        """Yield the deletions of the items with *keys*."""
        for first in range(0, len(keys), CHUNK):
            items = await self._memory.items(keys[first : first + CHUNK])
            changes: list[Row] = []
            for key, item in items.items():
                row = Row(0, 0, {"id": item.id})
                change = Change(Action.DELETE, key, item.id or "", row, item_id=item.id)
                changes.append(Row(0, 0, change))
            await self._doubt(changes, items)
            yield changes

    # --- Plan -------------------------------------------------------------------------------

    async def plan(self) -> Plan:
        """Return what `run` would do, after a run that only builds its requests."""
        await self._examine()
        if self._options.adopt:
            await self._adopt()
        await self._decide()
        await self._send()
        state = self._state
        return Plan(
            rows=len(self._rows),
            valid=state.created + state.updated,
            invalid=state.failed,
            skipped=state.skipped,
            create=state.created,
            update=state.updated,
            delete=state.deleted,
            unchanged=state.unchanged,
            missing=len(self._missing),
            **self._builder.facts(self._counter.requests),
            **self._invalid.facts(),
        )

    async def _build(self, argument: Any) -> None:
        """Build the request of a change or of a batch, or count it if it cannot be built yet."""
        if not self._target.batch:
            change: Change = argument
            has_parent = self._target.parent_field is None or change.parent is not None
            if not has_parent or change.action not in (Action.CREATE, Action.UPDATE):
                self._builder.requests += 1
                return
        await self._builder(argument)

    # --- Report -----------------------------------------------------------------------------

    def _report(self) -> SyncReport:
        """Return the result of the run so far."""
        state = self._state
        for name, value in self._counter.totals().items():
            setattr(state, name, value)
        state.remaining = max(0, (self._planned or 0) - self._handed_out)
        state.warnings = tuple(self._log.warnings)
        return state.report(self._memory.failures)

    def _progress(self) -> Progress:
        """Return the progress of the run in changes: a row that needs no request is none."""
        state = self._state
        return self._estimator.progress(
            done=state.created + state.updated + state.deleted,
            failed=state.failed,
            unknown=state.unknown,
            skipped=state.skipped,
            settled=self._log.settled,
            total=self._planned,
            waiting=self._breaker.outage_seconds,
            cause=self._breaker.cause,
        )


class _Feed:
    """Gives the rows of *changes* to the workers, in order, up to the number *hand_out* allows."""

    def __init__(self, changes: AsyncGenerator[list[Row]], hand_out: Callable[[int], int]) -> None:
        self._changes, self._hand_out = changes, hand_out
        self._ready: deque[Row] = deque()
        self._reading = asyncio.Lock()
        self._is_stopped = False

    def stop(self) -> None:
        """Return no more rows."""
        self._is_stopped = True

    async def take(self, count: int) -> list[Row]:
        """Return at most *count* rows; none at the end."""
        async with self._reading:
            while len(self._ready) < count and not self._is_stopped:
                rows = await anext(self._changes, None)
                if rows is None:
                    break
                self._ready.extend(rows)
        if self._is_stopped:
            return []
        count = self._hand_out(min(count, len(self._ready)))
        return [self._ready.popleft() for _ in range(count)]


def _builder(target: Target) -> RequestBuilder:
    """Return a builder of the requests of *target*, whose argument is a change, or a batch."""
    if not target.is_operation:
        return RequestBuilder(None, None)
    silent = Target(silenced(target.given), target.key)
    return RequestBuilder(SyncCalls(silent).call, config_of(target.given))
