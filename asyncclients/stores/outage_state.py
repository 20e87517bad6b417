"""One scope's outage: how long the store has been silent, and what is sent meanwhile.

The first failure is no outage, since it may be a stale connection: it is asked
again at once. The second begins one, which ends with the first answer. What may
be sent is said in `outage.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from asyncclients.stores.config import PROBE_INTERVAL, SEND_GRACE
from asyncclients.stores.fallback import Blocked, FallbackPolicy, Unlimited, fallback_policy

if TYPE_CHECKING:
    from asyncclients.stores.config import StoreConfig
    from asyncclients.stores.sync_state import SyncState

_SLACK = 0.25
"""Seconds by which a beat may be late; see `ledger.py`."""


class OutageState:
    """How the store has failed to answer one scope.

    Attributes:
        failures: claims in a row that were not answered.
        fallback: what may be sent without the store; None while there is no outage.
    """

    def __init__(self, account: SyncState, terms: StoreConfig) -> None:
        self._account, self._terms = account, terms
        self._failed_at = -math.inf
        self.failures = 0
        self.fallback: FallbackPolicy | None = None

    def recently_probed(self, now: float) -> bool:
        """Was the store asked in vain a moment ago?"""
        return now < self._failed_at + PROBE_INTERVAL + 2 * self._terms.timeout

    def probe_at(self) -> float:
        """When to ask again; inf while it answers."""
        if not self.failures:
            return math.inf
        return self._failed_at + (PROBE_INTERVAL if self.failures > 1 else 0.0)

    def on_failure(self, now: float) -> bool:
        """One more claim was not answered; is it an outage?"""
        self._failed_at = now
        self.failures += 1
        return self.failures > 1

    def start(self, now: float) -> FallbackPolicy:
        """The outage begins: what may be sent."""
        self.fallback = self._alone(now)
        return self.fallback

    def stop(self) -> None:
        """The store has answered."""
        self.fallback = None
        self.failures = 0

    def others_may_be_sending(self, now: float) -> bool:
        """May others send right now, until they notice that the store is back?"""
        if self.fallback is None or self._terms.when_down == "pause":
            return False
        begun = self._account.last_response_at + max(self._account.periods())
        return self._terms.when_down == "local" or now > begun

    def _alone(self, now: float) -> FallbackPolicy:
        if self._terms.when_down == "local":
            return Unlimited()
        if self._terms.when_down == "pause":
            return Blocked()
        census, over_by = self._account.membership, now + self._terms.lease + SEND_GRACE
        if census.idle:
            # Others may come to a store that is back, and see nothing wrong before this
            # process is overdue there; and this process may not see at once that it is back.
            over_by = max(
                over_by, census.due_at + _SLACK + PROBE_INTERVAL + 2 * self._terms.timeout
            )
        return fallback_policy(self._account.quotas(), census, self._account.clock, now, over_by)
