"""Quotas shared through a real server: first use, faults on the wire, death and return."""

from __future__ import annotations

import asyncio
import re
import signal
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from traceback import TracebackException
from typing import Any
from unittest.mock import Mock

import pytest
import trustme

from asyncclients import ConfigurationError, IntouchClient, Quota, SessionPool
from asyncclients.core.auth import bearer
from asyncclients.sandbox import Sandbox
from asyncclients.secret import Secret
from asyncclients.stores import LimitsControl, RedisLimits, RedisTokens, redis_client
from asyncclients.stores.config import WhenDown
from asyncclients.stores.protocol import LeaseRequest, StoreUnavailableError
from asyncclients.stores.redis import RedisBackend, load_script, script_keys
from asyncclients.stores.redis_client import COMMANDS, TIMEOUT, parse_address
from tests.support.shared_quota import call_each, most_in
from tests.support.valkey_server import Proxy, Server, command, connect

from .quota_worker import Lag
from .test_quota_log import QUIET, SECOND, lease_request
from .worker_fleet import Trial, judged

FAST = {"intouch": (20, 1.0)}


@asynccontextmanager
async def at_work(
    url: str, pools: int = 2, *, when_down: WhenDown = "safe_share", cluster: bool = False
) -> AsyncGenerator[Sandbox]:
    """Run *pools* pools with a backlog on one key, against a strict sandbox."""
    async with Sandbox(quotas=FAST) as sandbox:
        opened = [
            SessionPool(limits=RedisLimits(url, cluster=cluster, when_down=when_down))
            for _ in range(pools)
        ]
        clients = [
            IntouchClient(
                pool,
                api_key=sandbox.environ["INTOUCH_API_KEY"],
                base_url=sandbox.environ["INTOUCH_BASE_URL"],
                quotas=[Quota(20, 1.0)],
            )
            for pool in opened
        ]
        tasks = [asyncio.create_task(_call(client)) for client in clients for _ in range(8)]
        try:
            yield sandbox
            broken = [task for task in tasks if task.done()]
            assert not broken, broken
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for pool in opened:
                await pool.aclose()


async def until(happened: Callable[[], bool]) -> None:
    """Wait until it has *happened*."""
    async with asyncio.timeout(30):
        while not happened():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.02)


async def _call(client: IntouchClient) -> None:
    while True:
        await client.with_options(max_attempts=1).tags.list(limit=1).first()


def sent_between(sandbox: Sandbox, since: float, until: float) -> int:
    return sum(since < arrival.at <= until for arrival in sandbox.requests("intouch"))


def within_quota(sandbox: Sandbox) -> bool:
    arrivals = [arrival.at for arrival in sandbox.requests("intouch")]
    return sandbox.rejected("intouch") == 0 and most_in(1.0, arrivals) <= 20


async def resumed(sandbox: Sandbox) -> None:
    """Wait until calls are sent at half the quota's rate or more, after now."""
    loop = asyncio.get_running_loop()
    since = loop.time()
    await until(lambda: sent_between(sandbox, max(since, loop.time() - 1), loop.time()) >= 10)


# --- First use ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://localhost",
        "redis://",
        "redis://:canary@host:port/0",
        "redis://:canary@host:99999/0",
        "redis://:canary@[::1/0",
        "redis://:canary@localhost/cache",
        "redis://:canary@localhost/0?nonsense=1",
        "redis://:canary@localhost/0?socket_timeout=soon",
        "redis://:canary@localhost/0?protocol=9",
    ],
)
@pytest.mark.parametrize("store", [RedisLimits, RedisTokens])
def test_invalid_url_is_rejected_by_the_constructor(
    store: type[RedisLimits | RedisTokens], url: str
) -> None:
    """An unusable URL is a ConfigurationError at construction, without the password.

    A traceback that is printed with its local variables does not show it either.
    """
    secret = Secret(url) if url else url
    del url
    with pytest.raises(ConfigurationError, match="redis://") as caught:
        store(secret)
    shown = TracebackException.from_exception(caught.value, capture_locals=True)
    assert "canary" not in f"{caught.value!r} {''.join(shown.format())}"


@pytest.mark.parametrize("arguments", [{"when_down": "open"}, {"lease": 0}, {"lease": 60.0}])
def test_invalid_argument_is_rejected_by_the_constructor(arguments: dict[str, object]) -> None:
    """An unknown mode or an absurd lease is a ConfigurationError that names the argument."""
    with pytest.raises(ConfigurationError, match=next(iter(arguments))):
        RedisLimits("redis://localhost", **arguments)  # type: ignore[arg-type]


async def first_call(url: str, when_down: WhenDown = "safe_share") -> None:
    async with Sandbox() as sandbox, SessionPool(limits=RedisLimits(url, when_down=when_down)) as p:
        await IntouchClient.from_env(p, sandbox.environ).tags.list(limit=1).first()


async def test_commands_in_the_queue_fail_with_the_cause(absent_port: int) -> None:
    """Of forty commands to an absent server each names the cause, also those not sent."""
    store = RedisLimits(f"redis://127.0.0.1:{absent_port}/0").open()
    backend = store._backend  # pyright: ignore[reportPrivateUsage]
    requests = (backend.apply("scope", lease_request()) for _ in range(40))
    failures = await asyncio.gather(*requests, return_exceptions=True)
    assert {str(failure).partition(":")[0] for failure in failures} == {"ConnectionError"}
    await store.aclose()


async def test_unreachable_store_fails_the_first_call(absent_port: int) -> None:
    """No server at the address: the first call raises in bounded time."""
    before = time.monotonic()
    with pytest.raises(ConfigurationError, match="could not be reached"):
        await first_call(f"redis://user:hunter2@127.0.0.1:{absent_port}/0")
    assert time.monotonic() - before < 3


@pytest.fixture(scope="module")
def locked() -> Iterator[Server]:
    """A server that requires a password and may evict keys."""
    policy = ("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")
    with Server("--requirepass", "sesame", *policy) as server:
        yield server


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("login", ["", ":wrong-word@"])
async def test_rejected_password_fails_the_first_call(locked: Server, login: str) -> None:
    """A missing or wrong password: an error with advice at first use, without the password."""
    with pytest.raises(ConfigurationError, match="rejects the login") as caught:
        await first_call(f"redis://{login}127.0.0.1:{locked.port}/0", "local")
    assert "URL" in str(caught.value.advice)
    assert "wrong-word" not in f"{caught.value!r} {caught.value} {vars(caught.value)}"


def rights_in(advice: str | None) -> list[str]:
    """The permissions that an error's advice lists."""
    return [word for word in (advice or "").split() if word.startswith("+")]


async def test_store_user_with_advised_rights_can_call(server: Server) -> None:
    """The rights in the advice are sufficient: limits and tokens work with exactly these."""
    command(server.url, "ACL", "SETUSER", "app", "reset", "on", ">canary", "~asyncclients:*")
    url = f"redis://app:canary@127.0.0.1:{server.port}/0"
    with pytest.raises(ConfigurationError, match="rejects a command") as caught:
        await first_call(url, "pause")
    assert "canary" not in f"{caught.value!r}"
    rights = rights_in(caught.value.advice)
    assert "+evalsha" in rights
    command(server.url, "ACL", "SETUSER", "app", *rights)
    command(server.url, "ACL", "LOG", "RESET")
    async with at_work(url):
        await asyncio.sleep(1.5)
        assert await LimitsControl(RedisLimits(url)).pause("intouch", 0.1)
    tokens = RedisTokens(url)
    loop = asyncio.get_running_loop()
    assert await tokens.load("scope", loop.time()) is None
    await tokens.release("scope")
    assert await tokens.load("scope", loop.time()) is None
    token = bearer(Secret("token"), loop.time() + 50)
    await tokens.save("scope", token, loop.time())
    assert await tokens.load("scope", loop.time())
    await tokens.drop("scope", token)
    with connect(server.url) as client:
        denied = {entry["object"] for entry in client.acl_log()}
    assert denied <= {"client|setinfo"}, "redis-py sends this one, and does without"


@pytest.mark.parametrize("right", COMMANDS)
def test_store_rights_name_commands_that_exist(server: Server, right: str) -> None:
    """Every right in the advice is one that ACL SETUSER accepts, and that the code uses."""
    assert command(server.url, "ACL", "SETUSER", "other", f"+{right.lower()}") == "OK"
    sources = "".join(
        path.read_text() for path in Path(redis_client.__file__).parent.glob("re*.py")
    )
    sources += load_script() + load_script("control.lua")
    used = re.search(rf"call\('{right}'|client\.{right.lower()}(_iter)?\(", sources)
    assert used, "a right that nothing needs"


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("renamed", "says"),
    [
        (("EVALSHA",), "lacks EVALSHA"),
        (("EVAL",), "lacks EVAL:"),
        (("EVAL", "EVALSHA"), "lacks EVALSHA"),
        (("HELLO",), "HELLO disabled"),
        (("TIME",), "lacks a command that the script calls"),
    ],
)
async def test_store_without_command_is_rejected(renamed: tuple[str, ...], says: str) -> None:
    """A store that lacks a required command is a ConfigurationError that names it."""
    arguments = [word for name in renamed for word in ("--rename-command", name, "")]
    with Server(*arguments) as lacking, pytest.raises(ConfigurationError, match=says) as caught:
        await first_call(lacking.url)
    assert caught.value.advice


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("renamed", ["SCRIPT", "INFO"])
async def test_store_without_optional_command_works(renamed: str) -> None:
    """SCRIPT and INFO are not required."""
    with Server("--rename-command", renamed, "") as lacking:
        await first_call(lacking.url)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("code", "says", "advice"),
    [
        (b"-DENIED Redis is running in protected mode\r\n", "protected mode", "password"),
        (b"-READONLY You can't write against a read only replica.\r\n", "replica", "primary"),
        (b"-MOVED 866 127.0.0.1:7001\r\n", "one node of a cluster", "all keys"),
        (b"-CLUSTERDOWN Hash slot not served\r\n", "cluster", "failover"),
        (b"-OOM command not allowed\r\n", "out of memory", "maxmemory"),
        (b"-LOADING Redis is loading the dataset\r\n", "loading", "Wait"),
        (b"-MISCONF Errors writing to the AOF file\r\n", "cannot save", "disk"),
        (b"-NOREPLICAS Not enough good replicas\r\n", "too few replicas", "replicas"),
        (b"-MASTERDOWN Link with MASTER is down\r\n", "primary", "primary"),
        (b"-BUSY Redis is busy running a script\r\n", "busy", "SCRIPT KILL"),
        (b"-WRONGTYPE Operation against a key\r\n", "other data", "prefix="),
        (b"-NOAUTH Authentication required.\r\n", "requires a password", "URL"),
        (b"-NOPERM No permissions to access a key\r\n", "rejects a command", "+evalsha"),
        (b"-ERR ACL failure in script: no permissions\r\n", "rejects a command", "+zadd"),
        (b"-ERR something new\r\n", "something new", "address"),
    ],
)
async def test_store_error_code_is_explained(code: bytes, says: str, advice: str) -> None:
    """The error contains the store's reply to the first call, and the next step."""
    async with pretender("7.2.0", code) as url:
        with pytest.raises(ConfigurationError, match=says) as caught:
            await first_call(url)
    assert advice in str(caught.value.advice)


@pytest.mark.usefixtures("patient")
async def test_store_with_other_protocol_is_named() -> None:
    """TLS on one side only, or a server of another kind, is named with the next step."""
    ca = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate: Any = ca.issue_cert("127.0.0.1")
    certificate.configure_cert(context)

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    for scheme, wrapped, says in (
        ("redis", context, "rediss://"),
        ("rediss", context, "TLS .*CERTIFICATE_VERIFY_FAILED"),
        ("redis", None, "Redis protocol"),
        ("rediss", None, "TLS"),
    ):
        server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=wrapped)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(ConfigurationError, match=says):
                await first_call(f"{scheme}://127.0.0.1:{port}")


async def test_password_change_at_work_is_an_outage(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Rejected after it worked: logged, no call fails, calls resume with the old password."""
    async with at_work(server.url, when_down="pause") as sandbox:
        await asyncio.sleep(0.5)
        command(server.url, "ACL", "SETUSER", "default", "resetpass", ">other")
        changed = f"redis://:other@127.0.0.1:{server.port}/0"
        command(changed, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await until(lambda: "rejects the login" in caplog.text)
        begun = len(sandbox.requests("intouch"))
        command(changed, "ACL", "SETUSER", "default", "nopass")
        await until(lambda: len(sandbox.requests("intouch")) >= begun + 20)
        assert within_quota(sandbox)


@pytest.mark.usefixtures("patient")
async def test_evicting_store_is_logged(locked: Server, caplog: pytest.LogCaptureFixture) -> None:
    """A maxmemory-policy that evicts is named in a warning, once, and the store works."""
    await first_call(f"redis://:sesame@127.0.0.1:{locked.port}/0")
    assert [r.message for r in caplog.records if "allkeys-lru" in r.message]
    assert "sesame" not in caplog.text


@asynccontextmanager
async def pretender(version: str, answer: bytes = b"+OK\r\n") -> AsyncGenerator[str]:
    """Yield the URL of a server with *version* that replies *answer* to most commands."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            words: list[bytes] = []
            for _ in range(int(line[1:])):
                await reader.readline()
                words.append((await reader.readline()).strip().upper())
            info = f"redis_version:{version}\r\n".encode()
            if words[0] == b"HELLO":
                knows = b"%1\r\n+proto\r\n:3\r\n"
                writer.write(knows if version[0] > "5" else b"-ERR unknown command\r\n")
            elif words[0] == b"INFO":
                writer.write(b"$%d\r\n%s\r\n" % (len(info), info))
            else:
                writer.write(answer if words[0].startswith(b"EVAL") else b"+OK\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("version", ["5.0.14", "6.0.9"])
async def test_old_server_is_rejected(version: str) -> None:
    """A server without HELLO, or with an old version, is rejected with the required version."""
    async with pretender(version) as url:
        with pytest.raises(ConfigurationError, match="too old") as caught:
            await first_call(url)
    assert "6.2" in str(caught.value.advice)


@pytest.mark.usefixtures("patient")
async def test_redis_keys_expire_and_contain_no_credential(url: str) -> None:
    """Keys share one hash tag, contain no credential, and expire."""
    async with Sandbox() as sandbox, SessionPool(limits=RedisLimits(url)) as pool:
        await IntouchClient.from_env(pool, sandbox.environ).tags.list(limit=1).first()
        with connect(url) as client:
            names = [str(name) for name in client.scan_iter()]
            assert names
            assert len({name[name.index("{") : name.index("}")] for name in names}) == 1
            assert all(0 < client.pttl(name) <= 200_000 for name in names)
            secret = sandbox.environ["INTOUCH_API_KEY"]
            assert secret not in " ".join(names)


async def test_redis_knows_an_idle_process_as_long_as_its_membership_lasts(url: str) -> None:
    """Its block is not given to another, although nobody asks for minutes."""
    backend, minutes = RedisLimits(url).backend(), 360 * SECOND
    await backend.apply("scope", lease_request(ttl=minutes, heartbeat_due=minutes // 3))
    left = command(url, "PTTL", script_keys("asyncclients", "scope", QUIET)[0])
    assert int(str(left)) * 1000 > minutes
    await backend.aclose()


async def test_slots_count_in_redis_without_the_state(url: str) -> None:
    """A server that evicts keys evicts the state alone: a new process waits for the slots in the log."""
    backend = RedisLimits(url).backend()
    assert (await backend.apply("scope", lease_request(count=2))).opens_in == (0, 0)
    command(url, "DEL", script_keys("asyncclients", "scope", QUIET)[0])
    assert (await backend.apply("scope", lease_request(process="b", count=1))).opens_in == ()
    await backend.aclose()


@pytest.mark.parametrize("content", ["4711", "\x80", "text"])
async def test_state_of_another_program_is_refused(url: str, content: str) -> None:
    """A text under the name of a scope's state is an error of configuration, not an outage."""
    backend = RedisLimits(url).backend()
    command(url, "SET", script_keys("asyncclients", "scope", QUIET)[0], content)
    with pytest.raises(ConfigurationError, match="holds other data"):
        await backend.apply("scope", QUIET)
    await backend.aclose()


def test_keys_of_a_scope_share_one_hash_tag() -> None:
    """The hash tag is the scope, whatever the prefix."""
    names = script_keys("my{odd", "0123abcd", QUIET)
    assert len(names) == len(set(names)) == 2
    assert all("{0123abcd}" in name for name in script_keys("plain", "0123abcd", QUIET))


@pytest.mark.usefixtures("patient")
async def test_redis_limits_serves_many_loops_and_pools(url: str) -> None:
    """RedisLimits is bound to no loop: the same one works in a second asyncio.run()."""
    limits = RedisLimits(url)

    async def once() -> None:
        async with Sandbox() as sandbox, SessionPool(limits=limits) as pool:
            await IntouchClient.from_env(pool, sandbox.environ).tags.list(limit=1).first()

    await once()
    await asyncio.to_thread(asyncio.run, once())


@pytest.mark.usefixtures("patient")
async def test_many_scopes_share_few_connections(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Three hundred scopes at the same instant: a few connections, and no outage."""
    session = RedisLimits(url).open()
    await call_each(session, 300)
    with connect(url) as client:
        assert len(client.client_list()) <= 20
    await session.aclose()
    assert "unreachable" not in caplog.text


# --- The wire -----------------------------------------------------------------------


def executed(url: str) -> int:
    """How many scripts the server has run."""
    with connect(url) as client:
        return int(client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0))


def asking(me: str) -> LeaseRequest:
    return lease_request(process=me, new_epoch=f"epoch-{me}", count=1)


@pytest.mark.parametrize("is_cut", [False, True])
async def test_redis_py_does_not_retry_a_lost_response(url: str, is_cut: bool) -> None:
    """A request whose response or connection is lost was executed exactly once."""
    async with Proxy(int(url.split(":")[2].split("/")[0])) as proxy:
        backend = RedisBackend(parse_address(proxy.url), "t")
        await backend.apply("s", asking("a"))
        before = executed(url)
        proxy.cut, proxy.drop = is_cut, not is_cut
        with pytest.raises(StoreUnavailableError):
            await backend.apply("s", asking("b"))
        proxy.drop = False
        await asyncio.sleep(0.3)
        assert executed(url) == before + 1
        await backend.aclose()


async def test_cancelled_command_does_not_shift_responses(url: str) -> None:
    """CVE-2023-28858: the response to a cancelled request never reaches another request."""
    async with Proxy(int(url.split(":")[2].split("/")[0])) as proxy:
        backend = RedisBackend(parse_address(proxy.url), "t")
        await backend.apply("warm", asking("w"))
        proxy.delay = 0.04
        cancelled = asyncio.create_task(backend.apply("one", asking("one")))
        await asyncio.sleep(0.02)
        cancelled.cancel()
        responses = await asyncio.gather(
            *(backend.apply(me, asking(me)) for me in ("two", "three", "four"))
        )
        assert [g.epoch for g in responses] == ["epoch-two", "epoch-three", "epoch-four"]
        await backend.aclose()


async def test_every_command_has_a_timeout(url: str) -> None:
    """A response after the timeout counts as a failure, at the timeout."""
    async with Proxy(int(url.split(":")[2].split("/")[0])) as proxy:
        backend = RedisBackend(parse_address(proxy.url), "t")
        proxy.delay = 3 * TIMEOUT
        before = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            await backend.apply("s", QUIET)
        assert time.monotonic() - before < TIMEOUT + 0.3
        await backend.aclose()


class Parrot:
    """A client whose scripts reply *nonsense*."""

    connection_pool = None

    def __init__(self, nonsense: object) -> None:
        self._nonsense = nonsense

    async def evalsha(self, digest: str, count: int, *arguments: object) -> object:
        return self._nonsense

    async def info(self, *sections: str) -> dict[str, str]:
        return {}

    async def aclose(self) -> None:
        pass


@pytest.mark.parametrize("nonsense", [7, None, [], [1, b"e", b"x"], [1, 2, 3, 4, 5, 6, 7]])
async def test_invalid_reply_is_an_outage(
    nonsense: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any other reply of a script is an unavailable store."""
    client = Mock(return_value=Parrot(nonsense))
    monkeypatch.setattr("asyncclients.stores.redis.create_client", client)
    backend = RedisBackend(parse_address("redis://store"), "t")
    with pytest.raises(StoreUnavailableError):
        await backend.apply("s", QUIET)
    await backend.aclose()


async def test_slow_store_costs_a_tenth_at_most(url: str) -> None:
    """20 ms to the store and back cost at most a tenth of the rate of a local store.

    Slots are booked ahead. Both are at work at the same time: a slow machine slows both.
    """
    loop = asyncio.get_running_loop()

    async def trial() -> Trial:
        lag = Lag()
        watch = asyncio.create_task(lag.watch())
        async with (
            Proxy(int(url.split(":")[2].split("/")[0])) as proxy,
            at_work(url) as beside,
            at_work(proxy.url) as sandbox,
        ):
            proxy.delay = 0.02
            await asyncio.sleep(1.5)
            since = loop.time()
            await asyncio.sleep(2)
            counted = sent_between(sandbox, since, since + 2)
            used = counted / sent_between(beside, since, since + 2)
            most = most_in(1.0, [arrival.at for arrival in sandbox.requests("intouch")])
            rejected = sandbox.rejected("intouch")
        watch.cancel()
        return Trial(used=used, rejected=rejected, most=most, gap=0.0, lag=lag.longest)

    await judged(
        trial, lambda trial: trial.used >= 0.9 and trial.rejected == 0 and trial.most <= 20
    )


# --- Death and return ---------------------------------------------------------------


async def test_script_flush_causes_no_error(url: str) -> None:
    """SCRIPT FLUSH between calls: no error, no pause."""
    async with at_work(url) as sandbox:
        for _ in range(5):
            await asyncio.sleep(0.3)
            command(url, "SCRIPT", "FLUSH")
        await asyncio.sleep(0.5)
        assert within_quota(sandbox)
        arrivals = [arrival.at for arrival in sandbox.requests("intouch")]
    assert len(arrivals) >= 20
    assert max(after - before for before, after in pairwise(arrivals)) < 1.0


async def test_flushall_counts_as_a_spent_window(url: str) -> None:
    """FLUSHALL at work: no call too many, and calls resume after the recovery hold."""
    async with at_work(url) as sandbox:
        await asyncio.sleep(1.2)
        command(url, "FLUSHALL")
        await resumed(sandbox)
        assert within_quota(sandbox)


@pytest.mark.parametrize(
    "when_down", ["safe_share", pytest.param("pause", marks=pytest.mark.sweep)]
)
async def test_killed_store_that_restarts_exceeds_no_quota(
    server: Server, when_down: WhenDown
) -> None:
    """SIGKILL at work, empty on return: the quota is kept, no error, and calls resume."""
    async with at_work(server.url, when_down=when_down) as sandbox:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(4)  # long enough for the processes to have counted each other
        await asyncio.to_thread(server.kill)
        killed = loop.time()
        await asyncio.sleep(2)
        meanwhile = sent_between(sandbox, killed + 0.3, killed + 2)
        assert meanwhile >= 10 if when_down == "safe_share" else meanwhile == 0
        await asyncio.to_thread(server.start)
        await resumed(sandbox)
        assert within_quota(sandbox)


@pytest.mark.sweep
async def test_suspended_store_exceeds_no_quota(server: Server) -> None:
    """SIGSTOP for three seconds: no hang, no call too many, and calls resume."""
    async with at_work(server.url) as sandbox:
        await asyncio.sleep(1)
        server.signal(signal.SIGSTOP)
        await asyncio.sleep(3)
        server.signal(signal.SIGCONT)
        await resumed(sandbox)
        assert within_quota(sandbox)


async def test_store_out_of_memory_is_an_outage(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """OOM is logged once per pool, and with enough memory calls resume."""
    async with at_work(server.url) as sandbox:
        await asyncio.sleep(0.8)
        command(server.url, "CONFIG", "SET", "maxmemory", "1")
        await asyncio.sleep(1.2)
        assert caplog.text.count("OutOfMemoryError: it is out of memory") == 2  # once for each pool
        command(server.url, "CONFIG", "SET", "maxmemory", "0")
        await resumed(sandbox)
        assert within_quota(sandbox)
