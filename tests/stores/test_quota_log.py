"""The rules of the shared log, in plain values; and that Lua says the same as Python."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import pytest
import redis

from asyncclients.stores.protocol import LeaseRequest, LeaseResponse, QuotaSpec
from asyncclients.stores.quota_log import QuotaLog
from asyncclients.stores.redis import decode_reply, load_script, script_arguments, script_keys
from asyncclients.stores.shares import NONE, UNIT, Block

SECOND = 1_000_000
TWO = QuotaSpec(limit=2, period=SECOND, interval=SECOND // 2, burst=2.0)
START = 1_700_000_000 * SECOND

QUIET = LeaseRequest(
    process="a",
    epoch="",
    new_epoch="e1",
    recovering=False,
    assume_spent=False,
    quotas=(TWO,),
    arrived=(),
    in_flight=(),
    released=(),
    first=1,
    count=0,
    priority=1,
    accepted=0,
    rejected=0,
    pause=0,
    heartbeat=False,
    goodbye=False,
    idle=False,
    share_held=(0, 0),
    heartbeat_due=SECOND,
    lease=100_000,
    grace=150_000,
    ttl=3 * SECOND,
    min_retry=125_000,
    recovery_hold=SECOND,
    detection_time=2 * SECOND,
)


def claim(**changes: object) -> LeaseRequest:
    return msgspec.structs.replace(QUIET, **changes)


def test_slots_are_given_until_the_window_is_full() -> None:
    """Two per second: two at once, and the third is told to come when one may open, at best."""
    log = QuotaLog()
    assert log.apply(claim(count=5), START).opens_in == (0, 0)
    third = log.apply(claim(process="b", count=1), START)
    assert third.opens_in == ()
    assert third.retry_in == 900_000


def test_a_settled_slot_opens_a_period_after_its_arrival() -> None:
    """Both arrived 30 ms after the grant: the next slot opens 1.03 s after it, and not before."""
    log = QuotaLog()
    log.apply(claim(count=2), START)
    at = START + 50_000
    log.apply(claim(arrived=((1, 20_000), (2, 20_000))), at)
    told = log.apply(claim(process="b", count=1), at)
    assert told.retry_in == 1_030_000 - 100_000 - 50_000
    at += told.retry_in
    assert log.apply(claim(process="b", count=1), at).opens_in == (100_000,)


def test_a_dead_process_s_slot_ends_by_itself() -> None:
    """Never settled: lease, grace and period after its opening the slot is free."""
    log = QuotaLog()
    log.apply(claim(count=2), START)
    at = START + 100_000 + 150_000 + SECOND
    assert log.apply(claim(process="b", count=1), at - 100_001).opens_in == ()
    assert log.apply(claim(process="b", count=1), at).opens_in == (0,)


def test_a_slot_in_flight_is_held_as_long_as_it_is_renewed() -> None:
    """Renewed at each beat, it stays for ten seconds, and ends a period after the last beat."""
    log = QuotaLog()
    log.apply(claim(count=2), START)
    at = START
    for _ in range(10):
        at += SECOND
        assert log.apply(claim(in_flight=(1, 2)), at).opens_in == ()
        assert log.apply(claim(process="b", count=1), at + 900_000).opens_in == ()
    assert log.apply(claim(process="b", count=1), at + 1_150_000).opens_in == (0,)


def test_a_slot_that_is_freed_is_free_at_once() -> None:
    """Freed slots may be had by others in the same instant, and their pace with them."""
    log = QuotaLog()
    log.apply(claim(count=2), START)
    log.apply(claim(released=(1, 2)), START)
    assert log.apply(claim(process="b", count=2), START).opens_in == (0, 0)


def test_a_repeated_claim_counts_once() -> None:
    """The answer was lost: the numbers are given up, and the same slots come again."""
    log = QuotaLog()
    log.apply(claim(count=2), START)
    again = log.apply(claim(count=2, first=3, released=(1, 2)), START + 1000)
    assert len(again.opens_in) == 2
    assert len(log.log) == 2


def test_an_interactive_call_elsewhere_goes_first_but_every_tenth_is_background_s() -> None:
    """Both wait for each slot: nine of ten go to the interactive process."""
    log, now = QuotaLog(), START
    won = {"a": 0, "b": 0}
    number = 1
    for _ in range(4000):
        now += 10_000
        for me, priority in (("a", 1), ("b", 0)):
            grant = log.apply(claim(process=me, count=1, first=number, priority=priority), now)
            if grant.opens_in:
                won[me] += 1
                age = -grant.opens_in[0]
                log.apply(
                    claim(
                        process=me,
                        arrived=((number, age),),
                        count=1,
                        first=9_000_000,
                        priority=priority,
                    ),
                    now,
                )
                log.apply(claim(process=me, released=(9_000_000,), count=0), now)
            number += 1
    assert sum(won.values()) > 60
    assert 0.05 < won["a"] / sum(won.values()) < 0.2


def test_refusals_pause_everybody() -> None:
    """One process was told to wait five seconds: nobody gets a slot before."""
    log = QuotaLog()
    log.apply(claim(accepted=3, rejected=1, pause=5 * SECOND), START)
    told = log.apply(claim(process="b", count=1), START)
    assert (told.opens_in, told.pause, told.accepted, told.rejected) == ((), 5 * SECOND, 3, 1)
    assert log.apply(claim(process="b", count=1), START + 5 * SECOND).opens_in == (0,)


def test_every_quota_spoken_of_holds() -> None:
    """Another program's stricter quota binds all; it is forgotten when nobody speaks of it."""
    strict = QuotaSpec(limit=1, period=SECOND, interval=SECOND, burst=1.0)
    log = QuotaLog()
    log.apply(claim(quotas=(strict,)), START)
    grant = log.apply(claim(process="b", count=2), START)
    assert grant.opens_in == (0,)
    assert grant.quotas == ("1/1000000", "2/1000000")
    later = log.apply(claim(process="b", count=2, first=5), START + 120 * SECOND)
    assert later.opens_in == (0, 0)
    assert later.quotas == ("2/1000000",)


@pytest.mark.parametrize(
    ("known", "cold", "waits"),
    [("", False, 0), ("", True, 3 * SECOND), ("e0", False, 3 * SECOND)],
    ids=["a first start", "a cold start", "lost data"],
)
def test_a_new_log(known: str, cold: bool, waits: int) -> None:
    """An empty store is an empty window only to who knows no other log."""
    log = QuotaLog()
    grant = log.apply(claim(epoch=known, assume_spent=cold, count=1), START)
    assert (grant.opens_in == (0,)) is (waits == 0)
    assert log.apply(claim(epoch="e1", count=1, first=2), START + waits).opens_in


def test_a_clock_that_is_set_back_counts_as_a_spent_window() -> None:
    """The store's clock goes back by a day: no call too many, and it goes on in three seconds."""
    log = QuotaLog()
    log.apply(claim(count=2, pause=5 * SECOND), START)
    at = START - 86_400 * SECOND
    grant = log.apply(claim(epoch="e1", new_epoch="e2", count=2, first=3), at)
    assert (grant.opens_in, grant.epoch) == ((), "e2")
    at += 3 * SECOND
    assert log.apply(claim(epoch="e2", count=2, first=5), at).opens_in == (0, 0)


def test_the_living_are_counted() -> None:
    """Who beats counts; who leaves or is silent for `live` does not."""
    log = QuotaLog()
    for me in "ca":
        log.apply(claim(process=me, heartbeat=True), START)
    grant = log.apply(claim(process="b", heartbeat=True), START)
    assert grant.peers == 3
    log.apply(claim(process="a", goodbye=True), START + SECOND)
    grant = log.apply(claim(process="b", heartbeat=True), START + 2 * SECOND)
    assert grant.peers == 2
    grant = log.apply(claim(process="b", heartbeat=True), START + 4 * SECOND)
    assert grant.peers == 1


def test_the_living_who_are_not_heard_are_waited_for() -> None:
    """No sign of life of `b` when one was due: `a` waits for `notice`, unless `b` has left."""
    for leave in (False, True):
        for gap in (1_250_000, 1_250_001, 60 * SECOND):
            log, at = QuotaLog(), START + gap
            log.apply(claim(process="b", heartbeat=True), START)
            log.apply(claim(process="b", goodbye=leave), START)
            at_once = leave or gap == 1_250_000
            assert bool(log.apply(claim(count=1, heartbeat=True), at).opens_in) is at_once
            log.apply(claim(heartbeat=True), at + SECOND)
            told = claim(count=1, first=2, heartbeat=True)
            assert log.apply(told, at + 2 * SECOND).opens_in == (0,)
    alone = QuotaLog()
    alone.apply(claim(heartbeat=True), START)
    assert alone.apply(claim(count=1), START + 60 * SECOND).opens_in


class Lua:
    """The script on a real server, told the time."""

    def __init__(self, url: str) -> None:
        self._client: Any = redis.Redis.from_url(url)  # pyright: ignore[reportUnknownMemberType]
        head = "local clock = redis.call('TIME')\nlocal now = clock[1] * 1000000 + clock[2]"
        assert head in load_script()
        told = load_script().replace(head, "local now = tonumber(ARGV[3])")
        self._script = self._client.register_script(told)

    def apply(self, request: LeaseRequest, now: int) -> LeaseResponse:
        arguments: list[bytes | int] = [*script_arguments(request), now]
        return decode_reply(self._script(keys=script_keys("t", "s"), args=arguments))

    def close(self) -> None:
        self._client.close()


def random_block(random: Random) -> Block:
    size = UNIT >> random.randint(0, 4)
    return random.randrange(UNIT // size) * size, size


def random_claims(random: Random, steps: int) -> list[tuple[LeaseRequest, int]]:
    """A random history of four processes; what is settled and freed was given, or was not."""
    now, number = START, dict.fromkeys("abcd", 1)
    held = {me: random_block(random) for me in "abcd"}
    claims: list[tuple[LeaseRequest, int]] = []
    quotas = [TWO, QuotaSpec(limit=5, period=3 * SECOND, interval=600_000, burst=2.5)]
    for _ in range(steps):
        now += random.choice([0, 1000, 50_000, 300_000, 1_500_000, 70 * SECOND])
        now -= random.choice([0] * 40 + [900_000, 30 * SECOND])
        me = random.choice("abcd")
        known = range(max(1, number[me] - 4), number[me])
        pick = {n: random.choice(["settled", "freed", "renewed", ""]) for n in known}
        wanted = random.randint(0, 3)
        claims.append(
            (
                claim(
                    process=me,
                    epoch=random.choice(["", "e1", "e1", "e1", "e9"]),
                    new_epoch="e1",
                    recovering=random.random() < 0.05,
                    quotas=tuple(random.sample(quotas, random.randint(1, 2))),
                    arrived=tuple(
                        (n, random.randint(-100_000, 400_000))
                        for n in known
                        if pick[n] == "settled"
                    ),
                    in_flight=tuple(n for n in known if pick[n] == "renewed"),
                    released=tuple(n for n in known if pick[n] == "freed"),
                    first=number[me],
                    count=wanted,
                    priority=random.randint(0, 1),
                    accepted=random.randint(0, 3),
                    rejected=random.randint(0, 1),
                    pause=random.choice([0] * 19 + [2 * SECOND]),
                    heartbeat=random.random() < 0.5,
                    idle=random.random() < 0.2,
                    share_held=random.choice([held[me], held[me], NONE, (0, UNIT)]),
                    heartbeat_due=random.choice([SECOND, SECOND, 10 * SECOND]),
                    goodbye=random.random() < 0.03,
                ),
                now,
            )
        )
        number[me] += wanted
    return claims


@pytest.mark.parametrize("seed", range(5))
def test_the_script_says_what_the_log_says(url: str, seed: int) -> None:
    """Random histories of four processes: answer by answer, Lua and Python agree."""
    random, log, lua = Random(seed), QuotaLog(), Lua(url)
    for asked, now in random_claims(random, 300):
        assert lua.apply(asked, now) == log.apply(asked, now)
    lua.close()
