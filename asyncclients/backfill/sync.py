"""Sync: make the items of a vendor agree with a file, with the fewest requests.

1. **Examine** the whole input: digests of keys and rows. Duplicate and empty keys are rejected.
2. **Adopt**, if asked: read the vendor's list, and remember digests of its items.
3. **Decide** for each row: create, update, look up, or nothing; and which items are missing.
4. **Send**: read the input again, and send the rows that need it; delete missing items last.

A run may be killed at any moment: what the vendor has confirmed is in the state, and the next run
decides anew. A create is recorded before it is sent; if its response is lost, the next run looks
the item up before it creates it again.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Never

import msgspec

from asyncclients.backfill import arguments
from asyncclients.backfill.circuit_breaker import CircuitBreaker
from asyncclients.backfill.delivery import Delivery, DeliveryOptions, run_workers
from asyncclients.backfill.files.source import Row, Rows
from asyncclients.backfill.prefetch import PagePrefetcher
from asyncclients.backfill.progress import EtaEstimator, reporting_progress
from asyncclients.backfill.report import Progress, RequestCounter, SyncReport
from asyncclients.backfill.rows import Map, RowConverter
from asyncclients.backfill.state.identity import JobIdentity, sync_job
from asyncclients.backfill.state.journal import Journal
from asyncclients.backfill.state.lock import check_apart
from asyncclients.backfill.state.sync_state import Digests, Item, SyncMemory
from asyncclients.backfill.sync_changes import (
    SENT,
    Action,
    Change,
    ChangeLog,
    SyncCalls,
    decide,
    is_idempotent,
)
from asyncclients.backfill.sync_input import CHUNK, SyncInput, is_path
from asyncclients.backfill.sync_targets import Target, key_digest
from asyncclients.backfill.sync_tree import Tree, deletion_order
from asyncclients.errors import BackfillError, BackfillStoppedError, InputError
from asyncclients.paging import Page

_PREFETCH = 16
"""Pages of the vendor's list that are requested ahead."""
_ALWAYS_DELETED = 20
"""Deletions that are never too many."""
_MIN_ROWS = 50
"""Minimum number of rows for `max_failed` to apply to invalid rows."""


_READ = (*SENT, Action.FAIL, Action.WITHOUT_ID)
"""The actions that need the row itself."""


class SyncOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `sync` that a run needs, checked."""

    on_missing: Literal["keep", "delete"]
    max_deleted: float
    adopt: bool
    limit: int | None
    retry_failed: bool
    concurrency: int
    flow: str
    unknown: Literal["keep", "resend", "drop"]
    max_failed: float
    max_outage: float
    new_credential: bool
    state: str | os.PathLike[str]

    def __post_init__(self) -> None:
        flags = {"adopt": self.adopt, "retry_failed": self.retry_failed}
        arguments.check_flags(new_credential=self.new_credential, **flags)
        arguments.check_choice("on_missing", self.on_missing, ("keep", "delete"))
        arguments.check_choice("unknown", self.unknown, ("keep", "resend", "drop"))
        arguments.check_delivery(self.concurrency, None, self.max_failed, self.max_outage)
        arguments.check_share("max_deleted", self.max_deleted)
        if self.limit is not None:
            arguments.check_int("limit", self.limit, 1)


async def sync(
    source: Rows,
    target: Any,
    *,
    state: str | os.PathLike[str],
    key: str | None = None,
    on_missing: Literal["keep", "delete"] = "keep",
    max_deleted: float = 0.1,
    adopt: bool = False,
    row_type: type[Any] | None = None,
    map: Map | Mapping[str, str] | None = None,  # noqa: A002 - the word for it
    limit: int | None = None,
    retry_failed: bool = False,
    concurrency: int = 64,
    flow: str | None = None,
    unknown: Literal["keep", "resend", "drop"] = "keep",
    max_failed: float = 0.1,
    max_outage: float = 900.0,
    new_credential: bool = False,
    progress: Callable[[Progress], None] | None = None,
    **misspelt: Never,
) -> SyncReport:
    """Make the items of *target* agree with the rows of *source*, with the fewest requests.

    A row costs a request only if it is new or has changed since it was last sent. Run it with the
    same *state* after each change of the source, or again to resume.

    Args:
        source: a .csv, .jsonl or .parquet file (.csv and .jsonl also gzipped), or an iterable of
            rows. It is read twice; rows that can be iterated only once are kept in memory.
            An empty cell of a CSV file clears its field at the vendor.
        target: a resource, such as `intouch.contacts`, or a `SyncTarget` of your own.
        state: path of the file that remembers what was sent. Rejected rows are written to
            `<state>.failed.jsonl`.
        key: field of a row, after *map*, that identifies its item; for Totango's touchpoints, any
            column of the source. By default that of the target. Keys that differ only in case or
            surrounding white space are equal.
        on_missing: what to do with known items that have no row: those of earlier runs and,
            after an adoption, all others of the vendor.
        max_deleted: share of the known items, at least 20 items, above which the run stops before
            it sends anything, because so many rows are gone.
        adopt: read the vendor's list first, so that its items are updated or left alone instead
            of created, and changes that others made there are noticed.
        row_type: as for `push`; by default what the target takes.
        map: as for `push`.
        limit: number of changes after which the run stops; run again to continue.
        retry_failed: send rejected rows again although they have not changed.
        concurrency: maximum number of concurrent calls.
        flow: as for `push`.
        unknown: what to do with creates whose outcome is unknown and cannot be looked up: list
            them, send them again, or regard them as done and count them as skipped.
        max_failed: share of failed rows, of at least 50, above which the run stops.
        max_outage: seconds without a usable response after which the run stops.
        new_credential: as for `push`.
        progress: called with a `Progress` about once a second.
        misspelt: none; any other keyword is a `ConfigurationError`.

    Raises:
        ConfigurationError: an argument is invalid, or the vendor cannot do what it asks for.
        InputError: the input cannot be read, or two rows have one key; nothing was sent.
        StateInUseError: another run uses the state file.
        StateMismatchError: the state belongs to another job.
        BackfillStoppedError: too many rows failed or are missing, or the outage exceeded
            *max_outage*.
        AsyncClientsError: an error that no row caused, such as an invalid credential.

    When cancelled, it sends nothing more, waits up to 30 s for responses to requests that are on
    the wire, saves the state, and raises `CancelledError`. Interactive calls take precedence.
    """
    arguments.check_keywords(sync, misspelt)
    arguments.check_path("state", state)
    arguments.check_rows(source)
    arguments.check_function("progress", progress)
    found = Target(target, key)
    options = SyncOptions(
        on_missing=on_missing,
        max_deleted=max_deleted,
        adopt=adopt,
        limit=limit,
        retry_failed=retry_failed,
        concurrency=concurrency,
        flow=flow or f"sync {found.name} {os.fspath(state)}",
        unknown=unknown,
        max_failed=max_failed,
        max_outage=max_outage,
        new_credential=new_credential,
        state=state,
    )
    found.check(adopt=adopt, delete=on_missing == "delete")
    check_apart(Path(state), [Path(source)] if is_path(source) else [], "the input")
    converter = RowConverter(found.row_type if row_type is None else row_type, map)
    rows = SyncInput(source, found, converter)
    await rows.check()
    job = await asyncio.to_thread(sync_job, found.given, found.name, converter.name, found.key, map)
    return await _run(rows, found, options, job, progress)


async def _run(
    rows: SyncInput,
    target: Target,
    options: SyncOptions,
    job: JobIdentity,
    progress: Callable[[Progress], None] | None,
) -> SyncReport:
    journal = await Journal.open(options.state, job, new_credential=options.new_credential)
    try:
        run = Sync(rows, target, await SyncMemory.load(journal), options)
        async with reporting_progress(run.progress, run.estimator, progress):
            await run.work()
        await journal.finish()
        return run.report()
    finally:
        await journal.aclose()


class Sync:
    """One run of a sync.

    Attributes:
        estimator: of the end of the run.
    """

    def __init__(
        self, rows: SyncInput, target: Target, memory: SyncMemory, options: SyncOptions
    ) -> None:
        self._rows, self._target, self._memory, self._options = rows, target, memory, options
        self._state = memory.state
        self._counter = RequestCounter()
        self._breaker = CircuitBreaker(options.max_outage)
        self._log = ChangeLog(memory, target)
        self._tree = Tree(target, rows, memory)
        self._is_list_uncertain = False
        self._total: int | None = None
        self._missing: list[int] = []
        self._planned: int | None = None
        self._handed_out = 0
        self.estimator = EtaEstimator(self._counter, options.flow, 0, max(1, target.batch))
        delivery = DeliveryOptions(
            target=SyncCalls(target).call,
            batch=target.batch,
            is_operation=target.is_operation,
            idempotent=None,
            flow=options.flow,
            max_failed=options.max_failed,
            is_idempotent=is_idempotent,
        )
        self._delivery = Delivery(delivery, rows.converter, self._log, self._counter, self._breaker)

    async def work(self) -> None:
        """Examine the input, and send what is needed."""
        stop: BackfillError
        try:
            await self._examine()
            await self._adopt()
            await self._decide()
            await self._send()
        except (BackfillStoppedError, InputError) as error:
            if isinstance(error, InputError) and not self._counter.requests:
                raise
            stop = error
        else:
            self._state.complete = self._handed_out == self._planned
            return
        finally:
            self.report()  # saved with the next commit
            self._memory.save_now()
        raise BackfillStoppedError(stop.message, advice=stop.advice, report=self.report())

    # --- Examine ----------------------------------------------------------------------------

    async def _examine(self) -> None:
        memory, rows, state = self._memory, self._rows, self._state
        has_listed = self._options.adopt or state.page > 0 or await memory.has_listed()
        await rows.examine(memory.write_failure, compare_listed=has_listed)
        state.source, state.failed = rows.name, rows.invalid
        if len(rows) >= _MIN_ROWS and rows.invalid > self._options.max_failed * len(rows):
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
        await memory.saved()
        flow, counter, breaker = self._options.flow, self._counter, self._breaker
        reader = PagePrefetcher(self._target.list(), _PREFETCH, flow, counter, breaker)
        await reader.read(state.page if resumed else reader.start, self._remember)
        state.page = 0
        await memory.saved()
        for key in await memory.lost_keys():
            if key not in self._rows:
                memory.forget(key)
        await memory.saved()

    async def _remember(self, page: Page[Any]) -> None:
        """Remember the items of *page*."""
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
        memory.save_soon()

    # --- Decide -----------------------------------------------------------------------------

    async def _decide(self) -> None:
        """Set the action of each row, and find the missing items."""
        rows, memory, state = self._rows, self._memory, self._state
        await self._settle_absent_intents()
        found = 0
        for first in range(1, len(rows) + 1, CHUNK):
            found += await self._decide_some(range(first, min(first + CHUNK, len(rows) + 1)))
        await self._compare_parents()
        if circle := self._tree.set_levels():
            raise await rows.circle(circle)
        count = rows.actions.count
        state.unchanged, state.skipped = count(Action.KEEP), count(Action.NOTHING) - rows.invalid
        state.failed += count(Action.FAIL) + count(Action.WITHOUT_ID)
        state.unknown += count(Action.WAIT)
        memory.count = await memory.known_count()
        if found < memory.count:
            self._missing = [key for key in await memory.known_keys() if key not in rows]
        state.missing = len(self._missing)
        deletions = self._deletions_planned() if self._options.on_missing == "delete" else 0
        state.planned = (
            count(Action.CREATE) + count(Action.LOCATE),
            count(Action.UPDATE),
            deletions,
        )
        self._planned = sum(state.planned)

    async def _decide_some(self, numbers: range) -> int:
        """Set the actions of the rows with *numbers*; return how many have a known item."""
        rows, actions, intents = self._rows, self._rows.actions, self._memory.intents
        valid = [number - 1 for number in numbers if rows.is_valid(number)]
        known = await self._memory.digests([rows.keys[place] for place in valid])
        keys, digests, found = rows.keys, rows.digests, 0
        for place in valid:
            key = keys[place]
            item = known.get(key)
            if item is not None:
                found += item.is_known
                if item.sent == digests[place] and key not in intents:
                    actions[place] = Action.KEEP
                    continue
            actions[place] = self._action_of(place, key, item)
        return found

    def _action_of(self, place: int, key: int, known: Digests | None) -> Action:
        rows, memory, options = self._rows, self._memory, self._options
        may_find = self._target.has("find")
        digest = rows.digests[place]
        if key in memory.intents:
            if may_find:
                return Action.LOCATE
            if options.unknown == "drop":
                memory.remember(key, Item(None, digest))
                return Action.NOTHING
            return Action.CREATE if options.unknown == "resend" else Action.WAIT
        rejected = None if options.retry_failed else memory.rejected.get(key, (None,))[0]
        listed = rows.listed[place] if rows.listed else None
        action = decide(digest, listed, known, rejected, may_find=may_find)
        is_doubtful = action is Action.CREATE and self._is_list_uncertain and may_find
        return Action.LOCATE if is_doubtful else action

    async def _settle_absent_intents(self) -> None:
        """Settle creates of unknown outcome whose rows are gone."""
        memory, unknown = self._memory, self._options.unknown
        absent = [key for key in memory.intents if key not in self._rows]
        if self._target.has("find"):
            changes = [Change(Action.CHECK, key, memory.intents[key].name) for key in absent]
            await self._deliver(_in_one_list([Row(0, 0, change) for change in changes]))
        elif unknown == "keep":
            self._state.unknown += len(absent)
        else:
            for key in absent:
                memory.remove_intent(key)
        await memory.saved()

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

    def _deletions_planned(self) -> int:
        """Return the number of deletions.

        Raises:
            BackfillStoppedError: there are too many.
        """
        count, known = len(self._missing), self._memory.count
        if self._rows.unkeyed and count:
            self._log.warn(
                f"nothing was deleted: {self._rows.unkeyed} invalid rows may be those of the "
                f"{count} items that the input lacks"
            )
            self._missing.clear()
        elif count > max(_ALWAYS_DELETED, self._options.max_deleted * known):
            raise BackfillStoppedError(
                f"{count:,} of {known:,} known items are not in {self._rows.name} and would be "
                "deleted; nothing was changed",
                advice="Check that the input is complete. To delete them, run again with a higher "
                f"max_deleted=, at least {count / known:.2f}",
            )
        return len(self._missing)

    # --- Send -------------------------------------------------------------------------------

    async def _send(self) -> None:
        actions = self._rows.actions
        if any(actions.count(action) for action in _READ):
            for level in range(self._tree.height):
                await self._deliver(self._changes(level))
        self._delivery.finish()
        if self._options.on_missing == "delete":
            for keys in await self._deletion_order():
                await self._deliver(self._deletions(keys))
            self._delivery.finish()

    async def _deliver(self, changes: AsyncGenerator[list[Row]]) -> None:
        feed = _Feed(changes, self._hand_out)
        work = [self._work(feed) for _ in range(self._options.concurrency)]
        try:
            await run_workers(work, self._delivery, feed.stop)
        finally:
            await changes.aclose()

    def _hand_out(self, count: int) -> int:
        """Return how many of *count* changes may be sent, and count them."""
        if self._options.limit is not None:
            count = min(count, self._options.limit - self._handed_out)
        self._handed_out += count
        return count

    async def _work(self, feed: _Feed) -> None:
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
                change = Change(Action(actions[number - 1]), key, rows.key_of(row, value), row)
                change.digest, change.new = rows.digests[number - 1], value.data
                if self._fails(change, parents.get(number, "")):
                    continue
                item = items.get(key)
                change.item_id = None if item is None else item.id
                change.parent = parents.get(number)
                change.value = rows.value_with_nulls(row)
                if change.parent is not None:
                    change.new = tree.with_parent(change.new, change.parent)
                    change.value = tree.with_parent(change.value, change.parent)
                changes.append(Row(number, row.line, change))
            yield changes

    def _fails(self, change: Change, parent: str | None) -> bool:
        """Record the failure of a row that is not sent; return False for any other."""
        if change.action is Action.FAIL:
            reason = self._memory.rejected[change.key][1]
            problem = f"rejected in an earlier run, and not changed since: {reason}"
        elif change.action is Action.WITHOUT_ID:
            problem = "its item cannot be updated: the vendor did not return the id"
        elif parent is None:
            self._state.failed += 1
            self._handed_out += 1
            problem = "its parent was not created"
        else:
            return False
        self._memory.write_failure(change.row, ValueError(problem))
        self._memory.save_soon()
        return True

    async def _deletion_order(self) -> list[list[int]]:
        """Return the keys of the items to delete, in groups, one after the other."""
        if self._target.parent_field is None:
            return [self._missing]
        items: dict[int, Item] = {}
        for first in range(0, len(self._missing), CHUNK):
            items |= await self._memory.items(self._missing[first : first + CHUNK])
        return deletion_order(items)

    async def _deletions(self, keys: Sequence[int]) -> AsyncGenerator[list[Row]]:
        """Yield the deletions of the items with *keys*."""
        for first in range(0, len(keys), CHUNK):
            items = await self._memory.items(keys[first : first + CHUNK])
            changes: list[Row] = []
            for key, item in items.items():
                row = Row(0, 0, {"id": item.id})
                change = Change(Action.DELETE, key, item.id or "", row)
                change.item_id = item.id
                changes.append(Row(0, 0, change))
            yield changes

    # --- Report -----------------------------------------------------------------------------

    def report(self) -> SyncReport:
        """Return the result of the run so far."""
        state, counter = self._state, self._counter
        state.requests, state.rejected = counter.requests, counter.rejected
        state.seconds, state.quota_use = counter.seconds, counter.quota_use
        state.remaining = max(0, (self._planned or 0) - self._handed_out)
        state.warnings = tuple(self._log.warnings)
        return state.report(self._memory.failures)

    def progress(self) -> Progress:
        """Return the progress of the run in changes: a row that needs no request is none."""
        state = self._state
        return self.estimator.progress(
            done=state.created + state.updated + state.deleted,
            failed=state.failed,
            unknown=state.unknown,
            skipped=state.skipped,
            settled=self._log.settled,
            total=self._planned,
            waiting=self._breaker.outage_seconds,
        )


class _Feed:
    """Gives the rows of *changes* to the workers, in order, as many as *hand_out* allows."""

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
        if len(self._ready) < count and not self._is_stopped:
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


async def _in_one_list(rows: list[Row]) -> AsyncGenerator[list[Row]]:
    yield rows
