"""Sync: make the items of a vendor agree with a file, with the fewest requests.

1. **Examine** the whole input: digests of keys and rows. Duplicate and empty keys are rejected.
2. **Adopt**, if asked: read the vendor's list, and remember digests of its items.
3. **Decide** for each row: create, update, look up, or nothing; and which items are missing.
4. **Send**: read the input again, and send the rows that need it; delete missing items last.

A run may be killed at any moment: the state has all confirmed changes, and the next run compares
the input with it again. A create is recorded before it is sent; if its response is lost, the next
run looks the item up before it creates it again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, Literal, Never, Unpack, overload

from asyncclients.arguments import check_keywords
from asyncclients.backfill.delivery import PushTarget
from asyncclients.backfill.files.source import Rows, is_path
from asyncclients.backfill.plan import Plan, copied_journal
from asyncclients.backfill.push import DeliveryKeywords
from asyncclients.backfill.report import Progress, SyncReport
from asyncclients.backfill.rows import Map, check_rows
from asyncclients.backfill.state.identity import sync_job
from asyncclients.backfill.state.journal import Journal
from asyncclients.backfill.state.sync_state import SyncMemory
from asyncclients.backfill.sync_changes import SyncCalls
from asyncclients.backfill.sync_input import SyncInput
from asyncclients.backfill.sync_run import Sync, SyncOptions
from asyncclients.backfill.sync_targets import Target
from asyncclients.core.options import call_context
from asyncclients.own_files import check_apart
from asyncclients.ratelimit.quota import Priority


class SyncKeywords(DeliveryKeywords, total=False):
    """The keywords of `sync` besides `state` and `dry_run`, for type checkers."""

    key: str | None
    on_missing: Literal["keep", "delete"]
    max_deleted: float
    adopt: bool


@overload
async def sync(
    source: Rows,
    target: Any,
    *,
    state: str | os.PathLike[str],
    dry_run: Literal[False] = False,
    **options: Unpack[SyncKeywords],
) -> SyncReport: ...
@overload
async def sync(
    source: Rows,
    target: Any,
    *,
    state: str | os.PathLike[str],
    dry_run: Literal[True],
    **options: Unpack[SyncKeywords],
) -> Plan: ...
@overload
async def sync(
    source: Rows,
    target: Any,
    *,
    state: str | os.PathLike[str],
    dry_run: bool,
    **options: Unpack[SyncKeywords],
) -> SyncReport | Plan: ...
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
    dry_run: bool = False,
    limit: int | None = None,
    retry_failed: bool = False,
    concurrency: int = 64,
    flow: str | None = None,
    share: float | None = None,
    unknown: Literal["keep", "resend", "drop"] = "keep",
    max_failed: float = 0.1,
    max_outage: float = 900.0,
    new_credential: bool = False,
    progress: Callable[[Progress], None] | None = None,
    **misspelt: Never,
) -> SyncReport | Plan:
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
            it sends anything, because too many rows are gone.
        adopt: read the vendor's list first, so that its items are updated or left alone instead
            of created, and changes that others made there are noticed.
        row_type: as for `push`; by default what the target takes.
        map: as for `push`.
        dry_run: change nothing and return a `Plan`: the input is read and compared with the state,
            and the requests are built. With *adopt* it reads the vendor's list, one request a
            page, which the plan counts as well, since the run reads it again. The state is copied.
        limit: number of changes after which the run stops; run again to continue.
        retry_failed: send rejected rows again although they have not changed.
        concurrency: maximum number of concurrent calls.
        flow: as for `push`.
        share: as for `push`.
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
    check_keywords(sync, misspelt)
    found = Target(target, key)
    to = PushTarget(
        target=SyncCalls(found).call,
        row_type=found.row_type if row_type is None else row_type,
        map=map,
        batch=found.batch,
        concurrency=concurrency,
        share=share,
        max_failed=max_failed,
        max_outage=max_outage,
    )
    options = SyncOptions(
        state=state,
        flow=flow or f"sync {found.name} {state}",
        on_missing=on_missing,
        max_deleted=max_deleted,
        adopt=adopt,
        dry_run=dry_run,
        limit=limit,
        retry_failed=retry_failed,
        unknown=unknown,
        new_credential=new_credential,
        progress=progress,
    )
    return await _run(source, found, to, options)


async def _run(
    source: Rows, found: Target, to: PushTarget, options: SyncOptions
) -> SyncReport | Plan:
    found.check(adopt=options.adopt, delete=options.on_missing == "delete")
    check_rows(source)
    state, renewed = options.state, options.new_credential
    rows = SyncInput(source, found, to.converter())
    check_apart(Path(state), [Path(source)] if is_path(source) else [], "the input")
    await rows.check()
    names = found.given, found.name, rows.converter.name, found.key
    job = await asyncio.to_thread(sync_job, *names, to.map)
    with call_context(Priority.BACKGROUND, options.flow, share=to.share):
        if options.dry_run:
            async with copied_journal(state, job, new_credential=renewed) as journal:
                return await Sync(rows, found, to, await SyncMemory.load(journal), options).plan()
        async with aclosing(await Journal.open(state, job, new_credential=renewed)) as journal:
            report = await Sync(rows, found, to, await SyncMemory.load(journal), options).run()
            await journal.finish()
            return report
