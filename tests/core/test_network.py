"""TLS contexts and forward proxies: real servers, authorities and tunnels on loopback."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest
import trustme

from asyncclients import (
    AsyncClientsError,
    ConfigurationError,
    ConnectError,
    DigitalOnboardingClient,
    IntemptClient,
    SessionPool,
    TLSError,
)
from asyncclients.core.network import network_arguments
from asyncclients.core.retry import RetryPolicy
from asyncclients.secret import Secret
from tests.support.byte_server import ByteServer, Connection, answers, byte_server, http
from tests.support.fake_vendor import QUICK, Thing, ToyClient
from tests.support.forward_proxy import ForwardProxy, forward_proxy
from tests.support.leaks import CANARY, leaks

AUTHORITY: Any = trustme.CA()
STRANGER: Any = trustme.CA()
GOOD = answers(http(body=b'{"id": 1}'))
ONCE = RetryPolicy(max_attempts=1)
PASSWORD = "pass:w/rd@4711"
LOGIN = base64.b64encode(f"user:{PASSWORD}".encode()).decode()


def server_context(host: str, *, asks_for_certificate: bool = False) -> ssl.SSLContext:
    """The context of a server with a certificate for *host*."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(host).configure_cert(context)
    if asks_for_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
        AUTHORITY.configure_trust(context)
    return context


def trusting(certificate: Any = None) -> ssl.SSLContext:
    """The context of a client that trusts the authority and identifies with *certificate*."""
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    if certificate is not None:
        certificate.configure_cert(context)
    return context


@asynccontextmanager
async def behind_proxy(
    *scripts: Any, tls: ssl.SSLContext | None = None
) -> AsyncGenerator[tuple[ByteServer, ForwardProxy]]:
    """A vendor that only the proxy can find, as `https://vendor.test/`."""
    context = server_context("vendor.test")
    async with byte_server(*(scripts or (GOOD,)), tls=context) as server:
        port = int(server.url.rstrip("/").rpartition(":")[2])
        async with forward_proxy({"vendor.test": port}, tls=tls) as proxy:
            yield server, proxy


def with_login(url: str) -> str:
    """The address of a proxy with user and password, percent-encoded."""
    return url.replace("://", "://user:pass%3Aw%2Frd%404711@")


@pytest.mark.virtual_time
async def test_private_authority_is_trusted_if_given() -> None:
    """A context with the authority reaches the server; without it the error advises `ssl=`."""
    async with byte_server(GOOD, tls=server_context("127.0.0.1")) as server:
        async with SessionPool(ssl=trusting()) as pool:
            assert await ToyClient(pool, base_url=server.url).things.get() == Thing(id=1)
        async with SessionPool() as pool:
            with pytest.raises(TLSError, match="its authority is unknown") as caught:
                await ToyClient(pool, base_url=server.url).things.get()
        assert "cafile" in (caught.value.advice or "")
        assert len(server.arrived) == 1


@pytest.mark.virtual_time
async def test_certificate_of_another_host_is_rejected() -> None:
    """The error names the server; the certificate is for another host."""
    async with (
        byte_server(GOOD, tls=server_context("other.example.com")) as server,
        SessionPool(ssl=trusting()) as pool,
    ):
        with pytest.raises(TLSError, match=r"127\.0\.0\.1:\d+: it is for another host"):
            await ToyClient(pool, base_url=server.url).things.make()
        assert server.arrived == []


@pytest.mark.virtual_time
async def test_client_certificate_is_presented() -> None:
    """A server that requires a client certificate answers a pool that has one."""
    context = server_context("127.0.0.1", asks_for_certificate=True)
    ours = trusting(AUTHORITY.issue_cert("client@example.com"))
    async with byte_server(GOOD, tls=context) as server, SessionPool(ssl=ours) as pool:
        assert await ToyClient(pool, base_url=server.url).things.get() == Thing(id=1)


def _serve_tls(listener: socket.socket, context: ssl.SSLContext) -> None:
    """Accept connections and complete each handshake; send the alert if it fails.

    asyncio's servers close the connection without one.
    """
    while True:
        try:
            accepted, _ = listener.accept()
        except OSError:
            return
        secure = context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
        with suppress(OSError):
            secure.do_handshake()
        with socket.socket(fileno=secure.detach()) as plain, suppress(OSError):
            plain.shutdown(socket.SHUT_WR)
            while plain.recv(2**16):  # else the reset would overtake the alert
                pass


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("certificate", [None, STRANGER.issue_cert("client@example.com")])
async def test_missing_or_unknown_client_certificate_is_a_tls_error(
    version: ssl.TLSVersion, certificate: Any
) -> None:
    """The call was not sent, whatever the TLS version; the advice names the client certificate."""
    context = server_context("127.0.0.1", asks_for_certificate=True)
    context.maximum_version = version
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve_tls, args=(listener, context))
        thread.start()
        try:
            async with SessionPool(ssl=trusting(certificate), retry=ONCE) as pool:
                url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
                with pytest.raises(TLSError) as caught:
                    await ToyClient(pool, base_url=url).things.make()
                assert caught.value.sent == "no"
                assert "load_cert_chain" in (caught.value.advice or "")
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            await asyncio.to_thread(thread.join)


@pytest.mark.virtual_time
@pytest.mark.parametrize("by_tls", [False, True], ids=["http", "https"])
async def test_proxy_tunnels_calls_and_sees_no_credential(by_tls: bool) -> None:
    """The proxy resolves the name and reads the CONNECT request with its own login only."""
    tls = server_context("localhost") if by_tls else None
    async with behind_proxy(tls=tls) as (server, proxy):
        async with SessionPool(ssl=trusting(), proxy=with_login(proxy.url)) as pool:
            client = ToyClient(pool, base_url="https://vendor.test/")
            found = await asyncio.gather(client.things.get(), client.things.make())
            assert [*found] == [Thing(id=1)] * 2
        assert {head.split("\r\n")[0] for head in proxy.heads} == {
            "CONNECT vendor.test:443 HTTP/1.1"
        }
        assert all(f"Proxy-Authorization: Basic {LOGIN}\r\n" in head for head in proxy.heads)
        read_by_proxy = "".join(proxy.heads).encode() + proxy.relayed
        assert CANARY.encode() not in read_by_proxy
        for request in server.arrived:
            assert request.headers["x-api-key"] == CANARY
            assert "proxy-authorization" not in request.headers


@pytest.mark.virtual_time
async def test_plain_http_to_loopback_bypasses_the_proxy() -> None:
    """The proxy could read the credential."""
    async with (
        byte_server(GOOD) as server,
        forward_proxy({}) as proxy,
        SessionPool(proxy=proxy.url) as pool,
    ):
        assert await ToyClient(pool, base_url=server.url).things.get() == Thing(id=1)
        assert proxy.heads == []


@pytest.mark.virtual_time
async def test_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only `proxy=` counts."""
    async with (
        byte_server(GOOD, tls=server_context("127.0.0.1")) as server,
        forward_proxy({}) as proxy,
        SessionPool(ssl=trusting()) as pool,
    ):
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert await ToyClient(pool, base_url=server.url).things.get() == Thing(id=1)
        assert proxy.heads == []


@pytest.mark.virtual_time
async def test_borrowed_session_uses_context_and_proxy_of_the_pool() -> None:
    """They apply to a session that does not know them."""
    async with behind_proxy() as (_, proxy), aiohttp.ClientSession() as session:
        async with SessionPool(session=session, ssl=trusting(), proxy=proxy.url) as pool:
            client = ToyClient(pool, base_url="https://vendor.test/")
            assert await client.things.get() == Thing(id=1)
        assert len(proxy.heads) == 1


@pytest.mark.virtual_time
async def test_access_tokens_pass_through_the_proxy() -> None:
    """Token request and call reach the vendor through the tunnel."""
    token = http(body=b'{"access_token": "token-4711", "expires_in": 900}')
    script = answers(token, http(body=b"[]"))
    async with behind_proxy(script) as (server, proxy):
        async with SessionPool(ssl=trusting(), proxy=proxy.url) as pool:
            client = DigitalOnboardingClient(
                pool,
                client_id="client-4711",
                client_secret="secret-4711",
                base_url="https://vendor.test/",
            )
            await client.templates.list()
        assert [request.target for request in server.arrived] == ["/oauth2/token", "/v1/templates"]
        assert proxy.heads
        assert b"4711" not in "".join(proxy.heads).encode() + proxy.relayed


@pytest.mark.virtual_time
async def test_uploads_pass_through_the_proxy() -> None:
    """The upload to the presigned link uses the pool's context and proxy as well."""
    moved = http(307, b"", {"Location": "https://vendor.test/bucket/rows.csv?X-Amz-Signature=4711"})
    script = answers(moved, http())
    async with behind_proxy(script, answers(http(body=b""))) as (server, proxy):
        async with SessionPool(ssl=trusting(), proxy=proxy.url) as pool:
            client = IntemptClient(
                pool, api_key="key-4711", org="acme", base_url="https://vendor.test/"
            )
            receipt = await client.collections.upload_csv("1", b"a,b\n1,2\n")
        assert receipt.bytes_sent == 8
        assert [request.method for request in server.arrived] == ["POST", "PUT"]
        assert len(proxy.heads) == 2


REJECTIONS = {
    "wants a login": (b"HTTP/1.1 407 Who\r\nContent-Length: 0\r\n\r\n", "answered 407", 1),
    "forbids the host": (b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n", "answered 403", 1),
    "cannot reach it": (b"HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n", "answered 502", 2),
    "hangs up": (b"", "closed the connection", 2),
    "speaks no HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "does not speak HTTP", 2),
}


@pytest.mark.virtual_time
@pytest.mark.parametrize("rejection", REJECTIONS)
async def test_rejection_by_the_proxy_is_a_connect_error(rejection: str) -> None:
    """Nothing was sent: any operation is retried if that can help. The error shows no login."""
    response, words, attempts = REJECTIONS[rejection]
    policy = RetryPolicy(max_attempts=2, base=QUICK.base, cap=QUICK.cap)
    async with behind_proxy() as (server, proxy):
        proxy.rejection = response
        url = with_login(proxy.url)
        async with SessionPool(ssl=trusting(), proxy=url, retry=policy) as pool:
            client = ToyClient(pool, base_url="https://vendor.test/")
            with pytest.raises(ConnectError, match=words) as caught:
                await client.things.make()
            assert caught.value.attempts == attempts == len(proxy.heads)
            assert caught.value.sent == "no"
            assert "proxy" in str(caught.value)
            assert leaks(caught.value, PASSWORD, LOGIN, CANARY, "pass%3Aw") == []
            assert server.arrived == []
            assert client.stats().in_flight == client.stats().held == 0
            proxy.rejection = None
            assert await client.things.make() == Thing(id=1)


@pytest.mark.virtual_time
async def test_proxy_that_is_down_is_named() -> None:
    """The error names host and port of the proxy, and no login."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    url = f"http://user:pass%3Aw%2Frd%404711@127.0.0.1:{port}"
    async with SessionPool(proxy=url, retry=ONCE) as pool:
        with pytest.raises(ConnectError, match=rf"the proxy 127\.0\.0\.1:{port}") as caught:
            await ToyClient(pool, base_url="https://vendor.test/").things.get()
    assert leaks(caught.value, PASSWORD, LOGIN, CANARY) == []


async def test_timeout_shows_no_proxy_login() -> None:
    """A deadline that passes while the tunnel is opened leaves no login in frames."""

    async def silent(connection: Connection) -> None:
        await connection.head()
        await asyncio.Event().wait()

    async with byte_server(silent) as proxy:
        url = with_login(proxy.url)
        async with SessionPool(proxy=url, retry=ONCE, timeout=0.05) as pool:
            with pytest.raises(AsyncClientsError) as caught:
                await ToyClient(pool, base_url="https://vendor.test/").things.get()
    assert leaks(caught.value, PASSWORD, LOGIN, CANARY) == []


WRONG: list[dict[str, Any]] = [
    {"ssl": False},
    {"ssl": "authority.pem"},
    {"ssl": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)},
    {"proxy": f"socks5://user:{CANARY}@127.0.0.1:1080"},
    {"proxy": f"user:{CANARY}@proxy.example.com"},
    {"proxy": "proxy.example.com:3128"},
    {"proxy": "http://"},
    {"proxy": "http://proxy.example.com/path"},
    {"proxy": "http://proxy.example.com:port"},
    {"proxy": f"http://a%3Ab:{CANARY}@proxy.example.com"},
    {"proxy": f"http://user:{CANARY}@proxy.example.com".encode()},
    {"proxy": 3128},
]


@pytest.mark.parametrize("arguments", WRONG)
def test_pool_rejects_wrong_network_arguments(arguments: dict[str, Any]) -> None:
    """The error names the argument, shows the right form, and quotes no password."""
    with pytest.raises(ConfigurationError) as caught:
        SessionPool(**arguments)
    assert next(iter(arguments)) in str(caught.value) or "HTTP Basic" in str(caught.value)
    assert caught.value.advice
    assert leaks(caught.value, CANARY) == []


def test_network_arguments_name_the_form_of_a_backslash() -> None:
    """Users of Windows domains have one in their name; it is accepted percent-encoded."""
    with pytest.raises(ConfigurationError, match="backslash, which is written %5C"):
        network_arguments(None, Secret("http://DOMAIN\\user:p@127.0.0.1:3128"))
    login = base64.b64encode(b"DOMAIN\\user:p").decode()
    arguments = network_arguments(None, Secret("http://DOMAIN%5Cuser:p@127.0.0.1:3128"))
    assert {**arguments}["proxy_headers"]["Proxy-Authorization"] == f"Basic {login}"


def test_network_arguments_hide_the_login() -> None:
    """Neither repr nor the values of the arguments show it."""
    arguments = network_arguments(None, Secret(with_login("http://127.0.0.1:3128")))
    assert {**arguments}["proxy_headers"]["Proxy-Authorization"] == f"Basic {LOGIN}"
    assert len(arguments) == 2
    shown = repr((arguments, {**arguments}))
    assert PASSWORD not in shown
    assert LOGIN not in shown
