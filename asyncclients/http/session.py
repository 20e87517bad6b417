"""The aiohttp session of one credential."""

from __future__ import annotations

from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any, cast

import aiohttp

from asyncclients.http.prompt_request import EagerBodyRequest

if TYPE_CHECKING:
    from aiohttp.client_middlewares import ClientMiddlewareType
    from aiohttp.client_proto import ResponseHandler
    from yarl import URL

CONNECT_TIMEOUT = 15.0
"""Seconds for name resolution, connection and TLS: nothing is sent before they are done."""
NO_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT)
_KEEPALIVE = 4.0
"""Seconds an idle connection is kept: below the 5 s at which common servers close theirs."""
_NONE = SimpleCookie()
_READ_SIZE = 2**16
"""Bytes a connection reads at once at the most: what aiohttp buffers before it stops reading."""


class _Connector(aiohttp.TCPConnector):
    """aiohttp's, for connections that are reused only clean, and read cheaply."""

    def _get(self, key: Any, traces: Any) -> Any:
        _drop_dirty_connections(self, key)
        return super()._get(key, traces)

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> ResponseHandler:
        protocol = await super()._create_connection(req, traces, timeout)
        _cap_read_buffer(protocol.transport)
        return protocol


def drop_dirty_connections(request: aiohttp.ClientRequest) -> None:
    """Have *request* get no connection of a borrowed session that holds an answer already."""
    connector = request.session.connector
    if connector is not None and type(connector) is not _Connector:
        _drop_dirty_connections(connector, request.connection_key)


def middlewares_of(session: aiohttp.ClientSession) -> tuple[ClientMiddlewareType, ...]:
    """The middlewares that *session* was made with: naming ours replaces them in aiohttp."""
    found = getattr(session, "_middlewares", ())
    # Anything else is a mock's.
    return tuple(cast("list[Any]", found)) if isinstance(found, (tuple, list)) else ()


def _drop_dirty_connections(connector: aiohttp.BaseConnector, key: Any) -> None:
    # What arrived on an idle connection is an answer nobody asked for; the next request
    # would get it. aio-libs/aiohttp#13656.
    idle = connector._conns.get(key)  # pyright: ignore[reportPrivateUsage]
    while idle and idle[0][0].should_close:
        idle.popleft()[0].close()


class _NoCookies(aiohttp.DummyCookieJar):
    """aiohttp's jar without cookies, which makes a new collection of none for each request."""

    def filter_cookies(self, request_url: URL) -> SimpleCookie:  # noqa: ARG002 - it is aiohttp's
        return _NONE


def _cap_read_buffer(transport: Any) -> None:
    # asyncio takes 256 KiB of memory for every read, however little there is to read, and such
    # a piece is mapped and unmapped each time: a tenth of the cost of a call. python/cpython#85451.
    layers: tuple[Any, ...] = (transport, getattr(transport, "_ssl_protocol", None))
    for reader in layers:
        if getattr(reader, "max_size", 0) > _READ_SIZE:
            reader.max_size = _READ_SIZE


def open_session() -> aiohttp.ClientSession:
    """A session for one credential: no cookies, no proxies, no redirects, no limits of its own.

    One each, so that a stray answer cannot cross credentials.
    """
    return aiohttp.ClientSession(
        connector=_Connector(limit=0, keepalive_timeout=_KEEPALIVE),
        cookie_jar=_NoCookies(),
        timeout=NO_TIMEOUT,
        trust_env=False,
        request_class=EagerBodyRequest,
    )
