"""What arrived: a bounded record of requests and exact counts of all of them.

The last *history* requests are kept, each with the first 64 KiB of its body.
Counts are exact however long the run. Nothing is redacted: a sandbox knows only
credentials that it made up itself.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multidict import CIMultiDictProxy

    from .exchange import SandboxRequest

BODY_LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One request. `at` is the loop's time at which its head arrived.

    `status` is the status answered, None when the connection was dropped or
    left hanging. `refused` says that the rate limit refused it. `credential`
    is the key, token owner or account that it counted against, empty if none.
    """

    vendor: str
    at: float
    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    headers: CIMultiDictProxy[str]
    body: bytes
    credential: str
    status: int | None
    refused: bool

    @property
    def admitted(self) -> bool:
        """Whether the rate limit let it in."""
        return not self.refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Counts over a whole run.

    `quota_use` is the share of what the limit allowed between the first and the
    last arrival, one full window at the start included, per credential seen; 0
    where there is no limit.
    """

    vendor: str
    arrivals: int
    refused: int
    by_status: Mapping[int | None, int]
    first_at: float | None
    last_at: float | None
    quota_use: float


class RequestLog:
    """The record of one vendor."""

    def __init__(self, vendor: str, history: int) -> None:
        self.vendor = vendor
        self.refused = 0
        self._recent: deque[Arrival] = deque(maxlen=history)
        self._by_status: Counter[int | None] = Counter()
        self._credentials: set[str] = set()
        self._counted = 0
        self._first_at: float | None = None
        self._last_at: float | None = None

    def write(
        self, call: SandboxRequest, status: int | None, *, refused: bool, counted: bool
    ) -> None:
        """Record *call*; *counted* says that it was held against a quota."""
        self._recent.append(
            Arrival(
                vendor=self.vendor,
                at=call.at,
                method=call.method,
                path=call.path,
                query=tuple(call.query.items()),
                headers=call.headers,
                body=call.body[:BODY_LIMIT],
                credential=call.credential,
                status=status,
                refused=refused,
            )
        )
        self._by_status[status] += 1
        self.refused += refused
        if counted:
            self._credentials.add(call.credential)
            self._counted += not refused
        self._first_at = call.at if self._first_at is None else min(self._first_at, call.at)
        self._last_at = call.at if self._last_at is None else max(self._last_at, call.at)

    def recent(self) -> tuple[Arrival, ...]:
        """The requests still remembered, in the order in which they were answered."""
        return tuple(self._recent)

    def summary(self, quota: tuple[float, float] | None) -> Summary:
        """The counts so far, judged by *quota*: requests per seconds."""
        return Summary(
            vendor=self.vendor,
            arrivals=self._by_status.total(),
            refused=self.refused,
            by_status=dict(self._by_status),
            first_at=self._first_at,
            last_at=self._last_at,
            quota_use=self._use(quota),
        )

    def _use(self, quota: tuple[float, float] | None) -> float:
        if quota is None or self._first_at is None or self._last_at is None:
            return 0.0
        limit, period = quota
        allowed = limit * (1 + (self._last_at - self._first_at) / period)
        return self._counted / (allowed * max(1, len(self._credentials)))
