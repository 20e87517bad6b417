"""What a process tells and asks a store, and what the store answers: plain values.

Instants and durations are whole microseconds. The rules are in `ledger.py`.
"""

from __future__ import annotations

import msgspec


class PacedQuota(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A quota with the pace that its process has learned: `burst` calls, then one an `interval`."""

    limit: int
    period: int
    interval: int
    burst: float

    @property
    def name(self) -> str:
        return f"{self.limit}/{self.period}"


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What one process tells and asks. Numbers name its slots and are never used twice.

    Attributes:
        me: the process.
        epoch: the ledger that it knows; empty for none.
        fresh: name of the ledger, if a new one has to be begun.
        returns: it comes back after an outage in which others may be sending.
        cold: a new ledger begins with a spent window.
        quotas: what it obeys.
        settled: number, and how long ago the call had arrived (may be negative).
        renewed: slots in flight without an answer.
        freed: slots that were not used and will not be.
        first: number of the first slot that may be granted.
        wanted: how many slots it could use at once.
        priority: 0 interactive, 1 background.
        admitted, refused: its calls that the vendor let in, and did not, since the last claim.
        pause: how long the vendor, which refused a call since the last claim, wants
            nothing; 0 where it did not.
        beat: count me among the living.
        leave: and now no longer.
        idle: it has sent nothing for a while, and needs a small share only.
        held: the block of the quota that it would send in an outage, see `shares.py`.
        due: how long until its next beat at the latest.
        lease, grace, live, poll, spent, notice: durations that the rules speak of;
            *poll* is when, at the soonest, to ask again where an answer can change the outlook,
            *notice* is how long others may take to find the store back, and
            *spent* how long, beyond that, a ledger that lost its past grants nothing.
    """

    me: str
    epoch: str
    fresh: str
    returns: bool
    cold: bool
    quotas: tuple[PacedQuota, ...]
    settled: tuple[tuple[int, int], ...]
    renewed: tuple[int, ...]
    freed: tuple[int, ...]
    first: int
    wanted: int
    priority: int
    admitted: int
    refused: int
    pause: int
    beat: bool
    leave: bool
    idle: bool
    held: tuple[int, int]
    due: int
    lease: int
    grace: int
    live: int
    poll: int
    spent: int
    notice: int


class Grant(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What the store answers.

    Attributes:
        now: the store's clock.
        epoch: the name of the ledger.
        opens: how long from *now* each granted slot opens; numbers count from `Claim.first`.
        wait: how long from *now* it is worth while to ask again.
        pause: how long the vendor wants nothing.
        admitted, refused: the same of all processes, ever.
        rivals: other processes that wait in the same class.
        live: processes alive; 0 where the claim was no beat.
        start, size: the asker's block of the quota from now on; of a beat only.
        hungry: 1 if a process has no block: others are asked to beat soon.
        quotas: names of all quotas in force.
    """

    now: int
    epoch: str
    opens: tuple[int, ...]
    wait: int
    pause: int
    admitted: int
    refused: int
    rivals: int
    live: int
    start: int
    size: int
    hungry: int
    quotas: tuple[str, ...]
