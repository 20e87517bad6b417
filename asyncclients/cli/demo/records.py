"""Figures of the demo, from the requests that the mock vendors recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from asyncclients.ratelimit.quota import Quota
from asyncclients.sandbox import Sandbox
from asyncclients.sandbox.sandbox import VendorName
from asyncclients.sandbox.server import Arrival
from asyncclients.simulator.report import percentile

ASKED_AT = "X-Asked-At"
"""Header of a web request: the loop time at which it was made, before any wait."""


class Waits(NamedTuple):
    """Seconds from making a web request until it arrived at the vendor and was accepted.

    Attributes:
        answered: of the web requests that were accepted.
        waiting: of those that are still waiting, until now.
    """

    answered: list[float]
    waiting: list[float]

    @property
    def total(self) -> float:
        """Sum of all waits."""
        return sum(self.answered) + sum(self.waiting)

    def percentile(self, share: float) -> float:
        """Return the wait that *share* of the web requests did not exceed; 0 if there were none.

        A request that still waits counts with its wait so far.
        """
        waits = self.answered + self.waiting
        return percentile(waits, share) if waits else 0.0


class Record(NamedTuple):
    """Figures of one vendor.

    Attributes:
        calls: requests that arrived.
        rejected: those beyond the limit.
        quota_share: see `quota_share`.
        waits: the waits of its web requests.
    """

    calls: int
    rejected: int
    quota_share: float
    waits: Waits


class DemoResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one client did in the demo, as the vendor's server recorded it.

    Attributes:
        vendor: the vendor; `naive` for the naive client, which calls Intouch.
        calls: requests that arrived.
        rejected: those beyond the limit.
        quota_share: share of the quota that was used.
        wait_p50: median wait of a web request, in seconds.
        wait_p99: the wait that 99 of 100 web requests did not exceed.
        wait_total: sum of the waits.
        lost: rows that did not arrive; None for the naive client.
        duplicated: rows that arrived twice; None for the naive client.
    """

    vendor: str
    calls: int
    rejected: int
    quota_share: float
    wait_p50: float
    wait_p99: float
    wait_total: float
    lost: int | None
    duplicated: int | None


def read_record(sandbox: Sandbox, vendor: VendorName, quota: Quota, now: float) -> Record:
    """Return the record of *vendor* at the loop time *now*."""
    arrivals = sandbox.requests(vendor)
    counted = [each.at for each in arrivals if each.credential and each.accepted]
    seconds = max(counted) - min(counted) if counted else 0.0
    return Record(
        calls=len(arrivals),
        rejected=sandbox.rejected(vendor),
        quota_share=quota_share(len(counted), seconds, quota),
        waits=_waits(arrivals, now),
    )


def quota_share(calls: int, seconds: float, quota: Quota) -> float:
    """Return the share of *quota* that *calls* in *seconds* used.

    From the first call on, N calls a period allow N at once and N more in each period. Where
    *seconds* are less than one period, *calls* are compared with an even pace instead, because
    the rest of the period is still to come; a pace above the quota's counts as 1.
    """
    periods = seconds / quota.period
    allowed = quota.limit * (periods + 1 if periods >= 1 else periods)
    return min(1.0, calls / allowed) if allowed else 0.0


def _waits(arrivals: Iterable[Arrival], now: float) -> Waits:
    asked: dict[str, float | None] = {}
    for each in arrivals:
        if (at := each.headers.get(ASKED_AT)) is not None:
            asked.setdefault(at, None)
            if each.accepted:
                asked[at] = each.at
    answered = [at - float(asked_at) for asked_at, at in asked.items() if at is not None]
    waiting = [now - float(asked_at) for asked_at, at in asked.items() if at is None]
    return Waits(answered, waiting)


def pages_served(sandbox: Sandbox) -> int:
    """Return the number of different pages of contacts that Intouch has sent."""
    return len(
        {
            dict(each.query).get("page", "1")
            for each in sandbox.requests("intouch")
            if each.accepted and each.path.endswith("/contacts")
        }
    )


def lost(expected: Sequence[str], found: Sequence[str]) -> int:
    """Return the number of *expected* rows that are missing among those *found*."""
    return (Counter(expected) - Counter(found)).total()


def duplicated(expected: Sequence[str], found: Sequence[str]) -> int:
    """Return the number of *found* rows beyond those *expected*."""
    return (Counter(found) - Counter(expected)).total()
