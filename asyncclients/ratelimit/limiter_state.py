"""What a limiter knows, as a value."""

from __future__ import annotations

import msgspec


class LimiterState(msgspec.Struct, frozen=True, kw_only=True):
    """What a limiter knew at one instant. Durations in seconds.

    Attributes:
        held: slots in use in the fullest quota.
        holds: slots in use, by quota.
        opens_in: until each quota has a free slot; inf where only an answer can free one.
        paced_for: until the next call keeps its distance from the last one.
        in_flight: calls sent and not yet settled.
        paused_for: until the pause ends; 0 where there is none.
        external_rate: calls per second that others make on the same quota.
        probing: calls go out one at a time, since refusals came in a row.
        rate_factor: share of the quota's rate in use; below 1 after refusals.
        bursts: whether calls may follow each other faster than the rate.
        round_trip: the usual round trip of an admitted call.
    """

    held: int
    holds: tuple[int, ...]
    opens_in: tuple[float, ...]
    paced_for: float
    in_flight: int
    paused_for: float
    external_rate: float
    probing: bool
    rate_factor: float
    bursts: bool
    round_trip: float
