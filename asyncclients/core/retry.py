"""Whether a call is retried, and how long it waits.

Three facts decide: whether the request was sent, whether the operation is idempotent (its
endpoint knows; the HTTP method does not), and whether retries are left.

| outcome                                         | retried                             |
|-------------------------------------------------|-------------------------------------|
| rate-limited (429 or a vendor's equivalent)     | always: it was not carried out      |
| not sent; 408, 425                              | always                              |
| maybe sent; 500, 502, 503, 504, 520 to 524, 529 | only if the operation is idempotent |
| anything else                                   | never                               |
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

import backoff
import msgspec

from asyncclients.arguments import NaturalInt, PositiveInt, check_seconds, check_value
from asyncclients.core.endpoint import NoResponse, Outcome, Request
from asyncclients.core.vendor import ResponseKind
from asyncclients.errors import ConfigurationError

_TRANSIENT = frozenset({500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
"""520 to 524 are Cloudflare's, 529 means that the vendor is overloaded:
https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/"""
_RESPONSE_LOST = frozenset({502, 504, 520, 524})
"""A gateway lost the response: the request may have been carried out."""
_NOT_CARRIED_OUT = frozenset({408, 425})
"""The request was not read to its end, or came too early (RFC 9110 §15.5.9, RFC 8470)."""
_MAX_RETRIES, _MAX_RATE_LIMITED = 3, 10
"""Defaults if the policy has no number."""


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How often a call is retried, and how long it waits.

    Attributes:
        max_attempts: most requests per call, for any reason; 1 never retries.
        max_retries: most retries after failures; None for *max_attempts*, or for 3 if that
            is None.
        max_rate_limited: most retries after 429s; None for *max_attempts*, or for 10.
        base: seconds; the first wait is drawn from [0, base].
        cap: seconds; a wait is never drawn from more than [0, cap].
        longest_retry_after: seconds; an interactive call raises at once if the vendor asks
            it to wait longer.
    """

    max_attempts: int | None = None
    max_retries: int | None = None
    max_rate_limited: int | None = None
    base: float = 0.5
    cap: float = 30.0
    longest_retry_after: float = 120.0

    def __post_init__(self) -> None:
        for name in ("max_attempts", "max_retries", "max_rate_limited"):
            kind: Any = PositiveInt if name == "max_attempts" else NaturalInt
            advice = "Use max_attempts=1 to never retry"
            check_value(f"RetryPolicy: {name}", getattr(self, name), kind | None, advice=advice)
        for name in ("base", "cap", "longest_retry_after"):
            advice = f"Give seconds, as in RetryPolicy({name}=60.0)"
            check_seconds(f"RetryPolicy: {name}", getattr(self, name), zero=True, advice=advice)
        if self.base > self.cap:
            raise ConfigurationError(
                f"RetryPolicy: base must not be above cap, and {self.base} is above {self.cap}",
                advice="Give both in seconds, as in RetryPolicy(base=0.5, cap=30.0)",
            )

    def wait(self, failures: int) -> float:
        """Return the seconds to wait after the *failures*-th failure.

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


class Decision(Enum):
    """The next step after an attempt.

    Attributes:
        DONE: the response is the result.
        ALREADY_DELETED: done; an earlier attempt deleted the object.
        RETRY_WITH_NEW_TOKEN: retry at once, with another access token.
        RETRY: retry after a backoff.
        RETRY_AFTER_PAUSE: retry when the scope's pause is over.
        FAIL: raise the error.
        OUTCOME_UNKNOWN: raise `OutcomeUnknownError`.
    """

    DONE = auto()
    ALREADY_DELETED = auto()
    RETRY_WITH_NEW_TOKEN = auto()
    RETRY = auto()
    RETRY_AFTER_PAUSE = auto()
    FAIL = auto()
    OUTCOME_UNKNOWN = auto()


class RetryState(msgspec.Struct, kw_only=True, gc=False):
    """The attempts of one call so far.

    Attributes:
        attempts: requests that were sent, or failed to be.
        rate_limits: retries after a 429.
        retries: retries after any other outcome.
        maybe_executed: whether an earlier attempt may have been carried out.
        renewed: attempts rejected for an expired token; they do not count against
            `max_attempts`.
    """

    attempts: int = 0
    rate_limits: int = 0
    retries: int = 0
    maybe_executed: bool = False
    renewed: int = 0

    def may_retry_failure(self, policy: RetryPolicy) -> bool:
        """Return True if a failure may be retried."""
        most = policy.max_retries
        if most is None:
            most = policy.max_attempts or _MAX_RETRIES
        return self.retries < most and self.has_attempts_left(policy)

    def may_retry_rate_limit(self, policy: RetryPolicy) -> bool:
        """Return True if a 429 may be retried."""
        most = policy.max_rate_limited
        if most is None:
            most = policy.max_attempts or _MAX_RATE_LIMITED
        return self.rate_limits < most and self.has_attempts_left(policy)

    def has_attempts_left(self, policy: RetryPolicy) -> bool:
        """Return True if `max_attempts` allows another request."""
        most = policy.max_attempts
        return most is None or self.attempts - self.renewed < most

    def note_failure(self, outcome: Outcome) -> None:
        """Count *outcome*, which will be retried."""
        self.retries += 1
        if isinstance(outcome, NoResponse):
            self.maybe_executed |= outcome.sent == "maybe"
        else:
            self.maybe_executed |= outcome.status not in _NOT_CARRIED_OUT


def decide_failure(
    request: Request[object],
    outcome: Outcome,
    kind: ResponseKind,
    state: RetryState,
    policy: RetryPolicy,
) -> Decision:
    """Return the next step after *outcome*, which is no success; a response is of *kind*."""
    if isinstance(outcome, NoResponse):
        if outcome.sent == "maybe" and not request.idempotent:
            return Decision.OUTCOME_UNKNOWN
        is_retryable = not outcome.final
    elif kind is ResponseKind.RATE_LIMITED:
        return Decision.RETRY_AFTER_PAUSE if state.may_retry_rate_limit(policy) else Decision.FAIL
    elif outcome.status == 404 and request.endpoint.method == "DELETE" and state.maybe_executed:
        return Decision.ALREADY_DELETED
    elif outcome.status in _RESPONSE_LOST and not request.idempotent:
        return Decision.OUTCOME_UNKNOWN
    else:
        is_transient = outcome.status in _TRANSIENT and request.idempotent
        is_retryable = is_transient or outcome.status in _NOT_CARRIED_OUT
    return Decision.RETRY if is_retryable and state.may_retry_failure(policy) else Decision.FAIL
