"""The aiohttp session of one credential."""

from __future__ import annotations

from typing import Any

import aiohttp

from asyncclients.http.prompt_request import PromptRequest

CONNECT_TIMEOUT = 15.0
"""Seconds for name resolution, connection and TLS: nothing is sent before they are done."""
NO_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT)
_KEEPALIVE = 4.0
"""Seconds an idle connection is kept: below the 5 s at which common servers close theirs."""


class _QuietConnector(aiohttp.TCPConnector):
    """Does not reuse a connection on which something arrived while it idled.

    Such bytes are an answer nobody asked for; the next request would get it.
    aio-libs/aiohttp#13656.
    """

    def _get(self, key: Any, traces: Any) -> Any:
        idle = self._conns.get(key)
        while idle and idle[0][0].should_close:
            idle.popleft()[0].close()
        return super()._get(key, traces)


def open_session(trace_configs: list[aiohttp.TraceConfig] | None = None) -> aiohttp.ClientSession:
    """A session for one credential: no cookies, no proxies, no redirects, no limits of its own.

    One each, so that a stray answer cannot cross credentials.
    """
    return aiohttp.ClientSession(
        connector=_QuietConnector(limit=0, keepalive_timeout=_KEEPALIVE),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=NO_TIMEOUT,
        trust_env=False,
        request_class=PromptRequest,
        trace_configs=trace_configs,
    )
