"""Ways in which a server can fail, and the promise of every client for each.

A behaviour is that of one connection. It meets an idempotent call (`read`) and another one
(`write`). The promise is the error of the call if the server keeps behaving like that, and the
number of its requests.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
from typing import Any, Final

from asyncclients import (
    AsyncClientsError,
    AttemptTimeoutError,
    BadRequestError,
    ConflictError,
    DecodeError,
    DisconnectedError,
    ForbiddenError,
    NotFoundError,
    OutcomeUnknownError,
    RateLimitedError,
    ResponseTooLargeError,
    ServerError,
    StatusError,
    UnexpectedRedirectError,
    UnprocessableEntityError,
)
from tests.support.byte_server import (
    Connection,
    Script,
    drips,
    hangs_up,
    http,
    never_ends,
    never_responds,
    resets,
    resets_at_once,
    sends,
)

CAP: Final = 200_000
"""Maximum bytes of a response for the clients under test."""


@dataclasses.dataclass(frozen=True, slots=True)
class Promise:
    """The error of a call, and the number of its requests."""

    error: type[AsyncClientsError]
    requests: int


@dataclasses.dataclass(frozen=True, slots=True)
class Behaviour:
    """One way to misbehave, shown by the first connections of a call."""

    name: str
    script: Script
    read: Promise
    write: Promise


# --- What a connection does -----------------------------------------------------------


def answer(status: int = 200, body: bytes = b"{}", **headers: str) -> Script:
    """Answer, and close as announced."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return sends(http(status, body, {"Connection": "close", **named}))


async def closes(connection: Connection) -> None:
    """Close before anything is read."""


async def drips_headers(connection: Connection) -> None:
    """The same before the answer has begun."""
    await connection.request()
    for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 1000:
        await connection.send(bytes((byte,)))
        await asyncio.sleep(1.0)


async def endless_headers(connection: Connection) -> None:
    """Headers without end."""
    await connection.request()
    await connection.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await connection.send(b"X-A: b\r\n" * 1000)


async def echoes(connection: Connection) -> None:
    """Refuse, and quote the request with its credential."""
    request = await connection.request()
    body = f"you sent {dict(request.headers)} {request.body.decode()}".encode()
    await connection.send(http(400, body, {"Connection": "close"}))


def zipped(body: bytes) -> Script:
    return answer(body=body, Content_Encoding="gzip")


def redirects(status: int, location: str) -> Script:
    return answer(status, b"", Location=location)


# --- The table --------------------------------------------------------------------------


def lost(name: str, script: Script, error: type[AsyncClientsError]) -> Behaviour:
    """No usable answer: repeated where allowed, else unknown."""
    return Behaviour(name, script, Promise(error, 2), Promise(OutcomeUnknownError, 1))


def same(name: str, script: Script, error: type[AsyncClientsError], requests: int = 1) -> Behaviour:
    """An answer that means the same for every call."""
    return Behaviour(name, script, Promise(error, requests), Promise(error, requests))


def huge(name: str, script: Script) -> Behaviour:
    """More than is taken: never repeated."""
    once = Promise(ResponseTooLargeError, 1)
    return Behaviour(name, script, once, Promise(OutcomeUnknownError, 1))


def broken(status: int, write: type[AsyncClientsError]) -> Behaviour:
    """The vendor failed."""
    script = answer(status, b"oops")
    return Behaviour(str(status), script, Promise(ServerError, 2), Promise(write, 1))


def refused(name: str, status: int = 429, body: bytes = b"", **headers: str) -> Behaviour:
    """Rate-limited: every call waits after two 429s, then raises."""
    return same(name, answer(status, body, **headers), RateLimitedError, 3)


def elsewhere(status: int, location: str) -> Behaviour:
    """A redirect: never followed."""
    return same(f"{status} to {location}", redirects(status, location), UnexpectedRedirectError)


HEAD: Final = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
BOMB: Final = gzip.compress(b" " * 20_000_000)
MEMBERS: Final = gzip.compress(b" ") * 20_000 + gzip.compress(b" " * CAP)
HALF: Final = gzip.compress(bytes(range(256)) * 400)[:300]
HTML: Final = b"<!DOCTYPE html><title>Sign in</title>"

BEHAVIOURS: Final = (
    lost("closes at once", closes, DisconnectedError),
    lost("aborts at once", resets_at_once, DisconnectedError),
    lost("closes after the request", hangs_up, DisconnectedError),
    lost("resets after the request", resets, DisconnectedError),
    lost("closes after the headers", sends(HEAD + b"Content-Length: 9\r\n\r\n"), DisconnectedError),
    lost("closes in the headers", sends(HEAD + b"Content-Le"), DisconnectedError),
    lost("cuts the body", sends(HEAD + b'Content-Length: 9\r\n\r\n{"a'), DisconnectedError),
    lost(
        "cuts a chunk",
        sends(HEAD + b'Transfer-Encoding: chunked\r\n\r\n20\r\n{"a'),
        DisconnectedError,
    ),
    same("cuts what has no length", sends(HEAD + b'\r\n{"a'), DecodeError),
    lost("is silent", never_responds, AttemptTimeoutError),
    lost("drips", drips, AttemptTimeoutError),
    lost("drips headers", drips_headers, AttemptTimeoutError),
    lost("is no HTTP", sends(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), DecodeError),
    lost("has too many headers", sends(HEAD + b"X-A: b\r\n" * 500 + b"\r\n{}"), DecodeError),
    lost(
        "has too long a header", sends(HEAD + b"X-A: " + b"b" * 100_000 + b"\r\n\r\n"), DecodeError
    ),
    lost("has endless headers", endless_headers, DecodeError),
    huge("never ends", never_ends),
    huge("is too long", answer(body=b" " * (CAP + 1))),
    huge("is a bomb", zipped(BOMB)),
    lost("has many members", zipped(MEMBERS), DecodeError),
    lost("is no gzip", zipped(b"this is no gzip at all"), DecodeError),
    same("is half a gzip", zipped(HALF), DecodeError),
    same("is HTML", answer(body=HTML, Content_Type="text/html"), DecodeError),
    same("is empty", answer(body=b""), DecodeError),
    same("is nested", answer(body=b"[" * 90_000), DecodeError),
    same("is not UTF-8", answer(body=b'{"id": "\xff"}'), DecodeError),
    same("is another thing", answer(body=b'{"errors": [{"item": 0}]}'), DecodeError),
    same("echoes", echoes, BadRequestError),
    same("403", answer(403), ForbiddenError),
    same("404", answer(404), NotFoundError),
    same("409", answer(409), ConflictError),
    same("422", answer(422, b'{"errors": {"name": ["taken"]}}'), UnprocessableEntityError),
    same("a status of its own", answer(469), StatusError),
    broken(500, ServerError),
    broken(502, OutcomeUnknownError),
    broken(503, ServerError),
    broken(504, OutcomeUnknownError),
    refused("429"),
    refused("429 in seconds", Retry_After="2"),
    refused("429 with nonsense", Retry_After="-5, NaN"),
    refused(
        "429 by date",
        Date="Thu, 01 Jan 2026 00:00:00 GMT",
        Retry_After="Thu, 01 Jan 2026 00:00:03 GMT",
    ),
    refused("429 by reset", X_RateLimit_Remaining="0", X_RateLimit_Reset="2"),
    same("429 for a year", answer(429, Retry_After="31536000"), RateLimitedError),
    same("429 for good", answer(429, b'{"message":"Limit Exceeded"}'), RateLimitedError),
    *(elsewhere(status, "https://evil.example/x") for status in (301, 302, 303, 307, 308)),
    elsewhere(307, "/elsewhere"),
    elsewhere(307, "http://api.example.com/"),
    elsewhere(308, "//evil.example/x"),
    elsewhere(302, "https://user:word@evil.example/"),
    elsewhere(301, "javascript:alert(1)"),
)

EMMA_ONLY: Final = refused("403 by rate", 403, b"403 Rate Limit Exceeded")
"""Emma's rate limit is a 403, the others' a 429."""


def met_by(vendor: str) -> tuple[Behaviour, ...]:
    """The behaviours that the client of *vendor* is tried against."""
    return (*BEHAVIOURS, EMMA_ONLY) if vendor == "emma" else BEHAVIOURS


def promised(behaviour: Any, kind: Any) -> Promise:
    """What *behaviour* comes to for a call of *kind*, `read` or `write`."""
    promise: Promise = getattr(behaviour, kind)
    return promise
