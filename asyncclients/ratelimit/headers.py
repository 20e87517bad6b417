"""Parsing of rate limit headers, in every dialect that vendors use.

All of them are parsed into one `RateLimitInfo`:

* `Retry-After`, RFC 9110 §10.2.3: seconds, also with a fraction, or an HTTP date in any of
  its three forms. If there are several values, the longest wait applies.
* `RateLimit-Limit`, `-Remaining`, `-Reset` (older IETF drafts; Totango:
  https://support.totango.com/hc/en-us/articles/15312978301588-API-rate-limit)
  and the same with `X-RateLimit-` or `X-Rate-Limit-`. A reset may be seconds, a duration
  with units (`1m30s`), an HTTP date, an ISO 8601 time, or a Unix time in any unit.
* `RateLimit: limit=100, remaining=50, reset=5` (IETF draft 7).
* `RateLimit: "burst";r=0;t=30, "day";r=900;t=40000` and `RateLimit-Policy` (structured
  fields, current IETF draft). A field that is not valid (RFC 9651) is ignored as a whole.

Dates are compared with the response's `Date`, or with the local clock if it has none.
Values outside the grammar count as missing. Valid ones may be absurd (a year); the limiter
decides about those.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import msgspec
from multidict import MultiMapping, istr

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
"""The members of a list. The comma within an HTTP date is not a separator."""

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
_HEADERS = (
    _RETRY_AFTER,
    *(name for remaining, limit, _ in _DIALECTS for name in (remaining, limit)),
    _RATE_LIMIT,
)
"""A response without any of these headers is not parsed."""
UNAVAILABLE = frozenset({503, 521, 522, 523, 529})
"""Statuses whose `Retry-After` applies to all calls, not only to the failed one."""
_EPOCH = 1e9
"""A reset of at least this many seconds is a Unix time, not a duration."""
_EPOCH_SECONDS = 1e11
"""A Unix time of at least this is in ms, µs or ns: divide by 1,000 until it is smaller."""


class RateLimitInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The rate limit information in one response. Missing values are None.

    Attributes:
        is_rate_limited: the call was rejected (429, or the vendor's equivalent).
        unavailable: the vendor is unavailable for *retry_after* seconds, for all calls.
        retry_after: seconds to wait, at least 0. A rejection without `Retry-After` that
            reports nothing remaining, such as Totango's, waits until the reset.
        limit: requests per window.
        remaining: requests left in the window after this one.
        reset: seconds until the window is reset.
        several: the response reports further quotas, with more calls remaining.
    """

    is_rate_limited: bool = False
    unavailable: bool = False
    retry_after: float | None = None
    limit: int | None = None
    remaining: int | None = None
    reset: float | None = None
    several: bool = False


class Policy(msgspec.Struct, frozen=True):
    """One quota as reported by a vendor; *counts_calls* is False for bytes and other units."""

    limit: int | None
    remaining: int | None
    reset: float | None
    counts_calls: bool = True


_NO_POLICY = Policy(None, None, None)


def parse_rate_limit_headers(
    status: int, headers: MultiMapping[str], clock: Callable[[], float] = time.time
) -> RateLimitInfo | None:
    """Return the rate limit information of a response, or None if it has none.

    *clock* returns Unix time. It is used for dates in a response without a `Date` header.
    """
    if status != 429 and headers.keys().isdisjoint(_HEADERS):
        return None
    return _parse(status, headers, clock)


def _parse(
    status: int, headers: MultiMapping[str], clock: Callable[[], float]
) -> RateLimitInfo | None:
    is_rate_limited = status == 429
    retry_after = retry_after_seconds(headers, clock)
    policies = _policies(headers, clock, every=is_rate_limited)
    usable = policies
    if len(policies) > 1:
        usable = [each for each in policies if each.remaining is not None and each.counts_calls]
    # The fewest remaining calls, for the longest time.
    tightest = min(
        usable or policies,
        key=lambda each: (each.remaining or 0, -(each.reset or 0.0)),
        default=_NO_POLICY,
    )
    if is_rate_limited and retry_after is None:
        # Wait until every exhausted quota is reset.
        waits = (each.reset for each in policies if not each.remaining and each.reset is not None)
        retry_after = max(waits, default=None)
    limit, remaining = tightest.limit, tightest.remaining if tightest.counts_calls else None
    if not is_rate_limited and retry_after is None and limit is None and remaining is None:
        return None
    return RateLimitInfo(
        is_rate_limited=is_rate_limited,
        unavailable=status in UNAVAILABLE and retry_after is not None,
        retry_after=retry_after,
        limit=limit,
        remaining=remaining,
        reset=tightest.reset,
        several=len(usable) > 1,
    )


# --- Retry-After --------------------------------------------------------------------


def retry_after_seconds(
    headers: MultiMapping[str], clock: Callable[[], float] = time.time
) -> float | None:
    """Return the seconds of `Retry-After`; None if it is missing or invalid."""
    fields = headers.getall(_RETRY_AFTER) if _RETRY_AFTER in headers else ()
    values = [value.strip() for field in fields for value in _LIST.findall(field)]
    waits = (
        float(value) if _SECONDS.fullmatch(value) else _until(_http_date(value), headers, clock)
        for value in values
    )
    return max((wait for wait in waits if wait is not None), default=None)


def _until(
    due: float | None, headers: MultiMapping[str], clock: Callable[[], float]
) -> float | None:
    """Seconds from the response's `Date` to the Unix time *due*.

    Without a `Date` the local clock is used. An instant in the past then gives None,
    because the clock may be wrong.
    """
    if due is None:
        return None
    sent = _http_date((headers.get("Date") or "").strip())
    if sent is not None:
        return max(0.0, due - sent)
    wait = due - clock()
    return wait if wait > 0 else None


def _http_date(text: str) -> float | None:
    """Return the Unix time of the HTTP date *text*; None if it is none of the three forms."""
    if not _HTTP_DATE.fullmatch(text):
        return None
    try:
        return parsedate_to_datetime(text).replace(tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        return None


# --- Limit, remaining, reset ------------------------------------------------------------------


def _policies(
    headers: MultiMapping[str], clock: Callable[[], float], *, every: bool
) -> list[Policy]:
    """Return the quotas reported in *every* dialect, or only in the first that has `Remaining`."""
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
    # Older drafts allow `100, 100;w=60`: the first item is the current limit.
    found = _COUNT.fullmatch((text or "").split(",", 1)[0].strip())
    return int(found[1]) if found else None


def _reset(text: str, headers: MultiMapping[str], clock: Callable[[], float]) -> float | None:
    text = text.strip()
    if _TIME_OR_SECONDS.fullmatch(text):
        value = float(text)
        while value >= _EPOCH_SECONDS:
            value /= 1000
        return value if value < _EPOCH else _until(value, headers, clock)
    if found := _DURATION.fullmatch(text.lower()):
        return sum(float(n or 0) * unit for n, unit in zip(found.groups(), _UNITS, strict=True))
    try:
        due = datetime.fromisoformat(text)
        return _until(due.timestamp(), headers, clock) if due.tzinfo else None
    except (ValueError, OverflowError):
        return _until(_http_date(text), headers, clock)


# --- Structured fields --------------------------------------------------------------


def _structured(headers: MultiMapping[str]) -> Iterator[Policy]:
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
    """Return the items of a structured list with their parameters, as unparsed text.

    None if *text* is invalid or has an inner list, which no rate limit header has.
    """
    if (found := _members(text, _ITEM)) is None:
        return None
    return [
        (item[1], {name: value or "?1" for name, value in _PARAMETER.findall(item[2])})
        for item in found
    ]


def parse_dictionary(text: str) -> dict[str, str] | None:
    """Return the members of a structured dictionary as unparsed text; None if invalid."""
    found = _members(text, _MEMBER)
    return None if found is None else {member[1]: member[2] or "?1" for member in found}


def _members(text: str, member: re.Pattern[str]) -> list[re.Match[str]] | None:
    text = text.strip(" \t")
    found: list[re.Match[str]] = []
    at = 0
    while text:
        if (match := member.match(text, at)) is None:
            return None
        found.append(match)
        if match.end() == len(text):
            break
        if (comma := _COMMA.match(text, match.end())) is None:
            return None
        at = comma.end()
    return found
