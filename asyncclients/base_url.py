"""Base URLs: a credential is sent by https, or to a loopback address."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from yarl import URL

from asyncclients.arguments import check_type
from asyncclients.errors import ConfigurationError
from asyncclients.secret import Secret


def wrap_userinfo(url: str | Secret | None) -> str | Secret | None:
    """Return *url*, as a `Secret` if it may hold user info, which a traceback would show."""
    return Secret(url) if isinstance(url, str) and "@" in url else url


def check_base_url(url: str | Secret, where: str = "base_url") -> str:
    """Return *url* with exactly one slash at its end.

    Raises:
        ConfigurationError: unless it is https, or http to a loopback address, to a host name
            that can be resolved, without user info, query and fragment: an attacker can
            read a key that is sent unencrypted.
    """
    url = url.reveal() if isinstance(url, Secret) else url
    check_type(where, url, str, f"{where}='https://api.example.com/'")
    if problem := _base_url_problem(url):
        url = ""
        raise ConfigurationError(
            f"{where} {problem}",
            advice=f"Set {where} to an https:// address; http:// is for loopback addresses only",
        )
    if not url.isascii():
        url = str(URL(url))
    return url.rstrip("/") + "/"


def _base_url_problem(url: str) -> str | None:
    if problem := url_problem(url):
        return problem
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        return "holds user info, which would travel in places it should not"
    if parts.query or parts.fragment:
        return "has a query or fragment"
    if parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        return None
    return "is not https"


def url_problem(url: str) -> str | None:
    """Return why *url* cannot be used, without quoting it, as it may hold a credential."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is not a URL"
    if not host or any(c.isspace() or not c.isprintable() for c in url):
        return "is not a URL with a host"
    if "\\" in url:
        return "has a backslash, which is written %5C in a URL"
    if not is_encodable(host):
        return (
            "has a host name that cannot be looked up: it has an empty label, one of over 63 "
            "characters, or a character that no host name has"
        )
    return None


def is_encodable(host: str) -> bool:
    """Return True if *host* can be resolved: it has an ASCII form, with labels of 1 to 63 characters."""
    try:
        # Twice: the ASCII form may have dots that the host has not, as of U+2024.
        host.encode("idna").decode().encode("idna")
        URL.build(scheme="https", host=host)
        # Stricter: no character may become a delimiter when it is normalized.
        URL(f"https://[{host}]/" if ":" in host else f"https://{host}/")
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Return True if *host* is a loopback address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
