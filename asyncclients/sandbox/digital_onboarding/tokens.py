"""The token endpoint: OAuth2 client credentials (RFC 6749, section 4.4).

Client id and secret come by HTTP Basic or in the body, form or JSON, not both.
In a query string they are revoked at once, as the manual says. Errors are those
of RFC 6749, section 5.2.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from asyncclients.sandbox.vendor import RefusedError, Reply, SandboxRequest, as_object

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .state import DigitalOnboardingState


def _refused(status: int, error: str) -> RefusedError:
    login = {"WWW-Authenticate": 'Basic realm="oauth2"'} if status == 401 else {}
    return RefusedError(Reply.json(status, {"error": error}, login))


def revoke_if_shown(state: DigitalOnboardingState, call: SandboxRequest) -> None:
    """Revoke a client whose id and secret stand in the query string of *call*."""
    client_id = call.query.get("client_id", "")
    if client_id in state.clients and "client_secret" in call.query:
        state.revoke_client(client_id)


def grant(state: DigitalOnboardingState, call: SandboxRequest) -> Reply:
    """A token for a client that proves itself."""
    fields = _fields(call)
    client_id, secret = _login(call, fields)
    if not client_id or state.clients.get(client_id) != secret:
        raise _refused(401, "invalid_client")
    if fields.get("grant_type") != "client_credentials":
        raise _refused(400, "unsupported_grant_type")
    body: dict[str, object] = {"access_token": state.grant(client_id, call.at)}
    if state.expires_in is not None:
        body["expires_in"] = state.expires_in
    return Reply.json(200, body | {"token_type": "bearer"}, {"Cache-Control": "no-store"})


def _fields(call: SandboxRequest) -> Mapping[str, object]:
    try:
        if call.media_type == "application/json":
            return as_object(call.json()) or {}
        if call.media_type == "application/x-www-form-urlencoded":
            return dict(parse_qsl(call.body.decode()))
    except ValueError:
        pass
    raise _refused(400, "invalid_request")


def _login(call: SandboxRequest, fields: Mapping[str, object]) -> tuple[str, str]:
    scheme, _, encoded = call.headers.get("Authorization", "").partition(" ")
    in_body = str(fields.get("client_id", "")), str(fields.get("client_secret", ""))
    if scheme.lower() != "basic":
        return in_body
    if in_body[1]:
        raise _refused(400, "invalid_request")
    try:
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password
