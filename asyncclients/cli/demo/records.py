"""Figures of the demo, from the requests that the mock vendors recorded."""

from __future__ import annotations

import msgspec

from asyncclients.ratelimit.quota import Quota
from asyncclients.sandbox import Sandbox
from asyncclients.sandbox.sandbox import VendorName
from asyncclients.simulator.report import percentile

ASKED_AT = "X-Asked-At"
"""Header of a web request: the loop time at which it was made, before any wait."""


class DemoResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one client did in the demo, as the vendor's server recorded it.

    Attributes:
        vendor: the vendor; `naive` for the naive client, which calls Intouch.
        calls: requests that arrived.
        rejected: those beyond the limit.
        quota_share: share of the quota that was used.
        web_requests: web requests that were accepted.
        waiting: web requests that were still waiting at the end; they count with their wait so far.
        wait_p50: median wait of a web request until it was accepted, in seconds.
        wait_p99: the wait that 99 of 100 web requests did not exceed.
        wait_total: sum of the waits.
        lost: rows that did not arrive; None for the naive client.
        duplicated: rows that arrived twice; None for the naive client.
    """

    vendor: str
    calls: int
    rejected: int
    quota_share: float
    web_requests: int
    waiting: int
    wait_p50: float
    wait_p99: float
    wait_total: float
    lost: int | None = None
    duplicated: int | None = None


def read_record(sandbox: Sandbox, vendor: VendorName, quota: Quota, now: float) -> DemoResult:
    """Return the figures of *vendor* at the loop time *now*, without those of its rows."""
    arrivals = sandbox.requests(vendor)
    counted = [each.at for each in arrivals if each.credential and not each.rejected]
    seconds = max(counted) - min(counted) if counted else 0.0
    web = [(float(each.headers[ASKED_AT]), each) for each in arrivals if ASKED_AT in each.headers]
    asked = {at for at, _ in web}
    accepted_at = {at: each.at for at, each in web if not each.rejected}
    waits = [accepted_at.get(at, now) - at for at in asked] or [0.0]
    return DemoResult(
        vendor=vendor,
        calls=len(arrivals),
        rejected=sandbox.rejected(vendor),
        quota_share=quota_share(len(counted), seconds, quota),
        web_requests=len(accepted_at),
        waiting=len(asked) - len(accepted_at),
        wait_p50=percentile(waits, 0.5),
        wait_p99=percentile(waits, 0.99),
        wait_total=sum(waits),
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


def rows_served(sandbox: Sandbox, total: int) -> int:
    """Return how many of *total* contacts Intouch has sent, in its pages of 25."""
    pages = {
        dict(each.query).get("page", "1")
        for each in sandbox.requests("intouch")
        if not each.rejected and each.path.endswith("/contacts")
    }
    return min(total, 25 * len(pages))
