"""The protocol between the processes that share a quota and the store that holds it.

A *scope* is one origin with one credential, or with one `quota_key`. Its quotas hold for all
processes together, so each process asks the store for permission to send: one `LeaseRequest`
at a time for each scope, answered by a `LeaseResponse`. `lease_state.py` is the process's
side, `quota_log.py` the store's side, and `quota_log.lua` the same for Redis. Instants and
durations are whole microseconds of the store's clock, except where seconds are named.

**Leases.** A request asks for slots for `count` calls, and a call of cost N takes N slots with
consecutive numbers that open together. The store reserves them and responds with the instant
at which each call may be sent. A slot is reserved up to `lease` before it opens,
so that no round trip lies between its opening and the send, and is void `lease` after its
opening. The process reports each slot in a later request: `arrived` when the call reached
the vendor, `in_flight` while there is no response, or `released` when it was not used.

**Why no quota is exceeded.** The store logs, for every slot, the latest instant at which its
call can reach the vendor: the end of the lease plus `grace` for a reserved slot, the
reported instant for an arrived one. The next slot opens when the limit-th latest of these
instants is one period old, so fewer than `limit` calls can arrive within the period before
it. A request whose response was lost is safe: the process releases the numbers that it asked
for, no number is used twice, and a repeated report has no further effect.

**Groups.** A quota of the group "" applies to every call, any other one to the calls that
name its group: those of some operations, or those of one share. Each group has a log of its
own, a slot is in the logs of all groups of its call, and all their quotas are checked and
taken in one step. A call of cost N takes N units of each, all at the same instant, or none.

**Calendar quotas.** The units used in a window of the calendar (an hour, day or month) are
counted, not logged. The process names the windows, in microseconds since 1970, and its own
wall clock. A call that may arrive on either side of a boundary counts in both windows, and the
clocks may differ by a second.

**Heartbeat and ttl.** Each request renews the membership of the process, for `ttl`, and says
when the next one follows at the latest: in a second, with more than four processes in 1.95 s,
and in 10 s after a minute without calls.
Calls without a response are listed again at least once a period; the log keeps them until a
period after the last report. The slots of a killed process expire in the same way, without any
cleanup.

**Epoch.** The log has a random name. A process that knows another epoch proves that the log
lost data: it is empty although calls were sent. Nothing is granted for a period
(`recovery_hold`) plus the time that other processes need to notice (`detection_time`).

**Outage.** The first failed request is retried at once, the second begins an outage: leases are
dropped, `when_down` decides what may be sent (`fallback.py`), and a heartbeat is sent every
second until the store responds. Each response assigns the process a block of the quota in advance
(`shares.py`). The store keeps both the block that the process confirmed and the one last
assigned, because the response may be lost, and gives neither to another.

**Control.** An operator may pause a scope, or set quotas that replace the configured ones
(`control.py`). The store then grants nothing, or nothing to a process that does not obey these
quotas yet. Each response contains what the operator has set.

**Recovery hold.** After an outage the first request has `recovering` set: the process sent
calls by itself, and so may others. Nothing is granted for `detection_time`, until all have
reported. A store that was out of reach for everybody also notices this itself, by the
heartbeats that are overdue, since the first process to return may be a new one.

**Takeover.** A replica that is promoted, or a server that reads its log from disk, may lack the
last requests. The script sees that another server process has the log, and grants nothing for
`takeover_time`. Meanwhile each process reports the last instant that it has seen on the old
server. If that is later than the log, requests are lost, and nothing is granted for a period.

**Clocks.** Only the store's clock counts. If it was set back, a new log starts with a
spent window. If it was set forward, the log looks older than it is: processes detect the
jump and report an unknown epoch, which makes the window count as spent.

**Keys in Redis** are named `PREFIX:v4:{SCOPE}:NAME`; SCOPE is a one-way hash, of which log lines
show the first four digits. `docs/many-processes.md` lists the keys and their content.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import msgspec

from asyncclients.ratelimit.control import OperatorPause, OperatorQuotas
from asyncclients.ratelimit.quota import Quota
from asyncclients.stores.clock import SECOND

if TYPE_CHECKING:
    from collections.abc import Iterable

HEARTBEAT = 1.0
"""Seconds between two requests of a process that sends calls, at most, beside a few others."""
TTL = 10.0
"""Seconds without a request after which a process is no member; at least three heartbeats."""
PROBE_INTERVAL = 1.0
"""Seconds between two attempts to reach the store in an outage."""
SEND_GRACE = 0.15
"""Seconds from the latest send until a call of a killed process has arrived."""
UNKNOWN_EPOCH = "?"
"""Name of no log: reports that the log's entries look older than they are."""


class QuotaSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A quota, and the token bucket that a process has learned to keep it."""

    limit: int  # units per *period*
    period: int  # microseconds; of a calendar quota the longest length of a window
    interval: int  # microseconds per unit after the burst; a calendar quota has no token bucket
    burst: float  # units that may be sent at once
    group: str = ""  # the calls to which it applies; empty for all
    calendar: str = ""  # `UNIT:TIMEZONE` of a calendar quota, otherwise empty
    previous: int = 0  # start of the previous calendar window, in microseconds since 1970
    start: int = 0  # of the current one
    next: int = 0  # of the next one
    used: int = 0  # units that this process has used in the current window by its own count

    @property
    def name(self) -> str:
        """The quota's name among those of the scope."""
        calendar = f"@{self.calendar}" if self.calendar else ""
        group = f" {self.group}" if self.group else ""
        return f"{self.limit}/{self.period}{calendar}{group}"


Groups = tuple[str, ...]
"""The groups of quotas that apply to a call, besides ""."""


class LeaseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a process for a scope. Slot numbers are unique within the process.

    Durations are microseconds; `arrived` may name calls that arrive later, by a negative age.
    """

    process: str  # random name of the pool in this process
    epoch: str  # the log that the process knows; empty for none
    seen: tuple[str, int]  # `server` and `now` of the last response; "" and 0 for none
    new_epoch: str  # name for the log if it is new
    recovering: bool  # the process returns from an outage in which others may have sent calls
    assume_spent: bool  # a new log starts with a spent window
    wall: int  # the wall clock of the process, in microseconds since 1970
    quotas: tuple[QuotaSpec, ...]  # the configured quotas of the process
    arrived: tuple[tuple[int, int, Groups], ...]  # slots, and the ages of the arrivals
    in_flight: tuple[tuple[int, Groups], ...]  # slots without a response
    released: tuple[int, ...]  # slots that were not used
    first: int  # number of the first slot to be granted
    count: int  # calls that could be sent at once
    cost: int  # slots for each of them
    groups: Groups  # of these calls
    priority: int  # 0 interactive, 1 background
    accepted: int  # calls that the vendor accepted since the last request
    rejected: int  # calls that it rate-limited
    pause: int  # for how long the vendor wants no calls; 0 for no pause
    goodbye: bool  # end the membership of the process
    idle: bool  # the process has sent nothing lately and needs a small block only
    block_held: tuple[int, int]  # start and size of the block that the process has
    heartbeat_due: int  # time until the next request at the latest
    lease: int  # how long before and after its opening a slot is held
    grace: int  # longest time from the end of the lease until the call arrives
    ttl: int  # how long the membership lasts
    min_retry: int  # shortest *retry_in* if a report of another process may open a slot sooner
    recovery_hold: int  # how long nothing is granted after data was lost
    detection_time: int  # time that others need to notice that the store is back
    takeover_time: int  # time in which all have reported to another server process
    vendor: str = ""  # name of the vendor
    obeys: str = ""  # `operator_quotas` of the last response
    operator_quotas: tuple[QuotaSpec, ...] = ()  # the same, as the process keeps them

    @property
    def logs(self) -> tuple[str, ...]:
        """The groups whose logs the request needs, "" first."""
        return tuple(dict.fromkeys(("", *(quota.group for quota in self.quotas))))


class LeaseResponse(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The store's response; without arguments, what a process knows before the first one."""

    now: int = 0  # the store's clock
    epoch: str = ""  # name of the log
    server: str = ""  # random name of the server process; empty if unknown, or for a file
    opens_in: tuple[int, ...] = ()  # time from *now* until the slots of each call open
    retry_in: int = 0  # time from *now* after which another request may be granted a slot
    pause: int = 0  # for how long the vendor wants no calls
    accepted: int = 0  # calls of all processes since the epoch began
    rejected: int = 0  # likewise
    contenders: int = 0  # other processes that wait in the same priority class
    member_count: int = 0  # number of members, this process included
    start: int = 0  # of the process's next block
    size: int = 0  # of this block
    waits_for: str = ""  # name of the quota that delays the next slot; empty for none
    quotas: tuple[str, ...] = ()  # names of all quotas in force
    operator_pause: str = ""  # JSON of an `OperatorPause`; empty for none
    operator_quotas: str = ""  # JSON of `OperatorQuotas`; empty for none
    held: int = 0  # for how long an operator wants no calls


class StoreUnavailableError(Exception):
    """The store did not respond, or could not serve the request.

    Attributes:
        advice: the next step for the person who runs the store.
    """

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.advice = advice


decode_pause = msgspec.json.Decoder(OperatorPause).decode
decode_quotas = msgspec.json.Decoder(OperatorQuotas).decode


def parse_quotas(names: Iterable[str]) -> list[Quota]:
    """Return the quotas that *names* (see `QuotaSpec.name`) stand for, without shares."""
    found: list[Quota] = []
    for name in sorted(names):
        name, _, group = name.partition(" ")
        name, _, calendar = name.partition("@")
        limit, _, period = name.partition("/")
        unit, _, timezone = calendar.partition(":")
        calls, _, operations = group.partition(":")
        if calls in {"", "operations"}:
            patterns = tuple(operations.split(",")) if operations else ()
            quota = Quota(int(limit), int(period) / SECOND, operations=patterns)
            found.append(replace(quota, unit=unit, timezone=timezone))
    return found


class Backend(Protocol):
    """Storage for the quota logs of all scopes."""

    async def apply(self, key: str, request: LeaseRequest) -> LeaseResponse:
        """Apply *request* to the log of scope *key*, in one transaction and in bounded time.

        Raises:
            StoreUnavailableError: there was no usable response; the request may have been applied.
            ConfigurationError: the store cannot work as configured.
        """
        ...

    async def aclose(self) -> None:
        """Close connections and files."""
        ...
