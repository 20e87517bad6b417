"""What the parts of a shared limiter agree on: the store as they see it, and its terms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from asyncclients.arguments import is_seconds, shown
from asyncclients.errors import ConfigurationError

if TYPE_CHECKING:
    from asyncclients.stores.protocol import LeaseRequest, LeaseResponse

WhenDown = Literal["safe_share", "pause", "local"]

HEARTBEAT = 1.0
"""Seconds between two signs of life."""
TTL = 10.0
"""Seconds after which a silent process is taken for dead, or three beats if these are longer."""
PROBE_INTERVAL = 1.0
"""Seconds between two attempts to reach a silent store."""
_LINGER = 60.0
_CROWD = 100
_IDLE_BEAT = 10.0
_LONGEST_BEAT = 120.0
SEND_GRACE = 0.15
"""Seconds after the latest send by which a call of a killed process has arrived."""


class StoreUnavailableError(Exception):
    """The store did not answer, or could not serve; says why.

    Attributes:
        advice: the next step for the person who runs the store.
    """

    def __init__(self, why: str, advice: str = "") -> None:
        super().__init__(why)
        self.advice = advice


class StoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How one pool uses a store.

    Attributes:
        process: this process, or rather this pool of it.
        display_name: how a person knows the store, without credentials.
        when_down: what is sent while it is silent.
        lease: seconds for which a slot may be held before it is used.
        timeout: seconds after which the store counts as silent.
        assume_spent: a new ledger begins with a spent window.
    """

    process: str
    display_name: str
    when_down: WhenDown
    lease: float
    timeout: float
    assume_spent: bool


class ScopeCount:
    """How many scopes one pool shares, and how often an idle one gives signs of life.

    Once a second for a minute after its last call, and every ten seconds after that, so
    that it keeps a share for an outage. With more than a hundred scopes the minute is
    shorter and the ten seconds are longer, for the store's sake.
    """

    __slots__ = ("scopes",)

    def __init__(self) -> None:
        self.scopes = 0

    def idle_timeout(self) -> float:
        """Seconds after its last call."""
        return _LINGER * min(1.0, _CROWD / max(1, self.scopes))

    def beat(self, *, idle: bool, live: int) -> float:
        """Return the seconds between two signs of life, with *live* processes on the scope."""
        if idle:
            return min(_LONGEST_BEAT, _IDLE_BEAT * max(1.0, self.scopes / _CROWD))
        return min(_LONGEST_BEAT, HEARTBEAT * max(1.0, live / _CROWD))


class Backend(Protocol):
    """Where ledgers are kept."""

    async def apply(self, key: str, claim: LeaseRequest) -> LeaseResponse:
        """Take *claim* in, once, in one transaction and in bounded time, and answer it.

        Raises:
            StoreSilentError: no answer, or none that helps; it may have been taken in.
            ConfigurationError: this cannot work, now or later.
        """
        ...

    async def aclose(self) -> None:
        """Close what is open."""
        ...


def check_store_options(when_down: str, lease: float) -> None:
    """Refuse what cannot be meant.

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
