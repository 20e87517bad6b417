"""What a response's headers say about the limit, in every dialect that vendors use.

All of them are read into one [`Signal`][asyncclients.ratelimit.headers.Signal]:

* `Retry-After`, RFC 9110 §10.2.3: seconds, also with a fraction, or an HTTP date in any of
  its three forms. Of several values, in one field or several, the longest wait counts.
* `RateLimit-Limit`, `-Remaining`, `-Reset` (older IETF drafts; Totango:
  https://support.totango.com/hc/en-us/articles/15312978301588-API-rate-limit)
  and the same with `X-RateLimit-` or `X-Rate-Limit-`. A reset may be seconds, a duration
  with units (`1m30s`), an HTTP date, an ISO 8601 time, or a Unix time in any unit.
* `RateLimit: limit=100, remaining=50, reset=5` (IETF draft 7).
* `RateLimit: "burst";r=0;t=30, "day";r=900;t=40000` and `RateLimit-Policy` (structured
  fields, current IETF draft). A field that is not valid (RFC 9651) is ignored as a whole.

Dates are compared with the response's own `Date`, and only without one with our clock.
What cannot be read counts as missing: `inf`, `1e9`, `-5`, full-width digits. What can be
read may still be absurd (a year); that is for the limiter to judge.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, KeysView, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Protocol

import msgspec
from multidict import istr

_SECONDS = re.compile(r"[0-9]{1,12}(?:\.[0-9]{0,20})?|\.[0-9]{1,20}", re.ASCII)
_COUNT = re.compile(r"([0-9]{1,12})(?:\.0*)?", re.ASCII)
_TIME_OR_SECONDS = re.compile(r"[0-9]{1,19}(?:\.[0-9]{0,20})?", re.ASCII)
_DURATION = re.compile(
    r"(?=.)(?:([0-9]{1,6})d)?(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?"
    r"(?:([0-9]{1,9}(?:\.[0-9]{1,9})?)s)?(?:([0-9]{1,9}(?:\.[0-9]{1,9})?)ms)?",
    re.ASCII,
)
_UNITS = (86_400.0, 3600.0, 60.0, 1.0, 0.001)
_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_CLOCK = "[0-9]{2}:[0-9]{2}:[0-9]{2}"
_ZONE = r"(?:GMT|UTC|[+-]0000)"
_HTTP_DATE = re.compile(
    rf"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), [0-9]{{1,2}} {_MONTH} [0-9]{{4}} {_CLOCK} {_ZONE}"
    rf"|(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, [0-9]{{2}}-{_MONTH}-[0-9]{{2}} {_CLOCK} {_ZONE}"
    rf"|(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) {_MONTH} [ 0-9][0-9] {_CLOCK} [0-9]{{4}}",
    re.ASCII,
)
_LIST = re.compile(rf"(?:{_HTTP_DATE.pattern}|[^,])+", re.ASCII)
"""The members of a list; the comma in a date separates nothing."""

_KEY = r"[a-z*][a-z0-9_.*-]*"
_BARE = (
    r'"(?:[ !#-\[\]-~]|\\["\\])*"'  # string
    r"|-?[0-9]{1,12}\.[0-9]{1,3}|-?[0-9]{1,15}(?!\.)"  # decimal, integer
    r"|[A-Za-z*][!#$%&'*+.^_`|~:/0-9A-Za-z-]*"  # token
    r"|:[A-Za-z0-9+/=]*:|\?[01]|@-?[0-9]{1,15}"  # bytes, boolean, date
    r'|%"(?:[ !#$&-~]|%[0-9a-f]{2})*"'  # display string
)
_PARAMETERS = rf"((?:; *{_KEY}(?:=(?:{_BARE}))?)*)"
_PARAMETER = re.compile(rf"; *({_KEY})(?:=({_BARE}))?", re.ASCII)
_ITEM = re.compile(rf"({_BARE}){_PARAMETERS}", re.ASCII)
_MEMBER = re.compile(rf"({_KEY})(?:=({_BARE}))?{_PARAMETERS}", re.ASCII)
_COMMA = re.compile(r"[ \t]*,[ \t]*")

_DIALECTS = tuple(
    (istr(prefix + "Remaining"), istr(prefix + "Limit"), istr(prefix + "Reset"))
    for prefix in ("RateLimit-", "X-RateLimit-", "X-Rate-Limit-")
)
_RETRY_AFTER = istr("Retry-After")
_RATE_LIMIT, _RATE_LIMIT_POLICY = istr("RateLimit"), istr("RateLimit-Policy")
_TELLING = (
    _RETRY_AFTER,
    *(name for remaining, limit, _ in _DIALECTS for name in (remaining, limit)),
    _RATE_LIMIT,
)
"""A response without any of these says nothing."""
UNAVAILABLE = frozenset({503, 521, 522, 523, 529})
"""Statuses whose `Retry-After` is meant for all calls."""
_EPOCH = 1e9
"""A reset this large is an instant in Unix time, not a duration."""
_EPOCH_SECONDS = 1e11
"""From here on Unix time is not in seconds but in a thousandth of the unit before."""


class Headers(Protocol):
    """The part of a header multidict that is read here."""

    def get(self, key: str, /) -> str | None: ...
    def getall(self, key: str, /) -> Iterable[str]: ...
    def keys(self) -> KeysView[str]: ...
    def __contains__(self, key: object, /) -> bool: ...


class RateLimitInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What one response says about the quota. Absent facts are None.

    Attributes:
        is_rate_limited: the response is a refusal by rate (429, or the vendor's spelling).
        unavailable: the vendor is unavailable for *retry_after* seconds, for all calls.
        retry_after: seconds to wait, at least 0; for a refusal without `Retry-After`
            that says nothing remains, as Totango's does, until the reset.
        limit: requests per window.
        remaining: requests left in the window after this one.
        reset: seconds until the window is set back.
        several: the response tells of further quotas, of which more calls remain.
    """

    is_rate_limited: bool = False
    unavailable: bool = False
    retry_after: float | None = None
    limit: int | None = None
    remaining: int | None = None
    reset: float | None = None
    several: bool = False


class Policy(msgspec.Struct, frozen=True):
    """One quota, as a vendor tells of it; *counts_calls* is False for bytes and the like."""

    limit: int | None
    remaining: int | None
    reset: float | None
    counts_calls: bool = True


_NO_POLICY = Policy(None, None, None)


def parse_rate_limit_headers(
    status: int, headers: Headers, clock: Callable[[], float] = time.time
) -> RateLimitInfo | None:
    """The signal in a response, or None where it says nothing about limits.

    *clock* gives Unix time, for dates in a response without a `Date` of its own.
    """
    refused = status == 429
    if not refused and headers.keys().isdisjoint(_TELLING):
        return None
    retry_after = retry_after_seconds(headers, clock)
    policies = _policies(headers, clock, every=refused)
    told = policies
    if len(policies) > 1:
        told = [each for each in policies if each.remaining is not None and each.counts_calls]
    tightest = _tightest(told or policies)
    if refused and retry_after is None:
        # The wait ends when every exhausted quota is reset.
        waits = (each.reset for each in policies if not each.remaining and each.reset is not None)
        retry_after = max(waits, default=None)
    limit, remaining = tightest.limit, tightest.remaining if tightest.counts_calls else None
    if not refused and retry_after is None and limit is None and remaining is None:
        return None
    return RateLimitInfo(
        is_rate_limited=refused,
        unavailable=status in UNAVAILABLE and retry_after is not None,
        retry_after=retry_after,
        limit=limit,
        remaining=remaining,
        reset=tightest.reset,
        several=len(told) > 1,
    )


def _tightest(policies: Sequence[Policy]) -> Policy:
    if len(policies) == 1:
        return policies[0]
    return min(policies, key=_room, default=_NO_POLICY)


def _room(policy: Policy) -> tuple[int, float]:
    return policy.remaining or 0, -(policy.reset or 0.0)


# --- Retry-After --------------------------------------------------------------------


def retry_after_seconds(headers: Headers, clock: Callable[[], float] = time.time) -> float | None:
    """Seconds that `Retry-After` asks for; None where absent or unreadable."""
    fields = headers.getall(_RETRY_AFTER) if _RETRY_AFTER in headers else ()
    values = [value.strip() for field in fields for value in _LIST.findall(field)]
    waits = (
        float(value) if _SECONDS.fullmatch(value) else _until(value, headers, clock)
        for value in values
    )
    return max((wait for wait in waits if wait is not None), default=None)


def _until(text: str, headers: Headers, clock: Callable[[], float]) -> float | None:
    """Seconds until the HTTP date *text*."""
    due = _http_date(text)
    return None if due is None else _since_date(due, headers, clock)


def _since_date(due: float, headers: Headers, clock: Callable[[], float]) -> float | None:
    """Seconds from the response's `Date` to the Unix time *due*.

    By our clock where there is none; then an instant in the past says nothing, since the
    clock may be wrong.
    """
    sent = _http_date((headers.get("Date") or "").strip())
    if sent is not None:
        return max(0.0, due - sent)
    wait = due - clock()
    return wait if wait > 0 else None


def _http_date(text: str) -> float | None:
    """The Unix time of the HTTP date *text*, in any of the three forms."""
    if not _HTTP_DATE.fullmatch(text):
        return None
    try:
        return parsedate_to_datetime(text).replace(tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        return None


# --- Three headers ------------------------------------------------------------------


def _policies(headers: Headers, clock: Callable[[], float], *, every: bool) -> list[Policy]:
    """The quotas that *headers* tell of, those of *every* dialect or of the first one in use."""
    policies: list[Policy] = []
    for names in _DIALECTS:
        remaining, limit, reset = map(headers.get, names)
        if remaining is None and limit is None and reset is None:
            continue
        due = None if reset is None else _reset(reset, headers, clock)
        policies.append(Policy(_count(limit), _count(remaining), due))
        if remaining is not None and not every:
            return policies
    if _RATE_LIMIT in headers:
        policies += _structured(headers)
    return policies


def _count(text: str | None) -> int | None:
    if text is None:
        return None
    if text.isdecimal() and text.isascii() and len(text) <= 12:
        return int(text)
    # Older drafts allow `100, 100;w=60`: the first item is the limit in force.
    found = _COUNT.fullmatch(text.split(",", 1)[0].strip())
    return int(found[1]) if found else None


def _reset(text: str, headers: Headers, clock: Callable[[], float]) -> float | None:
    if text.isdecimal() and text.isascii() and len(text) <= 9:
        return float(text)
    text = text.strip()
    if _TIME_OR_SECONDS.fullmatch(text):
        value = float(text)
        while value >= _EPOCH_SECONDS:
            value /= 1000
        return value if value < _EPOCH else _since_date(value, headers, clock)
    if found := _DURATION.fullmatch(text.lower()):
        return sum(float(n or 0) * unit for n, unit in zip(found.groups(), _UNITS, strict=True))
    try:
        due = datetime.fromisoformat(text)
        return _since_date(due.timestamp(), headers, clock) if due.tzinfo else None
    except (ValueError, OverflowError):
        return _until(text, headers, clock)


# --- Structured fields --------------------------------------------------------------


def _structured(headers: Headers) -> Iterator[Policy]:
    text = ", ".join(headers.getall(_RATE_LIMIT))
    policies = headers.getall(_RATE_LIMIT_POLICY) if _RATE_LIMIT_POLICY in headers else ()
    limits = dict(parse_list(", ".join(policies)) or ())
    for name, quota in parse_list(text) or ():
        policy = limits.get(name, {})
        counts_calls = policy.get("qu", '"requests"').strip('"') == "requests"
        reset = _duration(quota.get("t"))
        yield Policy(_count(policy.get("q")), _count(quota.get("r")), reset, counts_calls)
    fields = parse_dictionary(text) or {}
    if not fields.keys().isdisjoint(("limit", "remaining", "reset")):
        reset = _duration(fields.get("reset"))
        yield Policy(_count(fields.get("limit")), _count(fields.get("remaining")), reset)


def _duration(text: str | None) -> float | None:
    return float(text) if text is not None and _SECONDS.fullmatch(text) else None


def parse_list(text: str) -> list[tuple[str, dict[str, str]]] | None:
    """The items of a structured list, and their parameters, as they are written.

    None if it is not valid, or has an inner list, which no rate limit header has.
    """
    found = _members(text, _ITEM)
    if found is None:
        return None
    return [
        (item[1], {name: value or "?1" for name, value in _PARAMETER.findall(item[2])})
        for item in found
    ]


def parse_dictionary(text: str) -> dict[str, str] | None:
    """The members of a structured dictionary, as they are written; None if it is not valid."""
    found = _members(text, _MEMBER)
    return None if found is None else {member[1]: member[2] or "?1" for member in found}


def _members(text: str, member: re.Pattern[str]) -> list[re.Match[str]] | None:
    text = text.strip(" \t")
    found: list[re.Match[str]] = []
    at = 0
    while text:
        match = member.match(text, at)
        if match is None:
            return None
        found.append(match)
        if match.end() == len(text):
            break
        comma = _COMMA.match(text, match.end())
        if comma is None:
            return None
        at = comma.end()
    return found
