"""The aiohttp session of one credential, and how it differs from a plain one.

A connection is reused only if no unread bytes wait on it. Reads use small buffers. On
Python 3.11, a small body is written together with its headers.
"""

from __future__ import annotations

import sys
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

import aiohttp
from aiohttp.http import StreamWriter
from aiohttp.payload import BytesPayload

from asyncclients.core.network import NoTunnelError, never_sent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.client_middlewares import ClientMiddlewareType
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection

CONNECT_TIMEOUT = 15.0
"""Seconds for name resolution, connection and TLS; nothing is sent before they are done."""
NO_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT)
_KEEPALIVE = 4.0
"""Seconds to keep an idle connection: common servers close theirs after 5."""
_READ_SIZE = 2**16
"""Most bytes per read: as many as aiohttp buffers before it pauses reading."""
_SMALL_BODY = 2**14
"""Bytes that are written at once, however full the connection's buffer is."""


def open_session() -> aiohttp.ClientSession:
    """Return a session for one credential: no cookies, proxies, or limits of its own.

    One session per credential, so that a stray response cannot reach another credential.
    """
    return aiohttp.ClientSession(
        connector=_Connector(limit=0, keepalive_timeout=_KEEPALIVE),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=NO_TIMEOUT,
        trust_env=False,
        request_class=EagerBodyRequest,
    )


def middlewares_of(session: aiohttp.ClientSession) -> tuple[ClientMiddlewareType, ...]:
    """Return the middlewares of *session*, which those of a request would replace."""
    found = getattr(session, "_middlewares", ())
    # Mocks have an attribute of any name and of another type.
    return tuple(cast("list[Any]", found)) if isinstance(found, (tuple, list)) else ()


async def reuse_clean_connections(
    request: aiohttp.ClientRequest,
    handler: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]],
) -> aiohttp.ClientResponse:
    """Middleware for a borrowed session: do for its connector what `_Connector` does itself."""
    connector = request.session.connector
    if connector is not None:
        _drop_dirty_connections(connector, request.connection_key)
    return await handler(request)


class _Connector(aiohttp.TCPConnector):
    def _get(self, key: Any, traces: Any) -> Any:
        idle: Any = getattr(self, "_conns", {}).get(key)
        # aiohttp takes the first connection, or the next one if the first has been idle too long.
        if idle and (idle[0][0].should_close or monotonic() > idle[0][1] + _KEEPALIVE / 2):
            _drop_dirty_connections(self, key)
        return aiohttp.TCPConnector._get(self, key, traces)  # `super()` costs 1,000 instructions

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> ResponseHandler:
        try:
            protocol = await super()._create_connection(req, traces, timeout)
        except (aiohttp.ClientConnectionError, aiohttp.ClientResponseError) as failure:
            if never_sent(failure):
                raise
            raise NoTunnelError from failure
        _cap_read_buffer(protocol.transport)
        return protocol


def _drop_dirty_connections(connector: aiohttp.BaseConnector, key: Any) -> None:
    # Bytes on an idle connection are a response that nobody asked for, and the next request
    # would take it for its own: aio-libs/aiohttp#13656.
    connections: Any = getattr(connector, "_conns", {})
    idle: Any = connections.get(key, ())
    for entry in [entry for entry in idle if entry[0].should_close]:
        idle.remove(entry)
        entry[0].close()


def _cap_read_buffer(transport: Any) -> None:
    # asyncio allocates 256 KiB for each read, which malloc maps and unmaps: a tenth of the
    # cost of a call. python/cpython#85451.
    layers: tuple[Any, ...] = (transport, getattr(transport, "_ssl_protocol", None))
    for reader in layers:
        if getattr(reader, "max_size", 0) > _READ_SIZE:
            reader.max_size = _READ_SIZE


class EagerBodyRequest(aiohttp.ClientRequest):
    """Write a small body without creating a task: a tenth of the cost of a call.

    Python 3.12 and later start a task eagerly, so aiohttp's own code is as fast there.
    """

    if sys.version_info < (3, 12):

        async def send(self, conn: Connection) -> aiohttp.ClientResponse:
            """Send the request; write a small body together with the headers."""
            body: Any = getattr(self, "_body", None)
            protocol, content = conn.protocol, None
            # `isinstance` would call `ABCMeta.__instancecheck__`, which is Python code.
            if type(body) is BytesPayload and (body.size or 0) <= _SMALL_BODY:
                try:
                    special = self._traces or self._continue or self.chunked or self.proxy
                    _ = self._timer, self._session
                    content = None if special else body._value  # pyright: ignore[reportPrivateUsage]
                except AttributeError:
                    content = None  # this release of aiohttp has other private names
            if content is None or protocol is None or protocol.writing_paused:
                return await aiohttp.ClientRequest.send(self, conn)
            writer = StreamWriter(protocol, self.loop)
            line = f"{self.method} {self.url.raw_path_qs} HTTP/1.1"
            await writer.write_headers(line, self.headers)
            await writer.write_eof(content)
            protocol.start_timeout()
            response = self.response_class(
                self.method,
                self.original_url,
                writer=None,
                continue100=None,
                timer=self._timer,
                request_info=self.request_info,
                traces=self._traces,
                loop=self.loop,
                session=self._session,
                stream_writer=writer,
            )
            self.response = response  # type: ignore[assignment]  # None in the class, upstream
            return response
