"""Login values: headers, token responses, and the meaning of a 401."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from asyncclients.core.auth import (
    DEFAULT_LIFETIME,
    LONGEST_LIFETIME,
    api_key,
    basic,
    client_credentials,
    is_invalid_token_response,
    read_token,
)
from asyncclients.core.endpoint import Response
from asyncclients.errors import TokenEndpointError
from asyncclients.secret import Secret, redact


def reply(**fields: Any) -> bytes:
    return json.dumps({"access_token": "abcdef", "token_type": "Bearer", **fields}).encode()


def test_api_key_is_sent_with_its_prefix() -> None:
    """An API key is sent with its prefix; the bare key is redacted."""
    login = api_key("Authorization", Secret("k-secret"), prefix="ApiKey ")
    assert (login.header, login.value.reveal()) == ("Authorization", "ApiKey k-secret")
    assert redact("no ApiKey k-secret here", login.secrets) == "no ApiKey [credential] here"


@pytest.mark.parametrize("echo", ["{secret}", "Basic {base64}", "{base64}"])
def test_basic_login_is_redacted_in_every_form(echo: str) -> None:
    """Password, header and bare base64 are redacted, of a fixed login and of client credentials."""
    user, password = "us-er-7", "pass-word-9"
    encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
    text = echo.format(secret=password, base64=encoded)
    logins = (
        basic(Secret(user), Secret(password)),
        client_credentials("oauth2/token", Secret(user), Secret(password)),
    )
    for login in logins:
        shown = redact(text, login.secrets)
        assert password not in shown
        assert encoded not in shown


def test_token_reply_is_parsed() -> None:
    """A token is sent as Bearer and renewed before it expires (RFC 6749 §5.1)."""
    token = read_token(reply(expires_in=3600), 1000.0)
    assert token.authorization.reveal() == "Bearer abcdef"
    assert 1000 + 3500 < token.refresh_at < token.expires_at < 1000 + 3600


@pytest.mark.parametrize(
    ("expires_in", "lifetime"),
    [
        (3600, 3600),
        (3600.5, 3600.5),
        ("3600", 3600),
        (1, 1),
        (86_400, 86_400),
        (604_800, 604_800),
        (365 * 86_400, 365 * 86_400),
        (10**15, LONGEST_LIFETIME),
        (10**400, DEFAULT_LIFETIME),
        (None, DEFAULT_LIFETIME),
        (0, DEFAULT_LIFETIME),
        (-1, DEFAULT_LIFETIME),
        (0.001, DEFAULT_LIFETIME),
        ("", DEFAULT_LIFETIME),
        ("soon", DEFAULT_LIFETIME),
        ("inf", DEFAULT_LIFETIME),
        (True, DEFAULT_LIFETIME),
        ([3600], DEFAULT_LIFETIME),
    ],
)
def test_any_lifetime_is_read(expires_in: Any, lifetime: float) -> None:
    """Plausible numbers and numeric text are lifetimes; anything else is fifteen minutes."""
    token = read_token(reply(expires_in=expires_in), 0.0)
    early = min(60.0, lifetime * 0.1)
    assert token.refresh_at == pytest.approx(lifetime - early)
    assert token.expires_at == pytest.approx(lifetime - early / 2)


def test_token_without_lifetime_lasts_fifteen_minutes() -> None:
    """A missing `expires_in` is fifteen minutes."""
    token = read_token(b'{"access_token": "abcdef"}', 0.0)
    assert 0 < token.expires_at < DEFAULT_LIFETIME


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"access_token": null}',
        b'{"access_token": ""}',
        b'{"access_token": 12}',
        b'{"access_token": "with space\\n"}',
        '{"access_token": "zażółć"}'.encode(),
        reply(token_type="mac"),
        reply(token_type=7),
    ],
)
def test_unusable_token_reply_is_rejected(body: bytes) -> None:
    """A response without a usable token is an error that does not quote the response."""
    with pytest.raises(TokenEndpointError) as caught:
        read_token(body, 0.0)
    assert "abcdef" not in str(caught.value)


@given(st.binary() | st.from_regex(r'\{"access_token": .{0,40}\}').map(str.encode))
def test_token_reply_is_parsed_or_rejected(body: bytes) -> None:
    """Any response of a token endpoint is a token or raises `TokenEndpointError`."""
    try:
        token = read_token(body, 0.0)
    except TokenEndpointError:
        return
    value = token.value.reveal()
    assert value
    assert value.isascii()
    assert value.isprintable()
    assert token.refresh_at < token.expires_at


@pytest.mark.parametrize(
    ("challenge", "body", "invalid"),
    [
        ("", b'{"error": "invalid_token"}', True),
        ("", b'{"errors": ["invalid_token"]}', True),
        ('Bearer error="invalid_token"', b"", True),
        ("Bearer realm=x, error=invalid_token", b"<html>", True),
        ('Bearer error="invalid_token"', b'{"message": "no"}', True),
        ("", b"", True),
        ("", b"<html>Unauthorized</html>", True),
        ("", b"{}", True),
        ("Bearer", b'"Unauthorized"', True),
        ("", b"\xef\xbb\xbf" + b'{"error": "invalid_token"}', True),
        ("", b'{"error": "expired_token"}', True),
        ("", b'{"error": "token_expired"}', True),
        ("", b'{"error": {"code": "token_expired"}}', True),
        ("", b'{"error": "TokenExpired"}', True),
        ("", b'{"error": "The access token has expired"}', True),
        ("", b'{"error": "Expired access token"}', True),
        ("", b'{"errors": [{"message": "Token is expired."}]}', True),
        ("", b'{"error": "unauthorized", "message": "The token expired"}', True),
        ("", b'{"error": "jwt expired"}', True),
        ('Bearer error="expired_token"', b"{}", True),
        ('Bearer error="x", error_description="The access token expired"', b"{}", True),
        ("", b'{"code": 401, "message": "no"}', True),
        ("", b'{"error": null}', True),
        ("", b'{"error": "account_expired"}', False),
        ("", b'{"error": "token_revoked_by_admin"}', False),
        ("", b'{"error": "unauthorized", "message": "no such client"}', False),
        ("", b'{"error": "insufficient_scope"}', False),
        ("", b'{"error": "unauthorized_client"}', False),
        ("", b'{"errors": ["scope_missing"]}', False),
        ('Bearer error="insufficient_scope"', b"", False),
        ('Bearer error="insufficient_scope", error_description="invalid"', b"{}", False),
    ],
)
def test_unauthorized_means_token_unless_it_names_another_error(
    challenge: str, body: bytes, *, invalid: bool
) -> None:
    """A 401 is about the token, also if unreadable, unless it names another error (RFC 6750)."""
    headers = {"WWW-Authenticate": challenge} if challenge else {}
    assert is_invalid_token_response(Response(401, headers, body)) is invalid
    assert not is_invalid_token_response(Response(403, headers, body))


def test_error_is_found_in_any_challenge() -> None:
    """The error may be in any of several challenges."""
    headers = CIMultiDict(
        [("WWW-Authenticate", "Basic"), ("WWW-Authenticate", 'Bearer error="insufficient_scope"')]
    )
    assert not is_invalid_token_response(Response(401, headers, b""))
