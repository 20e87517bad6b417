"""Every error of the library: one tree, picklable, free of secrets.

Rules:

* Each error knows what happened, to which call, and what to do about it. The
  facts are attributes; `str()` is made from them.
* `pickle.loads(pickle.dumps(error)) == error` holds for every class, so errors
  cross process pools and task queues.
* An error holds plain values only: no request, no response, no exception of
  the HTTP library, nothing that could carry a credential.
* "No answer" and "an answer that says no" are different branches of the tree.
"""

from __future__ import annotations

from typing import Any, Literal, Self


def _facts_of(cls: type[AsyncClientsError]) -> frozenset[str]:
    """The names of the fields that errors of *cls* have."""
    return frozenset(
        name
        for base in cls.__mro__
        if issubclass(base, AsyncClientsError)
        for name in base.__annotations__
    )


class AsyncClientsError(Exception):
    """Base of every error that this library raises on purpose."""

    vendor: str | None = None
    """Which vendor, as in `intouch`."""
    operation: str | None = None
    """Which call, as in `contacts.create`."""
    method: str | None = None
    path: str | None = None
    """The path of the request, without the query string."""
    status: int | None = None
    """HTTP status, where there was an answer."""
    attempts: int | None = None
    """How many requests this call put on the wire or tried to, from 1."""
    advice: str | None = None
    """What to do next."""
    excerpt: str | None = None
    """The start of the vendor's body, at most 200 characters, credentials cut."""
    request_id: str | None = None
    """The vendor's own id of the exchange, where it sent one."""

    def __init__(self, message: str = "", **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        for name, value in facts.items():
            if name not in _facts_of(type(self)):
                raise TypeError(f"{type(self).__name__} has no field {name!r}")
            setattr(self, name, value)

    def _facts(self) -> dict[str, Any]:
        # What others hang on an exception (notes, their own marks) is not a fact.
        return {name: value for name, value in vars(self).items() if name in _facts_of(type(self))}

    def with_facts(self, **facts: Any) -> Self:
        """The same error with *facts* filled in where they were unknown."""
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
        if name and wire:
            return f"{name} ({wire})"
        return name or wire

    def __repr__(self) -> str:
        facts = "".join(f", {name}={value!r}" for name, value in self._facts().items())
        return f"{type(self).__name__}({self.message!r}{facts})"


# --- The caller's own doing ---------------------------------------------------


class ConfigurationError(AsyncClientsError, ValueError):
    """A client, quota or pool was set up in a way that cannot work."""


class ClientClosedError(AsyncClientsError):
    """The pool was closed before or during the call."""


class WrongEventLoopError(AsyncClientsError):
    """The pool belongs to another event loop, or to another thread's."""


# --- Time ---------------------------------------------------------------------


class DeadlineExceededError(AsyncClientsError, TimeoutError):
    """The call could not be done within its deadline.

    Raised at once, with nothing sent, when the queue alone is longer than that.
    """

    eta: float | None = None
    """Seconds until the call could have been sent, as far as it was known."""


class UploadError(AsyncClientsError, ValueError):
    """The source of an upload did not hold as many bytes as were announced."""


# --- Replies that cannot be used ------------------------------------------------


class PaginationError(AsyncClientsError):
    """A page came again, or the pages contradict each other."""


class DecodeError(AsyncClientsError):
    """The reply was not what its document says: wrong form, wrong type, cut short."""

    is_error_body: bool = False
    """True if the status was a success and the body reports an error instead of a result."""
    received: Any = None
    """What could be decoded, where only the number of items is not as documented."""


class ResponseTooLargeError(AsyncClientsError):
    """The reply, decompressed, went over the pool's `max_response_bytes`."""


class UnexpectedRedirectError(AsyncClientsError):
    """The server answered with a redirect, which is never followed."""

    location: str | None = None
    """Where it pointed: scheme, host and path, without the query string."""


# --- No answer ------------------------------------------------------------------


class NoResponseError(AsyncClientsError):
    """No answer arrived."""

    sent: Literal["no", "maybe"] = "maybe"
    """`no`: nothing left this machine. `maybe`: the vendor may have done it."""


class ConnectError(NoResponseError):
    """No connection could be made; nothing was sent."""

    sent: Literal["no", "maybe"] = "no"


class DisconnectedError(NoResponseError):
    """The connection broke before the answer was complete."""


class AttemptTimeoutError(NoResponseError, TimeoutError):
    """One attempt took longer than its `timeout`."""


class TLSError(NoResponseError):
    """The server's certificate or TLS version was refused; nothing was sent."""

    sent: Literal["no", "maybe"] = "no"


class OutcomeUnknownError(AsyncClientsError):
    """A call that must not be repeated may or may not have happened.

    The request may have left, and no usable answer came back. Look at the
    vendor's side before sending it again.
    """


# --- Tokens ---------------------------------------------------------------------


class TokenError(AsyncClientsError):
    """No access token could be had."""


class TokenRejectedError(TokenError):
    """The vendor refused a token that it had just issued, or the client itself."""


class TokenEndpointError(TokenError):
    """The token endpoint gave no usable answer."""


# --- An answer that says no -----------------------------------------------------


class StatusError(AsyncClientsError):
    """The vendor answered with a status that is not a success."""


class BadRequestError(StatusError):
    """400: the vendor could not read the request."""


class UnauthorizedError(StatusError):
    """401: the credential is missing or wrong."""


class ForbiddenError(StatusError):
    """403: the credential is known and not permitted."""


class NotFoundError(StatusError):
    """404: there is no such thing, or no such path."""


class ConflictError(StatusError):
    """409: the request contradicts what the vendor holds."""


class UnprocessableEntityError(StatusError):
    """422: well formed, and refused by validation."""

    errors: dict[str, Any] | list[Any] | None = None
    """The vendor's words per field, where it gave any."""


class RateLimitedError(StatusError):
    """429, or the vendor's own spelling of it."""

    retry_after: float | None = None
    """Seconds the vendor asked us to wait, where it said."""


class ServerError(StatusError):
    """5xx: the vendor failed."""

    retry_after: float | None = None
    """Seconds the vendor asked us to wait, where it said."""


# --- Backfills --------------------------------------------------------------------


class BackfillError(AsyncClientsError):
    """A pull or push could not start, or stopped before its end; its state is saved."""


class InputError(BackfillError, ValueError):
    """The input cannot be used; found before anything was sent."""

    file: str | None = None
    line: int | None = None
    """Where in *file*, from 1."""


class StateError(BackfillError):
    """The state file cannot be used."""

    file: str | None = None


class StateInUseError(StateError):
    """Another run is working on the same state file."""

    pid: int | None = None
    """The process that has it."""


class StateMismatchError(StateError, ValueError):
    """The state file is of another job or version, damaged, or cannot be one at all."""


class BackfillStoppedError(BackfillError):
    """The run gave up: too many bad rows, or a vendor that stayed away.

    Nothing is lost: run again with the same state to go on.
    """

    report: Any = None
    """The `Report` up to the stop."""


def error_text(error: BaseException) -> str:
    """Return the message of *error*, its repr if it has none; valid UTF-8, and never raises.

    A lone surrogate, as in a file name or a header that is not UTF-8, becomes an escape.
    """
    for write in (str, repr):
        try:
            text = write(error)
        except Exception:  # noqa: BLE001, S112 - other people's `__str__` may raise anything
            continue
        if text:
            return encodable(text)
    return encodable(type(error).__name__)


def encodable(text: str) -> str:
    """Return *text* with each lone surrogate written as an escape."""
    return text.encode("utf-8", "backslashreplace").decode()
