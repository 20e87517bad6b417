"""Keep tests away from the real vendors.

Their hosts cannot be looked up inside the block: not by `socket`, not by
asyncio, not by either resolver of aiohttp. All other hosts can.
"""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    from collections.abc import Generator

VENDOR_DOMAINS = (
    "intouchinsight.com",
    "totango.com",
    "intempt.com",
    "e2ma.net",
    "digitalonboarding.com",
)


class VendorNetworkError(RuntimeError):
    """A test tried to reach a real vendor."""


@contextmanager
def no_vendor_network() -> Generator[None]:
    """Block name resolution of the vendors' hosts inside the block.

    A lookup raises `VendorNetworkError`, which is not a network error, so clients do not retry.
    """
    import aiohttp

    look_up, resolve = socket.getaddrinfo, aiohttp.AsyncResolver.resolve

    def getaddrinfo(host: bytes | str | None, *args: Any, **options: Any) -> Any:
        _check(host)
        return look_up(host, *args, **options)

    async def resolve_host(self: Any, host: str, *args: Any, **options: Any) -> Any:
        _check(host)
        return await resolve(self, host, *args, **options)

    with (
        patch.object(socket, "getaddrinfo", getaddrinfo),
        patch.object(aiohttp.AsyncResolver, "resolve", resolve_host),
    ):
        yield


def _check(host: bytes | str | None) -> None:
    name = host.decode() if isinstance(host, bytes) else host or ""
    name = name.lower().rstrip(".")
    if any(name == domain or name.endswith(f".{domain}") for domain in VENDOR_DOMAINS):
        raise VendorNetworkError(
            f"a test tried to reach {name}, a real vendor. Give the client the sandbox's "
            "address: Client.from_env(pool, sandbox.environ)"
        )
