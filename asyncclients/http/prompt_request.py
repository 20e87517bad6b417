"""aiohttp's request, which writes a small body along with its headers.

What an upgrade of aiohttp could change is held to the original, byte by byte,
by `tests/http/test_prompt_request.py`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.http import StreamWriter
from aiohttp.payload import BytesPayload

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection

_SMALL = 2**14
"""Bytes that are written at once, whatever the connection's buffer holds."""


class EagerBodyRequest(aiohttp.ClientRequest):
    """Makes no task to write what can be written at once: a tenth of the cost of a call."""

    if sys.version_info < (3, 12):  # from there on aiohttp itself writes before it makes a task

        def send(  # pyright: ignore[reportIncompatibleMethodOverride] - no step in between
            self, conn: Connection
        ) -> Coroutine[Any, Any, aiohttp.ClientResponse]:
            """Write the request; a small body goes out with its headers."""
            body = self._body
            # Not isinstance, which asks an abstract class's registry, in Python.
            if type(body) is BytesPayload and (body.size or 0) <= _SMALL:
                protocol = conn.protocol
                special = self._traces or self._continue or self.chunked or self.proxy
                if not special and protocol is not None and not protocol.writing_paused:
                    return self._send_at_once(protocol, body)
            return super().send(conn)

        async def _send_at_once(
            self, protocol: ResponseHandler, body: BytesPayload
        ) -> aiohttp.ClientResponse:
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
