"""Injected faults between a vendor and its client, for `Sandbox.fail`.

A fault only affects requests with a valid credential that the rate limit accepted. `committed`
is True if the vendor executed the request before the fault: retrying such a request may execute
it twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .vendor import SandboxRequest


@dataclass(frozen=True, slots=True)
class Status:
    """Respond with *code*, *body* and *headers* instead of the vendor's response."""

    code: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    committed: bool = False


@dataclass(frozen=True, slots=True)
class Drop:
    """Close the connection without a response."""

    committed: bool = False


@dataclass(frozen=True, slots=True)
class Delay:
    """Execute the request, but respond only after *seconds*."""

    seconds: float
    committed: bool = True


@dataclass(frozen=True, slots=True)
class Cut:
    """Execute the request, send half of the announced body, close the connection."""

    committed: bool = True


@dataclass(frozen=True, slots=True)
class Hang:
    """Never respond; the connection stays open until one side closes it."""

    committed: bool = False


Fault: TypeAlias = Status | Drop | Delay | Cut | Hang

HTML = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Sign in</body></html>"


def status(
    code: int,
    body: bytes | str = b"",
    headers: Mapping[str, str] | None = None,
    *,
    committed: bool = False,
) -> Status:
    """Respond with *code*; with *committed*, after executing the request (a gateway's 502)."""
    raw = body.encode() if isinstance(body, str) else body
    return Status(code, raw, dict(headers or {}), committed)


def drop(*, committed: bool = False) -> Drop:
    """Close without a response, before or, if *committed*, after executing the request."""
    return Drop(committed)


def delay(seconds: float) -> Delay:
    """Execute the request at once and respond after *seconds* of loop time."""
    return Delay(seconds)


def cut() -> Cut:
    """Execute the request and send half of the response."""
    return Cut()


def hang(*, committed: bool = False) -> Hang:
    """Never respond."""
    return Hang(committed)


def html(*, committed: bool = False) -> Status:
    """Respond with 200 and a page of HTML, like a captive portal."""
    return Status(200, HTML, {"Content-Type": "text/html; charset=utf-8"}, committed)


def redirect(url: str, code: int = 302) -> Status:
    """Respond with *code* and the location *url*."""
    return Status(code, b"", {"Location": url})


_NAMED: dict[str, Fault] = {
    "drop": Drop(),
    "drop after": Drop(committed=True),
    "cut": Cut(),
    "hang": Hang(),
    "html": html(),
}


def named(name: str) -> Fault:
    """Return the fault *name*: `drop`, `drop after`, `cut`, `hang`, `html`, or a status: `503`.

    Raises ValueError for any other name.
    """
    if name in _NAMED:
        return _NAMED[name]
    if name.isdecimal() and 200 <= int(name) <= 599:
        return Status(int(name))
    msg = f"no fault is called {name!r}: there are {', '.join(_NAMED)}, and statuses as in '503'"
    raise ValueError(msg)


Match: TypeAlias = "Callable[[SandboxRequest], bool] | str | None"


@dataclass(slots=True)
class _Order:
    fault: Fault
    left: int | None
    match: Match

    def fits(self, call: SandboxRequest) -> bool:
        if self.match is None:
            return True
        if isinstance(self.match, str):
            return self.match in f"{call.method} {call.path}"
        return self.match(call)


class Faults:
    """The faults of one vendor, applied in the order in which they were added."""

    def __init__(self) -> None:
        self._orders: list[_Order] = []

    def add(self, fault: Fault, times: int | None, match: Match) -> None:
        """Add *fault* for the next *times* matching requests (None: for all)."""
        if times is not None and times < 1:
            msg = f"times is {times}; give the number of requests to fail, or None for all"
            raise ValueError(msg)
        self._orders.append(_Order(fault, times, match))

    def clear(self) -> None:
        """Remove all faults."""
        self._orders.clear()

    def take(self, call: SandboxRequest) -> Fault | None:
        """Return the fault for *call*, if any, and count it."""
        for order in self._orders:
            if order.fits(call):
                if order.left is not None:
                    order.left -= 1
                    if not order.left:
                        self._orders.remove(order)
                return order.fault
        return None
