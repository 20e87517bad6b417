"""`asyncclients doctor`: check this machine and its environment.

It only connects to base URLs, without a request, so no quota is used.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import ssl
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import asyncclients
from asyncclients.cli.doctor_limits import check_limits
from asyncclients.cli.operations import CLIENTS
from asyncclients.cli.options import Switch
from asyncclients.cli.output import Finding, checked, show
from asyncclients.cli.shared import LIMITS, PROXY, from_environment, limits_store, open_pool
from asyncclients.core.client import VendorClient
from asyncclients.core.pool import SessionPool
from asyncclients.errors import ConfigurationError

_PACKAGES = ("aiohttp", "msgspec", "aiolimiter", "python-backoff")
_EXTRAS = {"cli": "cyclopts", "parquet": "pyarrow", "redis": "redis", "otel": "opentelemetry-api",
           "dbos": "dbos", "dlt": "dlt", "plot": "matplotlib"}  # fmt: skip
_CONNECT_TIMEOUT = 5.0
_PORTS = {"https": 443, "http": 80}


async def doctor(
    *,
    limits: str = "",
    connect: bool = True,
    json: Switch = False,
) -> int:
    """Check versions, the C parser, the CA store, the environment, vendor addresses and stores.

    Exits with 1 if anything is wrong.

    Args:
        limits: the limit store to check, redis://HOST or a file; by default the variable ASYNCCLIENTS_LIMITS.
        connect: connect to the base URLs of set-up vendors, and to stores.
        json: print the findings as JSON.
    """
    if limits:
        limits_store(limits)  # an address that is unusable is a usage error
    findings = [*_versions(), _parser(), _ca_store()]
    if proxy := os.environ.get(PROXY):
        findings.append(await _proxy(proxy, connect=connect))
    for name in CLIENTS.values():
        client: type[VendorClient] = getattr(asyncclients, name)
        # Behind a proxy the vendors may not be reachable directly; stores do not use it.
        findings.extend(await _vendor(client, connect=connect and not proxy))
    if address := from_environment(limits, LIMITS):
        findings.extend(await check_limits(address, connect=connect))
    if json:
        show(findings, as_json=True, describe=str)
    else:
        _print(findings)
    return 1 if any(finding.good is False for finding in findings) else 0


def _versions() -> list[Finding]:
    found = [
        checked("asyncclients", asyncclients.__version__),
        checked("Python", platform.python_version()),
    ]
    found += [checked(name, importlib.metadata.version(name)) for name in _PACKAGES]
    for extra, package in _EXTRAS.items():
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
        found.append(Finding(f"extra [{extra}]: {package}", version, None))
    return found


def _parser() -> Finding:
    parser = import_module("aiohttp.http_parser").HttpResponseParser.__module__
    if parser == "aiohttp._http_parser":
        return checked("aiohttp's C parser", "in use")
    advice = "Install aiohttp from a wheel: the pure parser is slow and less hardened"
    return checked("aiohttp's C parser", "absent", advice)


def _ca_store() -> Finding:
    count = len(ssl.create_default_context().get_ca_certs())
    paths = ssl.get_default_verify_paths()
    directory = Path(paths.capath or "")
    filled = bool(paths.capath) and directory.is_dir() and any(directory.iterdir())
    advice = "" if count or filled else "Install ca-certificates, or set SSL_CERT_FILE"
    found = f"{count} certificates" if count else str(paths.capath or paths.openssl_cafile)
    return checked("CA store", found, advice)


async def _vendor(client: type[VendorClient], *, connect: bool) -> list[Finding]:
    name, variables = client.vendor.name, client.vendor.environment.values()
    if not any(os.environ.get(each) or os.environ.get(f"{each}_FILE") for each in variables):
        return [Finding(name, "not set up", None, f"Set {', '.join(variables)} to use it")]
    try:
        url = client.from_env(SessionPool()).base_url
    except ConfigurationError as error:
        return [checked(name, error.message, error.advice or "Correct it")]
    found = [checked(name, "credentials set")]
    return [*found, await _reach(name, url)] if connect else found


async def _proxy(address: str, *, connect: bool) -> Finding:
    """Check that the proxy at *address* can be used and is reachable; shows no password."""
    try:
        open_pool(None)
    except ConfigurationError as error:
        return checked("proxy", error.message, error.advice or f"Check {PROXY}")
    return await _reach("proxy", address) if connect else checked("proxy", "set")


async def _reach(name: str, url: str) -> Finding:
    """Connect, with TLS, and close: without a request no quota is used."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme)
    tls = parts.scheme == "https" or None
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            _, writer = await asyncio.open_connection(host, port, ssl=tls)
            writer.close()
            await writer.wait_closed()
    except OSError as error:
        advice = "Check the address, the network and TLS"
        return checked(f"{name} at {host}", type(error).__name__, advice)
    return checked(f"{name} at {host}", "reachable")


def _print(findings: list[Finding]) -> None:
    table = Table(box=None)
    for column in ("", "what", "found", "advice"):
        table.add_column(column, overflow="fold")
    marks = {True: "[green]ok[/]", False: "[red]no[/]", None: "[dim]--[/]"}
    for finding in findings:
        words = (finding.what, finding.found, finding.advice)
        table.add_row(marks[finding.good], *(escape(word) for word in words))
    Console().print(table)
