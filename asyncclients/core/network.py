"""The way to a vendor: the TLS context and the forward proxy of a pool, and how they fail.

Requests by https pass through the proxy in a tunnel (CONNECT, RFC 9110 §9.3.6): the proxy sees
the host and port, and never a credential. Plain http, which is accepted for loopback addresses
only, does not use the proxy: it would read the credential.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp
from aiohttp import hdrs
from yarl import URL

from asyncclients.arguments import check_type, wrong_argument
from asyncclients.base_url import url_problem
from asyncclients.core.auth import Login, basic
from asyncclients.core.endpoint import NoResponse
from asyncclients.errors import ConfigurationError, ConnectError, TLSError
from asyncclients.secret import Secret

_FORM = "proxy='http://user:password@proxy.example.com:3128'"


class RequestArguments(Mapping[str, Any]):
    """Arguments of aiohttp's `request`; their repr does not show them."""

    __slots__ = ("_get", "_names")

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._get, self._names = arguments.__getitem__, tuple(arguments)

    def __getitem__(self, name: str) -> Any:
        return self._get(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def network_arguments(context: ssl.SSLContext | None, proxy: Secret | None) -> Mapping[str, Any]:
    """Return the arguments of aiohttp's `request` for requests by https; check them.

    The user and password of *proxy* are sent to the proxy only.
    """
    form = "ssl=ssl.create_default_context(cafile='authority.pem')"
    check_type("ssl", context, (ssl.SSLContext, NoneType), form)
    if context is not None and context.protocol is ssl.PROTOCOL_TLS_SERVER:
        raise ConfigurationError("ssl is a context for servers", advice=f"Write it as in {form}")
    found: dict[str, Any] = {} if context is None else {"ssl": context}
    if proxy is not None:
        found["proxy"], login = _read_proxy(proxy)
        if login is not None:
            header: str = hdrs.PROXY_AUTHORIZATION
            found["proxy_headers"] = RequestArguments({header: login.value.reveal()})
    return RequestArguments(found) if found else found


def _read_proxy(proxy: Secret) -> tuple[URL, Login | None]:
    """Return the URL of *proxy* without user info, and its login."""
    if not isinstance(cast("object", proxy.reveal()), str):
        raise wrong_argument("proxy", "str", proxy.reveal(), _FORM)
    if problem := _problem_of(proxy):
        raise ConfigurationError(f"proxy {problem}", advice=f"Write it as in {_FORM}")
    # No part of it may become a local variable: a traceback would show it.
    user = Secret(URL(proxy.reveal()).user or "")
    password = Secret(URL(proxy.reveal()).password or "")
    has_login = bool(user.reveal() or password.reveal())
    return URL(proxy.reveal()).origin(), basic(user, password) if has_login else None


def _problem_of(proxy: Secret) -> str | None:
    if problem := url_problem(proxy.reveal()):
        return problem
    parts = urlsplit(proxy.reveal())
    if parts.scheme not in ("http", "https"):
        return "is not an http:// or https:// URL; other kinds need a connector of their own"
    if parts.path.strip("/") or parts.query or parts.fragment:
        return "has a path, query or fragment"
    return None


# --- How they fail ------------------------------------------------------------


class NoTunnelError(aiohttp.ClientConnectionError):
    """The proxy closed the connection before the tunnel was open, or does not speak HTTP."""


def never_sent(failure: BaseException) -> bool:
    """Return True if it is certain that nothing of the request was sent."""
    return isinstance(
        failure,
        (
            aiohttp.ClientConnectorError,
            aiohttp.ConnectionTimeoutError,
            aiohttp.ClientHttpProxyError,
            NoTunnelError,
        ),
    ) or bool(_certificate_alert(failure))


def classify_network_failure(failure: BaseException) -> NoResponse | None:
    """Return the outcome of a *failure* of TLS or of the proxy; None for other failures."""
    if isinstance(failure, aiohttp.ClientHttpProxyError):
        return _refused_by_proxy(failure.status)
    if isinstance(failure, NoTunnelError):
        why = "got no tunnel: the proxy closed the connection, or does not speak HTTP"
        return NoResponse("no", ConnectError, why, _CHECK_PROXY)
    if isinstance(failure, aiohttp.ClientProxyConnectionError):
        why = f"could not connect to the proxy {failure.host}:{failure.port}"
        return NoResponse("no", ConnectError, why, _CHECK_PROXY)
    if isinstance(failure, aiohttp.ClientConnectorCertificateError):
        return _tls_failed(*_certificate_problem(failure))
    if _certificate_alert(failure):
        why = "was rejected by the server because of the client certificate"
        return _tls_failed(why, _IDENTIFY)
    if isinstance(failure, (aiohttp.ClientSSLError, aiohttp.ServerFingerprintMismatch)):
        return _tls_failed("could not establish TLS with the server", _CHECK_TLS)
    return None


_CHECK_PROXY = "Check the host, port and scheme in SessionPool(proxy=...), and the proxy itself"
_CHECK_TLS = (
    "Check that base_url has the right host and port and that no firewall intercepts it; if the "
    "server asks for a client certificate, load it with load_cert_chain() of SessionPool(ssl=...)"
)
_TRUST = (
    "For a private authority use SessionPool(ssl=ssl.create_default_context(cafile=...)) or set "
    "SSL_CERT_FILE; never turn verification off"
)
_RENEW = "Check this machine's clock, and ask the owner of the server to renew the certificate"
_IDENTIFY = (
    "Load a certificate that the server accepts with load_cert_chain() of the context in "
    "SessionPool(ssl=...)"
)


def _tls_failed(why: str, advice: str) -> NoResponse:
    return NoResponse("no", TLSError, why, advice, final=True)


def _refused_by_proxy(status: int) -> NoResponse:
    why = f"got no tunnel: the proxy answered {status}"
    advice = "The proxy could not reach the vendor: check base_url, and the proxy's log"
    if status == 407:
        advice = f"Give a user and password that the proxy accepts, as in {_FORM}"
    elif status < 500:
        advice = "Ask the proxy's administrator to allow CONNECT to the host and port of base_url"
    return NoResponse("no", ConnectError, why, advice, final=status < 500 and status != 429)


_CERTIFICATE_PROBLEMS: dict[int, tuple[str, str]] = {
    **dict.fromkeys((18, 19, 20, 21), (": its authority is unknown", _TRUST)),
    **dict.fromkeys((9, 10), (": it has expired or is not valid yet", _RENEW)),
    **dict.fromkeys(
        (62, 64), (": it is for another host", "Check the host in base_url and in proxy=")
    ),
}
"""By code of OpenSSL: https://docs.openssl.org/master/man3/X509_STORE_CTX_get_error/"""


def _certificate_problem(failure: aiohttp.ClientConnectorCertificateError) -> tuple[str, str]:
    """Return the problem with the certificate of a server, and advice."""
    code = getattr(failure.certificate_error, "verify_code", 0)
    problem, advice = _CERTIFICATE_PROBLEMS.get(code, ("", _TRUST))
    where = f"could not verify the certificate of {failure.host}:{failure.port}"
    return f"{where}{problem}", advice


_CERTIFICATE_ALERTS = frozenset(
    {
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "TLSV1_ALERT_UNKNOWN_CA",
    }
)
"""Alerts (RFC 8446 §6.2) about our certificate. With TLS 1.3 they arrive after the request is
written, and the server has not read it: it verifies the certificate first."""


def _certificate_alert(failure: BaseException) -> str | None:
    """Return the TLS alert that rejects our certificate; None for other failures."""
    cause = failure.__cause__
    reason = getattr(cause, "reason", None) if isinstance(cause, ssl.SSLError) else None
    return reason if reason in _CERTIFICATE_ALERTS else None
