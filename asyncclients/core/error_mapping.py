"""From an outcome that cannot be used to the error that says so.

The error quotes the start of the vendor's body, with every known credential
cut out of it first, because vendors echo what they were sent.
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
from asyncclients.ratelimit.headers import parse_rate_limit_headers
from asyncclients.secret import Secret, redact

if TYPE_CHECKING:
    from collections.abc import Iterable

_LOOKED_AT = 4096
"""Bytes of a body in which an excerpt is sought."""
_LOOK_FIRST = (
    "It may have been carried out: look at the vendor's side before sending it again, "
    "or use retry_unsafe=True where a duplicate does no harm"
)


def redacted_excerpt(body: bytes, secrets: Iterable[Secret]) -> str:
    """The start of *body* on one line, without credentials."""
    text = body[:_LOOKED_AT].decode("utf-8", "replace")
    return excerpt(redact(text, secrets, more=len(body) > _LOOKED_AT).encode())


def request_id(outcome: Response, vendor: Vendor, secrets: Iterable[Secret]) -> str | None:
    """The vendor's id of the exchange, without credentials."""
    found = vendor.request_id(outcome.headers)
    return None if found is None else encodable(redact(found, secrets))


def retry_after(outcome: Response, *, refused: bool = False) -> float | None:
    """Seconds that *outcome* asks to wait, None where it does not say.

    *refused*: it is a refusal by rate, whatever its status.
    """
    headers: Any = outcome.headers
    signal = parse_rate_limit_headers(429 if refused else outcome.status, headers)
    return None if signal is None else signal.retry_after


def error_from(
    outcome: Outcome, meaning: ResponseKind, vendor: Vendor, secrets: Iterable[Secret]
) -> AsyncClientsError:
    """The error that *outcome* stands for."""
    if isinstance(outcome, NoResponse):
        return _no_response_error(outcome)
    facts: dict[str, Any] = {
        "status": outcome.status,
        "excerpt": redacted_excerpt(outcome.body, secrets),
        "request_id": request_id(outcome, vendor, secrets),
        "advice": vendor.advice(outcome),
    }
    if 300 <= outcome.status < 400:
        return _redirect(outcome, facts, secrets)
    if meaning in (ResponseKind.RATE_LIMITED, ResponseKind.QUOTA_EXHAUSTED):
        return _rate_limited_error(outcome, meaning, facts)
    return _status_error(outcome, facts, secrets)


def unknown_outcome(
    outcome: Outcome, vendor: Vendor, secrets: Iterable[Secret]
) -> OutcomeUnknownError:
    """The error for a call that must not be repeated and whose answer is lost."""
    if isinstance(outcome, NoResponse):
        return OutcomeUnknownError(
            f"{outcome.why}, after the request may have left", advice=_LOOK_FIRST
        )
    return OutcomeUnknownError(
        f"answered {outcome.status}: a gateway lost the vendor's answer",
        status=outcome.status,
        excerpt=redacted_excerpt(outcome.body, secrets),
        request_id=request_id(outcome, vendor, secrets),
        advice=_LOOK_FIRST,
    )


def _no_response_error(outcome: NoResponse) -> AsyncClientsError:
    facts: dict[str, Any] = {"advice": outcome.advice}
    if issubclass(outcome.error, NoResponseError):
        facts["sent"] = outcome.sent
    return outcome.error(outcome.why, **facts)


_BY_STATUS: dict[int, type[StatusError]] = {
    400: BadRequestError,
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    422: UnprocessableEntityError,
    429: RateLimitedError,
}


def status_error_class(status: int) -> type[StatusError]:
    """The class that stands for HTTP *status*."""
    if status >= 500:
        return ServerError
    return _BY_STATUS.get(status, StatusError)


def _status_error(
    outcome: Response, facts: dict[str, Any], secrets: Iterable[Secret]
) -> StatusError:
    cls = status_error_class(outcome.status)
    error = cls(f"answered {outcome.status}", **facts)
    if isinstance(error, ServerError):
        error.retry_after = retry_after(outcome)
    if isinstance(error, UnprocessableEntityError):
        clean = redact(outcome.body.decode("utf-8", "replace"), secrets).encode()
        error.errors = field_errors(clean)
    return error


def _rate_limited_error(
    outcome: Response, meaning: ResponseKind, facts: dict[str, Any]
) -> RateLimitedError:
    wait = retry_after(outcome, refused=True)
    if meaning is ResponseKind.QUOTA_EXHAUSTED:
        facts["advice"] = "The plan's quota is spent: waiting seconds will not help; ask the vendor"
        return RateLimitedError("said that the quota is spent", retry_after=wait, **facts)
    asked = "" if wait is None else f" and asked to wait {wait:g} s"
    return RateLimitedError(f"refused by rate{asked}", retry_after=wait, **facts)


def _redirect(
    outcome: Response, facts: dict[str, Any], secrets: Iterable[Secret]
) -> UnexpectedRedirectError:
    facts["advice"] = (
        "Redirects are never followed, they would carry the credential; check base_url"
    )
    location = safe_location(encodable(redact(outcome.headers.get("Location", ""), secrets)))
    message = f"answered {outcome.status}, a redirect to {location or 'nowhere'}"
    return UnexpectedRedirectError(message, location=location, **facts)


def safe_location(location: str) -> str | None:
    """*location* without user info, query and fragment."""
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
