"""Counts what one run puts on the wire, and what share of the quota that is."""

from __future__ import annotations

import asyncio

import msgspec

from asyncclients.core.endpoint import OutgoingRequest
from asyncclients.ratelimit.quota import Quota


class RequestCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What was put on the wire.

    Attributes:
        requests: put on the wire.
        rejected: refusals by rate.
        quotas: those of each scope that was used, by its one-way name.
    """

    requests: int = 0
    rejected: int = 0
    quotas: dict[str, tuple[Quota, ...]] = {}

    def plus(self, other: RequestCounts) -> RequestCounts:
        """This and *other*."""
        return RequestCounts(
            requests=self.requests + other.requests,
            rejected=self.rejected + other.rejected,
            quotas={**self.quotas, **other.quotas},
        )

    def since(self, before: RequestCounts) -> RequestCounts:
        """What has come to this since it was *before*."""
        return RequestCounts(
            requests=self.requests - before.requests,
            rejected=self.rejected - before.rejected,
            quotas=self.quotas,
        )

    def quota_use(self, span: float) -> float:
        """Share of what was allowed in *span* seconds, one full window included; 0 if unknown."""
        allowed = [
            min(quota.limit * (1 + span / quota.period) for quota in quotas)
            for quotas in self.quotas.values()
            if quotas
        ]
        return self.requests / sum(allowed) if allowed else 0.0


class RequestCounter:
    """The requests of one run. It is a `Watch`, and the part of every other watch here."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()
        self._first_at = self._last_at = self._started_at
        self._scopes: dict[str, tuple[Quota, ...]] = {}
        self.requests = 0
        self.rejected = 0

    def before_send(self, request: OutgoingRequest) -> None:
        """One more goes out now."""
        self._last_at = self._loop.time()
        if not self.requests:
            self._first_at = self._last_at
        self.requests += 1
        self._scopes[request.scope] = request.quotas

    def on_rate_limited(self) -> None:
        """One was refused by rate."""
        self.rejected += 1

    @property
    def seconds(self) -> float:
        """Seconds since the run began."""
        return self._loop.time() - self._started_at

    @property
    def counts(self) -> RequestCounts:
        """What was put on the wire so far."""
        return RequestCounts(
            requests=self.requests, rejected=self.rejected, quotas={**self._scopes}
        )

    @property
    def quota_use(self) -> float:
        """Share of what was allowed between the first and the last request; 0 if unknown."""
        return self.counts.quota_use(self._last_at - self._first_at)
