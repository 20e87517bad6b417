"""Injected faults between a vendor and its client, for `Sandbox.fail`.

A fault only affects requests with a valid credential that the rate limit accepted. `committed`
is True if the vendor executed the request before the fault: retrying such a request may execute
it twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from .vendor import Reply, SandboxRequest


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to a request: it gets `reply`, or the connection is closed or kept open."""

    kind: Literal["reply", "drop", "delay", "cut", "hang"]
    committed: bool = False
    reply: Reply | None = None
    seconds: float = 0.0


HTML = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Sign in</body></html>"


def status(
    code: int,
    body: bytes | str = b"",
    headers: Mapping[str, str] | None = None,
    *,
    committed: bool = False,
) -> Fault:
    """Respond with *code*; with *committed*, after executing the request (a gateway's 502)."""
    raw = body.encode() if isinstance(body, str) else body
    return Fault("reply", committed, Reply(code, raw, dict(headers or {})))


def drop(*, committed: bool = False) -> Fault:
    """Close without a response, before or, if *committed*, after executing the request."""
    return Fault("drop", committed)


def delay(seconds: float) -> Fault:
    """Execute the request at once and respond after *seconds* of loop time."""
    return Fault("delay", committed=True, seconds=seconds)


def cut() -> Fault:
    """Execute the request, send half of the announced body, close the connection."""
    return Fault("cut", committed=True)


def hang(*, committed: bool = False) -> Fault:
    """Never respond; the connection stays open until one side closes it."""
    return Fault("hang", committed)


def html(*, committed: bool = False) -> Fault:
    """Respond with 200 and a page of HTML, like a captive portal."""
    return status(200, HTML, {"Content-Type": "text/html; charset=utf-8"}, committed=committed)


def redirect(url: str, code: int = 302) -> Fault:
    """Respond with *code* and the location *url*."""
    return status(code, headers={"Location": url})


_NAMED = {
    "drop": drop(),
    "drop after": drop(committed=True),
    "cut": cut(),
    "hang": hang(),
    "html": html(),
}


def named(name: str) -> Fault:
    """Return the fault *name*: `drop`, `drop after`, `cut`, `hang`, `html`, or a status: `503`.

    Raises ValueError for any other name.
    """
    if name in _NAMED:
        return _NAMED[name]
    if name.isdecimal() and 200 <= int(name) <= 599:
        return status(int(name))
    msg = f"no fault is called {name!r}: there are {', '.join(_NAMED)}, and statuses as in '503'"
    raise ValueError(msg)


Match: TypeAlias = Callable[[SandboxRequest], bool] | str | None


@dataclass(slots=True)
class Injected:
    """A fault for the next `times` requests that `match` selects."""

    fault: Fault
    times: float
    match: Match

    def selects(self, call: SandboxRequest) -> bool:
        """Return True if *call* gets the fault."""
        if callable(self.match):
            return self.match(call)
        return (self.match or "") in f"{call.method} {call.path}"
