"""Quotas shared through a cluster, through Sentinel and over TLS; on real servers."""

from __future__ import annotations

import asyncio
import signal
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trustme

from asyncclients import ConfigurationError
from asyncclients.cli.doctor import check_limits
from asyncclients.core.auth import bearer
from asyncclients.sandbox import Sandbox
from asyncclients.secret import Secret
from asyncclients.stores import LimitsControl, RedisLimits, RedisTokens
from asyncclients.stores.config import WhenDown
from asyncclients.stores.protocol import PROBE_INTERVAL, SEND_GRACE
from asyncclients.stores.redis import RedisBackend
from asyncclients.stores.redis_client import NODES_TIMEOUT, parse_address
from tests.support.shared_quota import call_each
from tests.support.valkey_server import Cluster, Proxy, Sentinels, Server, command, connect

from .test_quota_log import lease_request
from .test_redis import at_work, resumed, rights_in, until, within_quota


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A cluster that no test kills."""
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(nodes: Cluster) -> Cluster:
    """The cluster without any keys."""
    for server in nodes.primaries():
        command(server.url, "FLUSHALL")
    return nodes


@pytest.mark.parametrize(
    "url",
    ["redis://a/1", "unix:///path", "redis+sentinel://a/name", "redis+cluster://", "redis://a,"],
)
def test_cluster_url_without_nodes_is_rejected(url: str) -> None:
    """A cluster has no databases, no sockets and no Sentinel: they are a ConfigurationError."""
    with pytest.raises(ConfigurationError, match="redis"):
        RedisLimits(url, cluster=True)


@pytest.mark.parametrize("url", ["redis+sentinel://a", "redis://a,b", "http+sentinel://a/name"])
def test_incomplete_url_of_nodes_is_rejected(url: str) -> None:
    """Sentinel needs the name of the primary; several hosts need Sentinel or a cluster."""
    with pytest.raises(ConfigurationError, match="redis\\+sentinel://"):
        RedisLimits(url)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis+cluster://h/3", "a cluster has no database number. Remove the number, as in"),
        ("redis+sentinel://h", "the name of the primary is missing"),
        ("redis+sentinel://h/", "as in redis+sentinel://host1:26379,host2:26379/NAME"),
        ("redis+cluster://u:1/2canary@h", "is not a redis:// or rediss:// URL of a cluster"),
    ],
)
def test_incomplete_url_of_nodes_names_what_is_wrong(url: str, words: str) -> None:
    """The part to add or to remove is named; nothing of the URL is shown."""
    with pytest.raises(ConfigurationError) as caught:
        RedisLimits(url)
    assert words in str(caught.value)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis+sentinel://u:canary@a:1,b/name?db=1", "redis+sentinel://a:1,b/name"),
        ("rediss+sentinel://:canary@[::1]:1/name", "rediss+sentinel://[::1]:1/name"),
        ("redis+cluster://:canary@a,b:2?password=canary", "redis+cluster://a,b:2"),
    ],
)
def test_url_of_nodes_is_shown_without_login(url: str, shown: str) -> None:
    """The representation names all hosts and the primary, never the password."""
    assert repr(RedisLimits(url)) == f"<RedisLimits {shown} when_down='safe_share'>"


@pytest.mark.usefixtures("patient")
async def test_cluster_holds_scopes_on_all_nodes(cluster: Cluster) -> None:
    """Sixty scopes: every primary has some, and each is granted a slot."""
    session = RedisLimits(cluster.url, cluster=True).open()
    await call_each(session, 60)
    counts = [command(server.url, "DBSIZE") for server in cluster.primaries()]
    await session.aclose()
    assert len(counts) == 3
    assert all(counts)


async def test_cluster_failover_at_work_exceeds_no_quota(cluster: Cluster) -> None:
    """A replica takes over: no call too many, and calls continue on the new primary."""
    async with at_work(cluster.url, cluster=True) as sandbox:
        await asyncio.sleep(0.8)
        replica = cluster.replica_of(cluster.holder())
        await asyncio.to_thread(command, replica.url, "CLUSTER", "FAILOVER")
        await until(lambda: cluster.holder() is replica)
        await resumed(sandbox)
        assert within_quota(sandbox)


async def test_cluster_slot_moved_at_work_exceeds_no_quota(cluster: Cluster) -> None:
    """The slot of the scope moves to another node: no call too many, and calls continue."""
    async with at_work(cluster.url, cluster=True) as sandbox:
        await asyncio.sleep(0.8)
        before = cluster.holder()
        await asyncio.to_thread(cluster.move_slot)
        await resumed(sandbox)
        assert within_quota(sandbox)
        assert cluster.holder() is not before


@pytest.mark.usefixtures("patient")
async def test_doctor_checks_a_cluster(cluster: Cluster) -> None:
    """`asyncclients doctor --limits redis+cluster://…` finds no fault."""
    url = cluster.url.replace("redis://", "redis+cluster://")
    findings = await check_limits(url, connect=True)
    assert len(findings) > 4
    assert all(finding.good for finding in findings), findings


@pytest.mark.usefixtures("patient")
async def test_operator_controls_scopes_of_all_nodes(cluster: Cluster) -> None:
    """LimitsControl shows the scopes of every node, and pauses one of them."""
    store = RedisLimits(cluster.url, cluster=True)
    reserved = backend(cluster.url.replace("redis://", "redis+cluster://"), "asyncclients")
    for number in range(20):
        await reserved.apply(f"{number:032x}", lease_request(count=1))
    await reserved.aclose()
    control = LimitsControl(store)
    assert len(await control.show()) == 20
    await control.pause(f"{7:032x}", 60)
    paused = [each.scope for each in await control.show() if each.paused_for > 0]
    assert paused == [f"{7:032x}"]


@pytest.mark.usefixtures("patient")
async def test_cluster_tokens_are_shared(cluster: Cluster) -> None:
    """A token stored through one node is found by a client that starts from another."""
    loop = asyncio.get_running_loop()
    first, second = (RedisTokens(s.url, cluster=True) for s in cluster.primaries()[:2])
    assert await first.load("scope", loop.time()) is None
    await first.save("scope", bearer(Secret("token"), loop.time() + 50), loop.time())
    token = await second.load("scope", loop.time())
    assert token is not None
    assert token.value.reveal() == "token"


@pytest.mark.usefixtures("patient")
async def test_single_server_is_not_a_cluster(url: str) -> None:
    """cluster=True for a server without cluster mode is a ConfigurationError that names the cause."""
    tokens = RedisTokens(url, cluster=True)
    with pytest.raises(ConfigurationError, match="is not a cluster") as caught:
        await tokens.load("scope", 0.0)
    assert "leave out cluster=True" in str(caught.value.advice)


@pytest.mark.usefixtures("patient")
async def test_cluster_node_without_cluster_advises_it(cluster: Cluster) -> None:
    """One node of a cluster, without cluster=True: the error advises cluster=True."""
    assert await RedisTokens(cluster.url, cluster=True).load("scope", 0.0) is None
    other = next(each for each in cluster.primaries() if each is not cluster.holder())
    tokens = RedisTokens(other.url)
    with pytest.raises(ConfigurationError, match="one node of a cluster") as caught:
        await tokens.load("scope", 0.0)
    assert "cluster=True" in str(caught.value.advice)


async def test_cluster_user_with_advised_rights_can_call(cluster: Cluster) -> None:
    """The rights in the advice are sufficient for a cluster."""
    for server in cluster.servers:
        command(server.url, "ACL", "SETUSER", "app", "reset", "on", ">canary", "~asyncclients:*")
    url = cluster.url.replace("://", "://app:canary@")
    with pytest.raises(ConfigurationError, match="rejects a command") as caught:
        await RedisTokens(url, cluster=True).load("scope", 0.0)
    for server in cluster.servers:
        command(server.url, "ACL", "SETUSER", "app", *rights_in(caught.value.advice))
    async with at_work(url, cluster=True) as sandbox:
        await until(lambda: bool(sandbox.requests("intouch")))


# --- Failover -----------------------------------------------------------------------


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("is_lost", [False, True])
async def test_promoted_replica_without_last_request_holds_for_a_period(is_lost: bool) -> None:
    """A process that has seen a request that the replica lacks delays all calls by a period."""
    delay = ("--repl-diskless-sync-delay", "0")
    with (
        Server(*delay) as first,
        Server("--replicaof", f"127.0.0.1 {first.port}", *delay) as second,
    ):
        await until(lambda: has_copied(first, second))
        old, new = (backend(server.url) for server in (first, second))
        known = await old.apply("s", lease_request(count=1))
        await until(lambda: has_copied(first, second))
        command(second.url, "REPLICAOF", "NO", "ONE")
        if is_lost:
            known = await old.apply("s", lease_request(first=2, count=1))
        request = lease_request(epoch="e1", seen=(known.server, known.now), first=3, count=1)
        response = await new.apply("s", request)
        assert response.server != known.server
        holds_for = request.takeover_time + is_lost * request.recovery_hold
        assert response.retry_in == holds_for - request.lease
        for each in (old, new):
            await each.aclose()


def backend(url: str, prefix: str = "t") -> RedisBackend:
    """Return a connection to the server or cluster at *url*."""
    return RedisBackend(parse_address(url), prefix)


def has_copied(first: Server, second: Server) -> bool:
    """Return whether *second* is a replica of *first* and has all its data."""
    with connect(first.url) as client, connect(second.url) as replica:
        own, other = client.info("replication"), replica.info("replication")
    is_linked = other["role"] == "slave" and other["master_link_status"] == "up"
    return bool(is_linked and own["master_repl_offset"] == other["slave_repl_offset"])


async def test_sentinel_names_the_primary() -> None:
    """Quotas and tokens are kept on the primary that Sentinel names; another name is an error."""
    with Sentinels(1) as sentinels:
        async with at_work(sentinels.url) as sandbox:
            await until(lambda: bool(sandbox.requests("intouch")))
        assert await RedisTokens(sentinels.url).load("scope", 0.0) is None
        assert command(sentinels.servers[0].url, "EXISTS", "asyncclients:{scope}:lock")
        unknown = LimitsControl(RedisLimits(sentinels.url.rpartition("/")[0] + "/other"))
        with pytest.raises(ConfigurationError, match="knows the primary other and reaches it"):
            await unknown.show()


@pytest.mark.sweep
async def test_sentinel_failover_at_work_exceeds_no_quota() -> None:
    """Sentinel names another primary: no call too many, and calls continue there."""
    with Sentinels(1) as sentinels:
        async with at_work(sentinels.url) as sandbox:
            await asyncio.sleep(0.5)
            failover = ("SENTINEL", "FAILOVER", "primary")
            await asyncio.to_thread(command, sentinels.sentinels[0].url, *failover)
            await until(lambda: sentinels.has_promoted(sentinels.servers[1]))
            await resumed(sandbox)
            assert within_quota(sandbox)


SLACK = 0.5
"""Seconds by which a busy machine may be late."""
PERIOD = 1.0
LEASE_END = 0.1 + SEND_GRACE
"""Seconds until every call with a lease has arrived."""
HOLD = PROBE_INTERVAL + 2 * NODES_TIMEOUT + LEASE_END
"""Seconds for which nothing is granted after a failover; a period more if requests are lost."""


def longest_gap(sandbox: Sandbox, since: float) -> float:
    """Return the longest time without an arrival from *since* to now."""
    at = [arrival.at for arrival in sandbox.requests("intouch") if arrival.at > since]
    return max(b - a for a, b in pairwise((since, *at, asyncio.get_running_loop().time())))


BEFORE = {
    "safe_share": 2 * NODES_TIMEOUT + LEASE_END,
    "pause": NODES_TIMEOUT + PROBE_INTERVAL,
}
"""Seconds until the store is found again: after a period of the quota, or after the failover."""


def test_docs_state_the_longest_failover() -> None:
    """The page has the longest time without a call that follows from the constants."""
    page = Path(__file__).parents[2].joinpath("docs/many-processes.md").read_text("utf-8")
    assert f"| {BEFORE['safe_share'] + HOLD:g} s and two periods of the quota |" in page
    assert f"| the failover, {BEFORE['pause'] + HOLD:g} s and a period |" in page


@pytest.mark.sweep
@pytest.mark.parametrize("when_down", ["safe_share", "pause"])
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("nodes", [Cluster, partial(Sentinels, 3)], ids=["cluster", "sentinel"])
async def test_failover_delays_calls_no_longer_than_documented(
    nodes: Callable[[], Cluster | Sentinels], end: signal.Signals, when_down: WhenDown
) -> None:
    """The primary is killed or hangs while calls wait: no call fails, none is one too many.

    The longest time without a call is at most the one that the docs state.
    """
    loop = asyncio.get_running_loop()
    with nodes() as servers:
        is_cluster = isinstance(servers, Cluster)
        async with at_work(servers.url, cluster=is_cluster, when_down=when_down) as sandbox:
            await asyncio.sleep(4)  # long enough for the processes to have counted each other
            primary = servers.holder()
            replica = servers.replica_of(primary)
            primary.signal(end)
            began = loop.time()
            await until(lambda: servers.has_promoted(replica))
            failover = loop.time() - began
            await asyncio.sleep(BEFORE["pause"] + HOLD + PERIOD)
            await resumed(sandbox)
            gap = longest_gap(sandbox, began)
            assert within_quota(sandbox)
    longest = (failover if when_down == "pause" else PERIOD) + BEFORE[when_down] + HOLD + PERIOD
    assert gap <= longest + SLACK, f"after a failover of {failover:.1f} s"


# --- TLS ----------------------------------------------------------------------------


async def test_rediss_url_connects_over_tls(url: str, tmp_path: Path) -> None:
    """`rediss://` with the certificate authority in its query encrypts the connection."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate: Any = ca.issue_cert("127.0.0.1")
    certificate.configure_cert(context)
    async with Proxy(int(url.split(":")[2].split("/")[0]), context) as proxy:
        secure = f"rediss://127.0.0.1:{proxy.port}/0?ssl_ca_certs={tmp_path}/ca.pem"
        async with at_work(secure) as sandbox:
            await until(lambda: bool(sandbox.requests("intouch")))
    assert command(url, "DBSIZE")
