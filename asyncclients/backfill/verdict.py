"""What a call's error means for the rows in it. One table, two facts.

*repeatable*: may the operation be repeated? *sent*: may a request have left?

| error                                                       | rows are                        |
|-------------------------------------------------------------|---------------------------------|
| not carried out: rate limited, 408, 425, no connection, no turn | tried again                 |
| an error in the body of a 2xx                               | failed if repeatable, else unknown |
| outcome unknown, no answer, 5xx, an answer nobody can read  | tried again if repeatable, else unknown |
| the vendor's no (4xx), or a value that the call refuses     | failed (a batch is halved first) |
| no row's fault: credential, TLS, redirect, closed pool      | pending, and the run stops      |
| 403                                                         | see `ForbiddenRows`             |

A 500 says that the vendor failed, not how far it got: a row that must not be
repeated is unknown after it.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Generic, NamedTuple, TypeVar

from asyncclients.errors import (
    AsyncClientsError,
    BackfillError,
    ClientClosedError,
    ConfigurationError,
    ConnectError,
    DeadlineExceededError,
    DecodeError,
    ForbiddenError,
    NoResponseError,
    OutcomeUnknownError,
    RateLimitedError,
    ResponseTooLargeError,
    ServerError,
    StatusError,
    TLSError,
    TokenEndpointError,
    TokenError,
    UnauthorizedError,
    UnexpectedRedirectError,
    WrongEventLoopError,
)

_STOPS = (
    BackfillError,
    ClientClosedError,
    ConfigurationError,
    TLSError,
    UnauthorizedError,
    UnexpectedRedirectError,
    WrongEventLoopError,
)
_NOT_CARRIED_OUT = (ConnectError, DeadlineExceededError, RateLimitedError, TokenEndpointError)
_NOT_CARRIED_OUT_STATUSES = (408, 425)
_DOUBTFUL = (
    DecodeError,
    NoResponseError,
    OutcomeUnknownError,
    ResponseTooLargeError,
    ServerError,
)
_BAD_VALUE = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError)

_FEW, _MANY, _LAST = 5, 50, 3
"""Rows answered 403 in a row that mean the credential: at first, later, at the end."""


class Verdict(Enum):
    """What becomes of the rows of a call that raised."""

    AGAIN = "not done; try again"
    UNKNOWN = "may or may not be done"
    REFUSED = "not done, and never will be as they are"
    STOP = "not their fault; stop"


def judge(error: BaseException, *, sent: bool, repeatable: bool) -> Verdict:
    """What *error* means for the rows of the call that raised it."""
    if not isinstance(error, AsyncClientsError):
        if isinstance(error, _BAD_VALUE) or not sent:
            return Verdict.REFUSED
        return Verdict.AGAIN if repeatable else Verdict.UNKNOWN
    if isinstance(error, _STOPS):
        return Verdict.STOP
    if isinstance(error, DecodeError) and error.is_error_body and (repeatable or not sent):
        return Verdict.REFUSED
    if isinstance(error, _NOT_CARRIED_OUT) or error.status in _NOT_CARRIED_OUT_STATUSES:
        return Verdict.AGAIN
    if isinstance(error, TokenError):
        return Verdict.STOP
    if isinstance(error, _DOUBTFUL):
        return Verdict.AGAIN if repeatable or not sent else Verdict.UNKNOWN
    return Verdict.REFUSED


def proves_access(error: BaseException) -> bool:
    """True if the vendor's no to a row, *error*, shows that the credential is valid."""
    return isinstance(error, StatusError) and not isinstance(error, ForbiddenError)


T = TypeVar("T")


class Attempt(NamedTuple):
    """When a call began: its number among all calls, and how many 403s there had been."""

    number: int
    seen: int


class ForbiddenRows(Generic[T]):
    """Rows that were answered 403: is the row forbidden, or was the credential revoked?

    Such a row waits, neither failed nor sent again. It has failed once a call that began
    after its 403 succeeds: the credential works. But if of all calls the last 50 were
    answered 403 (5 while nothing has ever succeeded), or at the end of the input the last 3,
    it is the credential: the run stops, and the rows that wait are pending. Calls count in
    the order in which they began, since responses overtake each other.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Attempt, int, T, ForbiddenError]] = deque()
        self._begun = self._seen = 0
        self._succeeded = 0
        """The number of the last call that succeeded."""

    def begin(self) -> Attempt:
        """Note that a call begins."""
        self._begun += 1
        return Attempt(self._begun, self._seen)

    def add(self, attempt: Attempt, row: T, error: ForbiddenError, *, done: bool) -> None:
        """*row* was answered 403 in *attempt*; *done*: the job has carried out rows.

        Raises:
            ForbiddenError: it is the credential.
        """
        self._waiting.append((attempt, self._seen, row, error))
        self._seen += 1
        if self._streak() >= (_MANY if done or self._succeeded else _FEW):
            raise self._revoked(error)

    def succeeded(self, attempt: Attempt) -> list[tuple[T, ForbiddenError]]:
        """Return the rows that are forbidden, now that *attempt* has succeeded."""
        self._succeeded = max(self._succeeded, attempt.number)
        failed: list[tuple[T, ForbiddenError]] = []
        while self._waiting and self._waiting[0][1] < attempt.seen:
            failed.append(self._waiting.popleft()[2:])
        return failed

    def ended(self, *, done: bool) -> list[tuple[T, ForbiddenError]]:
        """Return the rows that are forbidden, now that there are no more to send.

        Raises:
            ForbiddenError: it is the credential.
        """
        if self._waiting and self._streak() >= (_LAST if done or self._succeeded else 1):
            raise self._revoked(self._waiting[-1][3])
        failed = [(row, error) for _, _, row, error in self._waiting]
        self._waiting.clear()
        return failed

    def _streak(self) -> int:
        return sum(attempt.number > self._succeeded for attempt, *_ in self._waiting)

    def _revoked(self, error: ForbiddenError) -> ForbiddenError:
        error.advice = (
            f"The last {self._streak()} rows were answered 403: the credential may have been "
            "revoked. They are not failed; run again with a valid one. If only these rows are "
            "forbidden, add one at the end of the input that is not"
        )
        return error
