"""The error for an outcome that is no success.

The error quotes the start of the body, redacted first: vendors echo what they were sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from asyncclients.core.codec import excerpt
from asyncclients.core.endpoint import NoResponse, Outcome, Response
from asyncclients.core.vendor import ResponseKind, Vendor, field_errors
from asyncclients.errors import (
    AsyncClientsError,
    BadRequestError,
    ConflictError,
    ForbiddenError,
    NoResponseError,
    NotFoundError,
    OutcomeUnknownError,
    RateLimitedError,
    ServerError,
    StatusError,
    UnauthorizedError,
    UnexpectedRedirectError,
    UnprocessableEntityError,
    encodable,
)
from asyncclients.ratelimit.headers import RateLimitInfo, parse_rate_limit_headers
from asyncclients.secret import Secret, redact

if TYPE_CHECKING:
    from collections.abc import Iterable

_EXCERPT_SOURCE = 4096
"""Bytes of a body that an excerpt is made from."""
_LOOK_FIRST = (
    "It may have been carried out: look at the vendor's side before sending it again, "
    "or use retry_unsafe=True if a duplicate does no harm"
)


def redacted_excerpt(body: bytes, secrets: Iterable[Secret]) -> str:
    """Return the start of *body* on one line, redacted."""
    text = body[:_EXCERPT_SOURCE].decode("utf-8", "replace")
    return excerpt(redact(text, secrets, more=len(body) > _EXCERPT_SOURCE).encode())


def request_id(outcome: Response, vendor: Vendor, secrets: Iterable[Secret]) -> str | None:
    """Return the vendor's id of the request, redacted; None if it sent none."""
    found = vendor.request_id(outcome.headers)
    return None if found is None else encodable(redact(found, secrets))


def retry_after(outcome: Response, *, rate_limited: bool = False) -> float | None:
    """Return the seconds that *outcome* asks to wait, read like a 429 if *rate_limited*; else None."""
    info = _rate_limit_info(outcome, 429 if rate_limited else outcome.status)
    return None if info is None else info.retry_after


def is_unavailable(outcome: Response) -> bool:
    """Return whether *outcome* says for how long the vendor is unavailable: it pauses the scope."""
    info = _rate_limit_info(outcome, outcome.status)
    return info is not None and info.unavailable


def _rate_limit_info(outcome: Response, status: int) -> RateLimitInfo | None:
    headers: Any = outcome.headers
    return parse_rate_limit_headers(status, headers)


def error_from(
    outcome: Outcome, kind: ResponseKind, vendor: Vendor, secrets: Iterable[Secret]
) -> AsyncClientsError:
    """Return the error for *outcome*."""
    if isinstance(outcome, NoResponse):
        sent = {"sent": outcome.sent} if issubclass(outcome.error, NoResponseError) else {}
        return outcome.error(outcome.why, advice=outcome.advice, **sent)
    status, facts = outcome.status, _facts_of(outcome, vendor, secrets)
    if 300 <= status < 400:
        facts["advice"] = (
            "Redirects are never followed, since the credential would be sent; check base_url"
        )
        location = safe_location(encodable(redact(outcome.headers.get("Location", ""), secrets)))
        message = f"answered {status}, a redirect to {location or 'nowhere'}"
        return UnexpectedRedirectError(message, location=location, **facts)
    if kind is not ResponseKind.FAILURE:
        return _rate_limited_error(outcome, kind, facts)
    cls = ServerError if status >= 500 else _BY_STATUS.get(status, StatusError)
    error = cls(f"answered {status}", retry_after=retry_after(outcome), **facts)
    if isinstance(error, UnprocessableEntityError):
        clean = redact(outcome.body.decode("utf-8", "replace"), secrets).encode()
        error.errors = field_errors(clean)
    return error


def unknown_outcome(
    outcome: Outcome, vendor: Vendor, secrets: Iterable[Secret]
) -> OutcomeUnknownError:
    """Return the error for a call that must not be retried and whose response is lost."""
    if isinstance(outcome, NoResponse):
        message = f"{outcome.why}, after the request may have left"
        return OutcomeUnknownError(message, advice=_LOOK_FIRST)
    facts = {**_facts_of(outcome, vendor, secrets), "advice": _LOOK_FIRST}
    message = f"answered {outcome.status}: a gateway lost the vendor's answer"
    return OutcomeUnknownError(message, **facts)


def _facts_of(outcome: Response, vendor: Vendor, secrets: Iterable[Secret]) -> dict[str, Any]:
    return {
        "status": outcome.status,
        "excerpt": redacted_excerpt(outcome.body, secrets),
        "request_id": request_id(outcome, vendor, secrets),
        "advice": vendor.advice(outcome),
    }


_BY_STATUS: dict[int, type[StatusError]] = {
    400: BadRequestError,
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    422: UnprocessableEntityError,
    429: RateLimitedError,
}


def _rate_limited_error(
    outcome: Response, kind: ResponseKind, facts: dict[str, Any]
) -> RateLimitedError:
    wait = retry_after(outcome, rate_limited=True)
    if kind is ResponseKind.QUOTA_EXHAUSTED:
        facts["advice"] = "The plan's quota is used up: a short wait will not help; ask the vendor"
        return RateLimitedError("reported that the quota is used up", retry_after=wait, **facts)
    asked = "" if wait is None else f" and asked to wait {wait:g} s"
    return RateLimitedError(f"rate-limited{asked}", retry_after=wait, **facts)


def safe_location(location: str) -> str | None:
    """Return *location* without user info, query and fragment; None if it is not a URL."""
    try:
        parts = urlsplit(location)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return None
    if not location:
        return None
    scheme = f"{parts.scheme}://" if parts.scheme else ("//" if host else "")
    return f"{scheme}{host}{port}{parts.path}"[:200]
