"""How one pool uses a store, and how scopes are named in the log."""

from __future__ import annotations

from typing import Literal

import msgspec

from asyncclients.arguments import is_seconds, shown
from asyncclients.errors import ConfigurationError

WhenDown = Literal["safe_share", "pause", "local"]


class StoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How one pool uses a store.

    Attributes:
        display_name: address of the store in log lines, without credentials.
        when_down: the limit in an outage, see `fallback.py`.
        lease: seconds for which a slot is held before it is used.
        timeout: seconds after which a request has failed.
        process: random name of the pool in this process.
        assume_spent: a new log starts with a spent window.

    Raises:
        ConfigurationError: for an invalid *when_down* or *lease*.
    """

    display_name: str
    when_down: WhenDown = "safe_share"
    lease: float = 0.1
    timeout: float = 0.5
    process: str = ""
    assume_spent: bool = False

    def __post_init__(self) -> None:
        if self.when_down not in ("safe_share", "pause", "local"):
            raise ConfigurationError(
                f"when_down must be 'safe_share', 'pause' or 'local', not {shown(self.when_down)}",
                advice="Leave when_down out for the default, 'safe_share'",
            )
        if not is_seconds(self.lease) or self.lease > 1:
            raise ConfigurationError(
                f"lease must be above 0 s and at most 1 s, not {shown(self.lease)}",
                advice="Leave lease out for the default, or write it as in lease=0.1",
            )


def scope_name(vendor: str, key: str) -> str:
    """Return the scope *key* of *vendor* as it appears in the log; *vendor* may be unknown."""
    return f"{vendor or 'quota'} (scope {key[:4]})"


def token_scope(key: str) -> str:
    """Return the scope of a token with *key*, its vendor and scope, as it appears in the log."""
    vendor, _, scope = key.rpartition(":")
    return scope_name(vendor or "token", scope)
