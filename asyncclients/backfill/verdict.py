"""What a call's error means for the rows in it. One table, two facts.

*repeatable*: may the operation be repeated? *sent*: may a request have left?

| error                                                       | rows are                        |
|-------------------------------------------------------------|---------------------------------|
| not carried out: rate limited, 408, 425, no connection, no turn | tried again                 |
| an error in the body of a 2xx                               | failed if repeatable, else unknown |
| outcome unknown, no answer, 5xx, an answer nobody can read  | tried again if repeatable, else unknown |
| the vendor's no (4xx), or a value that the call refuses     | failed (a batch is halved first) |
| no row's fault: credential, TLS, redirect, closed pool      | pending, and the run stops      |
| 403                                                         | see `outage.ForbiddenRows`      |

A 500 says that the vendor failed, not how far it got: a row that must not be
repeated is unknown after it.
"""

from __future__ import annotations

from enum import Enum

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


class RowOutcome(Enum):
    """What becomes of the rows of a call that raised."""

    AGAIN = "not done; try again"
    UNKNOWN = "may or may not be done"
    REFUSED = "not done, and never will be as they are"
    STOP = "not their fault; stop"


def classify_error(error: BaseException, *, sent: bool, idempotent: bool) -> RowOutcome:
    """What *error* means for the rows of the call that raised it."""
    if not isinstance(error, AsyncClientsError):
        if isinstance(error, _BAD_VALUE) or not sent:
            return RowOutcome.REFUSED
        return RowOutcome.AGAIN if idempotent else RowOutcome.UNKNOWN
    if isinstance(error, _STOPS):
        return RowOutcome.STOP
    if isinstance(error, DecodeError) and error.is_error_body and (idempotent or not sent):
        return RowOutcome.REFUSED
    if isinstance(error, _NOT_CARRIED_OUT) or error.status in _NOT_CARRIED_OUT_STATUSES:
        return RowOutcome.AGAIN
    if isinstance(error, TokenError):
        return RowOutcome.STOP
    if isinstance(error, _DOUBTFUL):
        return RowOutcome.AGAIN if idempotent or not sent else RowOutcome.UNKNOWN
    return RowOutcome.REFUSED


def proves_access(error: BaseException) -> bool:
    """True if the vendor's no to a row, *error*, shows that the credential is valid."""
    return isinstance(error, StatusError) and not isinstance(error, ForbiddenError)
