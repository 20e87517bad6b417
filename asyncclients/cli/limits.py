"""`asyncclients limits`: show and change the limits of all processes that share a store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import App, Parameter

from asyncclients.arguments import check_seconds
from asyncclients.cli.options import Switch
from asyncclients.cli.output import duration, show
from asyncclients.cli.shared import LIMITS, from_environment, limits_store
from asyncclients.cli.simulate import read_quota
from asyncclients.errors import ConfigurationError
from asyncclients.ratelimit.quota import Quota
from asyncclients.stores.control import LimitsControl, ScopeLimits

app = App(
    name="limits",
    help="Pause a vendor, or change its limit, for all processes.",
    help_format="plaintext",
)
_SCOPE = Parameter(
    help="name of a vendor in any case, or start of a scope's id as `limits show` prints it"
)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """The limit store and the output."""

    limits: str = ""
    """the limit store of the processes: redis://HOST or a file; by default the variable ASYNCCLIENTS_LIMITS"""
    json: Switch = False
    """print the scopes as JSON"""


_NONE = Options()


@app.command(name="show")
async def show_limits(*, options: Options = _NONE) -> None:
    """Show the scopes in the store: quotas, processes and pauses."""
    _print(await _control(options).show(), options)


@app.command
async def pause(
    scope: Annotated[str, _SCOPE],
    /,
    *,
    seconds: Annotated[float, Parameter(help="length of the pause")] = 600.0,
    options: Options = _NONE,
) -> None:
    """Send no calls of SCOPE for a while, in any process; calls wait."""
    check_seconds("--seconds", seconds, advice="Write it as in --seconds 600")
    _print(await _control(options).pause(scope, seconds), options)


@app.command
async def resume(scope: Annotated[str, _SCOPE], /, *, options: Options = _NONE) -> None:
    """End the pause of SCOPE. A pause that the vendor asked for stays."""
    _print(await _control(options).resume(scope), options)


@app.command(name="set")
async def set_quotas(
    scope: Annotated[str, _SCOPE],
    /,
    *,
    quota: Annotated[
        list[str] | None,
        Parameter(negative="", help="LIMIT/SECONDS, as in 2/1; give it once for each quota"),
    ] = None,
    options: Options = _NONE,
) -> None:
    """Apply other quotas to SCOPE than those that the processes have configured.

    Without --quota the configured ones apply again. Quotas of some operations, or of an hour,
    day or month, are not replaced.
    """
    quotas = [read_quota(each) for each in quota or ()]
    _print(await _control(options).set(scope, quotas), options)


def _control(options: Options) -> LimitsControl:
    store: Any = limits_store(from_environment(options.limits, LIMITS))
    if store is None:
        raise ConfigurationError(
            "the limits are in the store that the processes share",
            advice=f"Set {LIMITS} or give --limits: redis://HOST, or a file",
        )
    return LimitsControl(store)


def _print(scopes: Sequence[ScopeLimits], options: Options) -> None:
    lines = "\n".join(map(_line, scopes)) or "The store has no scopes: no process uses it"
    show(scopes, as_json=options.json, describe=lambda _: lines)


def _line(scope: ScopeLimits) -> str:
    processes = "1 process" if scope.processes == 1 else f"{scope.processes} processes"
    parts = [f"{scope}: {_listed(scope.quotas)}", processes]
    if scope.operator_quotas is not None:
        parts.append(f"{scope.operator_quotas}, configured {_listed(scope.configured)}")
    if scope.operator_pause is not None:
        parts.append(str(scope.operator_pause))
    if scope.vendor_paused_for:
        parts.append(f"paused by the vendor for {duration(scope.vendor_paused_for)}")
    return "; ".join(parts)


def _listed(quotas: Iterable[Quota]) -> str:
    return " and ".join(map(str, quotas)) or "no quota"
