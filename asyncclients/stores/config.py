"""How one pool uses a store, and how scopes are named in the log."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from asyncclients.arguments import check_fields

WhenDown = Literal["safe_share", "pause", "local"]
Lease = Annotated[float, Meta(gt=0, le=1, description="above 0 s and at most 1 s", examples=[0.1])]


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
    lease: Lease = 0.1
    timeout: float = 0.5
    process: str = ""
    assume_spent: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


def scope_name(vendor: str, key: str) -> str:
    """Return the scope *key* of *vendor* as it appears in the log; *vendor* may be unknown."""
    return f"{vendor or 'quota'} (scope {key[:4]})"


def token_scope(key: str) -> str:
    """Return the scope of a token with *key*, its vendor and scope, as it appears in the log."""
    vendor, _, scope = key.rpartition(":")
    return scope_name(vendor or "token", scope)
