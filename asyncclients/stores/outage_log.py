"""Log an outage of one pool's store once, however many scopes notice it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from asyncclients.core.events import logger
from asyncclients.stores.config import PROBE_INTERVAL

if TYPE_CHECKING:
    from asyncclients.stores.config import StoreConfig


class OutageLog:
    """The scopes of one pool that use the store, and whether it is reachable."""

    def __init__(self, terms: StoreConfig) -> None:
        self._config = terms
        self._vendors: dict[str, str] = {}
        self._is_down = False
        self._recovered_at = -math.inf

    def add(self, key: str, vendor: str) -> None:
        """Scope *key* of *vendor* uses the store from now on."""
        self._vendors[key] = vendor

    def remove(self, key: str) -> None:
        """Scope *key* is gone."""
        self._vendors.pop(key, None)

    def name(self, key: str) -> str:
        """Return scope *key* as it appears in the log."""
        return f"{self._vendors.get(key) or 'quota'} (scope {key[:4]})"

    @property
    def has_worked(self) -> bool:
        """True if the store has answered any scope of the pool."""
        return self._recovered_at > -math.inf

    def begin(self, key: str, asked_at: float, why: str, advice: str, fallback: str) -> None:
        """Log that *key*'s request of instant *asked_at* failed, unless that is known."""
        if self._is_down or asked_at <= self._recovered_at:
            return
        self._is_down = True
        name, others = self.name(key), len(self._vendors) - 1
        if others > 0:
            vendors = ", ".join(sorted({vendor for vendor in self._vendors.values() if vendor}))
            name += f" and {others} more scope{'s' * (others > 1)} ({vendors})"
        logger.warning(
            "%s: limit store %s unreachable: %s. Fallback %s: %s. Retrying every %g s. %s",
            *(name, self._config.display_name, why.rstrip("."), self._config.when_down, fallback),
            *(PROBE_INTERVAL, advice or "Check that it is running"),
        )

    def end(self, now: float) -> None:
        """Log that the store has answered, if an outage was logged."""
        self._recovered_at = now
        if self._is_down:
            self._is_down = False
            vendors = ", ".join(sorted({vendor for vendor in self._vendors.values() if vendor}))
            logger.warning("%s: limit store %s reachable again", vendors, self._config.display_name)
