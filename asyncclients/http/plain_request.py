"""aiohttp's request, made and sent by the shortest way where it is plain, as nearly all of ours are.

What an upgrade of aiohttp could change is held to the original, attribute by
attribute and byte by byte, by `tests/http/test_plain_request.py`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.http import StreamWriter
from aiohttp.payload import BytesPayload

if TYPE_CHECKING:
    from aiohttp.connector import Connection
    from yarl import URL

_SMALL = 2**14
"""Bytes that are written at once, whatever the connection's buffer holds."""
_ADDED = (
    "params",
    "headers",
    "skip_auto_headers",
    "data",
    "cookies",
    "auth",
    "compress",
    "chunked",
    "expect100",
    "proxy",
    "traces",
    "server_hostname",
)
"""What a request may be given, and a plain one is not."""

Templates = dict[str | None, dict[str, Any]]


class PlainRequest(aiohttp.ClientRequest):
    """One request of a session; *templates* are that session's, by host.

    A plain GET differs from the last one to its host in its address alone: the
    rest is copied from that, and not found out again.
    """

    def __init__(self, templates: Templates, method: str, url: URL, **given: Any) -> None:
        plain = method == "GET" and not any(map(given.get, _ADDED))
        template = templates.get(url.host_port_subcomponent) if plain else None
        if template is None:
            super().__init__(method, url, **given)
            if plain and not given["loop"].get_debug():
                # Before the credential is in.
                templates[url.host_port_subcomponent] = {
                    **vars(self),
                    "headers": self.headers.copy(),
                }
            return
        vars(self).update(template)
        self.url = self.original_url = url
        self.headers = template["headers"].copy()
        self._timer, self._traces = given["timer"], given["traces"]

    if sys.version_info < (3, 12):  # from there on aiohttp itself writes before it makes a task

        async def send(self, conn: Connection) -> aiohttp.ClientResponse:
            """Write a small body along with its headers, and not in a task of its own."""
            body, protocol = self._body, conn.protocol
            small = isinstance(body, BytesPayload) and (body.size or 0) <= _SMALL
            special = self._traces or self._continue or self.chunked or self.proxy
            if not small or special or protocol is None or protocol.writing_paused:
                return await super().send(conn)
            assert isinstance(body, BytesPayload)
            writer = StreamWriter(protocol, self.loop)
            line = f"{self.method} {self.url.raw_path_qs} HTTP/1.1"
            await writer.write_headers(line, self.headers)
            # Its public form is a coroutine.
            await writer.write_eof(body._value)  # pyright: ignore[reportPrivateUsage]
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
