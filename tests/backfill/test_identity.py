"""Which job a state belongs to: any other one is rejected before anything is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import msgspec
import pytest

from asyncclients import (
    DigitalOnboardingClient,
    EmmaClient,
    ForbiddenError,
    IntemptClient,
    IntouchClient,
    Priority,
    SessionPool,
    StateMismatchError,
    TotangoClient,
)
from asyncclients.backfill import Renaming, pull, push
from asyncclients.backfill.push import PushOptions
from asyncclients.backfill.state.identity import JobIdentity, pull_job, push_job
from asyncclients.sandbox import Sandbox

URL = "https://a.example/v1/"


def intouch(pool: SessionPool, **options: Any) -> IntouchClient:
    arguments: dict[str, Any] = {"api_key": "ii_one", "base_url": URL, **options}
    return IntouchClient(pool, **arguments)


def job_of(target: Callable[..., Any], map: Any = None) -> JobIdentity:  # noqa: A002
    return push_job("rows.csv", target, "", map)


def difference(ours: JobIdentity, theirs: JobIdentity, *, new_credential: bool = False) -> str:
    """Return the text of the error for a state of *theirs*; empty if *ours* is the same job."""
    try:
        ours.check(theirs, "s.db", new_credential=new_credential)
    except StateMismatchError as error:
        return str(error)
    return ""


# --- What is another job ------------------------------------------------------------


async def own(row: Any, *, url: str = "", client: Any = None) -> None:
    """A user's own target."""


Pair = Callable[[SessionPool], tuple[JobIdentity, JobIdentity]]
OTHERS: dict[str, tuple[str, Pair]] = {
    "operation": (
        "target",
        lambda pool: (job_of(intouch(pool).contacts.create), job_of(intouch(pool).tags.create)),
    ),
    "host": (
        "origin",
        lambda pool: (
            job_of(intouch(pool).contacts.create),
            job_of(intouch(pool, base_url="https://b.example/v1/").contacts.create),
        ),
    ),
    "base path": (
        "origin",
        lambda pool: (
            job_of(intouch(pool).contacts.create),
            job_of(intouch(pool, base_url="https://a.example/v2/").contacts.create),
        ),
    ),
    "credential": (
        "credential differs",
        lambda pool: (
            job_of(intouch(pool).contacts.create),
            job_of(intouch(pool, api_key="ii_two").contacts.create),
        ),
    ),
    "client secret": (
        "credential differs",
        lambda pool: (
            job_of(onboarding(pool, "one").contacts.upsert_many),
            job_of(onboarding(pool, "two").contacts.upsert_many),
        ),
    ),
    "Emma's account": (
        "account is '1', not '2'",
        lambda pool: (
            job_of(emma(pool, 2, "one").touchpoints.create),
            job_of(emma(pool, 1, "one").touchpoints.create),
        ),
    ),
    "Intempt's organization": (
        "account is 'b', not 'a'",
        lambda pool: (
            job_of(partial(intempt(pool, "a").collections.insert, "7")),
            job_of(partial(intempt(pool, "b").collections.insert, "7")),
        ),
    ),
    "bound argument": (
        'argument program_uuid is "b", now "a"',
        lambda pool: (
            job_of(partial(intouch(pool).external_programs.add_record, "a")),
            job_of(partial(intouch(pool).external_programs.add_record, program_uuid="b")),
        ),
    ),
    "bound argument of a partial in a partial": (
        'argument program_uuid is "b", now "a"',
        lambda pool: (job_of(nested(pool, "a")), job_of(nested(pool, "b"))),
    ),
    "headers of the client": (
        "headers differ",
        lambda pool: (
            job_of(intouch(pool).with_options(headers={"X-Tenant": "a"}).contacts.create),
            job_of(intouch(pool).with_options(headers={"X-Tenant": "b"}).contacts.create),
        ),
    ),
    "path of a free request": (
        "arguments have changed (method, path)",
        lambda pool: (
            job_of(partial(intouch(pool).request, "POST", "a")),
            job_of(partial(intouch(pool).request, "POST", "b")),
        ),
    ),
    "argument of an own function": (
        "arguments have changed (url)",
        lambda _: (job_of(partial(own, url="a")), job_of(partial(own, url="b"))),
    ),
    "client bound to an own function": (
        "credential differs",
        lambda pool: (
            job_of(partial(own, client=intouch(pool))),
            job_of(partial(own, client=intouch(pool, api_key="ii_two"))),
        ),
    ),
    "mapping": (
        "map",
        lambda _: (job_of(own, {"Mail": "email"}), job_of(own, {"Email": "email"})),
    ),
    "fixed value": (
        "map",
        lambda _: (job_of(own, Renaming({}, {"a": 1})), job_of(own, Renaming({}, {"a": 2}))),
    ),
    "query": (
        'argument search is "b", now not given',
        lambda pool: (
            pull_job(intouch(pool).contacts.list(), "out", None),
            pull_job(intouch(pool).contacts.list(search="b"), "out", None),
        ),
    ),
    "first page": (
        "argument page is 3, now 1",
        lambda pool: (
            pull_job(intouch(pool).contacts.list(), "out", None),
            pull_job(intouch(pool).contacts.list(page=3), "out", None),
        ),
    ),
    "query of pages": (
        "argument search",
        lambda pool: (
            pull_job(intouch(pool).contacts.list(search="a").pages(), "out", None),
            pull_job(intouch(pool).contacts.list(search="b").pages(), "out", None),
        ),
    ),
    "account of a list": (
        "credential differs",
        lambda pool: (
            pull_job(intouch(pool).contacts.list(), "out", None),
            pull_job(intouch(pool, api_key="ii_two").contacts.list(), "out", None),
        ),
    ),
    "argument of an awaited list": (
        'argument account_id is "b", now "a"',
        lambda pool: (events(pool, "a"), events(pool, "b")),
    ),
    "key": (
        "key is 'email', not 'uuid'",
        lambda pool: (
            pull_job(intouch(pool).contacts.list(), "out", "uuid"),
            pull_job(intouch(pool).contacts.list(), "out", "email"),
        ),
    ),
}


def nested(pool: SessionPool, program: str) -> Any:
    inner = partial(intouch(pool).external_programs.update_record, program)
    inner.note = "keeps it from being flattened"  # type: ignore[attr-defined]
    return partial(inner, "document")


def onboarding(pool: SessionPool, secret: str) -> DigitalOnboardingClient:
    return DigitalOnboardingClient(pool, client_id="id", client_secret=secret, base_url=URL)


def emma(pool: SessionPool, account: int, key: str) -> EmmaClient:
    return EmmaClient(pool, account_id=account, public_key=key, private_key="private", base_url=URL)


def intempt(pool: SessionPool, org: str) -> IntemptClient:
    return IntemptClient(pool, api_key="key", org=org, base_url=URL)


def events(pool: SessionPool, account: str) -> JobIdentity:
    coroutine = TotangoClient(pool, app_token="t", base_url=URL).events.list(account)
    try:
        return pull_job(coroutine, "out", None)
    finally:
        coroutine.close()


@pytest.mark.parametrize("name", OTHERS)
async def test_identity_error_names_the_difference(name: str) -> None:
    """The error names the difference between two jobs and reveals no credential."""
    words, pair = OTHERS[name]
    async with SessionPool() as pool:
        ours, theirs = pair(pool)
    assert words in difference(ours, theirs)
    assert "ii_" not in difference(ours, theirs) + repr(ours)
    assert difference(ours, ours) == ""


# --- What is the same job -----------------------------------------------------------


SAME: dict[str, Pair] = {
    "priority": lambda pool: (
        job_of(intouch(pool).contacts.create),
        job_of(intouch(pool).with_options(priority=Priority.BACKGROUND).contacts.create),
    ),
    "another client of the key": lambda pool: (
        job_of(intouch(pool).contacts.create),
        job_of(intouch(pool, max_in_flight=3).contacts.create),
    ),
    "positional and named": lambda pool: (
        job_of(partial(intouch(pool).external_programs.add_record, "a")),
        job_of(partial(intouch(pool).external_programs.add_record, program_uuid="a")),
    ),
    "argument left out": lambda pool: (
        pull_job(intouch(pool).contacts.list(), "out", None),
        pull_job(intouch(pool).contacts.list(search=None, page=1), "out", None),
    ),
    "spelling of the address": lambda pool: (
        job_of(intouch(pool).contacts.create),
        job_of(intouch(pool, base_url="https://A.example:443/v1").contacts.create),
    ),
    "Emma's new key": lambda pool: (
        job_of(emma(pool, 1, "one").touchpoints.create),
        job_of(emma(pool, 1, "two").touchpoints.create),
    ),
    "object without a value": lambda _: (
        job_of(partial(own, client=object())),
        job_of(partial(own, client=object())),
    ),
    "corrected key function": lambda pool: (
        pull_job(intouch(pool).contacts.list(), "out", len),
        pull_job(intouch(pool).contacts.list(), "out", "email"),
    ),
    "order of a mapping": lambda _: (
        job_of(own, {"a": "b", "c": "d"}),
        job_of(own, Renaming({"c": "d", "a": "b"})),
    ),
}


@pytest.mark.parametrize("name", SAME)
async def test_identity_ignores_how_a_job_runs(name: str) -> None:
    """Differences that only change how a job runs, or how it is written, keep its identity."""
    async with SessionPool() as pool:
        ours, theirs = SAME[name](pool)
    assert difference(ours, theirs) == ""


async def test_identity_contains_no_secret_of_a_function() -> None:
    """A credential bound to a function of the user is not in the state."""
    job = job_of(partial(own, url="https://user:hunter2@example.org"))
    assert b"hunter2" not in msgspec.json.encode(job)
    assert "url" in "".join(job.arguments)


async def test_new_credential_rejects_another_account() -> None:
    """`new_credential` accepts another key, but neither another account nor another origin."""
    async with SessionPool() as pool:
        one = job_of(intouch(pool).contacts.create)
        two = job_of(intouch(pool, api_key="ii_two").contacts.create)
        elsewhere = job_of(intouch(pool, base_url="https://b.example/v1/").contacts.create)
        accounts = [job_of(emma(pool, n, "k").touchpoints.create) for n in (1, 2)]
    assert difference(two, one, new_credential=True) == ""
    assert "origin" in difference(elsewhere, one, new_credential=True)
    assert "account" in difference(accounts[0], accounts[1], new_credential=True)


# --- Push and pull ------------------------------------------------------------------

OPEN = {"intouch": (10_000, 1.0)}


async def pushed(environ: dict[str, str], folder: Path, **options: Unpack[PushOptions]) -> int:
    async with SessionPool() as pool:
        create = IntouchClient.from_env(pool, environ, quotas=[]).tags.create
        rows = [f"tag {n}" for n in range(6)]
        return (await push(rows, create, state=folder / "s.db", **options)).done


async def pulled(environ: dict[str, str], folder: Path, **options: Any) -> int:
    async with SessionPool() as pool:
        tags = IntouchClient.from_env(pool, environ, quotas=[]).tags
        report = await pull(tags.list(), folder / "out.jsonl", state=folder / "s.db", **options)
        return report.done


@pytest.mark.parametrize("run", [pushed, pulled])
async def test_state_follows_its_account(run: Any, tmp_path: Path) -> None:
    """Another key is rejected before anything is sent; declared as new, it resumes, and later runs need no declaration."""
    async with Sandbox(OPEN) as sandbox:
        first = await run(sandbox.environ, tmp_path)
        sent = len(sandbox.requests("intouch"))
        renewed = {**sandbox.environ, **sandbox.issue("intouch")}
        with pytest.raises(StateMismatchError, match="new_credential=True"):
            await run(renewed, tmp_path)
        assert await run(renewed, tmp_path, new_credential=True) == first
        assert await run(renewed, tmp_path) == first
        with pytest.raises(StateMismatchError, match="credential"):
            await run(sandbox.environ, tmp_path)
        assert len(sandbox.requests("intouch")) == sent
    async with Sandbox(OPEN) as production:
        with pytest.raises(StateMismatchError, match="its origin is"):
            await run({**renewed, **production.environ}, tmp_path, new_credential=True)
        assert not production.requests("intouch")


@pytest.mark.parametrize("run", [pushed, pulled])
async def test_invalid_new_credential_is_not_stored(run: Any, tmp_path: Path) -> None:
    """If the vendor rejects a credential that was declared as new, the previous one still resumes."""
    async with Sandbox(OPEN) as sandbox:
        wrong = {**sandbox.environ, "INTOUCH_API_KEY": "ii_wrong"}
        with pytest.raises(ForbiddenError):
            await run(wrong, tmp_path)
        with pytest.raises(ForbiddenError):
            await run({**wrong, "INTOUCH_API_KEY": "ii_typo"}, tmp_path, new_credential=True)
        with pytest.raises(ForbiddenError):
            await run(wrong, tmp_path)


async def test_rejected_job_leaves_the_state_alone(tmp_path: Path) -> None:
    """After another job was rejected, the right one resumes."""
    async with SessionPool() as pool:
        create = intouch(pool).contacts.create
        for target in (own, create, own):
            job = push([], target, state=tmp_path / "s.db")
            if target is create:
                with pytest.raises(StateMismatchError):
                    await job
            else:
                await asyncio.wait_for(job, 30)
