"""An outage of the store is logged once per pool, and so is the recovery."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress

import pytest
from msgspec.structs import replace

from asyncclients import (
    AsyncClientsError,
    ConfigurationError,
    DeadlineExceededError,
    EmmaClient,
    ForbiddenError,
    IntouchClient,
    Quota,
    SessionPool,
)
from asyncclients.sandbox import Sandbox
from asyncclients.stores.config import WhenDown
from asyncclients.stores.fallback import OutageLog
from asyncclients.stores.protocol import StoreUnavailableError
from tests.support import shared_quota
from tests.support.shared_quota import MemoryLimits

CONFIG = replace(
    shared_quota.CONFIG, process="me", display_name="redis://host:6379", when_down="pause"
)
DOWN = StoreUnavailableError("TimeoutError", "Start it")


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("when_down", "fallback"),
    [
        ("safe_share", "Fallback safe_share: 1 of 1 processes, "),
        ("pause", "Fallback pause: nothing is sent. "),
        ("local", "Fallback local: this process obeys its own limit only. "),
    ],
)
async def test_outage_is_logged_once_per_pool(
    when_down: WhenDown, fallback: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Four scopes notice the outage: one line with store, vendors, numbers and next step."""
    store = MemoryLimits(when_down)
    async with Sandbox() as sandbox, SessionPool(limits=store) as pool:
        emma = EmmaClient.from_env(pool, sandbox.environ)
        clients = [
            IntouchClient(
                pool, api_key=f"canary {n}", base_url=sandbox.environ["INTOUCH_BASE_URL"]
            ).with_options(deadline=2.5)
            for n in range(3)
        ]

        async def call_all() -> None:
            calls = [client.tags.get("t") for client in clients]
            await asyncio.gather(*calls, emma.touchpoint_types.list(), return_exceptions=True)

        await call_all()
        await asyncio.sleep(5)
        for _ in range(2):
            caplog.clear()
            store.backend.down = True
            await asyncio.sleep(3)
            for client in clients:
                with suppress(AsyncClientsError):
                    await client.tags.get("t")
            await asyncio.sleep(5)
            (down,) = [record.getMessage() for record in caplog.records]
            store.backend.down = False
            await asyncio.sleep(10)
    down, up = [record.getMessage() for record in caplog.records]
    assert "limit store memory unreachable: down. " in down
    assert "and 3 more scopes (emma, intouch)" in down
    assert fallback in down
    assert "Retrying every 1 s" in down
    assert re.fullmatch("emma, intouch: limit store memory reachable again after (8|9|15) s", up)
    assert "canary" not in caplog.text


def test_late_failure_after_recovery_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A request that was sent before the recovery and fails after it is no new outage."""
    log = OutageLog(CONFIG)
    log.vendors["abcdef"] = "emma"
    log.on_outage("abcdef", 10.0, DOWN, "nothing is sent")
    log.on_response(20.0, ends_outage=True)
    log.on_outage("abcdef", 19.5, DOWN, "nothing is sent")
    assert [record.getMessage() for record in caplog.records] == [
        (
            "emma (scope abcd): limit store redis://host:6379 unreachable: TimeoutError. "
            "Fallback pause: nothing is sent. Retrying every 1 s. Start it"
        ),
        "emma: limit store redis://host:6379 reachable again after 10 s",
    ]
    log.on_outage("abcdef", 20.5, DOWN, "nothing is sent")
    assert len(caplog.records) == 3


def test_responses_to_other_scopes_do_not_end_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    """One node of a cluster hangs: its outage is logged, and ends with a response of that node."""
    log = OutageLog(CONFIG)
    log.vendors["abcdef"] = "emma"
    log.vendors["012345"] = "intouch"
    log.on_response(10.0, ends_outage=False)
    log.on_outage("abcdef", 9.5, DOWN, "nothing is sent")
    log.failed_at = 18.0
    log.on_response(10.5, ends_outage=False)
    log.on_response(19.5, ends_outage=False)
    log.on_outage("abcdef", 10.5, DOWN, "nothing is sent")
    assert len(caplog.records) == 1
    log.on_response(20.0, ends_outage=True)
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records][1:] == [
        "limit store redis://host:6379 reachable again after 10 s"
    ]


def test_outage_that_no_scope_notices_any_more_is_over(caplog: pytest.LogCaptureFixture) -> None:
    """The scope in the outage has no calls and does not try again: another one's response ends it."""
    log = OutageLog(CONFIG)
    log.on_outage("abcdef", 10.0, DOWN, "nothing is sent")
    log.failed_at = 20.0
    log.on_response(22.5, ends_outage=False)
    assert len(caplog.records) == 1
    log.on_response(30.0, ends_outage=False)
    assert "reachable again after 20 s" in caplog.text


def test_outage_names_its_store_once(caplog: pytest.LogCaptureFixture) -> None:
    """An error of configuration names the store, which the line has named already."""
    log = OutageLog(CONFIG)
    log.vendors["abcdef"] = "emma"
    reason = "the shared store redis://host:6379 is a read-only replica"
    log.on_outage(
        "abcdef",
        0.0,
        StoreUnavailableError(reason, "Give the address of the primary"),
        "nothing is sent",
    )
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(
        "emma (scope abcd): limit store redis://host:6379 unreachable: it is a read-only replica. "
    )


@pytest.mark.virtual_time
@pytest.mark.parametrize("lasting", [False, True])
async def test_new_scope_in_an_outage_waits_for_the_store(lasting: bool) -> None:
    """The store has worked for another key of the pool: a new key's call waits, and is sent."""
    store = MemoryLimits("safe_share")
    async with Sandbox() as sandbox, SessionPool(limits=store) as pool:
        base_url = sandbox.environ["INTOUCH_BASE_URL"]
        known = IntouchClient.from_env(pool, sandbox.environ)
        await known.tags.list(limit=1).first()
        fault = ConfigurationError("rejects the login") if lasting else OSError("unplugged")
        store.backend.fault = fault
        fresh = IntouchClient(
            pool, api_key=sandbox.environ["INTOUCH_API_KEY"] + "2", base_url=base_url
        )
        with pytest.raises(DeadlineExceededError):
            await fresh.with_options(deadline=8.0).tags.get("t")
        waiting = asyncio.create_task(fresh.tags.get("t"))
        await asyncio.sleep(5)
        assert not waiting.done()
        store.backend.fault = None
        with pytest.raises(ForbiddenError):  # from the vendor: the call was sent
            await waiting


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("ahead", "event"),
    [(0.0, "it lost its data"), (3600.0, "its clock was set forward")],
    ids=["data", "clock"],
)
async def test_reset_of_the_store_is_logged_once_per_pool(
    ahead: float, event: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Three scopes notice that the store was emptied, or its clock set: one line with the scope."""
    store = MemoryLimits("pause")
    async with Sandbox() as sandbox, SessionPool(limits=store) as pool:
        clients = [
            IntouchClient(
                pool, api_key=f"canary {n}", base_url=sandbox.environ["INTOUCH_BASE_URL"]
            ).with_options(deadline=2.5)
            for n in range(3)
        ]

        async def call_all() -> None:
            calls = [client.tags.get("t") for client in clients]
            await asyncio.gather(*calls, return_exceptions=True)

        await call_all()
        await asyncio.sleep(5)
        store.backend.ahead = ahead
        if not ahead:
            store.backend.logs.clear()
        await asyncio.sleep(1.5)
        await call_all()
        await asyncio.sleep(30)
    (line,) = [record.getMessage() for record in caplog.records]
    assert re.match(r"intouch \(scope [0-9a-f]{4}\): limit store memory: ", line)
    assert f"{event}; the window counts as spent, no calls for " in line
    assert "canary" not in caplog.text


@pytest.mark.virtual_time
@pytest.mark.parametrize("outage", [0.0, 5.0])
async def test_failover_is_logged_once_per_pool(
    outage: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Another server process has the data, after an outage or without one: one line with the pause."""
    store = MemoryLimits("pause")
    store.backend.server = "first"
    async with Sandbox() as sandbox, SessionPool(limits=store) as pool:
        base_url = sandbox.environ["INTOUCH_BASE_URL"]
        clients = [IntouchClient(pool, api_key=f"{n}", base_url=base_url) for n in range(3)]

        async def call_all() -> None:
            calls = [client.with_options(deadline=9.0).tags.get("t") for client in clients]
            await asyncio.gather(*calls, return_exceptions=True)

        await call_all()
        store.backend.down = outage > 0
        await asyncio.sleep(outage)
        store.backend.server, store.backend.down = "second", False
        await call_all()
        await asyncio.sleep(5)
    (line,) = [
        record.getMessage() for record in caplog.records if "another server" in record.message
    ]
    assert re.match(r"intouch \(scope [0-9a-f]{4}\): limit store memory: another server", line)
    assert "No calls for 2.25 s, and for a period" in line


def test_different_quotas_are_logged_once_per_vendor(caplog: pytest.LogCaptureFixture) -> None:
    """A thousand keys with the same difference: one line with store, numbers and next step."""
    log, ours, theirs = OutageLog(CONFIG), (Quota(4, 1.0),), [Quota(2, 1.0)]
    for number in range(1000):
        log.vendors[f"{number:04}"] = "intouch"
        log.on_other_quotas(f"{number:04}", 0.0, ours, theirs)
    assert [record.getMessage() for record in caplog.records] == [
        (
            "intouch (scope 0000): limit store redis://host:6379: another process configured 2 per 1 s "
            "for this key, this one 4 per 1 s: all of them apply. Configure the same quotas in all processes"
        )
    ]
    log.on_other_quotas("0000", 0.0, ours, [Quota(3, 1.0)])
    assert "3 per 1 s" in caplog.records[-1].getMessage()


def test_bug_in_a_request_is_logged_at_intervals(caplog: pytest.LogCaptureFixture) -> None:
    """A request that fails twenty times a second is logged once in two minutes, with traceback."""
    log = OutageLog(CONFIG)
    log.vendors["abcdef"] = "emma"
    for number in range(2400):
        log.on_bug("abcdef", number / 20, KeyError("x"), 0.05)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.getMessage().startswith(
        "emma (scope abcd): limit store redis://host:6379: a request failed: KeyError; retrying in "
    )
