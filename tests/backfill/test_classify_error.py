"""What errors mean for the rows of a delivery."""

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
from asyncclients.backfill.delivery import RowStatus, classify_error

PENDING: RowStatus = "pending"
UNKNOWN: RowStatus = "unknown"
FAILED: RowStatus = "failed"
STOP = None

TABLE = [
    # error, status of the rows of an idempotent call, and of any other call
    (RateLimitedError(), PENDING, PENDING),
    (ConnectError(), PENDING, PENDING),
    (DeadlineExceededError(), PENDING, PENDING),
    (TokenEndpointError(), PENDING, PENDING),
    (OutcomeUnknownError(), PENDING, UNKNOWN),
    (DisconnectedError(), PENDING, UNKNOWN),
    (AttemptTimeoutError(), PENDING, UNKNOWN),
    (ServerError(), PENDING, UNKNOWN),
    (DecodeError(), PENDING, UNKNOWN),
    (DecodeError(is_error_body=True), FAILED, UNKNOWN),
    (StatusError(status=408), PENDING, PENDING),
    (StatusError(status=425), PENDING, PENDING),
    (OSError(), PENDING, UNKNOWN),
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
    error: Exception, idempotent: RowStatus | None, not_idempotent: RowStatus | None
) -> None:
    """Each error has the status of the table, for idempotent calls and others."""
    assert classify_error(error, maybe_sent=True, idempotent=True) == idempotent
    assert classify_error(error, maybe_sent=True, idempotent=False) == not_idempotent


@pytest.mark.parametrize("error", [error for error, _, outcome in TABLE if outcome == UNKNOWN])
def test_classify_error_makes_no_unsent_row_unknown(error: Exception) -> None:
    """If no request was sent, no row is unknown."""
    assert classify_error(error, maybe_sent=False, idempotent=False) != UNKNOWN
