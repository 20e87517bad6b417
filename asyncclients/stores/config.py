"""How one pool uses a store, and the arguments that all stores have in common."""

from __future__ import annotations

from typing import Literal

import msgspec

from asyncclients.arguments import is_seconds, shown
from asyncclients.errors import ConfigurationError

WhenDown = Literal["safe_share", "pause", "local"]


class StoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How one pool uses a store.

    Attributes:
        process: random name of the pool in this process.
        display_name: address of the store in log lines, without credentials.
        when_down: the limit in an outage, see `fallback.py`.
        lease: seconds for which a slot is held before it is used.
        timeout: seconds after which a request has failed.
        assume_spent: a new log starts with a spent window.
    """

    process: str
    display_name: str
    when_down: WhenDown
    lease: float
    timeout: float
    assume_spent: bool


def scope_name(vendor: str, key: str) -> str:
    """Return the scope *key* of *vendor* as it appears in the log; *vendor* may be unknown."""
    return f"{vendor or 'quota'} (scope {key[:4]})"


def token_scope(key: str) -> str:
    """Return the scope of a token with *key*, its vendor and scope, as it appears in the log."""
    vendor, _, scope = key.rpartition(":")
    return scope_name(vendor or "token", scope)


def check_store_options(when_down: str, lease: float) -> None:
    """Check the arguments that all stores have in common.

    Raises:
        ConfigurationError: naming the argument.
    """
    if when_down not in ("safe_share", "pause", "local"):
        raise ConfigurationError(
            f"when_down must be 'safe_share', 'pause' or 'local', not {shown(when_down)}",
            advice="Leave when_down out for the default, 'safe_share'",
        )
    if not is_seconds(lease) or lease > 1:
        raise ConfigurationError(
            f"lease must be above 0 s and at most 1 s, not {shown(lease)}",
            advice="Leave lease out for the default, or write it as in lease=0.1",
        )
