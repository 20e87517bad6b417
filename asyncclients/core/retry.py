"""May this call be repeated, and when.

Three facts decide: was it sent, may the operation be repeated, is there budget
left. The operation's answer stands in its endpoint, not in its HTTP verb.

| outcome                                   | repeated                           |
|-------------------------------------------|------------------------------------|
| refused by rate (429 and vendors' spelling) | always: it was not carried out   |
| not sent; 408, 425                        | always                             |
| maybe sent; 500, 502, 503, 504, 520 to 524, 529 | only if the operation is idempotent |
| anything else                             | never                              |
"""

from __future__ import annotations

from enum import Enum

import backoff
import msgspec

from asyncclients.arguments import check_count, check_seconds
from asyncclients.core.endpoint import NoResponse, Outcome, Request, Response
from asyncclients.core.vendor import Meaning
from asyncclients.errors import ConfigurationError

_TRANSIENT = frozenset({500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
"""520 to 524 are Cloudflare's, 529 means that the vendor is overloaded:
https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/"""
_ANSWER_LOST = frozenset({502, 504, 520, 524})
"""A gateway lost the response: the work may be done."""
_NOT_CARRIED_OUT = frozenset({408, 425})
"""The request was not read to its end, or came too early (RFC 9110 §15.5.9, RFC 8470)."""
_FAILURES, _REFUSALS = 3, 10
"""Repeated and sat out where the policy names no number."""


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How often and how long.

    Attributes:
        max_attempts: requests of one call at the most, whatever for; 1 never repeats.
        max_failures: failures that one call repeats; None for as many as *max_attempts*
            lets it, and for 3 where that is None as well.
        max_refusals: refusals by rate that one call sits out; None likewise, and for 10.
        base: seconds; the first wait is drawn from [0, base].
        cap: seconds; no single wait is drawn from more than [0, cap].
        longest_retry_after: seconds; an interactive call that is told to wait
            longer raises at once instead.
    """

    max_attempts: int | None = None
    max_failures: int | None = None
    max_refusals: int | None = None
    base: float = 0.5
    cap: float = 30.0
    longest_retry_after: float = 120.0

    def __post_init__(self) -> None:
        for name, least in ("max_attempts", 1), ("max_failures", 0), ("max_refusals", 0):
            count: int | None = getattr(self, name)
            if count is not None:
                advice = "Use max_attempts=1 to never retry"
                check_count(f"RetryPolicy: {name}", count, least=least, advice=advice)
        for name in ("base", "cap", "longest_retry_after"):
            advice = f"Give seconds, as in RetryPolicy({name}=60.0)"
            check_seconds(f"RetryPolicy: {name}", getattr(self, name), zero=True, advice=advice)
        if self.base > self.cap:
            raise ConfigurationError(
                f"RetryPolicy: base must not be above cap, and {self.base} is above {self.cap}",
                advice="Give both in seconds, as in RetryPolicy(base=0.5, cap=30.0)",
            )

    def wait(self, failures: int) -> float:
        """Seconds before the attempt that follows the *failures*-th failure.

        Exponential with full jitter:
        https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
        """
        waits = backoff.expo(factor=self.base, max_value=self.cap)
        next(waits)
        value = next(waits)
        # 2**n overflows long after the cap is reached; 64 doublings reach any cap.
        for _ in range(min(failures - 1, 64)):
            value = next(waits)
        return backoff.full_jitter(value)


class Verdict(Enum):
    """What to do with an outcome."""

    DONE = "done"
    GONE = "done: the thing to delete is not there any more"
    RENEWED = "again at once, with another token"
    AGAIN = "again, after a wait"
    REFUSED = "again, once the scope's pause is over"
    FAIL = "raise"
    UNKNOWN = "raise: it may or may not have happened"


class Tally(msgspec.Struct, kw_only=True, gc=False):
    """What one call has been through so far.

    Attributes:
        attempts: requests that were put on the wire, or were to be.
        refusals: refusals by rate that were sat out.
        failures: outcomes of any other kind that were repeated.
        doubtful: whether an earlier request may have been carried out.
        renewed: requests that were rejected for an expired token; they do not count
            against `max_attempts`.
    """

    attempts: int = 0
    refusals: int = 0
    failures: int = 0
    doubtful: bool = False
    renewed: int = 0

    def room(self, policy: RetryPolicy) -> bool:
        """May a failure be followed by another attempt?"""
        most = policy.max_failures
        if most is None:
            most = policy.max_attempts or _FAILURES
        return self.failures < most and self.requests_left(policy)

    def patience(self, policy: RetryPolicy) -> bool:
        """May a refusal by rate be sat out?"""
        most = policy.max_refusals
        if most is None:
            most = policy.max_attempts or _REFUSALS
        return self.refusals < most and self.requests_left(policy)

    def requests_left(self, policy: RetryPolicy) -> bool:
        """May any other request be made?"""
        most = policy.max_attempts
        return most is None or self.attempts - self.renewed < most

    def note_failure(self, outcome: Outcome) -> None:
        """Count *outcome*, which is to be repeated."""
        self.failures += 1
        if isinstance(outcome, NoResponse):
            self.doubtful |= outcome.sent == "maybe"
        else:
            self.doubtful |= outcome.status not in _NOT_CARRIED_OUT


def judge(
    request: Request[object], outcome: Outcome, meaning: Meaning, tally: Tally, policy: RetryPolicy
) -> Verdict:
    """What to do with *outcome*; *meaning* is the vendor's reading of an answer."""
    if isinstance(outcome, NoResponse):
        return _judge_silence(request, outcome, tally, policy)
    if meaning is Meaning.SUCCESS:
        return Verdict.DONE
    if meaning is Meaning.RATE_LIMITED:
        return Verdict.REFUSED if tally.patience(policy) else Verdict.FAIL
    return _judge_answer(request, outcome, tally, policy)


def _judge_silence(
    request: Request[object], outcome: NoResponse, tally: Tally, policy: RetryPolicy
) -> Verdict:
    if outcome.sent == "maybe" and not request.idempotent:
        return Verdict.UNKNOWN
    return Verdict.AGAIN if tally.room(policy) and not outcome.final else Verdict.FAIL


def _judge_answer(
    request: Request[object], outcome: Response, tally: Tally, policy: RetryPolicy
) -> Verdict:
    if outcome.status == 404 and request.endpoint.method == "DELETE" and tally.doubtful:
        return Verdict.GONE
    if outcome.status in _NOT_CARRIED_OUT:
        return Verdict.AGAIN if tally.room(policy) else Verdict.FAIL
    if outcome.status not in _TRANSIENT:
        return Verdict.FAIL
    if not request.idempotent:
        return Verdict.UNKNOWN if outcome.status in _ANSWER_LOST else Verdict.FAIL
    return Verdict.AGAIN if tally.room(policy) else Verdict.FAIL
