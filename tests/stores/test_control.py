"""An operator pauses scopes and sets their quotas, over a file and over Valkey."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from asyncclients import ConfigurationError, IntouchClient, Quota, SessionPool
from asyncclients.core.events import QuotasReplaced, ScopePaused, ScopeResumed
from asyncclients.integrations.monitor import Monitor
from asyncclients.ratelimit.control import Control, OperatorQuotas
from asyncclients.ratelimit.headers import RateLimitInfo
from asyncclients.ratelimit.quota import Priority
from asyncclients.ratelimit.scheduler import PermitRequest
from asyncclients.sandbox import Sandbox
from asyncclients.sandbox.limits import SlidingLog
from asyncclients.stores import FileLimits, LimitsControl, RedisLimits
from asyncclients.stores.control import ScopeLimits, scope_limits
from asyncclients.stores.protocol import LeaseRequest, QuotaSpec, StoreUnavailableError
from asyncclients.stores.quota_log import QuotaLog
from asyncclients.stores.redis import redis_key
from tests.support.shared_quota import (
    SharedQuotaSimulation,
    most_in,
    now,
    pause_of,
    pause_text,
    quotas_text,
)
from tests.support.valkey_server import command

from .test_quota_log import (
    SECOND,
    START,
    TWO,
    Lua,
    calendar_spec,
    lease_request,
    random_requests,
    rarely,
)

FIVE = QuotaSpec(limit=5, period=3 * SECOND, interval=600_000, burst=2.5)


SET = quotas_text(Quota(5, 3.0))


# --- The rules --------------------------------------------------------------------------


def test_pause_of_an_operator_withholds_slots() -> None:
    """Nothing is granted in the pause, and a waiting process asks again within a second."""
    log = QuotaLog(operator_pause=pause_text(START / SECOND + 60))
    held = log.apply(lease_request(count=1), START)
    assert (held.opens_in, held.retry_in, held.held) == ((), SECOND, 60 * SECOND)
    at = START + 59 * SECOND + SECOND // 2
    assert log.apply(lease_request(count=1), at).retry_in == SECOND // 2
    over = log.apply(lease_request(count=1), START + 60 * SECOND)
    assert (over.opens_in, over.operator_pause) == ((0,), "")


def test_set_quotas_are_required_of_a_process() -> None:
    """A process that does not obey the quotas that are set gets no slots, and asks again soon."""
    log = QuotaLog(operator_quotas=SET)
    request = lease_request(count=1)
    unaware = log.apply(request, START)
    assert (unaware.opens_in, unaware.retry_in) == ((), request.min_retry)
    aware = lease_request(count=5, obeys=SET, operator_quotas=(FIVE,))
    assert log.apply(aware, START).opens_in == (0, 0)


def test_set_quotas_replace_the_configured_ones() -> None:
    """Only the quotas that are set limit, and the configured ones apply again at once."""
    log = QuotaLog(operator_quotas=SET)
    aware = lease_request(obeys=SET, operator_quotas=(FIVE,))
    assert log.apply(aware, START).quotas == (FIVE.name,)
    log.operator_quotas = ""
    assert log.apply(aware, START).quotas == (TWO.name,)


def test_set_quotas_leave_those_of_operations_and_calendars() -> None:
    """The quotas of some operations and of a day apply beside the ones that are set."""
    ops, daily = msgspec.structs.replace(TWO, group="ops"), calendar_spec(5, START, 60 * SECOND)
    request = lease_request(quotas=(TWO, ops, daily), obeys=SET, operator_quotas=(FIVE,))
    response = QuotaLog(operator_quotas=SET).apply(request, START)
    assert response.quotas == tuple(sorted((FIVE.name, ops.name, daily.name)))


def test_set_quotas_outlast_a_clock_that_is_set_back() -> None:
    """The host restarts, and its clock with it: what an operator has set still applies."""
    pause = pause_text(START / SECOND + 60)
    log, request = QuotaLog(operator_quotas=SET), lease_request(obeys=SET, operator_quotas=(FIVE,))
    log.apply(request, START, wall=START)
    log.operator_pause = pause
    response = log.apply(request, SECOND, wall=START)
    assert (response.quotas, response.operator_pause) == ((FIVE.name,), pause)


def test_log_keeps_slots_for_the_configured_quota() -> None:
    """A short quota is set and removed: the calls of the configured long period still count."""
    long = QuotaSpec(limit=2, period=60 * SECOND, interval=1, burst=2.0)
    short = quotas_text(Quota(2, 1.0))
    log = QuotaLog(operator_quotas=short)
    granted = lease_request(count=2, quotas=(long,), obeys=short, operator_quotas=(TWO,))
    assert len(log.apply(granted, START).opens_in) == 2
    at = START + 10 * SECOND
    log.apply(msgspec.structs.replace(granted, count=0), at)
    log.operator_quotas = ""
    assert log.apply(lease_request(count=1, first=3, quotas=(long,)), at).opens_in == ()


@pytest.mark.parametrize("seed", range(4))
def test_script_and_quota_log_agree_on_control(url: str, seed: int) -> None:
    """Random histories with pauses and quotas set: Lua and Python give equal responses."""
    random, log, lua = Random(seed), QuotaLog(), Lua(url)
    quotas: tuple[Quota, ...] = ()
    specs = {5: FIVE, 2: TWO}
    for request, at in random_requests(random, 250):
        if rarely(random, True, False):
            log.operator_pause = pause_text(at / SECOND + random.choice([0.3, 2.0, 5.0]))
            lua.set_control("operator_pause", log.operator_pause)
        if random.random() < 0.1:
            two, five = Quota(2, 1.0), Quota(5, 3.0)
            quotas = random.choice([(), (five,), (two,), (two, five)])
            log.operator_quotas = quotas_text(*quotas)
            lua.set_control("operator_quotas", log.operator_quotas)
        obeyed = quotas if random.random() < 0.8 else (Quota(5, 3.0),)
        request = msgspec.structs.replace(
            request,
            vendor="intouch",
            obeys=quotas_text(*obeyed),
            operator_quotas=tuple(specs[quota.limit] for quota in obeyed),
        )
        assert lua.apply(request, at) == log.apply(request, at)
        assert lua.log() == log
    lua.close()


# --- Processes at work ------------------------------------------------------------------

Store = FileLimits | RedisLimits
BUSY = 3.0
"""Seconds by which a busy machine may miss the bound of 2 s."""


@pytest.fixture(params=["file", "valkey"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty limit store, as each process opens it."""
    if request.param == "file":
        return FileLimits(tmp_path / "limits.db")
    return RedisLimits(request.getfixturevalue("url"))


async def report(store: Store, scopes: dict[str, LeaseRequest]) -> None:
    """Let processes that use *store* send one request for each of *scopes*."""
    if isinstance(store, FileLimits):
        Path(store.display_name).touch()
    backend = store.backend()
    for scope, request in scopes.items():
        await backend.apply(scope, request)
    await backend.aclose()


class Fleet:
    """Two pools with a backlog on one key, in front of a sandbox."""

    def __init__(self, sandbox: Sandbox, store: Store, events: list[Any]) -> None:
        self.sandbox, self.events = sandbox, events
        self.pools = [SessionPool(limits=store, listeners=(events.append,)) for _ in range(2)]
        self.clients = [
            IntouchClient.from_env(pool, sandbox.environ, quotas=[Quota(20, 1.0)])
            for pool in self.pools
        ]

    async def work(self, client: IntouchClient) -> None:
        while True:
            await client.tags.list(limit=1).first()

    def sent(self, since: float) -> int:
        """Return how many requests arrived after loop instant *since*."""
        return sum(request.at > since for request in self.sandbox.requests("intouch"))

    def most_sent(self, since: float) -> int:
        """Return the most requests in any second after loop instant *since*."""
        arrivals = [request.at for request in self.sandbox.requests("intouch")]
        return most_in(1.0, [at for at in arrivals if at > since])

    async def until(self, happened: Callable[[Any], bool]) -> None:
        """Wait until it has *happened* in the statistics of both pools: 2 s, more if busy."""
        async with asyncio.timeout(2.0 + BUSY):
            while not all(happened(client.stats()) for client in self.clients):  # noqa: ASYNC110
                await asyncio.sleep(0.02)


@asynccontextmanager
async def fleet(store: Store) -> AsyncGenerator[Fleet]:
    async with Sandbox(quotas={"intouch": (40, 1.0)}) as sandbox:
        found = Fleet(sandbox, store, [])
        tasks = [
            asyncio.create_task(found.work(client)) for client in found.clients for _ in range(4)
        ]
        try:
            await found.until(lambda stats: stats.sent > 0)
            yield found
            assert not [task for task in tasks if task.done()]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for pool in found.pools:
                await pool.aclose()


async def test_pause_applies_to_all_processes_until_resumed(store: Store) -> None:
    """Within 2 s of a pause no process sends, and within 2 s of its end all send again."""
    control = LimitsControl(store, by="ann")
    async with fleet(store) as at_work:
        (paused,) = await control.pause("intouch", 600)
        assert paused.operator_pause is not None
        assert paused.operator_pause.by == "ann"
        await at_work.until(lambda stats: stats.paused_for > 590)
        since = asyncio.get_running_loop().time()
        await asyncio.sleep(0.5)
        assert at_work.sent(since + 0.1) == 0  # before, what was on the wire arrives
        said = str(at_work.clients[0].explain())
        assert f"{paused.operator_pause} in all processes" in said
        assert "used up" not in said
        (resumed,) = await control.resume(paused.scope[:6])
        assert (resumed.operator_pause, resumed.paused_for) == (None, 0.0)
        await at_work.until(lambda stats: stats.paused_for == 0)
        since = asyncio.get_running_loop().time()
        async with asyncio.timeout(2.0 + BUSY):
            while not at_work.sent(since):  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.02)
    paused_by = [event.by for event in at_work.events if isinstance(event, ScopePaused)]
    assert paused_by == ["ann", "ann"]
    assert sum(isinstance(event, ScopeResumed) for event in at_work.events) == 2


async def test_long_pause_is_logged_with_the_calls_that_wait(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each process logs once how many calls a long pause holds, until when, and what ends it."""
    store = FileLimits(tmp_path / "limits.db")
    async with fleet(store) as at_work:
        (paused,) = await LimitsControl(store, by="ann").pause("intouch", 600)
        await at_work.until(lambda stats: stats.paused_for > 590)
        async with asyncio.timeout(5.0):
            while len(lines := [line for line in caplog.messages if "at least" in line]) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    assert [line.partition(" at ")[0] for line in lines] == [
        f"intouch (scope {paused.scope[:4]}): 4 calls wait"
    ] * 2
    assert all(
        f"{paused.operator_pause}. `asyncclients limits resume` ends the pause" in line
        for line in lines
    )


async def test_set_quotas_replace_those_of_all_processes(store: Store) -> None:
    """Within 2 s all processes obey the quotas that are set, and later the configured ones."""
    control, loop = LimitsControl(store), asyncio.get_running_loop()
    slow = (Quota(2, 1.0), Quota(100, 60.0))
    async with fleet(store) as at_work:
        (shown,) = await control.set("intouch", slow)
        assert (shown.quotas, shown.configured) == (slow, (Quota(20, 1.0),))
        await at_work.until(lambda stats: stats.quotas == slow)
        since = loop.time() + 0.25
        await asyncio.sleep(1.75)
        assert 1 <= at_work.sent(since) <= 4
        await control.set("intouch", [Quota(40, 1.0)])
        await at_work.until(lambda stats: stats.quotas == (Quota(40, 1.0),))
        await control.set("intouch", [])
        await at_work.until(lambda stats: stats.quotas == (Quota(20, 1.0),))
        since = loop.time()
        async with asyncio.timeout(10):
            while at_work.most_sent(since) <= 10:  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.05)
    replaced = [event for event in at_work.events if isinstance(event, QuotasReplaced)]
    assert [event.quotas for event in replaced[::2]] == [slow, (Quota(40, 1.0),), ()]


@pytest.mark.usefixtures("patient")
async def test_control_outlives_the_processes(store: Store) -> None:
    """A process that starts later obeys what was set before; the store shows since when, by whom."""
    control = LimitsControl(store, by="ann")
    async with Sandbox() as sandbox:
        async with SessionPool(limits=store) as pool:
            await IntouchClient.from_env(pool, sandbox.environ).tags.list().first()
        await control.pause("intouch", 600)
        await control.set("intouch", [Quota(3, 1.0)])
        (shown,) = await control.show()
        assert shown.operator_pause is not None
        assert shown.operator_pause.by == "ann"
        assert shown.operator_pause.at == pytest.approx(time.time(), abs=10)
        assert shown.operator_pause.until == pytest.approx(shown.operator_pause.at + 600)
        events: list[Any] = []
        async with SessionPool(limits=store, listeners=(events.append,)) as pool:
            client = IntouchClient.from_env(pool, sandbox.environ)
            call = asyncio.create_task(client.tags.list().first())
            async with asyncio.timeout(2.0 + BUSY):
                while client.stats().paused_for < 500:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert client.stats().quotas == (Quota(3, 1.0),)
            assert client.stats().operator_pause == shown.operator_pause
            assert str(shown.operator_pause) in str(client.explain())
            (paused,) = [event for event in events if isinstance(event, ScopePaused)]
            assert paused.by == "ann"
            assert paused.seconds == pytest.approx(600, abs=10)
            (row,) = Monitor(pool).sample(0.0).scopes
            assert row["control"] == f"{shown.operator_pause}; {shown.operator_quotas}"
            assert [bar["quota"] for bar in row["gauges"]] == ["3 per 1 s"]
            assert not call.done()
            assert len(sandbox.requests("intouch")) == 1
            await control.resume("intouch")
            async with asyncio.timeout(2.0 + BUSY):
                await call


@pytest.mark.usefixtures("patient")
async def test_vendor_is_found_in_any_case(store: Store) -> None:
    """`Intouch` stands for the scopes of intouch."""
    await report(store, {"a1": lease_request(vendor="intouch")})
    (paused,) = await LimitsControl(store).pause("Intouch", 60)
    assert (paused.vendor, paused.paused_for > 0) == ("intouch", True)


@pytest.mark.usefixtures("patient")
async def test_unknown_and_ambiguous_scopes_are_listed(store: Store) -> None:
    """A scope that does not exist, or the start of several ids: one error that lists them."""
    control = LimitsControl(store)
    others = ("a2", *(f"b{number:02}" for number in range(30)))
    await report(store, {"a1": lease_request(vendor="emma")})
    await report(store, dict.fromkeys(others, lease_request(vendor="intouch")))
    shown = await control.show()
    assert [str(each) for each in shown[:3]] == ["emma a1", "intouch a2", "intouch b00"]
    assert {(each.processes, each.configured) for each in shown} == {(1, (Quota(2, 1.0),))}
    with pytest.raises(ConfigurationError, match=r"'totango'; it has emma a1, .* and 12 more"):
        await control.pause("totango", 60)
    with pytest.raises(ConfigurationError, match=r"start with 'a': emma a1, intouch a2\. Give"):
        await control.pause("a", 60)
    for scope in ("", "00"):
        with pytest.raises(ConfigurationError, match=f"no vendor or scope '{scope}'"):
            await control.resume(scope)
    assert len(await control.pause("intouch", 60)) == 31
    assert [each.scope for each in await control.resume("a2")] == ["a2"]
    assert sum(each.paused_for > 0 for each in await control.show()) == 30


@pytest.mark.usefixtures("patient")
async def test_processes_that_have_ended_are_not_counted(store: Store) -> None:
    """A process whose membership has expired is not shown, although nobody has removed it."""
    for process, ttl in (("a", 1), ("b", 60 * SECOND), ("c", 1)):
        await report(store, {"scope": lease_request(process=process, ttl=ttl)})
    (shown,) = await LimitsControl(store).show()
    assert shown.processes == 1


async def test_wrong_arguments_are_refused_where_given(store: Store) -> None:
    """A value that cannot be used raises an error that names it."""
    control = LimitsControl(store)
    for seconds in (0, -1.0, float("nan"), float("inf"), 367 * 86400.0, "60"):
        with pytest.raises(ConfigurationError):
            await control.pause("intouch", seconds)  # type: ignore[arg-type]
    for quota in (Quota(1, 1.0, operations=("a.*",)), Quota.calendar(1, "day"), "2/1"):
        with pytest.raises(ConfigurationError):
            await control.set("intouch", [quota])  # type: ignore[list-item]
    for by in ("", "a\nb", "x" * 101):
        with pytest.raises(ConfigurationError, match="by must be"):
            LimitsControl(store, by=by)
    for other in (None, "limits.db", FileLimits):
        with pytest.raises(ConfigurationError, match="the store of LimitsControl"):
            LimitsControl(other)


async def test_store_that_cannot_be_used_is_named(tmp_path: Path, absent_port: int) -> None:
    """No file or no server: one error with the store's address and the next step."""
    missing = LimitsControl(FileLimits(tmp_path / "limits.db"))
    with pytest.raises(ConfigurationError, match=r"limits\.db does not exist"):
        await missing.show()
    assert not (tmp_path / "limits.db").exists()
    url = f"redis://user:canary@127.0.0.1:{absent_port}/0"
    with pytest.raises(ConfigurationError, match="could not be reached") as caught:
        await LimitsControl(RedisLimits(url)).show()
    assert "canary" not in f"{caught.value!r}"


# --- Many processes, in virtual time ----------------------------------------------------


@pytest.mark.virtual_time
async def test_pause_reaches_a_crowd_and_holds_in_an_outage() -> None:
    """110 processes stop within 2 s, send nothing in an outage either, and resume within 2 s."""
    world = SharedQuotaSimulation(SlidingLog(5, 5.0), Quota(5, 5.0))
    for _ in range(110):
        world.start().work(1)
    await asyncio.sleep(3)
    world.store.control, paused_at = pause_of(600), now()
    await asyncio.sleep(4)
    world.store.down = True
    await asyncio.sleep(6)
    world.store.down = False
    await asyncio.sleep(20)
    world.store.control, resumed_at = Control(), now()
    await asyncio.sleep(5)
    await world.stop()
    assert [at for at in world.arrivals if at < paused_at]
    assert not [at for at in world.arrivals if paused_at + 2 < at < resumed_at]
    assert min(at for at in world.arrivals if at > resumed_at) < resumed_at + 2
    assert not world.refusals


@pytest.mark.virtual_time
@pytest.mark.parametrize(("processes", "seen_within"), [(4, 1.1), (8, 2.0), (16, 2.0)])
async def test_pause_stops_calls_at_once_and_is_seen_with_the_next_request(
    processes: int, seen_within: float
) -> None:
    """No call is sent when the leases are over; each process shows the pause after a heartbeat."""
    world = SharedQuotaSimulation(SlidingLog(2, 1.0), Quota(2, 1.0))
    crowd = [world.start() for _ in range(processes)]
    for process in crowd:
        process.work(2)
    await asyncio.sleep(20)
    world.store.control, paused_at = pause_of(600), now()
    await asyncio.sleep(seen_within)
    assert all(process.scheduler.limiter.snapshot(now()).held_for > 0 for process in crowd)
    await asyncio.sleep(20)
    world.store.control, resumed_at = Control(), now()
    await asyncio.sleep(1.5)
    await world.stop()
    assert not [at for at in world.arrivals if paused_at + 0.25 < at < resumed_at]
    assert [at for at in world.arrivals if at > resumed_at]


@pytest.mark.virtual_time
async def test_store_that_fails_at_once_in_a_pause_is_probed_once_a_second() -> None:
    """A call that waits in an operator's pause does not make a dead store be asked in a loop."""
    world = SharedQuotaSimulation(SlidingLog(2, 1.0), Quota(2, 1.0))
    world.store.timeout = 0.0
    world.start().work(1)
    await asyncio.sleep(3)
    world.store.control = pause_of(30)
    await asyncio.sleep(2)
    world.store.down, before, down_at = True, world.store.commands, now()
    world.processes[0].work(1, Priority.INTERACTIVE)
    await asyncio.sleep(10)
    assert 8 <= world.store.commands - before <= 15
    world.store.down = False
    await asyncio.sleep(30)
    await world.stop()
    assert min(at for at in world.arrivals if at > down_at) < down_at + 30


@pytest.mark.virtual_time
async def test_pause_ends_by_itself() -> None:
    """A pause that nobody ends is over at its end, and calls continue at once."""
    world = SharedQuotaSimulation(SlidingLog(20, 1.0), Quota(20, 1.0))
    process = world.start()
    process.work(4)
    await asyncio.sleep(2)
    world.store.control, paused_at = pause_of(30), now()
    await asyncio.sleep(33)
    await world.stop()
    later = [at for at in world.arrivals if at > paused_at + 2]
    assert paused_at + 30 <= later[0] < paused_at + 30.5


@pytest.mark.virtual_time
async def test_pause_of_the_vendor_outlasts_a_resume() -> None:
    """An operator pauses and resumes; the pause that the vendor asked for stays."""
    world = SharedQuotaSimulation(SlidingLog(20, 1.0), Quota(20, 1.0))
    first, second = world.start(), world.start()
    second.work(2)
    await asyncio.sleep(2)
    permit = await first.scheduler.acquire(PermitRequest(Priority.INTERACTIVE))
    paused_at = now()
    first.scheduler.on_response(permit, RateLimitInfo(is_rate_limited=True, retry_after=20.0))
    first.scheduler.on_done()
    world.store.control = pause_of(60)
    await asyncio.sleep(5)
    world.store.control = Control()
    await asyncio.sleep(25)
    await world.stop()
    assert not [at for at in second.sent if paused_at + 0.2 < at < paused_at + 20.0]
    assert [at for at in second.sent if at > paused_at + 20.0]


@pytest.mark.virtual_time
async def test_set_quotas_are_kept_with_exact_admission() -> None:
    """Three processes keep the quotas that are set, also in an outage, and then the configured ones."""
    world = SharedQuotaSimulation(SlidingLog(20, 1.0), Quota(20, 1.0), admission="exact")
    for _ in range(3):
        world.start().work(4)
    await asyncio.sleep(5)
    quotas = OperatorQuotas(at=0.0, by="ann", quotas=(Quota(4, 1.0),))
    world.store.control, set_at = Control(quotas=quotas), now() + 2
    await asyncio.sleep(10)
    world.store.down = True
    await asyncio.sleep(10)
    world.store.down = False
    await asyncio.sleep(10)
    world.store.control, reset_at = Control(), now()
    await asyncio.sleep(10)
    await world.stop()
    slow = [at for at in world.arrivals if set_at < at < reset_at]
    assert most_in(1.0, slow) == 4
    assert len(slow) > 4 * 30 * 0.5
    assert sum(at > reset_at + 2 for at in world.arrivals) > 20 * 8 * 0.5
    assert not world.refusals


# --- How long the store keeps it --------------------------------------------------------


@pytest.mark.usefixtures("patient")
async def test_redis_keeps_control_without_processes(url: str) -> None:
    """The state of a scope lives as long as its pause, and for years with quotas that are set."""
    store = RedisLimits(url, prefix="odd[x]*?{y")
    control, backend = LimitsControl(store), store.backend()
    request = lease_request(vendor="intouch")

    async def seconds_left() -> float:
        await backend.apply("scope", request)
        return int(str(command(url, "PTTL", redis_key("odd[x]*?{y", "scope", "state")))) / 1000

    usual = await seconds_left()
    await control.pause("intouch", 86_400)
    assert await seconds_left() > 86_400
    await control.set("intouch", [Quota(5, 3.0)])
    await control.resume("intouch")
    assert await seconds_left() > 365 * 86_400
    await control.set("intouch", [])
    assert await seconds_left() == pytest.approx(usual, abs=10)
    await backend.aclose()


@pytest.mark.usefixtures("patient")
async def test_pause_keeps_the_quotas_that_are_set(url: str) -> None:
    """Nobody asks the store between the changes: neither pause nor resume shortens what it keeps."""
    backend = RedisLimits(url).backend()

    def seconds_left() -> float:
        return int(str(command(url, "PTTL", redis_key("asyncclients", "scope", "state")))) / 1000

    pause = pause_text(time.time() + 60)
    await backend.set_control("scope", "intouch", "operator_pause", pause)
    assert 60 < seconds_left() < 2 * 86_400
    await backend.set_control("scope", "intouch", "operator_quotas", SET)
    for value in (pause, ""):
        await backend.set_control("scope", "intouch", "operator_pause", value)
        assert seconds_left() > 9 * 365 * 86_400
    await backend.set_control("scope", "intouch", "operator_quotas", "")
    assert 60 < seconds_left() < 2 * 86_400
    await backend.aclose()


@pytest.mark.usefixtures("patient")
async def test_redis_keeps_a_long_pause(url: str) -> None:
    """A pause of three days is kept for three days, though nobody uses the scope meanwhile."""
    store = RedisLimits(url)
    await report(store, {"scope": lease_request(vendor="intouch")})
    await LimitsControl(store).pause("intouch", 3 * 86_400)
    left = command(url, "PTTL", redis_key("asyncclients", "scope", "state"))
    assert int(str(left)) > 3 * 86_400_000


@pytest.mark.parametrize("unit", ["", "month:UTC"])
async def test_pause_leaves_the_calls_of_a_long_window(url: str, unit: str) -> None:
    """After a pause that is set and ended Redis remembers the calls of two weeks as long as before."""
    wall, week = round(time.time() * SECOND), 7 * 86_400 * SECOND
    quota = QuotaSpec(
        limit=9, period=week, interval=1, burst=9.0, calendar=unit, start=wall, next=wall + 2 * week
    )
    backend, control = RedisLimits(url).backend(), LimitsControl(RedisLimits(url))
    await backend.apply("scope", lease_request(quotas=(quota,), wall=wall, count=2, vendor="emma"))
    for change in (control.pause("emma", 60), control.resume("emma")):
        await change
        left = command(url, "PTTL", redis_key("asyncclients", "scope", "state"))
        assert int(str(left)) > 14 * 86_400_000
    await backend.aclose()


async def test_file_keeps_what_an_operator_has_set(tmp_path: Path) -> None:
    """A scope that nobody uses for a month keeps its vendor, a longer pause and quotas that are set."""
    path = tmp_path / "limits.db"
    control = LimitsControl(FileLimits(path), by="ann")
    await report(FileLimits(path), {"scope": lease_request(vendor="intouch")})
    for change, is_kept in (
        (control.pause("intouch", 86_400 * 60), True),
        (control.set("intouch", [Quota(5, 3.0)]), True),
        (control.resume("intouch"), True),
        (control.set("intouch", []), False),
    ):
        assert len(await change) == 1
        with sqlite3.connect(path) as connection:
            connection.execute(
                "UPDATE quota_log SET needed_until = needed_until - ?", (30 * 86_400 * SECOND,)
            )
        connection.close()
        assert [each.vendor for each in await control.show()] == ["intouch"] * is_kept


class _Busy:
    """A store that misses its timeout *misses* times, and then has scopes; its own backend."""

    display_name = "busy"

    def __init__(self, misses: int) -> None:
        self.misses, self.opened, self.closed = misses, 0, 0
        self.found = [scope_limits("a1", QuotaLog(vendor="emma"), 0)]

    def backend(self) -> _Busy:
        self.opened += 1
        return self

    async def scopes(self) -> list[ScopeLimits]:
        self.misses -= 1
        if self.misses >= 0:
            raise StoreUnavailableError("no reply in time")
        return self.found

    async def aclose(self) -> None:
        self.closed += 1


async def test_longest_pause_that_has_not_ended_is_shown() -> None:
    """A scope is paused until the vendor's and the operator's pause are over; an old one is gone."""
    at = time.time()
    rows = [(90 * SECOND, 60.0), (30 * SECOND, 60.0), (0, -1.0)]
    store = _Busy(misses=0)
    store.found = [
        scope_limits(
            f"a{number}",
            QuotaLog(paused_until=vendor, operator_pause=pause_text(at + operator)),
            0,
        )
        for number, (vendor, operator) in enumerate(rows)
    ]
    shown = await LimitsControl(store).show()
    assert [round(each.paused_for, -1) for each in shown] == [90, 60, 0]
    assert [each.operator_pause is None for each in shown] == [False, False, True]


async def test_control_asks_a_busy_store_again() -> None:
    """Two missed timeouts are made up for, a third one is an error; every connection is closed."""
    store = _Busy(misses=2)
    assert [scope.vendor for scope in await LimitsControl(store).show()] == ["emma"]
    assert store.opened == store.closed == 3
    store = _Busy(misses=3)
    with pytest.raises(ConfigurationError, match="busy could not be reached: no reply in time"):
        await LimitsControl(store).show()
    assert store.opened == store.closed == 3
