"""What a reply's headers say about the limit, read by a strict grammar.

Vendors write limits in several dialects; this reads them all into one
[`Signal`][asyncclients.limits.ratelimit_headers.Signal]:

* `Retry-After`, RFC 9110 §10.2.3: whole seconds, or an HTTP date, which is
  compared with the reply's own `Date` and never with our clock.
* `RateLimit-Limit`, `-Remaining`, `-Reset` (older IETF drafts; Totango:
  https://support.totango.com/hc/en-us/articles/15312978301588-API-rate-limit)
  and the same with `X-` before it.
* `RateLimit` and `RateLimit-Policy` (structured fields, current IETF draft).

What does not fit the grammar does not exist: `inf`, `1e9`, `-5`, full-width
digits, two different `Retry-After` headers. What fits it may still be absurd
(a year); that is for the limiter to judge.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, KeysView, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Protocol

import msgspec
from multidict import istr

_DIGITS = re.compile(r"[0-9]{1,12}\Z", re.ASCII)
_DECIMAL = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?\Z", re.ASCII)
_HTTP_DATE = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), [0-9]{2} "
    r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [0-9]{4} "
    r"[0-9]{2}:[0-9]{2}:[0-9]{2} GMT\Z",
    re.ASCII,
)
_PARAMETER = re.compile(r";\s*([rtqw])=([0-9]{1,12})(?=\s*(?:;|,|\Z))", re.ASCII)
_TELLING = (
    istr("Retry-After"),
    istr("RateLimit-Remaining"),
    istr("RateLimit-Limit"),
    istr("X-RateLimit-Remaining"),
    istr("X-RateLimit-Limit"),
    istr("RateLimit"),
)
"""A reply without any of these says nothing."""
_EPOCH = 1_000_000_000.0
"""A reset this large is an instant in Unix seconds, not a duration."""


class Headers(Protocol):
    """The part of a header multidict that is read here."""

    def get(self, key: str, /) -> str | None: ...
    def getall(self, key: str, /) -> Iterable[str]: ...
    def keys(self) -> KeysView[str]: ...
    def __contains__(self, key: object, /) -> bool: ...


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """What one reply says about the quota. Absent facts are None.

    Attributes:
        refused: the reply is a refusal by rate (429, or the vendor's spelling).
        retry_after: seconds to wait, at least 0; for a refusal without `Retry-After`
            that says nothing remains, as Totango's does, until the reset.
        limit: requests per window.
        remaining: requests left in the window after this one.
        reset: seconds until the window is set back.
    """

    refused: bool = False
    retry_after: float | None = None
    limit: int | None = None
    remaining: int | None = None
    reset: float | None = None


def read_signal(status: int, headers: Headers) -> Signal | None:
    """The signal in a reply, or None where it says nothing about limits."""
    refused = status == 429
    if not refused and headers.keys().isdisjoint(_TELLING):
        return None
    retry_after = retry_after_seconds(headers) if "Retry-After" in headers else None
    limit, remaining, reset = _limit_fields(headers)
    if not refused and retry_after is None and limit is None and remaining is None:
        return None
    if refused and retry_after is None and remaining == 0:
        retry_after = reset
    return Signal(
        refused=refused, retry_after=retry_after, limit=limit, remaining=remaining, reset=reset
    )


def retry_after_seconds(headers: Headers) -> float | None:
    """Seconds that `Retry-After` asks for; None where absent or malformed."""
    values = {value.strip() for value in headers.getall("Retry-After")}
    if len(values) != 1:
        return None
    (text,) = values
    if _DIGITS.match(text):
        return float(text)
    due = _http_date(text)
    sent = _http_date((headers.get("Date") or "").strip())
    if due is None or sent is None:
        return None
    return max(0.0, (due - sent).total_seconds())


def _http_date(text: str) -> datetime | None:
    if not _HTTP_DATE.match(text):
        return None
    try:
        return parsedate_to_datetime(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _limit_fields(headers: Headers) -> tuple[int | None, int | None, float | None]:
    for prefix in ("RateLimit-", "X-RateLimit-"):
        if prefix + "Remaining" in headers or prefix + "Limit" in headers:
            reset = _seconds(headers.get(prefix + "Reset"), headers)
            return (
                _integer(headers.get(prefix + "Limit")),
                _integer(headers.get(prefix + "Remaining")),
                reset,
            )
    if "RateLimit" in headers:
        return _structured(headers)
    return None, None, None


def _structured(headers: Headers) -> tuple[int | None, int | None, float | None]:
    current = _parameters(headers.get("RateLimit"))
    policy = _parameters(headers.get("RateLimit-Policy"))
    reset = current.get("t")
    return policy.get("q"), current.get("r"), None if reset is None else float(reset)


def _parameters(text: str | None) -> Mapping[str, int]:
    """Parameters of the first item of a structured list; `{}` for nonsense."""
    first = (text or "").split(",", 1)[0]
    return {name: int(value) for name, value in _PARAMETER.findall(first)}


def _integer(text: str | None) -> int | None:
    text = (text or "").strip()
    # Older drafts allow `100, 100;w=60`: the first item is the limit in force.
    text = text.split(",", 1)[0].strip()
    return int(text) if _DIGITS.match(text) else None


def _seconds(text: str | None, headers: Headers) -> float | None:
    text = (text or "").strip()
    if not _DECIMAL.match(text):
        return None
    value = float(text)
    if value < _EPOCH:
        return value
    sent = _http_date((headers.get("Date") or "").strip())
    return None if sent is None else max(0.0, value - sent.timestamp())
