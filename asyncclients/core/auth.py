"""Logins: a fixed header, or OAuth 2.0 client credentials.

Values and pure functions only. `tokens.py` requests, keeps and refreshes access tokens.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
from multidict import MultiMapping

from asyncclients.core.codec import read_object
from asyncclients.errors import ConfigurationError
from asyncclients.secret import RotatingSecret, Secret

DEFAULT_LIFETIME = 900.0
"""Seconds to use a token whose lifetime is missing or invalid."""
SHORTEST_LIFETIME = 1.0
"""Seconds; a shorter lifetime is invalid: such a token could not be used once."""
LONGEST_LIFETIME = 3650 * 86_400.0
"""Seconds; a longer lifetime is invalid."""
_INVALID = re.compile(
    r"invalid[ _-]?token|(?:token|jwt)(?:[\W_].{0,60}?|)expired|expired[ _-](?:\w+[ _-])?token",
    re.IGNORECASE | re.DOTALL,
)
"""Matches the text of an error about an invalid or expired token."""
_CHALLENGE_ERROR = re.compile(r'\berror\s*=\s*"?([\w.-]+)', re.IGNORECASE)


Header = tuple[str, Secret]


class HeaderLogin(msgspec.Struct, frozen=True, kw_only=True):
    """A credential sent as the same header with every request.

    Attributes:
        header: name of the header.
        value: value of the header, with its prefix.
        secrets: every secret in it, to redact in responses.
        renew: returns the login with the current credential, and may block; None if the
            credential does not rotate.
    """

    header: str
    value: Secret
    secrets: tuple[Secret, ...]
    renew: Callable[[], HeaderLogin] | None = None


class ClientCredentials(msgspec.Struct, frozen=True, kw_only=True):
    """OAuth 2.0 client credentials, RFC 6749 §4.4.

    Attributes:
        path: of the token endpoint, relative to the base URL.
        basic: client id and secret as HTTP Basic, RFC 6749 §2.3.1.
        secrets: every secret in it.
        renew: as that of `HeaderLogin`.
    """

    path: str
    basic: Secret
    secrets: tuple[Secret, ...]
    renew: Callable[[], ClientCredentials] | None = None


Login = HeaderLogin | ClientCredentials
L = TypeVar("L", HeaderLogin, ClientCredentials)

_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")

TOKEN_BODY = b"grant_type=client_credentials"


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """An access token.

    Attributes:
        value: the token itself.
        authorization: value of the header.
        expires_at: loop time of its expiry; it is not used later.
        refresh_at: loop time to request a new one; this one is used until that arrives.
        parts: other secrets in it.
    """

    value: Secret
    authorization: Secret
    expires_at: float = math.inf
    refresh_at: float = math.inf
    parts: tuple[Secret, ...] = ()

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """Everything to redact in responses."""
        return self.value, self.authorization, *self.parts


def bearer(value: Secret, expires_at: float, refresh_at: float = math.inf) -> Token:
    """Return a Bearer token (RFC 6750) of *value*."""
    authorization = Secret("Bearer " + value.reveal())
    return Token(
        value=value, authorization=authorization, expires_at=expires_at, refresh_at=refresh_at
    )


def api_key(header: str, key: Secret, *, prefix: str = "") -> HeaderLogin:
    """Return a login that sends *key* in *header*, after *prefix*."""

    def login(key: Secret) -> HeaderLogin:
        return HeaderLogin(header=header, value=Secret(f"{prefix}{key.reveal()}"), secrets=(key,))

    return _renewable(login, key)


def basic(user: Secret, password: Secret) -> HeaderLogin:
    """Return an HTTP Basic login, RFC 7617."""

    def login(user: Secret, password: Secret) -> HeaderLogin:
        value = basic_value(user, password)
        secrets = (user, password, _bare(value))
        return HeaderLogin(header="Authorization", value=value, secrets=secrets)

    return _renewable(login, user, password)


def _renewable(make: Callable[..., L], *secrets: Secret) -> L:
    """Return the login that *make* makes of *secrets*; renewable if one of these rotates."""
    login = make(*secrets)
    if not any(isinstance(secret, RotatingSecret) for secret in secrets):
        return login
    return msgspec.structs.replace(
        login, renew=lambda: _renewable(make, *(secret.renewed() for secret in secrets))
    )


def basic_value(user: Secret, password: Secret) -> Secret:
    """Return the value of a Basic `Authorization` header.

    Raises:
        ConfigurationError: for a colon in *user*.
    """
    if ":" in str(user.reveal()):
        raise ConfigurationError(
            "the user name for HTTP Basic contains a colon, where servers split it from the "
            "password (RFC 7617)",
            advice="Check that the user name is not the whole pair of user name and password",
        )
    pair = Secret(f"{user.reveal()}:{password.reveal()}")
    # An encoding error would show the pair; `problem_of` reports a lone surrogate.
    return Secret("Basic " + base64.b64encode(pair.reveal().encode(errors="replace")).decode())


def _bare(value: Secret) -> Secret:
    """Return *value* without its scheme: a vendor may echo it in this form."""
    return Secret(value.reveal().partition(" ")[2])


def client_credentials(path: str, client_id: Secret, client_secret: Secret) -> ClientCredentials:
    """Return the login of a vendor that issues tokens at *path*, relative to the base URL."""

    def login(client_id: Secret, client_secret: Secret) -> ClientCredentials:
        value = basic_value(client_id, client_secret)
        secrets = (client_id, client_secret, _bare(value))
        return ClientCredentials(path=path, basic=value, secrets=secrets)

    return _renewable(login, client_id, client_secret)


def problem_of(login: Login) -> str | None:
    """Return why *login* cannot be sent, without quoting it; None if it can."""
    header = login.value if isinstance(login, HeaderLogin) else login.basic
    for secret in (*login.secrets, header):
        if problem := problem_with(secret):
            return problem
    if not header.reveal().isascii() or header.reveal() != header.reveal().strip():
        return "holds characters that no header can carry, or blanks around it"
    return None


def problem_with(secret: Secret) -> str | None:
    """Return why *secret* cannot be a credential, without quoting it; None if it can."""
    value: Any = secret.reveal()
    if not isinstance(value, str):
        return f"must be text, not {'None' if value is None else type(value).__name__}"
    if not value:
        return "is empty"
    if _CONTROL.search(value):
        return "holds a control character, often a newline at its end"
    return None


class TokenReplyError(ValueError):
    """The token endpoint's response holds no token; the message does not quote it."""


def read_token(body: bytes, now: float) -> Token:
    """Return the token in a response of the token endpoint, RFC 6749 §5.1.

    `expires_in` is read leniently (number, numeric text, missing, invalid): a token that
    expires early is rejected with a 401 and replaced.

    Raises:
        TokenReplyError: there is no token in it.
    """
    fields = read_object(body) or {}
    value, kind = token_text(fields.pop("access_token", None)), fields.get("token_type")
    if value is None:
        raise TokenReplyError("the reply holds no access_token")
    if kind is not None and str(kind).lower() != "bearer":
        raise TokenReplyError("the reply holds a token that is not a Bearer token")
    lifetime = _lifetime(fields.get("expires_in"))
    # Refreshed early, so that it does not expire in transit, and before it stops being
    # used, so that a short outage of the token endpoint fails no call.
    early = min(60.0, lifetime * 0.1)
    return bearer(value, now + lifetime - early / 2, now + lifetime - early)


def token_text(value: Any) -> Secret | None:
    """Return *value* as a token; None if a header cannot carry it."""
    usable = isinstance(value, str) and value and value.isascii() and value.isprintable()
    return Secret(value) if usable else None


def _lifetime(value: Any) -> float:
    """Return the seconds to use a token, from the vendor's `expires_in`."""
    try:
        seconds = float(value) if isinstance(value, (int, float, str)) else math.nan
    except (ValueError, OverflowError):
        seconds = math.nan
    if isinstance(value, bool) or not math.isfinite(seconds) or seconds < SHORTEST_LIFETIME:
        return DEFAULT_LIFETIME
    return min(seconds, LONGEST_LIFETIME)


def is_invalid_token_response(status: int, headers: Mapping[str, str], body: bytes) -> bool:
    """Return True for a 401 because of an invalid or expired token (RFC 6750 §3.1).

    True also for a 401 that names no error or cannot be read: one refresh is cheap. False
    for a 401 that names another error.
    """
    if status != 401:
        return False
    challenges = headers.get("WWW-Authenticate", "")
    if isinstance(headers, MultiMapping):
        challenges = ", ".join(headers.getall("WWW-Authenticate", ()))
    reply = read_object(body) or {}
    named = [reply[name] for name in ("error", "errors") if reply.get(name)]
    if not named and not _CHALLENGE_ERROR.search(challenges):
        return True
    texts = [reply.get(name) for name in ("error_description", "message", "detail", "code")]
    return any(_INVALID.search(str(text)) for text in (challenges, *named, *texts))
