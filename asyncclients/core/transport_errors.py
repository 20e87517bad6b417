"""What a failure of aiohttp means: was anything sent, and which error stands for it.

By class only. The text of such an exception may hold a credential, and its
`status` may be made up: aiohttp reports its own parse errors as status 400.
"""

from __future__ import annotations

import aiohttp
from aiohttp.http_exceptions import ContentEncodingError

from asyncclients.core.endpoint import NoResponse
from asyncclients.errors import (
    AttemptTimeoutError,
    ConnectError,
    DeadlineExceededError,
    DecodeError,
    DisconnectedError,
    ResponseTooLargeError,
    TLSError,
)


def never_sent(failure: BaseException) -> bool:
    """Is it certain that nothing of the request left this machine?"""
    return isinstance(failure, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError))


def classify_transport_error(failure: BaseException) -> NoResponse:
    """The outcome that *failure* stands for."""
    if isinstance(failure, (aiohttp.ClientSSLError, aiohttp.ServerFingerprintMismatch)):
        return NoResponse(
            "no",
            TLSError,
            "could not trust the server's TLS certificate",
            "Check the address and the CA store (SSL_CERT_FILE); never turn verification off",
            final=True,
        )
    if isinstance(failure, aiohttp.ClientConnectorDNSError):
        return _connect_failed("could not resolve the server's name")
    if isinstance(failure, aiohttp.ConnectionTimeoutError):
        return _connect_failed("could not connect in time")
    if isinstance(failure, aiohttp.ClientConnectorError):
        return _connect_failed("could not connect to the server")
    if isinstance(failure, TimeoutError):
        return timed_out()
    return _disconnected(failure)


def timed_out() -> NoResponse:
    """No answer within the time of one attempt."""
    return NoResponse(
        "maybe", AttemptTimeoutError, "got no answer in time", "Raise timeout= if it is slow"
    )


def deadline_exceeded() -> NoResponse:
    """The deadline of the whole call came before the answer."""
    return NoResponse(
        "maybe",
        DeadlineExceededError,
        "was sent and got no answer before its deadline",
        "Allow a longer deadline",
        final=True,
    )


def too_large(max_bytes: int) -> NoResponse:
    """An answer of more than *max_bytes*; the rest was not read."""
    return NoResponse(
        "maybe",
        ResponseTooLargeError,
        f"answered with more than {max_bytes} bytes (decompressed)",
        "Raise SessionPool(max_response_bytes=...) if that much is expected",
        final=True,
    )


def _connect_failed(why: str) -> NoResponse:
    return NoResponse(
        "no", ConnectError, why, "Check base_url, the network and the vendor's status"
    )


def _disconnected(failure: BaseException) -> NoResponse:
    encoding = isinstance(failure, aiohttp.ClientPayloadError) and isinstance(
        failure.__cause__ or failure.__context__, ContentEncodingError
    )
    if encoding or isinstance(failure, aiohttp.ClientResponseError):
        return NoResponse(
            "maybe",
            DecodeError,
            "answered with something that is not valid HTTP",
            "Check what answers at base_url: a proxy or another service?",
        )
    return NoResponse(
        "maybe",
        DisconnectedError,
        "broke the connection before the answer was whole",
        "Try again; if it goes on, check the network and the vendor's status",
    )
