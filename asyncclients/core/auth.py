"""Logins (a header with every request, or OAuth 2.0 client credentials) and access tokens.

Values and pure functions only. `tokens.py` requests, keeps and refreshes access tokens.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from multidict import MultiMapping

from asyncclients.core.codec import read_object
from asyncclients.core.endpoint import Response
from asyncclients.errors import ConfigurationError, TokenEndpointError
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


_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")

Header = tuple[str, Secret]


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """A credential, as it is sent in a header.

    Attributes:
        value: of the header, with its prefix.
        secrets: every secret in it, to redact in responses.
        token_path: path of the token endpoint, relative to the base URL, if the credential is
            sent only there (OAuth 2.0 client credentials, RFC 6749 §4.4); None to send it with
            every request.
        renew: returns the login with the current credential, and may block; None if the
            credential does not rotate.
    """

    header: str
    value: Secret
    secrets: tuple[Secret, ...]
    token_path: str | None = None
    renew: Callable[[], Login] | None = None


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """An access token, or the current value of a credential that rotates.

    From the loop time *refresh_at* on a new one is requested; this one is used until that arrives,
    but not after *expires_at*. *parts* are other secrets in it.
    """

    value: Secret
    authorization: Secret
    expires_at: float = math.inf
    refresh_at: float = math.inf
    header: str = "Authorization"
    parts: tuple[Secret, ...] = ()

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """Everything to redact in responses."""
        return self.value, self.authorization, *self.parts


def bearer(value: Secret, expires_at: float, refresh_at: float = math.inf) -> Token:
    """Return a Bearer token (RFC 6750) of *value*."""
    header = Secret("Bearer " + value.reveal())
    return Token(value=value, authorization=header, expires_at=expires_at, refresh_at=refresh_at)


def api_key(header: str, key: Secret, *, prefix: str = "") -> Login:
    """Return a login that sends *key* in *header*, after *prefix*."""
    value = Secret(f"{prefix}{key.reveal()}")
    renew = _renewal(partial(api_key, header, prefix=prefix), key)
    return Login(header=header, value=value, secrets=(key,), renew=renew)


def basic(user: Secret, password: Secret) -> Login:
    """Return an HTTP Basic login, RFC 7617; raises `ConfigurationError` for a colon in *user*."""
    if ":" in str(user.reveal()):
        raise ConfigurationError(
            "the user name for HTTP Basic contains a colon, where servers split it from the "
            "password (RFC 7617)",
            advice="Check that the user name is not the whole pair of user name and password",
        )
    pair = Secret(f"{user.reveal()}:{password.reveal()}")
    # An encoding error would show the pair; `problem_of` reports a lone surrogate.
    encoded = Secret(base64.b64encode(pair.reveal().encode(errors="replace")).decode())
    return Login(
        header="Authorization",
        value=Secret(f"Basic {encoded.reveal()}"),
        secrets=(user, password, encoded),
        renew=_renewal(basic, user, password),
    )


def client_credentials(path: str, client_id: Secret, client_secret: Secret) -> Login:
    """Return the login of a vendor that issues tokens at *path*, relative to the base URL."""
    renew = _renewal(partial(client_credentials, path), client_id, client_secret)
    login = basic(client_id, client_secret)
    return msgspec.structs.replace(login, token_path=path, renew=renew)


def _renewal(make: Callable[..., Login], *secrets: Secret) -> Callable[[], Login] | None:
    """Return a function that makes the login of the current *secrets*; None if none rotates."""
    if not any(isinstance(secret, RotatingSecret) for secret in secrets):
        return None
    return lambda: make(*(secret.renewed() for secret in secrets))


def problem_of(login: Login) -> str | None:
    """Return why *login* cannot be sent, without quoting it; None if it can."""
    header = login.value
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


def read_token(body: bytes, now: float) -> Token:
    """Return the token in a response of the token endpoint, RFC 6749 §5.1.

    `expires_in` is read leniently (number, numeric text, missing, invalid): a token that
    expires early is rejected with a 401 and replaced.

    Raises:
        TokenEndpointError: there is no token in it; the message does not quote it.
    """
    fields = read_object(body) or {}
    value, kind = token_text(fields.pop("access_token", None)), fields.get("token_type")
    if value is None:
        raise TokenEndpointError("gave no token: the reply holds no access_token")
    if kind is not None and str(kind).lower() != "bearer":
        raise TokenEndpointError("gave no token: the reply holds one that is not a Bearer token")
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


def is_invalid_token_response(response: Response) -> bool:
    """Return True for a 401 because of an invalid or expired token (RFC 6750 §3.1).

    True also for a 401 that names no error or cannot be read: one refresh is cheap. False
    for a 401 that names another error.
    """
    if response.status != 401:
        return False
    headers = response.headers
    challenges = headers.get("WWW-Authenticate", "")
    if isinstance(headers, MultiMapping):
        challenges = ", ".join(headers.getall("WWW-Authenticate", ()))
    reply = read_object(response.body) or {}
    named = [reply[name] for name in ("error", "errors") if reply.get(name)]
    if not named and not _CHALLENGE_ERROR.search(challenges):
        return True
    texts = [reply.get(name) for name in ("error_description", "message", "detail", "code")]
    return any(_INVALID.search(str(text)) for text in (challenges, *named, *texts))
