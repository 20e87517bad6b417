"""The table of verdicts, line by line."""

from __future__ import annotations

import pytest

from asyncclients import (
    AttemptTimeoutError,
    BadRequestError,
    ClientClosedError,
    ConnectError,
    DeadlineExceededError,
    DecodeError,
    DisconnectedError,
    NotFoundError,
    OutcomeUnknownError,
    RateLimitedError,
    ServerError,
    StatusError,
    TLSError,
    TokenEndpointError,
    TokenRejectedError,
    UnauthorizedError,
    UnexpectedRedirectError,
    UnprocessableEntityError,
)
from asyncclients.backfill.delivery import RowOutcome, classify_error

AGAIN, UNKNOWN, REFUSED, STOP = (
    RowOutcome.RETRY,
    RowOutcome.UNKNOWN,
    RowOutcome.FAILED,
    RowOutcome.STOP,
)

TABLE = [
    # error, verdict where it may be repeated, and where it must not
    (RateLimitedError(), AGAIN, AGAIN),
    (ConnectError(), AGAIN, AGAIN),
    (DeadlineExceededError(), AGAIN, AGAIN),
    (TokenEndpointError(), AGAIN, AGAIN),
    (OutcomeUnknownError(), AGAIN, UNKNOWN),
    (DisconnectedError(), AGAIN, UNKNOWN),
    (AttemptTimeoutError(), AGAIN, UNKNOWN),
    (ServerError(), AGAIN, UNKNOWN),
    (DecodeError(), AGAIN, UNKNOWN),
    (DecodeError(is_error_body=True), REFUSED, UNKNOWN),
    (StatusError(status=408), AGAIN, AGAIN),
    (StatusError(status=425), AGAIN, AGAIN),
    (OSError(), AGAIN, UNKNOWN),
    (UnprocessableEntityError(), REFUSED, REFUSED),
    (BadRequestError(), REFUSED, REFUSED),
    (NotFoundError(), REFUSED, REFUSED),
    (ValueError(), REFUSED, REFUSED),
    (KeyError(), REFUSED, REFUSED),
    (UnauthorizedError(), STOP, STOP),
    (TokenRejectedError(), STOP, STOP),
    (TLSError(), STOP, STOP),
    (UnexpectedRedirectError(), STOP, STOP),
    (ClientClosedError(), STOP, STOP),
]


@pytest.mark.parametrize(("error", "repeatable", "not_repeatable"), TABLE)
def test_the_table(error: Exception, repeatable: RowOutcome, not_repeatable: RowOutcome) -> None:
    """Each error after sending has the verdict of the table, by whether it may be repeated."""
    assert classify_error(error, sent=True, idempotent=True) is repeatable
    assert classify_error(error, sent=True, idempotent=False) is not_repeatable


@pytest.mark.parametrize("error", [error for error, _, verdict in TABLE if verdict is UNKNOWN])
def test_nothing_is_unknown_that_was_not_sent(error: Exception) -> None:
    """Where nothing left, no row is unknown."""
    assert classify_error(error, sent=False, idempotent=False) is not UNKNOWN
