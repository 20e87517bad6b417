"""How foreign calls are told from our own, on plain values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest

from asyncclients.ratelimit.adaptive import Feedback
from asyncclients.ratelimit.external import ExternalUsage
from asyncclients.ratelimit.headers import RateLimitInfo
from asyncclients.ratelimit.limiter import Limiter
from asyncclients.ratelimit.quota import Quota
from asyncclients.ratelimit.window import Permit, SlidingWindow
from asyncclients.sandbox.limits import FixedWindow, ServerLimit, SlidingLog, TokenBucket

HUNDRED = Quota(100, 60.0)
SERVERS: dict[str, Callable[[], ServerLimit]] = {
    "fixed window": lambda: FixedWindow(100, 60.0, phase=17.0),
    "sliding log": lambda: SlidingLog(100, 60.0),
    "token bucket": lambda: TokenBucket(100, 60.0),
}


class Shared:
    """A vendor whose quota others use as well: *rate* calls a second from *since* to *until*."""

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
            signal = self._arrive(now + 0.1)
            now += 0.2
            self.limiter.on_response(permit, now, signal)
            yield now, self.limiter.external_rate

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
def test_the_rate_of_others_is_seen(server: str, rate: float) -> None:
    """After three minutes what the vendor lets in is known to a tenth, or two calls a minute."""
    shared = Shared(SERVERS[server](), rate)
    seen = [rate for now, rate in shared.live(900.0) if now > 180.0]
    truth = sum(at > 180.0 for at in shared.let_in) / 720.0
    assert truth > 0.75 * rate
    assert sum(seen) / len(seen) == pytest.approx(truth, rel=0.1, abs=2 / 60)
    assert min(seen) > 0.75 * truth
    assert max(seen) < 1.25 * truth


@pytest.mark.parametrize("server", SERVERS)
def test_nobody_is_seen_where_nobody_is(server: str) -> None:
    """Alone with the vendor, whatever it counts by: never a foreign call."""
    assert {rate for _, rate in Shared(SERVERS[server](), 0.0).live(900.0)} == {0.0}


@pytest.mark.parametrize("server", ["fixed window", "sliding log"])
def test_others_who_left_are_forgotten(server: str) -> None:
    """Half is gone within three minutes, all within ten."""
    seen = list(Shared(SERVERS[server](), 0.8, until=600.0).live(1200.0))
    assert max(rate for now, rate in seen if 400.0 < now < 600.0) > 0.6
    assert max(rate for now, rate in seen if now > 780.0) < 0.4
    assert seen[-1][1] == 0.0


@pytest.mark.parametrize("server", SERVERS)
def test_each_change_is_told_once(server: str) -> None:
    """The watch hears the rate once others stay, and 0 when they are gone."""
    shared, told = Shared(SERVERS[server](), 0.8, until=600.0), list[float]()
    shared.limiter.external.on_change = told.append
    heard = [(now, len(told)) for now, _ in shared.live(1800.0)]
    assert {times for now, times in heard if 300.0 < now < 600.0} == {1}
    assert {times for now, times in heard if now > 1200.0} == {2}
    assert told[0] > 0.16
    assert told[1] == 0.0


@pytest.mark.parametrize("server", SERVERS)
def test_what_was_sent_before_the_start_is_seen_but_not_told(server: str) -> None:
    """80 calls just before our first, by this program's last run, say: seen, and nobody told."""
    shared, told = Shared(SERVERS[server](), 80.0, since=-1.0, until=0.0), list[float]()
    shared.limiter.external.on_change = told.append
    seen = [rate for _, rate in shared.live(600.0)]
    assert max(seen) > 0.16
    assert seen[-1] == 0.0
    assert told == []


# --- Figure by figure ------------------------------------------------------------------


class Heard:
    """A window, calls of ours, and what their answers say."""

    def __init__(self, *quotas: Quota) -> None:
        self.windows = [SlidingWindow(quota) for quota in quotas]
        self.foreign = ExternalUsage(Feedback(quotas))
        self.sent = 0

    def hear(self, now: float, remaining: int, limit: int = 100) -> float:
        """A call is sent at *now* and answered at once; the foreign rate after that."""
        self.sent += 1
        slots = [(window, now + window.period) for window in self.windows]
        for window, end in slots:
            window.acquire(now, end)
        permit = Permit(self.sent, now, slots, 0.0)
        self.foreign.observe(
            self.windows, permit, now, RateLimitInfo(limit=limit, remaining=remaining)
        )
        return self.foreign.rate


def test_what_drains_is_seen_while_old_calls_of_ours_hide_what_stands() -> None:
    """50 calls of ours fill the vendor's last window; in this one 2 of 3 calls are others'."""
    heard = Heard(HUNDRED)
    for number in range(50):
        heard.hear(0.6 * number, 99 - number)
    rates = [heard.hear(30.0 + 2 * number, 99 - 3 * number) for number in range(15)]
    # 28 foreign calls in 28 s, less one to be safe; 29.4 s without any before, faded for 30 s.
    assert rates[-1] == pytest.approx(27 / (28.0 + 29.4 * 0.5**0.5), rel=0.001)
    assert rates == sorted(rates)


def test_answers_that_crossed_do_not_count() -> None:
    """The order of calls on the way together is not known: their difference says nothing."""
    window, foreign = SlidingWindow(HUNDRED), ExternalUsage(Feedback([HUNDRED]))
    for number, sent_at, remaining in ((1, 0.0, 90), (2, 18.0, 60), (3, 19.0, 30)):
        window.acquire(sent_at, sent_at + 60.0)
        permit = Permit(number, sent_at, [(window, sent_at + 60.0)], 0.0)
        foreign.observe(
            [window], permit, 20.0 + number, RateLimitInfo(limit=100, remaining=remaining)
        )
    assert 0 < foreign.rate < 0.3, "what stands, smoothed; 60 calls drained in 20 s would be 3"


def test_two_quotas_are_not_mixed() -> None:
    """A vendor that speaks of the hour and of the minute in turn: no calls drain between them."""
    heard = Heard(HUNDRED, Quota(1000, 3600.0))
    for number in range(40):
        heard.hear(number + 0.0, 999 - 2 * number, 1000)
        heard.hear(number + 0.5, 99 - 2 * number - 1, 100)
    assert heard.foreign.rate == 0.0
