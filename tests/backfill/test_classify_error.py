"""The outcomes of errors in a delivery."""

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

RETRY, UNKNOWN, FAILED, STOP = (
    RowOutcome.RETRY,
    RowOutcome.UNKNOWN,
    RowOutcome.FAILED,
    RowOutcome.STOP,
)

TABLE = [
    # error, outcome of an idempotent call, outcome of any other call
    (RateLimitedError(), RETRY, RETRY),
    (ConnectError(), RETRY, RETRY),
    (DeadlineExceededError(), RETRY, RETRY),
    (TokenEndpointError(), RETRY, RETRY),
    (OutcomeUnknownError(), RETRY, UNKNOWN),
    (DisconnectedError(), RETRY, UNKNOWN),
    (AttemptTimeoutError(), RETRY, UNKNOWN),
    (ServerError(), RETRY, UNKNOWN),
    (DecodeError(), RETRY, UNKNOWN),
    (DecodeError(is_error_body=True), FAILED, UNKNOWN),
    (StatusError(status=408), RETRY, RETRY),
    (StatusError(status=425), RETRY, RETRY),
    (OSError(), RETRY, UNKNOWN),
    (UnprocessableEntityError(), FAILED, FAILED),
    (BadRequestError(), FAILED, FAILED),
    (NotFoundError(), FAILED, FAILED),
    (ValueError(), FAILED, FAILED),
    (KeyError(), FAILED, FAILED),
    (UnauthorizedError(), STOP, STOP),
    (TokenRejectedError(), STOP, STOP),
    (TLSError(), STOP, STOP),
    (UnexpectedRedirectError(), STOP, STOP),
    (ClientClosedError(), STOP, STOP),
]


@pytest.mark.parametrize(("error", "idempotent", "not_idempotent"), TABLE)
def test_classify_error_follows_its_table(
    error: Exception, idempotent: RowOutcome, not_idempotent: RowOutcome
) -> None:
    """Each error has the outcome of the table, for idempotent calls and others."""
    assert classify_error(error, sent=True, idempotent=True) is idempotent
    assert classify_error(error, sent=True, idempotent=False) is not_idempotent


@pytest.mark.parametrize("error", [error for error, _, outcome in TABLE if outcome is UNKNOWN])
def test_classify_error_makes_no_unsent_row_unknown(error: Exception) -> None:
    """If no request was sent, no row is unknown."""
    assert classify_error(error, sent=False, idempotent=False) is not UNKNOWN
