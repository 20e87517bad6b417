"""Pause a scope, or replace its quotas, in all processes that share a limit store.

```python
control = LimitsControl(RedisLimits("redis://cache:6379"))
await control.pause("intouch", 600)
await control.set("totango", [Quota(50, 60.0)])
```

The store keeps pauses and quotas, so they survive restarts of the processes. A process learns of
a change with its next request: within a second while it has calls. Slots that were granted
before a pause are void after twice the lease of the store, 0.2 s by default.

`resume` ends the pause of an operator. A pause that the vendor asked for, by a 429, stays: the
vendor would reject the calls. The quotas that are set replace the configured quotas of all
operations; those of some operations and of calendar windows (`Quota.calendar`) apply as well.
"""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from asyncclients.arguments import check_seconds, check_type, kind_of, shown
from asyncclients.errors import ConfigurationError
from asyncclients.ratelimit.control import Control, OperatorPause, OperatorQuotas
from asyncclients.ratelimit.quota import Quota, check_quotas
from asyncclients.stores.clock import SECOND
from asyncclients.stores.protocol import (
    StoreUnavailableError,
    decode_pause,
    decode_quotas,
    parse_quotas,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from asyncclients.stores.quota_log import QuotaLog

_LONGEST_PAUSE = 366 * 86400.0
_LONGEST_NAME = 100
_ID_LENGTH = 8
"""Digits of a scope's id in a text."""
_ATTEMPTS = 3
"""Attempts to reach the store, each with its timeout; an operator can wait for that."""
_MOST_LISTED = 20
"""Scopes that an error lists."""


class ScopeLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one scope in a store.

    Attributes:
        vendor: name of the vendor, or the host for `quota_middleware`.
        scope: one-way name of origin and credential, or of origin and quota key.
        quotas: the quotas in force.
        configured: the quotas that the processes have configured.
        processes: how many processes use the scope at present.
        paused_for: seconds until calls may be sent, whether an operator or the vendor paused
            the scope; 0 when not paused.
        vendor_paused_for: seconds until the pause that the vendor asked for ends.
        operator_pause: the pause that an operator has set; None without one.
        operator_quotas: the quotas that an operator has set; None if the configured ones apply.
    """

    vendor: str
    scope: str
    quotas: tuple[Quota, ...]
    configured: tuple[Quota, ...]
    processes: int
    paused_for: float
    vendor_paused_for: float
    operator_pause: OperatorPause | None
    operator_quotas: OperatorQuotas | None

    def __str__(self) -> str:
        return f"{self.vendor or 'unknown'} {self.scope[:_ID_LENGTH]}"


class ControlBackend(Protocol):
    """What `LimitsControl` uses of a store's backend; errors are those of `Backend.apply`."""

    async def scopes(self) -> list[ScopeLimits]:
        """Return all scopes in the store."""
        ...

    async def set_control(self, scope: str, vendor: str, field: str, value: str) -> None:
        """Set `operator_pause` or `operator_quotas` to *value*, as JSON; "" removes it."""
        ...

    async def aclose(self) -> None: ...


class LimitsControl:
    """Shows and changes the limits of all processes that share *store*.

    SCOPE in its methods is the name of a vendor in any case, for all scopes of this vendor, or the
    start of one scope's id as `show` returns it.

    Args:
        store: `FileLimits` or `RedisLimits`, as the processes have it.
        by: author of the changes, as it is recorded; by default `USER@HOST`.

    Raises:
        ConfigurationError: *store* is no limit store, or *by* is no short text.
    """

    def __init__(self, store: Any, *, by: str | None = None) -> None:
        if not callable(getattr(store, "backend", None)) or isinstance(store, type):
            kind, store = kind_of(store), None  # a URL may hold a password
            raise ConfigurationError(
                f"the store of LimitsControl cannot be {kind}",
                advice="Write it as in LimitsControl(FileLimits('limits.db'))",
            )
        by = _user() if by is None else by
        check_type("by", by, str, "by='ann'")
        if not by.isprintable() or not 0 < len(by) <= _LONGEST_NAME:
            raise ConfigurationError(
                f"by must be a printable text of at most {_LONGEST_NAME} characters, not {shown(by)}",
                advice="Leave by out for user@host",
            )
        self._store, self._by = store, by

    async def show(self) -> tuple[ScopeLimits, ...]:
        """Return the limits of all scopes in the store, by vendor.

        The store forgets a scope some minutes after its last call, unless an operator has
        set something.

        Raises:
            ConfigurationError: the store does not exist, cannot be used or does not respond.
        """
        return await self._try(_show)

    async def pause(self, scope: str, seconds: float = 600.0) -> tuple[ScopeLimits, ...]:
        """Send no calls of *scope* for *seconds*, in any process; return the scopes.

        Calls wait. Replaces an earlier pause of an operator.

        Raises:
            ConfigurationError: *seconds* is not above 0 and at most 366 days, or *scope* is
                unknown or ambiguous; see also `show`.
        """
        check_seconds("seconds", seconds)
        if seconds > _LONGEST_PAUSE:
            raise ConfigurationError(
                f"a pause of {seconds:g} s is too long", advice="Pause for at most 366 days"
            )
        now = time.time()
        pause = OperatorPause(at=now, until=now + seconds, by=self._by)
        return await self._change(scope, "operator_pause", _encode(pause))

    async def resume(self, scope: str) -> tuple[ScopeLimits, ...]:
        """End the pause of *scope* that an operator has set; return the scopes.

        Raises:
            ConfigurationError: *scope* is unknown or ambiguous; see also `show`.
        """
        return await self._change(scope, "operator_pause", "")

    async def set(self, scope: str, quotas: Sequence[Quota]) -> tuple[ScopeLimits, ...]:
        """Apply *quotas* in place of the configured ones, in all processes; return the scopes.

        Without quotas, as in `set("intouch", [])`, the configured ones apply again.

        Raises:
            ConfigurationError: *quotas* are not all of the form `Quota(2, 1.0)`, or *scope* is
                unknown or ambiguous; see also `show`.
        """
        checked = check_quotas(quotas)
        for quota in checked:
            if quota.operations or quota.unit:
                raise ConfigurationError(
                    f"a quota of {quota} cannot be set for all processes",
                    advice="Set quotas of all operations in any period, as in Quota(2, 1.0)",
                )
        found = OperatorQuotas(at=time.time(), by=self._by, quotas=checked)
        return await self._change(scope, "operator_quotas", _encode(found) if checked else "")

    async def _change(self, scope: str, field: str, value: str) -> tuple[ScopeLimits, ...]:
        async def change(backend: ControlBackend) -> tuple[ScopeLimits, ...]:
            chosen = _select(await _show(backend), scope)
            for each in chosen:
                await backend.set_control(each.scope, each.vendor, field, value)
            changed = {each.scope for each in chosen}
            return tuple(each for each in await _show(backend) if each.scope in changed)

        return await self._try(change)

    async def _try(
        self, work: Callable[[ControlBackend], Awaitable[tuple[ScopeLimits, ...]]]
    ) -> tuple[ScopeLimits, ...]:
        """Return the result of *work*, repeated if a busy store misses its timeout."""
        reason = advice = ""
        for _ in range(_ATTEMPTS):
            backend: ControlBackend = self._store.backend()
            try:
                return await work(backend)
            except StoreUnavailableError as error:
                reason, advice = str(error), error.advice
            finally:
                await backend.aclose()
        raise ConfigurationError(
            f"the shared limit store {self._store.display_name} could not be reached: {reason}",
            advice=advice or "Start it or correct its address",
        )


async def _show(backend: ControlBackend) -> tuple[ScopeLimits, ...]:
    found = await backend.scopes()
    return tuple(sorted(found, key=lambda limits: (limits.vendor, limits.scope)))


def _encode(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _user() -> str:
    try:
        user = getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    return f"{user}@{socket.gethostname()}"[:_LONGEST_NAME]


def scope_limits(scope: str, log: QuotaLog, now: int) -> ScopeLimits:
    """Return the limits of *scope*, whose store has *log* and the time *now*."""
    wall, vendor_paused_for = time.time(), max(0, log.paused_until - now) / SECOND
    pause = decode_pause(log.operator_pause) if log.operator_pause else None
    if pause is not None and pause.until <= wall:
        pause = None
    quotas = decode_quotas(log.operator_quotas) if log.operator_quotas else None
    configured = tuple(parse_quotas(log.configured))
    return ScopeLimits(
        vendor=log.vendor,
        scope=scope,
        quotas=Control(quotas=quotas).in_force(configured),
        configured=configured,
        processes=sum(member.until > now for member in log.members.values()),
        paused_for=max(vendor_paused_for, pause.until - wall if pause is not None else 0.0),
        vendor_paused_for=vendor_paused_for,
        operator_pause=pause,
        operator_quotas=quotas,
    )


def _select(scopes: Sequence[ScopeLimits], name: str) -> list[ScopeLimits]:
    """Return the scopes of vendor *name* in any case, or the one whose id starts with *name*.

    Raises:
        ConfigurationError: there is none, or *name* is the start of several ids.
    """
    if found := [each for each in scopes if name and each.vendor.lower() == name.lower()]:
        return found
    found = [each for each in scopes if name and each.scope.startswith(name)]
    if len(found) == 1:
        return found
    if found:
        raise ConfigurationError(
            f"several scopes start with {name!r}: {_listed(found)}",
            advice="Give more digits, or the name of a vendor for all of its scopes",
        )
    raise ConfigurationError(
        f"the limit store has no vendor or scope {name!r}; it has {_listed(scopes) or 'none'}",
        advice="A scope is in the store from its first call to some minutes after its last one",
    )


def _listed(scopes: Sequence[ScopeLimits]) -> str:
    more = len(scopes) - _MOST_LISTED
    text = ", ".join(map(str, scopes[:_MOST_LISTED]))
    return f"{text} and {more} more" if more > 0 else text
