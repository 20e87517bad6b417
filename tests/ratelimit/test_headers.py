"""Rate limit headers in every dialect; everything else counts as missing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import http_sf
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from asyncclients.ratelimit.headers import (
    RateLimitInfo,
    parse_dictionary,
    parse_list,
    parse_rate_limit_headers,
    retry_after_seconds,
)

DATE = "Sat, 21 Nov 2026 12:00:00 GMT"


def headers(*fields: tuple[str, str]) -> CIMultiDict[str]:
    return CIMultiDict(fields)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("60", 60.0),
        (" 7 ", 7.0),
        ("1.5", 1.5),
        ("2.", 2.0),
        (".5", 0.5),
        ("0.12345678901234567", 0.12345678901234567),
        ("60, 60", 60.0),
        ("3, 1", 3.0),
        ("1 ,2.5,", 2.5),
        ("soon, 4", 4.0),
        ("-5, inf", None),
        ("Saturday, 21-Nov-26 12:00:30 GMT", 30.0),
        ("Sat Nov 21 12:00:30 2026", 30.0),
        ("Mon Dec  7 12:00:00 2026", 16 * 86_400.0),
        ("Sat, 21 Nov 2026 12:00:30 UTC", 30.0),
        ("Sat, 21 Nov 2026 12:00:30 +0000", 30.0),
        ("Sat, 21 Nov 2026 12:00:30 GMT, Sat, 21 Nov 2026 12:00:10 GMT", 30.0),
        ("5, Saturday, 21-Nov-26 12:00:30 GMT, 20", 30.0),
        ("31536000", 31_536_000.0),
        ("Sat, 21 Nov 2026 12:00:30 GMT", 30.0),
        ("Sat, 21 Nov 2026 11:59:00 GMT", 0.0),
        ("inf", None),
        ("nan", None),
        ("-5", None),
        ("+5", None),
        ("1e9", None),
        ("1_000", None),
        ("0x10", None),
        ("٣", None),  # Arabic-Indic three
        ("６０", None),  # full-width sixty
        ("9" * 13, None),
        ("", None),
        ("60;", None),
        ("Sat, 99 Oct 2026 12:00:00 GMT", None),
        ("Sat, 00 Nov 2026 12:00:00 GMT", None),
        ("Sat, 21 Nov 2026 12:00:00 +9999", None),
        ("Sat, 21 Nov 2026 25:00:00 GMT", None),
        ("2026-11-21T12:00:30Z", None),
        ("soon", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, seconds: float | None) -> None:
    """Whole ASCII seconds, or an HTTP date relative to the response's Date; else None."""
    assert retry_after_seconds(headers(("Retry-After", text), ("Date", DATE))) == seconds


DATES = [
    "Sat, 21 Nov 2026 12:00:30 GMT",
    "Saturday, 21-Nov-26 12:00:30 GMT",
    "Sat Nov 21 12:00:30 2026",
]


@pytest.mark.parametrize("due", DATES)
@pytest.mark.parametrize("date", [None, "yesterday", "Sat, 99 Nov 2026 12:00:00 GMT"])
def test_retry_after_date_falls_back_to_the_local_clock(due: str, date: str | None) -> None:
    """Without a valid Date the local clock is used; a date in its past gives None."""
    fields = headers(("Retry-After", due), *([] if date is None else [("Date", date)]))
    noon = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()
    assert retry_after_seconds(fields, lambda: noon) == 30.0
    assert retry_after_seconds(fields, lambda: noon + 60) is None


def test_retry_after_uses_the_longest_value() -> None:
    """Several values, in one field or several, such as a proxy's and the vendor's."""
    assert retry_after_seconds(headers(("Retry-After", "5"), ("retry-after", "5"))) == 5.0
    assert retry_after_seconds(headers(("Retry-After", "5"), ("Retry-After", "6"))) == 6.0
    several = headers(("Retry-After", "5"), ("Retry-After", DATES[0]), ("Date", DATE))
    assert retry_after_seconds(several) == 30.0


UNREADABLE = ["soon", "", "-5", "inf", "NaN", "1e9", "9" * 13, "\udcff", "Sat, 99 Oct 2026", ","]
SPENT = [("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "12")]


@pytest.mark.parametrize("value", UNREADABLE)
@pytest.mark.parametrize("others", [[], SPENT, [("Retry-After", "7")]])
def test_retry_after_ignores_invalid_values(value: str, others: list[tuple[str, str]]) -> None:
    """An invalid value never shortens the wait."""
    with_it, without = (
        parse_rate_limit_headers(429, headers(*fields))
        for fields in ([("Retry-After", value), *others], others)
    )
    assert with_it == without


@given(st.text(), st.text())
def test_retry_after_of_any_text_is_finite_or_none(text: str, date: str) -> None:
    """No header text raises an exception."""
    seconds = retry_after_seconds(headers(("Retry-After", text), ("Date", date)))
    assert seconds is None or 0 <= seconds < 1e12


NAMES = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset", "RateLimit", "Date")


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.text() | st.integers().map(str))))
def test_any_header_values_give_valid_numbers(fields: Sequence[tuple[str, str]]) -> None:
    """Whatever the headers contain, counts are whole and not negative."""
    info = parse_rate_limit_headers(200, headers(*fields))
    if info is not None:
        for figure in (info.limit, info.remaining, info.reset):
            assert figure is None or figure >= 0


@pytest.mark.parametrize("prefix", ["RateLimit-", "X-RateLimit-", "x-ratelimit-"])
def test_limit_remaining_reset_headers(prefix: str) -> None:
    """The three headers of the older drafts, with or without X, in any case."""
    info = parse_rate_limit_headers(
        200,
        headers((prefix + "Limit", "100"), (prefix + "Remaining", "7"), (prefix + "Reset", "3")),
    )
    assert info is not None
    assert (info.is_rate_limited, info.limit, info.remaining, info.reset) == (
        False,
        100,
        7,
        3.0,
    )


NOON = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()
RESETS = {
    "60": 60.0,
    " 60.5 ": 60.5,
    "60s": 60.0,
    "1m0s": 60.0,
    "6m1.5s": 361.5,
    "1h2m": 3720.0,
    "1d": 86_400.0,
    "500ms": 0.5,
    "1795262460": 60.0,
    "1795262460.5": 60.5,
    "1795262460000": 60.0,
    "1795262460000000": 60.0,
    "1795262460000000000": 60.0,
    "1795262300": 0.0,
    "Sat, 21 Nov 2026 12:01:00 GMT": 60.0,
    "Saturday, 21-Nov-26 12:01:00 GMT": 60.0,
    "Sat Nov 21 12:01:00 2026": 60.0,
    "2026-11-21T12:01:00Z": 60.0,
    "2026-11-21T14:01:00+02:00": 60.0,
    "2026-11-21T12:01:00": None,
    "soon": None,
    "": None,
    "-5": None,
    "m": None,
    "inf": None,
    "９": None,
    "9" * 20: None,
}
PREFIXES = ["RateLimit-", "X-RateLimit-", "X-Rate-Limit-", "x-ratelimit-"]


@pytest.mark.parametrize("text", RESETS)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_reset_accepts_all_forms(prefix: str, text: str) -> None:
    """Seconds, a duration, or an instant in any unit relative to the response's Date."""
    fields = [(prefix + "Remaining", "0"), (prefix + "Reset", text)]
    info = parse_rate_limit_headers(429, headers(*fields, ("Date", DATE)))
    assert info is not None
    assert info.retry_after == info.reset
    assert info.reset == pytest.approx(RESETS[text])


def test_reset_instant_falls_back_to_the_local_clock() -> None:
    """Without a Date the local clock is used; an instant in its past gives None."""
    fields = headers(("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "1795262460"))
    for seconds, reset in ((0, 60.0), (-10, 70.0), (60, None), (1000, None)):
        info = parse_rate_limit_headers(429, fields, partial(float, NOON + seconds))
        assert info is not None
        assert info.retry_after == reset


@pytest.mark.parametrize(
    ("limit", "remaining", "expected"),
    [
        ("100", "0", (100, 0)),
        ("100.0", "0.0", (100, 0)),
        ("100, 100;w=60", "7", (100, 7)),
        ("-1", "-1", (None, None)),
        ("unlimited", "1e3", (None, None)),
    ],
)
def test_counts_are_whole_numbers(
    limit: str, remaining: str, expected: tuple[int | None, int | None]
) -> None:
    """Decimals with a zero fraction are accepted; other fractions count as missing."""
    fields = headers(("X-RateLimit-Limit", limit), ("X-RateLimit-Remaining", remaining))
    info = parse_rate_limit_headers(429, fields)
    assert info is not None
    assert (info.limit, info.remaining) == expected


def structured(status: int, limit: str, policy: str = "") -> RateLimitInfo:
    fields = [("RateLimit", limit), *([("RateLimit-Policy", policy)] if policy else [])]
    info = parse_rate_limit_headers(status, headers(*fields))
    assert info is not None
    return info


@pytest.mark.parametrize(
    ("limit", "policy", "expected"),
    [
        # limit, remaining, reset, retry_after
        ("limit=100, remaining=0, reset=5", "100;w=60", (100, 0, 5.0, 5.0)),
        ("limit=100,remaining=50,reset=5", "", (100, 50, 5.0, None)),
        ("limit=100;w=60, remaining=0, reset=5, more=(1 2)", "", (None, None, None, None)),
        ('limit=100, remaining=0, reset=5, x="a, b;c"', "", (100, 0, 5.0, 5.0)),
        ('"a";r=0;t=30', '"a";q=10;w=60', (10, 0, 30.0, 30.0)),
        ('"a" ; r=0', "", (None, None, None, None)),
        ("default;r=0;t=30", "default;q=10;w=60", (10, 0, 30.0, 30.0)),
        ('"a";r=5;t=30, "b";r=1;t=1', '"a";q=10;w=60,"b";q=2;w=1', (2, 1, 1.0, None)),
        ('"burst";r=0;t=30, "day";r=900;t=40000', "", (None, 0, 30.0, 30.0)),
        ('"day";r=900;t=40000, "burst";r=0;t=30', '"burst";q=50;w=60', (50, 0, 30.0, 30.0)),
        ('"burst";r=0;t=30, "day";r=0;t=40000', "", (None, 0, 40_000.0, 40_000.0)),
        ('"x, \\"y;r=9";r=0;t=3;pk=:cHk=:', "", (None, 0, 3.0, 3.0)),
        ('"a";r=0;t=9, "a', "", (None, None, None, None)),
        ('"a";r=-5;t=1e9;x', "q", (None, None, None, None)),
        # Bytes and connections are not calls, but waited for all the same.
        ('"mb";r=0;t=8, "n";r=5;t=60', '"mb";q=9;qu="content-bytes", "n";q=10', (10, 5, 60.0, 8.0)),
        ('"mb";r=0;t=8', '"mb";q=9;qu="content-bytes"', (9, None, 8.0, 8.0)),
    ],
)
def test_structured_fields_use_the_tightest_quota(
    limit: str, policy: str, expected: tuple[int | None, int | None, float | None, float | None]
) -> None:
    """The quota with the least remaining counts; the wait lasts until all exhausted ones reset."""
    info = structured(429, limit, policy)
    assert (info.limit, info.remaining, info.reset, info.retry_after) == expected


def test_structured_fields_may_be_repeated() -> None:
    """A list may be spread over several fields, as HTTP allows."""
    info = parse_rate_limit_headers(
        429, headers(("RateLimit", '"a";r=3;t=9'), ("RateLimit", '"b";r=0;t=7'))
    )
    assert info is not None
    assert (info.remaining, info.retry_after, info.several) == (0, 7.0, True)


NAME = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=5)
TOKEN = st.from_regex(r"[A-Za-z*][A-Za-z0-9_:/-]{0,4}", fullmatch=True).map(http_sf.Token)
KEY = st.sampled_from(["r", "t", "q", "w", "qu", "pk", "limit", "remaining", "reset", "*x"])
VALUE = (
    NAME | TOKEN | st.integers(-(10**15) + 1, 10**15 - 1) | st.booleans() | st.binary(max_size=4)
)
PARAMETERS = st.dictionaries(KEY, VALUE, max_size=4)
ITEM = st.tuples(VALUE, PARAMETERS)
NOISE = st.text(alphabet='"\\;,=:?@%() \tartq1.-*', max_size=12)


def read_by_oracle(text: str, kind: str) -> Any:
    """Return the result of the reference implementation; None if invalid or an inner list."""
    try:
        found: Any = http_sf.parse(text.encode(), tltype=kind)
    except http_sf.StructuredFieldError:
        return None
    members: Any = [*found.values()] if kind == "dictionary" else found
    return None if any(isinstance(member[0], list) for member in members) else found


def plain(text: str) -> Any:
    """Return a bare item of the reference implementation as text."""
    found: Any = http_sf.parse(text.encode(), tltype="item")
    return found[0]


def check(text: str) -> None:
    """Assert that *text* is parsed like the reference implementation, as list and dictionary."""
    text = text.strip()  # HTTP has no white space around a value
    items, expected = parse_list(text), read_by_oracle(text, "list")
    if items is not None and expected is not None:
        assert [
            (plain(item), {name: plain(value) for name, value in parameters.items()})
            for item, parameters in items
        ] == expected
    members, expected = parse_dictionary(text), read_by_oracle(text, "dictionary")
    if members is not None and expected is not None:
        assert {name: plain(value) for name, value in members.items()} == {
            name: value[0] for name, value in expected.items()
        }
    if not set(text) & set(":@%"):  # the contents of these are not looked at
        assert (items is None) == (read_by_oracle(text, "list") is None)
        assert (members is None) == (expected is None)


@given(st.lists(ITEM, max_size=4) | st.dictionaries(KEY, ITEM, max_size=4))
def test_valid_structured_fields_match_the_reference(value: Any) -> None:
    """Fields written by the reference implementation are parsed as it parses them."""
    if value:
        text = http_sf.ser(value)
        check(text)
        assert (parse_list(text) or parse_dictionary(text)) is not None


@given(st.lists(ITEM, min_size=1, max_size=3), NOISE, st.integers(0, 40))
@example([("", {})], ",", 2)
@example([("", {})], " ;r=1", 2)
@example([("", {})], "; r=1", 2)
@example([("a", {"r": 1})], ";  t=5 ,\t1.5", 7)
@example([(1, {})], ".1234", 1)
def test_invalid_structured_fields_are_ignored(value: Any, noise: str, at: int) -> None:
    """A field that the reference implementation rejects is ignored as a whole."""
    text = http_sf.ser(value)
    check(text[:at] + noise + text[at:])
    check(noise)


@pytest.mark.parametrize("status", [503, 521, 522, 523, 529])
def test_retry_after_of_an_unavailable_vendor_is_for_all_calls(status: int) -> None:
    """`Retry-After` applies to all calls for 503 and its kin, and not for other statuses."""
    asked = headers(("Retry-After", "5"))
    info = parse_rate_limit_headers(status, asked)
    assert info is not None
    assert (info.unavailable, info.is_rate_limited, info.retry_after) == (True, False, 5.0)
    assert parse_rate_limit_headers(status, headers(("Retry-After", "soon"))) is None
    for other in (202, 301, 429, 500, 502):
        info = parse_rate_limit_headers(other, asked)
        assert info is not None
        assert not info.unavailable


def test_response_without_limit_headers_gives_none() -> None:
    """Only a 429 without headers gives information: the call was rejected."""
    assert parse_rate_limit_headers(200, headers(("Content-Type", "text/html"))) is None
    assert parse_rate_limit_headers(503, headers()) is None
    info = parse_rate_limit_headers(429, headers())
    assert info is not None
    assert info.is_rate_limited
    assert info.retry_after is None


def test_rejection_without_retry_after_waits_for_the_reset() -> None:
    """As for Totango's 429; a response that is no rejection has no wait."""
    spent = [("RateLimit-Remaining", "0"), ("RateLimit-Reset", "12")]
    refused, admitted = (
        parse_rate_limit_headers(429, headers(*spent)),
        parse_rate_limit_headers(200, headers(*spent)),
    )
    assert refused is not None
    assert admitted is not None
    assert (refused.retry_after, admitted.retry_after) == (12.0, None)
