"""What a process tells and asks a store, and what the store answers: plain values.

Instants and durations are whole microseconds. The rules are in `ledger.py`.
"""

from __future__ import annotations

import msgspec


class QuotaSpec(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A quota with the pace that its process has learned: `burst` calls, then one an `interval`."""

    limit: int
    period: int
    interval: int
    burst: float

    @property
    def name(self) -> str:
        return f"{self.limit}/{self.period}"


class LeaseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What one process tells and asks. Numbers name its slots and are never used twice.

    Attributes:
        process: the process.
        epoch: the ledger that it knows; empty for none.
        new_epoch: name of the ledger, if a new one has to be begun.
        recovering: it comes back after an outage in which others may be sending.
        assume_spent: a new ledger begins with a spent window.
        quotas: what it obeys.
        arrived: number, and how long ago the call had arrived (may be negative).
        in_flight: slots in flight without an answer.
        released: slots that were not used and will not be.
        first: number of the first slot that may be granted.
        count: how many slots it could use at once.
        priority: 0 interactive, 1 background.
        accepted, rejected: its calls that the vendor let in, and did not, since the last claim.
        pause: how long the vendor, which refused a call since the last claim, wants
            nothing; 0 where it did not.
        heartbeat: count me among the living.
        goodbye: and now no longer.
        idle: it has sent nothing for a while, and needs a small share only.
        share_held: the block of the quota that it would send in an outage, see `shares.py`.
        heartbeat_due: how long until its next beat at the latest.
        lease, grace, ttl, min_retry, recovery_hold, detection_time: durations that the rules speak of;
            *poll* is when, at the soonest, to ask again where an answer can change the outlook,
            *notice* is how long others may take to find the store back, and
            *spent* how long, beyond that, a ledger that lost its past grants nothing.
    """

    process: str
    epoch: str
    new_epoch: str
    recovering: bool
    assume_spent: bool
    quotas: tuple[QuotaSpec, ...]
    arrived: tuple[tuple[int, int], ...]
    in_flight: tuple[int, ...]
    released: tuple[int, ...]
    first: int
    count: int
    priority: int
    accepted: int
    rejected: int
    pause: int
    heartbeat: bool
    goodbye: bool
    idle: bool
    share_held: tuple[int, int]
    heartbeat_due: int
    lease: int
    grace: int
    ttl: int
    min_retry: int
    recovery_hold: int
    detection_time: int


class LeaseResponse(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What the store answers.

    Attributes:
        now: the store's clock.
        epoch: the name of the ledger.
        opens_in: how long from *now* each granted slot opens; numbers count from `Claim.first`.
        retry_in: how long from *now* it is worth while to ask again.
        pause: how long the vendor wants nothing.
        accepted, rejected: the same of all processes, ever.
        contenders: other processes that wait in the same class.
        peers: processes alive; 0 where the claim was no beat.
        start, size: the asker's block of the quota from now on; of a beat only.
        hungry: 1 if a process has no block: others are asked to beat soon.
        quotas: names of all quotas in force.
    """

    now: int
    epoch: str
    opens_in: tuple[int, ...]
    retry_in: int
    pause: int
    accepted: int
    rejected: int
    contenders: int
    peers: int
    start: int
    size: int
    hungry: int
    quotas: tuple[str, ...]
