"""Faults on order: what goes wrong between a vendor and its client.

Frozen values, given to `Sandbox.fail`. A fault meets only calls that the rate
limit let in and whose credential is right. `committed` says whether the vendor
did its work before things went wrong; that is the difference between a call
that may be repeated and one that must not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .exchange import SandboxRequest


@dataclass(frozen=True, slots=True)
class Status:
    """Answer with *code*, *body* and *headers* instead of the vendor's answer."""

    code: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    committed: bool = False


@dataclass(frozen=True, slots=True)
class Drop:
    """Close the connection without an answer."""

    committed: bool = False


@dataclass(frozen=True, slots=True)
class Delay:
    """Do the work, then answer only after *seconds*."""

    seconds: float
    committed: bool = True


@dataclass(frozen=True, slots=True)
class Cut:
    """Do the work, announce the whole body, send half of it, close the connection."""

    committed: bool = True


@dataclass(frozen=True, slots=True)
class Hang:
    """Never answer; the connection stays open until one side gives up."""

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
    """Answer *code*; with *committed* the work was done all the same (a gateway's 502)."""
    raw = body.encode() if isinstance(body, str) else body
    return Status(code, raw, dict(headers or {}), committed)


def drop(*, committed: bool = False) -> Drop:
    """Close without an answer, before the work was done or, *committed*, after it."""
    return Drop(committed)


def delay(seconds: float) -> Delay:
    """Do the work at once and answer after *seconds* of the loop's time."""
    return Delay(seconds)


def cut() -> Cut:
    """Do the work and send half of the answer."""
    return Cut()


def hang(*, committed: bool = False) -> Hang:
    """Never answer."""
    return Hang(committed)


def html(*, committed: bool = False) -> Status:
    """Answer 200 with a page of HTML, as a captive portal or a login wall does."""
    return Status(200, HTML, {"Content-Type": "text/html; charset=utf-8"}, committed)


def redirect(url: str, code: int = 302) -> Status:
    """Answer *code* and send the client to *url*."""
    return Status(code, b"", {"Location": url})


_NAMED: dict[str, Fault] = {
    "drop": Drop(),
    "drop after": Drop(committed=True),
    "cut": Cut(),
    "hang": Hang(),
    "html": html(),
}


def named(name: str) -> Fault:
    """The fault called *name*: `drop`, `drop after`, `cut`, `hang`, `html`, or a status: `503`.

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
    """The faults on order at one vendor, first ordered, first served."""

    def __init__(self) -> None:
        self._orders: list[_Order] = []

    def add(self, fault: Fault, times: int | None, match: Match) -> None:
        """Order *fault* for the next *times* calls that *match* (None: for all that come)."""
        if times is not None and times < 1:
            msg = f"times is {times}; give how many calls shall fail, or None for all"
            raise ValueError(msg)
        self._orders.append(_Order(fault, times, match))

    def clear(self) -> None:
        """Forget every order."""
        self._orders.clear()

    def take(self, call: SandboxRequest) -> Fault | None:
        """The fault that meets *call*, counted off its order."""
        for order in self._orders:
            if order.fits(call):
                if order.left is not None:
                    order.left -= 1
                    if not order.left:
                        self._orders.remove(order)
                return order.fault
        return None
