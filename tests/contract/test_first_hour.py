"""Mistakes of the first hour in Python: one sentence that shows the right form, and no request.

Those on the command line are in `tests/cli/test_mistakes.py`. Where Python itself names the
mistake, as for a keyword that does not exist, its error is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

import asyncclients
from asyncclients import AsyncClientsError, ClientClosedError, InvalidValueError, SessionPool
from asyncclients import backfill as backfills
from asyncclients.sandbox import Sandbox
from asyncclients.sandbox.sandbox import VendorName
from asyncclients.vendors import digital_onboarding, emma, intouch, totango

VENDORS: Final[tuple[VendorName, ...]] = (
    "intouch",
    "totango",
    "intempt",
    "emma",
    "digital_onboarding",
)
api: Any = asyncclients
structs: Any = intouch
visit: Any = emma.NewTouchpoint
note: Any = totango.NewTouchpoint
person: Any = digital_onboarding.NewContact
ADA: Final = intouch.NewContact(email="ada@example.com")
NOW: Final = datetime.now(UTC)


class Start:
    """What a newcomer has after the first lines of the tutorial."""

    def __init__(self, pool: SessionPool, environ: dict[str, str], directory: Path) -> None:
        self.pool: Any = pool
        self.intouch: Any = api.IntouchClient.from_env(pool, environ)
        self.totango: Any = api.TotangoClient.from_env(pool, environ)
        self.intempt: Any = api.IntemptClient.from_env(pool, environ)
        self.emma: Any = api.EmmaClient.from_env(pool, environ)
        self.onboarding: Any = api.DigitalOnboardingClient.from_env(pool, environ)
        self.people = directory / "people.csv"
        self.people.write_text("email\nada@example.com\n")
        self.push: Any = partial(backfills.push, state=directory / "push.db")
        self.pull: Any = partial(backfills.pull, to=directory / "out.jsonl", state=directory / "p")

    def client(self, **arguments: Any) -> Any:
        """A client of Intouch with *arguments*."""
        return api.IntouchClient(self.pool, **{"api_key": "k", **arguments})


async def use_after_close(start: Start) -> None:
    """Call after the pool was closed."""
    await start.pool.aclose()
    await start.intouch.contacts.create(ADA)


async def forget_await(start: Start) -> None:
    """Read a field of a call that was not awaited."""
    call = start.intouch.contacts.create(ADA)
    try:
        assert call.uuid
    finally:
        call.close()


async def iterate_over_call(start: Start) -> None:
    """Read a list that is not in pages with `async for`."""
    call = start.emma.touchpoint_types.list()
    try:
        async for _ in call:
            pass
    finally:
        call.close()


async def use_plain_for(start: Start) -> None:
    """Read a list with `for`."""
    for _ in start.intouch.contacts.list():
        pass


def use_with(start: Start) -> None:
    """Open the pool with `with`."""
    with start.pool:
        pass


Mistake = tuple[str, Callable[[Start], Any], type[Exception], str]
OF_CLIENTS: Final[list[Mistake]] = [
    ("no pool", lambda s: api.IntouchClient(api_key="k"), TypeError, "'pool'"),
    ("key first", lambda s: api.IntouchClient("ii_4711"), ValueError, "a SessionPool, not str"),
    ("class as pool", lambda s: api.IntouchClient(SessionPool), ValueError, "class SessionPool"),
    ("no key", lambda s: api.IntouchClient(s.pool), ValueError, "api_key='...', or set INTOUCH_"),
    ("misspelt key", lambda s: s.client(apikey="k"), TypeError, "'apikey'"),
    ("with", use_with, TypeError, "`async with SessionPool() as pool:`"),
    ("no client", lambda s: api.IntouchClient.contacts, AttributeError, "'contacts'"),
    ("no variable", lambda s: api.IntouchClient.from_env(s.pool, {}), ValueError, "INTOUCH_API_K"),
    ("tuple", lambda s: s.client(quotas=[(2, 1)]), ValueError, "quotas=[Quota(2, 1.0)]"),
    ("one quota", lambda s: s.client(quotas=api.Quota(2, 1)), ValueError, "quotas=[Quota(2, 1.0)"),
    ("text as limit", lambda s: api.Quota("2", 1), ValueError, "as in Quota(2, 1.0)"),
    ("zero as limit", lambda s: api.Quota(0, 1), ValueError, "as in Quota(2, 1.0)"),
    ("zero as period", lambda s: api.Quota(2, 0), ValueError, "as in Quota(100, 60.0)"),
    ("middleware", lambda s: api.quota_middleware((2, 1)), ValueError, "quota_middleware(Quota(2"),
    ("http", lambda s: s.client(base_url="http://x.com"), ValueError, "to an https:// address"),
    ("no scheme", lambda s: s.client(base_url="x.com"), ValueError, "to an https:// address"),
    ("region", lambda s: api.TotangoClient(s.pool, app_token="k", region="de"), ValueError, "us, "),
    ("pool option", lambda s: SessionPool(timeout="3"), ValueError, "timeout=30.0"),  # type: ignore[arg-type]
    ("option", lambda s: s.intouch.with_options(timeout="3"), ValueError, "timeout=30.0"),
    ("priority", lambda s: s.intouch.with_options(priority=1), ValueError, "Priority.BACKGROUND"),
    ("closed pool", use_after_close, ClientClosedError, "Make calls before closing it"),
]
OF_CALLS: Final[list[Mistake]] = [
    ("no await", forget_await, AttributeError, "'coroutine' object has no attribute 'uuid'"),
    ("async for call", iterate_over_call, TypeError, "'async for' requires an object with __aiter"),
    ("for", use_plain_for, TypeError, "`async for`, as in `async for item in"),
    ("await list", lambda s: s.intouch.contacts.list(), TypeError, "`await paginator.first()`"),
    ("struct keyword", lambda s: structs.NewContact(mail="a@b.ca"), TypeError, "'mail'"),
    ("struct without field", lambda s: structs.NewContact(), TypeError, "'email'"),
    ("type", lambda s: s.intouch.contacts.create(structs.NewContact(email=5)), ValueError, "str, "),
    ("dict", lambda s: s.intouch.contacts.create({}), InvalidValueError, "NewContact(email=...)"),
    ("text", lambda s: s.intouch.contacts.create("a@b.ca"), InvalidValueError, "NewContact(email="),
    ("keyword", lambda s: s.intouch.contacts.create(email="a@b.ca"), TypeError, "'email'"),
    ("no argument", lambda s: s.intouch.contacts.update("1"), TypeError, "'contact'"),
    ("resource", lambda s: s.intouch.contact, AttributeError, "'contact'"),
    (
        "limit",
        lambda s: s.intouch.contacts.list(limit=50),
        InvalidValueError,
        "from 1 to 25, not 5",
    ),
    ("sort", lambda s: s.intouch.tags.list(sort_by="nam"), ValueError, "did you mean 'name'?"),
    ("no id", lambda s: s.intouch.contacts.get(None), ValueError, "uuid must not be None"),
    ("record", lambda s: s.intouch.external_programs.add_record("1", "x"), ValueError, "data={"),
    ("url", lambda s: s.intouch.request("GET", "https://x.com/y"), ValueError, "relative to the b"),
    (
        "touchpoint",
        lambda s: s.emma.touchpoints.create(visit(email="a")),
        ValueError,
        "[NewTouchpo",
    ),
    ("eleven", lambda s: s.emma.touchpoints.create([visit()] * 11), ValueError, "create_many"),
    ("type id", lambda s: s.emma.touchpoint_types.get(1.5), ValueError, "an integer, not 1.5"),
    ("zone", lambda s: visit(touchpoint_timestamp=NOW), ValueError, "the account's local time"),
    (
        "no zone",
        lambda s: note(account_id="1", content="", create_date=NOW.replace(tzinfo=None)),
        ValueError,
        "aware datetime",
    ),
    ("no account", lambda s: s.totango.touchpoints.list(), TypeError, "'account_id'"),
    (
        "no event",
        lambda s: s.totango.touchpoints.delete("1"),
        ValueError,
        "event_id, or account_id",
    ),
    ("rows", lambda s: s.intempt.sources.insert("1", [{"a": 1}]), ValueError, "rows={"),
    ("row", lambda s: s.intempt.collections.insert("1", [1]), ValueError, "data={"),
    ("no user", lambda s: s.intempt.events.matches(), ValueError, "profile_id or master_id"),
    ("no file", lambda s: s.intempt.collections.upload_csv("1", "x.csv"), OSError, "x.csv"),
    ("batch", lambda s: s.onboarding.contacts.upsert_many(5), ValueError, "[NewContact(...), ...]"),
    ("journey", lambda s: s.onboarding.journeys.create("1", "a"), ValueError, "NewContact(unique_"),
]
OF_BACKFILLS: Final[list[Mistake]] = [
    ("resource", lambda s: s.push(s.people, s.intouch.contacts), ValueError, "takes a row"),
    ("client", lambda s: s.push(s.people, s.intouch), ValueError, "operation that takes a row"),
    (
        "call",
        lambda s: s.push(s.people, s.intouch.contacts.create(ADA)),
        ValueError,
        "create, not c",
    ),
    ("list", lambda s: s.push(s.people, [1]), ValueError, "as totango.touchpoints.create"),
    (
        "name",
        lambda s: s.push(s.people, "intouch.contacts.create"),
        ValueError,
        "Give an operation",
    ),
    ("read", lambda s: s.push(s.people, s.intouch.contacts.list), ValueError, "with a row alone"),
    (
        "update",
        lambda s: s.push(s.people, s.intouch.contacts.update),
        ValueError,
        "partial(intouch",
    ),
    ("swapped", lambda s: s.push(s.intouch.contacts.create, s.people), ValueError, "rows first"),
    ("no rows", lambda s: s.push(5, s.intouch.contacts.create), ValueError, "an iterable of rows"),
    ("no file", lambda s: s.push("x.csv", s.intouch.contacts.create), ValueError, "x.csv does not"),
    ("suffix", lambda s: s.push(__file__, s.intouch.contacts.create), ValueError, "Name it .csv"),
    (
        "keyword",
        lambda s: s.push(s.people, s.intouch.contacts.create, concurency=3),
        ValueError,
        "did you mean 'concurrency'?",
    ),
    (
        "map",
        lambda s: s.push(s.people, s.intouch.contacts.create, map={"mail": "email"}),
        ValueError,
        "did you mean 'email'?",
    ),
    (
        "row type",
        lambda s: s.push([], s.intouch.contacts.create, row_type=dict),
        ValueError,
        "totan",
    ),
    (
        "method",
        lambda s: s.pull(s.intouch.contacts.list),
        ValueError,
        "as in intouch.contacts.list(",
    ),
    (
        "pull resource",
        lambda s: s.pull(s.intouch.contacts),
        ValueError,
        "as in intouch.contacts.list",
    ),
    (
        "pull suffix",
        lambda s: s.pull(s.intouch.tags.list(), to="out.xlsx"),
        ValueError,
        ".jsonl, .",
    ),
    (
        "directory",
        lambda s: s.pull(s.intouch.tags.list(), to="no/x.csv"),
        ValueError,
        "does not exist",
    ),
]
MISTAKES: Final = [*OF_CLIENTS, *OF_CALLS, *OF_BACKFILLS]


async def attempt(mistake: Callable[[Start], Any], start: Start) -> None:
    """Make *mistake*, in a call or when its result is awaited."""
    found = mistake(start)
    if hasattr(found, "__await__"):
        await found


@pytest.mark.parametrize(
    ("mistake", "kind", "words"),
    [mistake[1:] for mistake in MISTAKES],
    ids=[mistake[0] for mistake in MISTAKES],
)
async def test_mistake_is_one_sentence_and_no_request(
    sandbox: Sandbox, tmp_path: Path, *, mistake: Callable[[Start], Any], kind: Any, words: str
) -> None:
    """A mistake is named where it is made, by an error that shows the right form."""
    async with SessionPool() as pool:
        start = Start(pool, sandbox.environ, tmp_path)
        with pytest.raises(kind) as caught:
            await attempt(mistake, start)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [vendor for vendor in VENDORS if sandbox.requests(vendor)] == []
    assert {path.name for path in tmp_path.iterdir()} <= {"people.csv"}
    if isinstance(caught.value, AsyncClientsError):
        assert caught.value.__cause__ is None
