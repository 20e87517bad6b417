"""Plans: what a run would send, found out without sending anything."""

from __future__ import annotations

import msgspec


class RequestPreview(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it would be sent, without headers and so without a credential.

    Attributes:
        method: HTTP method.
        path: path and query of the URL, percent-encoded.
        body: content, as text; None without one.
    """

    method: str
    path: str
    body: str | None = None


class InvalidRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row that would fail without being sent.

    Attributes:
        line: where the row starts in the input, from 1; its number if the input has no lines.
        reason: why it would fail.
    """

    line: int
    reason: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a run would do; with an existing state, what is left to do.

    Attributes:
        rows: rows that the run would handle: the valid, the invalid and the skipped ones.
        valid: rows that would be sent.
        invalid: rows that would fail without being sent.
        skipped: rows with nothing to send.
        create: rows of a sync that would be created.
        update: rows of a sync that would be updated.
        delete: items that a sync would delete.
        unchanged: rows of a sync that need no request.
        missing: known items that the input of a sync lacks.
        requests: calls needed if none has to be repeated, a call for an access token included.
        seconds: from the first to the last of these calls at the quota, if no other call uses
            it; 0 without a quota. None if the quota is unknown, as that of a function of your own.
        preview: the first request; None if there is none, or if a function of your own sends it.
        failures: the first invalid rows, at most 20.
    """

    rows: int = 0
    valid: int = 0
    invalid: int = 0
    skipped: int = 0
    create: int = 0
    update: int = 0
    delete: int = 0
    unchanged: int = 0
    missing: int = 0
    requests: int = 0
    seconds: float | None = None
    preview: RequestPreview | None = None
    failures: tuple[InvalidRow, ...] = ()
