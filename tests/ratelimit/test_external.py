"""The estimates of external usage, on plain values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncclients.ratelimit.adaptive import Feedback
from asyncclients.ratelimit.external import (
    ExternalUsage,
    PauseEstimator,
    erlang_b,
    erlang_load,
)
from asyncclients.ratelimit.headers import RateLimitInfo
from asyncclients.ratelimit.limiter import Limiter
from asyncclients.ratelimit.quota import Quota
from asyncclients.ratelimit.slots import Permit, SlidingWindow, Taken
from asyncclients.sandbox.limits import FixedWindow, ServerLimit, SlidingLog, TokenBucket

TWO, HUNDRED = Quota(2, 1.0), Quota(100, 60.0)
SERVERS: dict[str, Callable[[], ServerLimit]] = {
    "fixed window": lambda: FixedWindow(100, 60.0, phase=17.0),
    "sliding log": lambda: SlidingLog(100, 60.0),
    "token bucket": lambda: TokenBucket(100, 60.0),
}


class Shared:
    """A vendor whose quota others use at *rate* calls a second, from *since* to *until*."""

    def __init__(
        self, server: ServerLimit, rate: float, since: float = 0.0, until: float = math.inf
    ) -> None:
        self.server, self.until, self.limiter = server, until, Limiter([HUNDRED])
        self.let_in: list[float] = []
        self._gap, self._next = (1 / rate, since) if rate else (math.inf, math.inf)

    def live(self, until: float) -> Iterator[tuple[float, float]]:
        """Instants, and the foreign rate seen by then; we send all we may, 0.1 s each way."""
        now = 0.0
        while now < until:
            now = self.limiter.next_permit_at(now)
            permit = self.limiter.acquire(now)
            info = self._arrive(now + 0.1)
            now += 0.2
            self.limiter.on_response(permit, now, info)
            yield now, self.limiter.external.rate

    def _arrive(self, now: float) -> RateLimitInfo:
        while self._next <= min(now, self.until):
            if self.server.admit(self._next):
                self.let_in.append(self._next)
            self._next += self._gap
        if not self.server.admit(now):
            return RateLimitInfo(is_rate_limited=True, retry_after=self.server.reset_after(now))
        reset = math.ceil(self.server.reset_after(now))
        return RateLimitInfo(limit=100, remaining=self.server.remaining(now), reset=reset)


@pytest.mark.parametrize("server", ["fixed window", "sliding log"])
@pytest.mark.parametrize("rate", [0.2, 0.8, 1.2])
def test_external_rate_is_estimated(server: str, rate: float) -> None:
    """After three minutes the estimate is within a tenth, or two calls a minute, of the true rate."""
    shared = Shared(SERVERS[server](), rate)
    seen = [rate for now, rate in shared.live(900.0) if now > 180.0]
    truth = sum(at > 180.0 for at in shared.let_in) / 720.0
    assert truth > 0.75 * rate
    assert sum(seen) / len(seen) == pytest.approx(truth, rel=0.1, abs=2 / 60)
    assert min(seen) > 0.75 * truth
    assert max(seen) < 1.25 * truth


@pytest.mark.parametrize("server", SERVERS)
def test_external_rate_is_zero_without_others(server: str) -> None:
    """Without other clients the rate is always 0, however the vendor counts."""
    assert {rate for _, rate in Shared(SERVERS[server](), 0.0).live(900.0)} == {0.0}


@pytest.mark.parametrize("server", ["fixed window", "sliding log"])
def test_external_rate_decays_after_others_leave(server: str) -> None:
    """It falls to half within three minutes, and to 0 within ten."""
    seen = list(Shared(SERVERS[server](), 0.8, until=600.0).live(1200.0))
    assert max(rate for now, rate in seen if 400.0 < now < 600.0) > 0.6
    assert max(rate for now, rate in seen if now > 780.0) < 0.4
    assert seen[-1][1] == 0.0


@pytest.mark.parametrize("server", SERVERS)
def test_external_usage_reports_each_change_once(server: str) -> None:
    """`on_change` gets the rate once usage is significant, and 0 when it has ended."""
    shared, reported = Shared(SERVERS[server](), 0.8, until=600.0), list[float]()
    shared.limiter.external.on_change = reported.append
    observed = [(now, len(reported)) for now, _ in shared.live(1800.0)]
    assert {times for now, times in observed if 300.0 < now < 600.0} == {1}
    assert {times for now, times in observed if now > 1200.0} == {2}
    assert reported[0] > 0.16
    assert reported[1] == 0.0


@pytest.mark.parametrize("server", SERVERS)
def test_external_usage_before_the_start_is_not_reported(server: str) -> None:
    """80 calls just before our first one count as external, but are not reported."""
    shared, reported = Shared(SERVERS[server](), 80.0, since=-1.0, until=0.0), list[float]()
    shared.limiter.external.on_change = reported.append
    seen = [rate for _, rate in shared.live(600.0)]
    assert max(seen) > 0.16
    assert seen[-1] == 0.0
    assert reported == []


# --- Figure by figure ------------------------------------------------------------------


class Observed:
    """A window, our calls in it, and the reports in their responses."""

    def __init__(self, *quotas: Quota) -> None:
        self.windows = [SlidingWindow(quota, 0.0) for quota in quotas]
        self.taken = Taken(1, tuple(self.windows), {})
        self.foreign = ExternalUsage(Feedback(quotas))
        self.sent = 0

    def hear(self, now: float, remaining: int, limit: int = 100) -> float:
        """A call is sent at *now* and answered at once; the foreign rate after that."""
        self.sent += 1
        permit = Permit(self.sent, now, self.taken)
        for window in self.windows:
            window.take(permit)
            window.move_bound(math.inf, now, 1)
        self.foreign.observe(
            self.windows, permit, now, RateLimitInfo(limit=limit, remaining=remaining)
        )
        return self.foreign.rate


def test_depletion_sees_usage_that_the_level_misses() -> None:
    """50 of our calls filled the vendor's last window; in this one 2 of 3 calls are external."""
    observed = Observed(HUNDRED)
    for number in range(50):
        observed.hear(0.6 * number, 99 - number)
    rates = [observed.hear(30.0 + 2 * number, 99 - 3 * number) for number in range(15)]
    # 28 foreign calls in 28 s, less one to be safe; 29.4 s without any before, faded for 30 s.
    assert rates[-1] == pytest.approx(27 / (28.0 + 29.4 * 0.5**0.5), rel=0.001)
    assert rates == sorted(rates)


def test_depletion_ignores_responses_out_of_order() -> None:
    """The order in which concurrent calls arrived is unknown, so their difference is not used."""
    window, foreign = SlidingWindow(HUNDRED, 0.0), ExternalUsage(Feedback([HUNDRED]))
    for number, sent_at, remaining in ((1, 0.0, 90), (2, 18.0, 60), (3, 19.0, 30)):
        permit = Permit(number, sent_at)
        window.take(permit)
        window.move_bound(math.inf, sent_at, 1)
        foreign.observe(
            [window], permit, 20.0 + number, RateLimitInfo(limit=100, remaining=remaining)
        )
    assert 0 < foreign.rate < 0.3, "the smoothed level; 60 calls of depletion in 20 s would be 3"


def test_depletion_separates_quotas() -> None:
    """Alternating reports on an hourly and a minute quota are no depletion."""
    observed = Observed(HUNDRED, Quota(1000, 3600.0))
    for number in range(40):
        observed.hear(number + 0.0, 999 - 2 * number, 1000)
        observed.hear(number + 0.5, 99 - 2 * number - 1, 100)
    assert observed.foreign.rate == 0.0


# --- Rejections after pauses ---------------------------------------------------------------


@given(slots=st.integers(1, 60), load=st.floats(0.0, 100.0))
def test_erlang_b_matches_its_definition(slots: int, load: float) -> None:
    """It is the last term of the exponential series up to *slots*, as a share of their sum."""
    terms = [load**number / math.factorial(number) for number in range(slots + 1)]
    assert erlang_b(slots, load) == pytest.approx(terms[-1] / sum(terms), rel=1e-9, abs=1e-300)


@given(slots=st.integers(1, 1000), share=st.floats(0.02, 0.5))
def test_erlang_load_inverts_erlang_b(slots: int, share: float) -> None:
    """The load is found to a thousandth of the slots."""
    load = erlang_load(slots, share)
    assert erlang_b(slots, load) <= share <= erlang_b(slots, load + slots / 1000)


def test_erlang_is_not_evaluated_for_very_many_slots() -> None:
    """A quota of a million calls costs no time, and is not reported as full of others' calls."""
    assert erlang_b(1_000_000, 2e6) == 0.0
    assert erlang_load(1_000_000, 0.4) == 0.0


@pytest.mark.parametrize("load", [0.2, 0.8, 1.4])
def test_rejections_of_rare_calls_follow_erlang_b(load: float) -> None:
    """However few calls we send, the share that others' random calls reject is Erlang's."""
    server, random, theirs = SlidingLog(2, 1.0), Random(7), 0.0
    rejected = 0
    for number in range(1, 10_001):
        while theirs < 5.0 * number:
            server.admit(theirs)
            theirs += random.expovariate(load)
        rejected += not server.admit(5.0 * number)
    assert rejected / 10_000 == pytest.approx(erlang_b(2, load), abs=0.012)


def pauses(rejected: float, number: int) -> PauseEstimator:
    """Return an estimator that has seen *number* pauses, with this share of rejected calls."""
    estimator, count = PauseEstimator(), 0.0
    for index in range(number):
        count += rejected
        is_rejected = count >= 1.0
        count -= is_rejected
        estimator.add(SlidingWindow(TWO, 0.0), float(index), is_rejected=is_rejected)
    return estimator


@pytest.mark.parametrize(
    ("rejected", "number", "rate"),
    [(0.15, 100, 0.8), (0.29, 100, 1.4), (0.5, 7, 0.0), (0.01, 100, 0.0), (0.9, 100, 0.0)],
)
def test_pauses_show_others_unless_they_are_few_or_prove_nothing(
    rejected: float, number: int, rate: float
) -> None:
    """No rate follows from seven pauses, from rare rejections, or from pauses that never suffice."""
    assert pauses(rejected, number).rate(100.0) == pytest.approx(rate, abs=0.15)


def test_pause_estimate_ends_without_rejections() -> None:
    """Two minutes after the last pause nothing is known about others any more."""
    estimator = pauses(0.15, 100)
    assert estimator.rate(99.0 + 120.0) > 0.5
    assert estimator.rate(99.0 + 121.0) == 0.0


def reject_every_fourth(limiter: Limiter, calls: int, retry_after: float | None) -> float:
    """Send *calls* calls far apart; each fourth is rejected; return the last instant."""
    now = 0.0
    for number in range(calls):
        now = limiter.next_permit_at(now + 3.0)
        is_rejected = number % 4 == 3
        info = RateLimitInfo(is_rate_limited=True, retry_after=retry_after) if is_rejected else None
        limiter.on_response(limiter.acquire(now), now + 0.1, info)
    return now


def test_rejections_of_calls_that_followed_no_pause_prove_nothing() -> None:
    """A call that is accepted after each pause shows that the pauses suffice: no others."""
    limiter = Limiter([TWO])
    now = reject_every_fourth(limiter, 400, 1.0)
    assert limiter.external.rate == 0.0
    assert limiter.snapshot(now).rate_factor < 0.35


@pytest.mark.parametrize(("retry_after", "lowest"), [(1.0, 0.5), (None, 0.1)])
def test_rate_is_halved_at_most_by_others_with_a_small_quota(
    retry_after: float | None, lowest: float
) -> None:
    """Where calls are rejected after pauses that the vendor asked for, half of the rate stays."""
    limiter, now, random = Limiter([TWO]), 0.0, Random(3)
    for _ in range(2000):
        now = limiter.next_permit_at(now + 3.0)
        is_rejected = random.random() < 0.2
        info = RateLimitInfo(is_rate_limited=True, retry_after=retry_after) if is_rejected else None
        limiter.on_response(limiter.acquire(now), now + 0.1, info)
    assert limiter.snapshot(now).rate_factor == pytest.approx(lowest, abs=0.02)
    assert (limiter.external.rate > 0.5) is (retry_after is not None)


def test_pause_is_no_sample_while_calls_of_ours_are_in_the_window() -> None:
    """With 100 calls a minute the window is never empty, so rejections after pauses are ours."""
    limiter, now = Limiter([HUNDRED]), 0.0
    for number in range(400):
        now = limiter.next_permit_at(now)
        info = RateLimitInfo(is_rate_limited=True, retry_after=1.0) if number % 3 == 0 else None
        limiter.on_response(limiter.acquire(now), now + 0.1, info)
    assert limiter.external.rate == 0.0
