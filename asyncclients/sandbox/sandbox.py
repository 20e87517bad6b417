"""Five mock vendors on loopback, with real HTTP, strict limits and injected faults.

Time is the running loop's `time()`, so a sandbox works in virtual time if server and client
share a loop. All random values depend on *seed*, and the wall clock in responses starts at
the beginning of 2026, so equal runs have equal bodies.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from random import Random
from typing import Literal, Self, TypeAlias, overload

from aiohttp import web

from .digital_onboarding import DigitalOnboarding
from .emma import Emma
from .faults import Fault, Injected, Match, named
from .intempt import Intempt
from .intouch import Intouch
from .server import QuotaSpec, Summary, VendorServer
from .storage import Storage
from .totango import Totango
from .vendor import SandboxRequest, Vendor

VendorName: TypeAlias = Literal[
    "intouch", "totango", "intempt", "emma", "digital_onboarding", "storage"
]

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class Sandbox:
    """All five vendors, and the storage for Intempt's uploads.

    *quotas* replaces limits: `{"intouch": (200, 1.0)}` is 200 requests per second, counted as
    that vendor counts; a callable creates your own `ServerLimit` for each credential. *latency*
    is (seconds, jitter): each response is delayed by that long, plus an exponential time with
    mean *jitter*. With *port*, the vendors listen on port, port + 1 ... in the order intouch,
    totango, intempt, emma, digital_onboarding, storage. *history* is the number of requests that
    each vendor logs; *keepalive* the seconds that a server keeps an idle connection.

    Raises ValueError if *host* is not a loopback address or *quotas* has an unknown vendor.
    """

    def __init__(
        self,
        quotas: Mapping[str, QuotaSpec] | None = None,
        seed: int = 0,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        latency: tuple[float, float] = (0.0, 0.0),
        history: int = 20_000,
        keepalive: float = 75.0,
    ) -> None:
        if not ip_address(host).is_loopback:
            msg = f"the sandbox has no access control: it binds to loopback only, not to {host}"
            raise ValueError(msg)
        self.environ: dict[str, str] = {}
        self._host, self._port, self._keepalive = host, port, keepalive
        self._started_at = 0.0
        self._servers: list[tuple[asyncio.Server, web.Server]] = []
        self._vendors: dict[str, VendorServer] = {}
        limits = dict(quotas or {})
        for vendor in _vendors(seed):
            self._vendors[vendor.name] = VendorServer(
                vendor,
                quota=limits.pop(vendor.name, vendor.quota),
                history=history,
                wall=lambda now: _EPOCH + timedelta(seconds=now - self._started_at),
                latency=latency,
            )
        if limits:
            msg = f"quotas for {', '.join(limits)}: the sandbox has {', '.join(self._vendors)}"
            raise ValueError(msg)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._started_at = loop.time()
        try:
            for offset, server in enumerate(self._vendors.values()):
                await self._listen(server, self._port + offset if self._port else 0)
        except BaseException:
            await self._stop()
            raise
        for name in self._vendors:
            self.environ |= self.issue(name)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def _stop(self) -> None:
        loop = asyncio.get_running_loop()
        for server in self._vendors.values():
            server.closing.set()
        for listener, _ in self._servers:
            for sock in listener.sockets:
                loop.remove_reader(sock.fileno())
        # asyncio leaks a connection that it is accepting when the listener closes (seen in
        # 3.11), so stop accepting, let pending ones become connections, and then close.
        for _ in range(3):
            await asyncio.sleep(0)
        for listener, http in self._servers:
            listener.close()
            # Requests that still wait get no response, so there is nothing to drain.
            await http.shutdown(0.001)
            await listener.wait_closed()
        self._servers.clear()

    def url(self, vendor: VendorName) -> str:
        """Return the base URL of *vendor*, with its path prefix."""
        return self._vendors[vendor].vendor.url

    def issue(self, vendor: str) -> dict[str, str]:
        """Create another credential of *vendor*; return the environment for `from_env`."""
        issuer = self._vendors[vendor].vendor
        secret = issuer.issue()
        return secret | {f"{vendor.upper()}_BASE_URL": issuer.url} if secret else {}

    def requests(self, vendor: VendorName) -> tuple[SandboxRequest, ...]:
        """Return the last *history* requests to *vendor*, in the order of their responses."""
        return tuple(self._vendors[vendor].recent)

    def rejected(self, vendor: VendorName) -> int:
        """Return the number of requests that the rate limit of *vendor* rejected."""
        return self._vendors[vendor].summary.rejected

    def summary(self, vendor: VendorName) -> Summary:
        """Return exact counts of all requests to *vendor*, which later ones change."""
        return self._vendors[vendor].summary

    def fail(
        self, vendor: VendorName, fault: Fault | str, times: int | None = 1, match: Match = None
    ) -> None:
        """Inject *fault* into the next *times* requests to *vendor* (None: until `heal`).

        A fault may be given by name, such as "drop" or "503" (`faults.named`). *match* selects
        requests: a text contained in `METHOD /path`, or a function of the `SandboxRequest`.
        Requests that the limit or the login rejects are not affected.
        """
        if times is not None and times < 1:
            msg = f"times is {times}; give the number of requests to fail, or None for all"
            raise ValueError(msg)
        what = named(fault) if isinstance(fault, str) else fault
        left = math.inf if times is None else times
        self._vendors[vendor].faults.append(Injected(what, left, match))

    def heal(self, vendor: VendorName) -> None:
        """Remove the injected faults of *vendor*."""
        self._vendors[vendor].faults.clear()

    @overload
    def state(self, vendor: Literal["intouch"]) -> Intouch: ...
    @overload
    def state(self, vendor: Literal["totango"]) -> Totango: ...
    @overload
    def state(self, vendor: Literal["intempt"]) -> Intempt: ...
    @overload
    def state(self, vendor: Literal["emma"]) -> Emma: ...
    @overload
    def state(self, vendor: Literal["digital_onboarding"]) -> DigitalOnboarding: ...
    @overload
    def state(self, vendor: Literal["storage"]) -> Storage: ...
    def state(self, vendor: VendorName) -> object:
        """Return *vendor* with its data in plain containers, which a test may change."""
        return self._vendors[vendor].vendor

    async def _listen(self, server: VendorServer, port: int) -> None:
        http = web.Server(server.serve, access_log=None, keepalive_timeout=self._keepalive)
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(http, self._host, port, backlog=1024)
        self._servers.append((listener, http))
        host = f"[{self._host}]" if ":" in self._host else self._host
        bound = listener.sockets[0].getsockname()[1]
        server.vendor.url = f"http://{host}:{bound}{server.vendor.prefix}"


def _vendors(seed: int) -> list[Vendor]:
    storage = Storage(Random(f"{seed} storage"))
    return [
        Intouch(Random(f"{seed} intouch")),
        Totango(Random(f"{seed} totango")),
        Intempt(Random(f"{seed} intempt"), storage),
        Emma(Random(f"{seed} emma")),
        DigitalOnboarding(Random(f"{seed} digital_onboarding")),
        storage,
    ]
