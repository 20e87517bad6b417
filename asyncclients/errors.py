"""All errors of the library: one tree, picklable, without secrets.

* The call, the cause and the advice are attributes; `str()` is made from them.
* `pickle.loads(pickle.dumps(error)) == error` for every class, so that errors pass through
  process pools and task queues.
* An error holds plain values only: no request, response or exception of aiohttp, nothing
  that could hold a credential.
* "No response" and "an error response" are different branches of the tree.
"""

from __future__ import annotations

from typing import Any, Literal, Self


def _facts_of(cls: type[AsyncClientsError]) -> frozenset[str]:
    """Return the names of the fields of *cls*."""
    return frozenset(
        name
        for base in cls.__mro__
        if issubclass(base, AsyncClientsError)
        for name in base.__annotations__
    )


class AsyncClientsError(Exception):
    """Base class of all errors that this library raises on purpose."""

    vendor: str | None = None
    """Name of the vendor, as in `intouch`."""
    operation: str | None = None
    """Name of the operation, as in `contacts.create`."""
    method: str | None = None
    path: str | None = None
    """Path of the request, without the query string."""
    status: int | None = None
    """HTTP status; None without a response."""
    attempts: int | None = None
    """Requests that the call sent or tried to send, from 1."""
    advice: str | None = None
    """What to do."""
    excerpt: str | None = None
    """Start of the response's body, at most 200 characters, redacted."""
    request_id: str | None = None
    """The vendor's id of the request; None if it sent none."""

    # Whether the message has a subject of its own, so that a colon separates it from the call.
    # Without an annotation, which would make it a field.
    _is_sentence = False

    def __init__(self, message: str = "", **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        for name, value in facts.items():
            if name not in _facts_of(type(self)):
                raise TypeError(f"{type(self).__name__} has no field {name!r}")
            setattr(self, name, value)

    def _facts(self) -> dict[str, Any]:
        # Attributes that other code sets on an exception are no fields.
        return {name: value for name, value in vars(self).items() if name in _facts_of(type(self))}

    def with_facts(self, **facts: Any) -> Self:
        """Return a copy of the error with *facts* for the fields that were not set."""
        return type(self)(self.message, **{**facts, **self._facts()})

    def __reduce__(self) -> tuple[Any, ...]:
        notes = {"__notes__": self.__notes__} if hasattr(self, "__notes__") else {}
        return type(self), (self.message,), {**self._facts(), **notes}

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        assert isinstance(other, AsyncClientsError)
        return self.message == other.message and self._facts() == other._facts()

    def __hash__(self) -> int:
        return hash((type(self), self.message, self.operation, self.path))

    def __str__(self) -> str:
        parts = [self._call(), self.message or "failed"]
        if self.attempts is not None and self.attempts > 1:
            parts.append(f"(after {self.attempts} attempts)")
        text = " ".join(part for part in parts if part)
        if self.excerpt:
            text += f": {self.excerpt}"
        if self.request_id:
            text += f" [request id {self.request_id}]"
        if self.advice:
            text += f". {self.advice}"
        return text

    def _call(self) -> str:
        name = f"{self.vendor}." if self.vendor and self.operation else ""
        name += self.operation or (f"{self.vendor}:" if self.vendor else "")
        wire = " ".join(part for part in (self.method, self.path) if part)
        call = f"{name} ({wire})" if name and wire else name or wire
        return f"{call}:" if call and self._is_sentence and not call.endswith(":") else call

    def __repr__(self) -> str:
        facts = "".join(f", {name}={value!r}" for name, value in self._facts().items())
        return f"{type(self).__name__}({self.message!r}{facts})"


class ConfigurationError(AsyncClientsError, ValueError):
    """A client, quota or pool has an argument that cannot work."""

    _is_sentence = True


class InvalidValueError(AsyncClientsError, ValueError):
    """A value that the vendor does not accept, according to its manual; nothing was sent."""

    field: str | None = None
    """Struct and field, as in `NewContact.email`."""
    value: str | None = None
    """The value as source text, at most 80 characters, redacted."""
    rule: str | None = None
    """What a value must be: a type, or words such as `at most 255 characters`."""
    source: str | None = None
    """The words of the vendor's manual, and its URL; None if the value has the wrong type."""


class ClientClosedError(AsyncClientsError):
    """The pool was closed before or during the call."""

    _is_sentence = True


class WrongEventLoopError(AsyncClientsError):
    """The pool belongs to another event loop, or to another thread's."""

    _is_sentence = True


class DeadlineExceededError(AsyncClientsError, TimeoutError):
    """The call could not finish before its deadline.

    Raised at once, with nothing sent, if the wait in the queue alone would be longer.
    """

    eta: float | None = None
    """Seconds until the call could have been sent, as estimated."""


class UploadError(AsyncClientsError, ValueError):
    """The source of an upload had more or fewer bytes than announced."""


class PaginationError(AsyncClientsError):
    """The server repeated a page, or the pages contradict each other."""


class DecodeError(AsyncClientsError):
    """The response does not match the manual: invalid, of another type, or incomplete."""

    is_error_body: bool = False
    """True if the status was a success and the body reports an error instead of a result."""
    received: Any = None
    """The decoded items, if only their number does not match the manual."""


class ResponseTooLargeError(AsyncClientsError):
    """The decompressed response is larger than the pool's `max_response_bytes`."""


class UnexpectedRedirectError(AsyncClientsError):
    """The server sent a redirect. Redirects are never followed."""

    location: str | None = None
    """Scheme, host and path of the target, without the query string."""


class NoResponseError(AsyncClientsError):
    """No response was received."""

    sent: Literal["no", "maybe"] = "maybe"
    """`no`: nothing was sent. `maybe`: the request may have been carried out."""


class ConnectError(NoResponseError):
    """No connection was established; nothing was sent."""

    sent: Literal["no", "maybe"] = "no"


class DisconnectedError(NoResponseError):
    """The connection was lost before the response was complete."""


class AttemptTimeoutError(NoResponseError, TimeoutError):
    """One attempt took longer than its `timeout`."""


class TLSError(NoResponseError):
    """The server's certificate or TLS version was rejected; nothing was sent."""

    sent: Literal["no", "maybe"] = "no"


class OutcomeUnknownError(AsyncClientsError):
    """A call that is not idempotent may or may not have been carried out.

    The request may have been sent, and there is no usable response. Look at the vendor's
    side before sending it again.
    """


class TokenError(AsyncClientsError):
    """No access token could be obtained."""


class TokenRejectedError(TokenError):
    """The vendor rejected a token that it had just issued, or the client itself."""


class TokenEndpointError(TokenError):
    """The token endpoint sent no usable response."""


class StatusError(AsyncClientsError):
    """The response has an error status."""

    retry_after: float | None = None
    """Seconds to wait, as the vendor asks; None if it does not."""


class BadRequestError(StatusError):
    """400: the vendor could not read the request."""


class UnauthorizedError(StatusError):
    """401: the credential is missing or wrong."""


class ForbiddenError(StatusError):
    """403: the credential is known, but lacks the permission."""


class NotFoundError(StatusError):
    """404: there is no such object or path."""


class ConflictError(StatusError):
    """409: the request conflicts with the vendor's data."""


class UnprocessableEntityError(StatusError):
    """422: well formed, but invalid."""

    errors: dict[str, Any] | list[Any] | None = None
    """The vendor's messages by field, if it sent any."""


class RateLimitedError(StatusError):
    """429, or the vendor's equivalent of it."""


class ServerError(StatusError):
    """5xx: the vendor failed."""


class BackfillError(AsyncClientsError):
    """A pull or push could not start, or stopped before its end; its state is saved."""


class InputError(BackfillError, ValueError):
    """The input cannot be used. Raised before anything is sent."""

    file: str | None = None
    line: int | None = None
    """Line number in *file*, from 1."""


class StateError(BackfillError):
    """The state file cannot be used."""

    file: str | None = None


class StateInUseError(StateError):
    """Another run uses the same state file."""

    pid: int | None = None
    """Process id of that run."""


class StateMismatchError(StateError, ValueError):
    """The file is the state of another job or version, damaged, or no state at all."""


class BackfillStoppedError(BackfillError):
    """The run stopped: too many rows failed, or the vendor was unavailable for too long.

    Nothing is lost: run it again with the same state to resume.
    """

    report: Any = None
    """The `Report` until the stop."""


def error_text(error: BaseException) -> str:
    """Return the message of *error*, its repr if it has none; valid UTF-8, and never raises.

    A lone surrogate, as in a file name or a header that is not UTF-8, becomes an escape.
    """
    for write in (str, repr):
        try:
            text = write(error)
        except Exception:  # noqa: BLE001, S112 - a foreign `__str__` may raise anything
            continue
        if text:
            return encodable(text)
    return encodable(type(error).__name__)


def row_reason(error: BaseException) -> str:
    """Return the text of *error* as the reason why a row failed.

    The advice about an invalid value is left out, because a command cannot send it unchecked.
    """
    if isinstance(error, InvalidValueError):
        error = type(error)(error.message, vendor=error.vendor, operation=error.operation)
    return error_text(error)


def encodable(text: str) -> str:
    """Return *text* with each lone surrogate written as an escape."""
    return text.encode("utf-8", "backslashreplace").decode()
