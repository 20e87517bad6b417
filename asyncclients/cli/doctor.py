"""`asyncclients doctor`: check this machine, its environment and the limit store.

It only connects to base URLs, without a request, so no quota is used. Of a limit store it does not
touch quotas and their logs: rights are tried on keys of their own.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import sqlite3
import ssl
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import asyncclients
from asyncclients.cli.operations import CLIENTS
from asyncclients.cli.options import Switch
from asyncclients.cli.output import Finding, checked, show
from asyncclients.cli.shared import LIMITS, PROXY, from_environment, limits_store, open_pool
from asyncclients.core.client import VendorClient
from asyncclients.core.pool import SessionPool
from asyncclients.errors import ConfigurationError
from asyncclients.secret import Secret
from asyncclients.stores.protocol import StoreUnavailableError
from asyncclients.stores.sqlite import time_transaction

if TYPE_CHECKING:
    from asyncclients.stores.redis_client import Address

_PACKAGES = ("aiohttp", "msgspec", "aiolimiter", "python-backoff")
_EXTRAS = {"cli": "cyclopts", "parquet": "pyarrow", "redis": "redis", "otel": "opentelemetry-api",
           "dbos": "dbos", "dlt": "dlt", "plot": "matplotlib"}  # fmt: skip
_CONNECT_TIMEOUT = 5.0
_PORTS = {"https": 443, "http": 80}
_STORE = "limit store"
_SAMPLES = 5
_SLOW = 0.1
"""Seconds of a request for which a slot is held unused as long as for its call."""
_CLOCK_DIFFERENCE = 1.0
"""Seconds of difference between two clocks that calendar quotas allow for."""


async def doctor(*, limits: str = "", connect: bool = True, json: Switch = False) -> int:
    """Check versions, the C parser, the CA store, the environment, vendor addresses and stores.

    Exits with 1 if anything is wrong.

    Args:
        limits: the limit store to check, redis://HOST or a file; by default the variable ASYNCCLIENTS_LIMITS.
        connect: connect to the base URLs of set-up vendors, and to stores.
        json: print the findings as JSON.
    """
    if limits:
        limits_store(limits)  # an address that is unusable is a usage error
    findings = [*_versions(), *_installation()]
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


def _installation() -> list[Finding]:
    parser = import_module("aiohttp.http_parser").HttpResponseParser.__module__
    found, advice = "in use", ""
    if parser != "aiohttp._http_parser":
        found = "absent"
        advice = "Install aiohttp from a wheel: the pure parser is slow and less hardened"
    findings = [checked("aiohttp's C parser", found, advice)]
    count = len(ssl.create_default_context().get_ca_certs())
    paths = ssl.get_default_verify_paths()
    directory = Path(paths.capath or "")
    filled = bool(paths.capath) and directory.is_dir() and any(directory.iterdir())
    advice = "" if count or filled else "Install ca-certificates, or set SSL_CERT_FILE"
    found = f"{count} certificates" if count else str(paths.capath or paths.openssl_cafile)
    return [*findings, checked("CA store", found, advice)]


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


# --- The limit store ----------------------------------------------------------


async def check_limits(address: str, *, connect: bool) -> list[Finding]:
    """Check the limit store at *address*, a Redis URL or a file; no finding shows a password."""
    try:
        limits_store(address)
        if "://" not in address:
            return await asyncio.to_thread(_check_file, Path(address))
        return await _check_server(Secret(address), connect=connect)
    except ConfigurationError as error:
        return [checked(_STORE, error.message, error.advice or f"Check {LIMITS}")]
    except StoreUnavailableError as error:
        return [Finding(_STORE, str(error), False, error.advice)]


def _check_file(path: Path) -> list[Finding]:
    if not path.exists():
        if os.access(path.parent, os.W_OK):
            return [checked(_STORE, f"{path} will be created at the first call")]
        advice = "Let this user write there, or name another file"
        return [checked(_STORE, f"{path} cannot be created in its directory", advice)]
    seconds = [time_transaction(path) for _ in range(_SAMPLES)]
    return [
        checked(f"{_STORE} {path}", "can be read and written"),
        checked(f"{_STORE}: version", f"SQLite {sqlite3.sqlite_version}"),
        _latency(seconds, "Use a local disk, not a network file system"),
    ]


async def _check_server(url: Secret, *, connect: bool) -> list[Finding]:
    from asyncclients.stores.redis_client import (  # needs the extra
        ACL_RIGHTS,
        close,
        create_client,
        parse_address,
    )

    address = parse_address(url)
    if not connect:
        return [Finding(f"{_STORE} at {address}", "not connected to", None)]
    client: Any = create_client(address)  # redis-py leaves most of its types open
    try:
        denied = await _denied_commands(client, address)
        rights = checked(f"{_STORE}: rights", "sufficient")
        if denied:
            found = f"the user of the URL may not run {', '.join(denied)}"
            advice = f"ACL SETUSER with {ACL_RIGHTS}; rename no command"
            rights = checked(rights.what, found, advice)
        findings = [checked(f"{_STORE} at {address}", "reachable"), rights]
        findings += await _facts(client, address)
        if "TIME" not in denied:
            findings += await _clock_and_latency(client, address)
    finally:
        await close(client)
    return findings


def probes() -> Iterator[tuple[Any, ...]]:
    """Yield each command that a store uses, with arguments that change nothing of a quota.

    The keys end by themselves after ten seconds if a command fails.
    """
    scope = f"doctor-{uuid4().hex[:12]}"
    keys = [f"asyncclients:v4:{{{scope}}}:{name}" for name in "tsh"]
    text, ranks, fields = keys
    yield "SET", text, 1, "PX", 10_000
    yield "GET", text
    yield "INCR", text
    yield "EXISTS", text
    yield "SCAN", 0, "MATCH", text
    yield "ZADD", ranks, 1, "m"
    yield "PEXPIRE", ranks, 10_000
    yield "ZREVRANGE", ranks, 0, 0
    yield "ZSCORE", ranks, "m"
    yield "ZREM", ranks, "m"
    yield "ZREMRANGEBYSCORE", ranks, 0, 1
    yield "HSET", fields, "f", 1
    yield "PEXPIRE", fields, 10_000
    yield "HGET", fields, "f"
    yield "HMGET", fields, "f"
    yield "HDEL", fields, "f"
    yield "DEL", *keys
    yield "EVAL", "return 1", 0
    yield "EVALSHA", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", 0  # of the line before
    yield ("TIME",)


async def _denied_commands(client: Any, address: Address) -> list[str]:
    """Return the commands that *client* may not run."""
    from redis.exceptions import NoScriptError

    from asyncclients.stores.redis_client import FAILURES, explain, is_denied

    denied: dict[str, None] = {}
    for words in probes():
        try:
            async with asyncio.timeout(address.timeout):
                await client.execute_command(*words)
        except NoScriptError:
            pass  # EVAL is denied
        except FAILURES as error:
            if not is_denied(error):
                raise explain(str(address), error) from None
            denied[words[0]] = None
    return list(denied)


async def _facts(client: Any, address: Address) -> list[Finding]:
    """Return what INFO reports about version and eviction."""
    from asyncclients.stores.redis_client import read_facts, with_timeout

    facts = await with_timeout(address, lambda: read_facts(client))
    if facts is None:
        found = "not known, since the user of the URL may not run INFO"
        return [Finding(f"{_STORE}: version", found, None, "Give the user +info to check it")]
    version, advice = f"{facts.server} {facts.version}", ""
    if facts.is_too_old:
        version, advice = f"{version}, which is too old", "Use Redis 6.2 or later, or Valkey"
    findings = [checked(f"{_STORE}: version", version, advice)]
    found, advice = f"{facts.policy}, maxmemory {facts.max_memory:,} bytes", ""
    if facts.may_evict:
        found += ": an evicted log stops its calls for a period"
        advice = "Set noeviction, or use a server without other data"
    elif not facts.max_memory:
        found = "no maxmemory, so nothing is evicted"
    return [*findings, checked(f"{_STORE}: eviction", found, advice)]


async def _clock_and_latency(client: Any, address: Address) -> list[Finding]:
    from asyncclients.stores.redis_client import with_timeout

    samples: list[tuple[float, float]] = []
    for _ in range(_SAMPLES):
        began_at, began = time.time(), time.perf_counter()
        seconds, micros = await with_timeout(address, client.time)
        took = time.perf_counter() - began
        samples.append((took, seconds + micros / 1e6 - began_at - took / 2))
    difference = min(samples)[1]
    found = f"{abs(difference):.3f} s {'ahead of' if difference > 0 else 'behind'} this machine's"
    advice = ""
    if abs(difference) > _CLOCK_DIFFERENCE:
        advice = "Check the time service of both: calendar quotas follow the clocks"
    latency = _latency([took for took, _ in samples], "Use a store in the same network")
    return [checked(f"{_STORE}: clock", found, advice), latency]


def _latency(seconds: list[float], advice: str) -> Finding:
    middle = median(seconds)
    found = f"{middle * 1e3:.1f} ms per request"
    return checked(f"{_STORE}: latency", found, "" if middle < _SLOW else advice)


def _print(findings: list[Finding]) -> None:
    table = Table(box=None)
    for column in ("", "what", "found", "advice"):
        table.add_column(column, overflow="fold")
    marks = {True: "[green]ok[/]", False: "[red]no[/]", None: "[dim]--[/]"}
    for finding in findings:
        words = (finding.what, finding.found, finding.advice)
        table.add_row(marks[finding.good], *(escape(word) for word in words))
    Console().print(table)
