"""What a reply says about the limit: a strict grammar, and nothing outside it exists."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from asyncclients.limits.ratelimit_headers import read_signal, retry_after_seconds

DATE = "Sat, 21 Nov 2026 12:00:00 GMT"


def headers(*fields: tuple[str, str]) -> CIMultiDict[str]:
    return CIMultiDict(fields)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("60", 60.0),
        (" 7 ", 7.0),
        ("31536000", 31_536_000.0),
        ("Sat, 21 Nov 2026 12:00:30 GMT", 30.0),
        ("Sat, 21 Nov 2026 11:59:00 GMT", 0.0),
        ("inf", None),
        ("nan", None),
        ("-5", None),
        ("+5", None),
        ("1e9", None),
        ("1.5", None),
        ("1_000", None),
        ("0x10", None),
        ("٣", None),  # Arabic-Indic three
        ("６０", None),  # full-width sixty
        ("9" * 13, None),
        ("", None),
        ("60, 60", None),
        ("60;", None),
        ("Sat, 99 Oct 2026 12:00:00 GMT", None),
        ("Sat, 00 Nov 2026 12:00:00 GMT", None),
        ("Sat, 21 Nov 2026 12:00:00 +9999", None),
        ("Sat, 21 Nov 2026 25:00:00 GMT", None),
        ("Saturday, 21-Nov-26 12:00:30 GMT", None),
        ("2026-11-21T12:00:30Z", None),
        ("soon", None),
    ],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    """Whole ASCII seconds or an HTTP date, against the reply's own Date; else it is not there."""
    assert retry_after_seconds(headers(("Retry-After", text), ("Date", DATE))) == seconds


def test_a_date_needs_the_reply_s_own_date() -> None:
    """Our clock is never asked."""
    due = ("Retry-After", "Sat, 21 Nov 2026 12:00:30 GMT")
    assert retry_after_seconds(headers(due)) is None
    assert retry_after_seconds(headers(due, ("Date", "yesterday"))) is None


def test_two_retry_afters_must_agree() -> None:
    """A proxy's and the vendor's: equal ones count once, different ones not at all."""
    assert retry_after_seconds(headers(("Retry-After", "5"), ("retry-after", "5"))) == 5.0
    assert retry_after_seconds(headers(("Retry-After", "5"), ("Retry-After", "6"))) is None


@given(st.text(), st.text())
def test_any_text_is_a_finite_wait_or_none(text: str, date: str) -> None:
    """No header breaks the reader."""
    seconds = retry_after_seconds(headers(("Retry-After", text), ("Date", date)))
    assert seconds is None or 0 <= seconds < 1e12


NAMES = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset", "RateLimit", "Date")


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.text() | st.integers().map(str))))
def test_any_headers_are_read(fields: Sequence[tuple[str, str]]) -> None:
    """Whatever stands in them, figures are whole and not negative."""
    signal = read_signal(200, headers(*fields))
    if signal is not None:
        for figure in (signal.limit, signal.remaining, signal.reset):
            assert figure is None or figure >= 0


@pytest.mark.parametrize("prefix", ["RateLimit-", "X-RateLimit-", "x-ratelimit-"])
def test_three_headers(prefix: str) -> None:
    """The older drafts' three, with or without the X, in any case."""
    signal = read_signal(
        200,
        headers((prefix + "Limit", "100"), (prefix + "Remaining", "7"), (prefix + "Reset", "3")),
    )
    assert signal is not None
    assert (signal.refused, signal.limit, signal.remaining, signal.reset) == (False, 100, 7, 3.0)


def test_a_reset_may_be_an_instant() -> None:
    """A figure as large as Unix seconds is one, and compared with the reply's own Date."""
    fields = [("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "1795262460")]
    signal = read_signal(200, headers(*fields, ("Date", DATE)))
    assert signal is not None
    assert signal.reset == 60.0
    without = read_signal(200, headers(*fields))
    assert without is not None
    assert without.reset is None


def test_structured_fields() -> None:
    """The current draft's two: the first item counts, nonsense is nothing."""
    signal = read_signal(
        200,
        headers(("RateLimit", '"a";r=5;t=30, "b";r=1;t=1'), ("RateLimit-Policy", '"a";q=10;w=60')),
    )
    assert signal is not None
    assert (signal.limit, signal.remaining, signal.reset) == (10, 5, 30.0)
    broken = read_signal(429, headers(("RateLimit", '"a";r=-5;t=1e9;x'), ("RateLimit-Policy", "q")))
    assert broken is not None
    assert (broken.limit, broken.remaining, broken.reset) == (None, None, None)


def test_a_reply_may_say_nothing() -> None:
    """No limit headers and no refusal is no signal; a bare 429 is a refusal."""
    assert read_signal(200, headers(("Content-Type", "text/html"))) is None
    assert read_signal(503, headers()) is None
    signal = read_signal(429, headers())
    assert signal is not None
    assert signal.refused
    assert signal.retry_after is None


def test_a_refusal_without_retry_after_waits_until_the_reset() -> None:
    """Totango's refusal names the reset alone; an answer that is none waits for nothing."""
    spent = [("RateLimit-Remaining", "0"), ("RateLimit-Reset", "12")]
    refused, admitted = read_signal(429, headers(*spent)), read_signal(200, headers(*spent))
    assert refused is not None
    assert admitted is not None
    assert (refused.retry_after, admitted.retry_after) == (12.0, None)
