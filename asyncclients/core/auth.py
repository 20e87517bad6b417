"""Logging in, as values: which header carries the credential, how a token is asked for.

Pure halves only. A fixed login is a header; a client-credentials login is a
request to make and a reply to read. Who keeps the token, and when it is
fetched again, is `tokens.py`.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from multidict import MultiMapping

from asyncclients.core.codec import read_object
from asyncclients.errors import ConfigurationError
from asyncclients.secret import Secret

DEFAULT_LIFETIME = 900.0
"""Seconds a token is trusted whose lifetime is missing or absurd."""
SHORTEST_LIFETIME = 1.0
"""Seconds below which a lifetime is absurd: such a token could not be used once."""
LONGEST_LIFETIME = 3650 * 86_400.0
"""Seconds beyond which a lifetime is absurd."""
_INVALID = re.compile(
    r"invalid[ _-]?token|(?:token|jwt)(?:[\W_].{0,60}?|)expired|expired[ _-](?:\w+[ _-])?token",
    re.IGNORECASE | re.DOTALL,
)
"""How servers say that a token is invalid or has expired."""
_CHALLENGE_ERROR = re.compile(r'\berror\s*=\s*"?([\w.-]+)', re.IGNORECASE)


Header = tuple[str, Secret]


class HeaderLogin(msgspec.Struct, frozen=True, kw_only=True):
    """A credential that is the same header on every request.

    Attributes:
        header: name of the header.
        value: the whole value, prefix included.
        secrets: every secret in it, to be cut from what vendors echo.
    """

    header: str
    value: Secret
    secrets: tuple[Secret, ...]


class ClientCredentials(msgspec.Struct, frozen=True, kw_only=True):
    """OAuth 2.0 client credentials, RFC 6749 §4.4.

    Attributes:
        path: of the token endpoint, relative to the vendor's base.
        basic: client id and secret as HTTP Basic, RFC 6749 §2.3.1.
        secrets: every secret in it.
    """

    path: str
    basic: Secret
    secrets: tuple[Secret, ...]


Login = HeaderLogin | ClientCredentials

_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")

TOKEN_BODY = b"grant_type=client_credentials"


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """An access token.

    Attributes:
        value: the token itself.
        authorization: the whole header that carries it.
        expires_at: loop instant from which it is no longer used.
        refresh_at: loop instant from which a new one is asked for while this one still serves.
    """

    value: Secret
    authorization: Secret
    expires_at: float
    refresh_at: float = math.inf

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """All that must be cut from what the vendor echoes."""
        return self.value, self.authorization


def bearer(value: Secret, expires_at: float, refresh_at: float = math.inf) -> Token:
    """The token *value*, sent as a Bearer token (RFC 6750)."""
    authorization = Secret("Bearer " + value.reveal())
    return Token(
        value=value, authorization=authorization, expires_at=expires_at, refresh_at=refresh_at
    )


def api_key(header: str, key: Secret, *, prefix: str = "") -> HeaderLogin:
    """The login of a vendor that wants *key* in *header*."""
    return HeaderLogin(header=header, value=Secret(f"{prefix}{key.reveal()}"), secrets=(key,))


def basic(user: Secret, password: Secret) -> HeaderLogin:
    """HTTP Basic, RFC 7617."""
    value = basic_value(user, password)
    return HeaderLogin(header="Authorization", value=value, secrets=(user, password, _bare(value)))


def basic_value(user: Secret, password: Secret) -> Secret:
    """The value of a Basic `Authorization` header.

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
    # A lone surrogate is reported by `problem_of`, an encoding error would show the pair.
    return Secret("Basic " + base64.b64encode(pair.reveal().encode(errors="replace")).decode())


def _bare(value: Secret) -> Secret:
    """*value* of a header without its scheme, as a vendor may echo it."""
    return Secret(value.reveal().partition(" ")[2])


def client_credentials(path: str, client_id: Secret, client_secret: Secret) -> ClientCredentials:
    """The login of a vendor that issues tokens at *path*."""
    value = basic_value(client_id, client_secret)
    secrets = (client_id, client_secret, _bare(value))
    return ClientCredentials(path=path, basic=value, secrets=secrets)


def problem_of(login: Login) -> str | None:
    """Why no request can carry *login*; None if one can. In words that do not quote it."""
    header = login.value if isinstance(login, HeaderLogin) else login.basic
    for secret in (*login.secrets, header):
        if problem := problem_with(secret):
            return problem
    if not header.reveal().isascii() or header.reveal() != header.reveal().strip():
        return "holds characters that no header can carry, or blanks around it"
    return None


def problem_with(secret: Secret) -> str | None:
    """Why *secret* can be no credential; None if it can. In words that do not quote it."""
    value: Any = secret.reveal()
    if not isinstance(value, str):
        return f"must be text, not {'None' if value is None else type(value).__name__}"
    if not value:
        return "is empty"
    if _CONTROL.search(value):
        return "holds a control character, often a newline at its end"
    return None


class TokenReplyError(ValueError):
    """The token endpoint's reply holds no token; says why, without the reply."""


def read_token(body: bytes, now: float) -> Token:
    """The token in a reply of the token endpoint, RFC 6749 §5.1.

    `expires_in` is read leniently (number, numeric text, missing, absurd): it is
    advice about when to ask again, and the vendor's 401 has the last word.

    Raises:
        TokenReplyError: if there is no token in it.
    """
    fields = read_object(body) or {}
    value, kind = token_text(fields.pop("access_token", None)), fields.get("token_type")
    if value is None:
        raise TokenReplyError("the reply holds no access_token")
    if kind is not None and str(kind).lower() != "bearer":
        raise TokenReplyError("the reply holds a token that is not a Bearer token")
    lifetime = _lifetime(fields.get("expires_in"))
    # Renewed a little early, so that it does not expire on its way, and in two steps, so
    # that a token endpoint which is down for a moment fails no call.
    early = min(60.0, lifetime * 0.1)
    return bearer(value, now + lifetime - early / 2, now + lifetime - early)


def token_text(value: Any) -> Secret | None:
    """*value* as a token; None unless it may travel in a header."""
    usable = isinstance(value, str) and value and value.isascii() and value.isprintable()
    return Secret(value) if usable else None


def _lifetime(value: Any) -> float:
    """Seconds to use a token, from a vendor's `expires_in`."""
    try:
        seconds = float(value) if isinstance(value, (int, float, str)) else math.nan
    except (ValueError, OverflowError):
        seconds = math.nan
    if isinstance(value, bool) or not math.isfinite(seconds) or seconds < SHORTEST_LIFETIME:
        return DEFAULT_LIFETIME
    return min(seconds, LONGEST_LIFETIME)


def is_invalid_token_response(status: int, headers: Mapping[str, str], body: bytes) -> bool:
    """Is this reply a 401 that says the token is no good (RFC 6750 §3.1)?

    A 401 that names another error is not; one that names none, or whose body
    cannot be read, is taken for one: a refresh is cheap and asked for once.
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
    said = [reply.get(name) for name in ("error_description", "message", "detail", "code")]
    return any(_INVALID.search(str(text)) for text in (challenges, *named, *said))
