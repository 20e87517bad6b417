"""The servers that a simulation can stand in front of, by name.

Each is one of the models of `sandbox/limits.py`, which share no line with the
client's limiter: the client learns of them by their answers alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncclients.sandbox.limits import FixedWindow, SlidingLog, TokenBucket, TwoCounter

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from asyncclients.ratelimit.quota import Quota
    from asyncclients.sandbox.limits import ServerLimit


def _sliding_log(quota: Quota, _random: Random) -> ServerLimit:
    return SlidingLog(quota.limit, quota.period)


def _counting_log(quota: Quota, _random: Random) -> ServerLimit:
    return SlidingLog(quota.limit, quota.period, count_rejected=True)


def _fixed_window(quota: Quota, random: Random) -> ServerLimit:
    return FixedWindow(quota.limit, quota.period, phase=random.random() * quota.period)


def _token_bucket(quota: Quota, _random: Random) -> ServerLimit:
    return TokenBucket(quota.limit, quota.period)


def _small_bucket(quota: Quota, _random: Random) -> ServerLimit:
    return TokenBucket(quota.limit, quota.period, capacity=max(1.2, quota.limit / 10))


def _two_counter(quota: Quota, random: Random) -> ServerLimit:
    return TwoCounter(quota.limit, quota.period, phase=random.random() * quota.period)


SERVERS: dict[str, Callable[[Quota, Random], ServerLimit]] = {
    "sliding-log": _sliding_log,
    "counting-log": _counting_log,
    "fixed-window": _fixed_window,
    "token-bucket": _token_bucket,
    "small-bucket": _small_bucket,
    "two-counter": _two_counter,
}
"""`counting-log` counts refused calls as well; `small-bucket` holds a tenth of the limit."""
