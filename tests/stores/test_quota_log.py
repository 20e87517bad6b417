"""The rules of the quota log, and the agreement of Lua and Python."""

from __future__ import annotations

from random import Random
from typing import Any, TypeVar

import msgspec
import pytest
import redis

from asyncclients.stores.protocol import (
    UNKNOWN_EPOCH,
    LeaseRequest,
    LeaseResponse,
    QuotaSpec,
)
from asyncclients.stores.quota_log import QuotaLog
from asyncclients.stores.redis import decode_reply, load_script, script_arguments, script_keys
from asyncclients.stores.shares import NONE, UNIT, Block

T = TypeVar("T")
SECOND = 1_000_000
TWO = QuotaSpec(limit=2, period=SECOND, interval=SECOND // 2, burst=2.0)
START = 1_700_000_000 * SECOND

QUIET = LeaseRequest(
    process="a",
    epoch="",
    seen=("", 0),
    new_epoch="e1",
    recovering=False,
    assume_spent=False,
    wall=START,
    quotas=(TWO,),
    arrived=(),
    in_flight=(),
    released=(),
    first=1,
    count=0,
    cost=1,
    groups=(),
    priority=1,
    accepted=0,
    rejected=0,
    pause=0,
    goodbye=False,
    idle=False,
    block_held=(0, 0),
    heartbeat_due=1000 * SECOND,
    lease=100_000,
    grace=150_000,
    ttl=3 * SECOND,
    min_retry=125_000,
    recovery_hold=SECOND,
    detection_time=2 * SECOND,
    takeover_time=4 * SECOND,
)


def lease_request(**changes: object) -> LeaseRequest:
    return msgspec.structs.replace(QUIET, **changes)


def test_slots_are_granted_until_the_window_is_full() -> None:
    """Two per second: two at once, and the third request gets the earliest time for a retry."""
    log = QuotaLog()
    assert log.apply(lease_request(count=2), START).opens_in == (0, 0)
    third = log.apply(lease_request(process="b", count=1), START)
    assert third.opens_in == ()
    assert third.retry_in == 900_000


def test_waiting_processes_ask_in_turn() -> None:
    """Each process that waits is asked to return one slot later than the one before it.

    One that asks early keeps its place; one that was served goes to the end of the line.
    """
    log = QuotaLog()
    log.apply(lease_request(count=2), START)
    asked = [lease_request(process=name, count=5) for name in "bcd"]
    turns = [log.apply(request, START).retry_in for request in asked]
    assert turns == [900_000, 1_400_000, 1_900_000]
    early = [log.apply(request, START + 200_000).retry_in for request in reversed(asked)]
    assert early == [1_700_000, 1_200_000, 700_000]
    served = log.apply(asked[0], START + 1_250_000)
    assert (served.opens_in, served.retry_in) == ((0,), 1_000_000)


def test_next_slot_opens_a_period_after_an_arrival() -> None:
    """Both calls arrived 30 ms after the response: the next slot opens 1.03 s after it, not before."""
    log = QuotaLog()
    log.apply(lease_request(count=2), START)
    at = START + 50_000
    log.apply(lease_request(arrived=((1, 20_000, ()), (2, 20_000, ()))), at)
    response = log.apply(lease_request(process="b", count=1), at)
    assert response.retry_in == 1_030_000 - 100_000 - 50_000
    at += response.retry_in
    assert log.apply(lease_request(process="b", count=1), at).opens_in == (100_000,)


def test_next_slot_waits_for_a_call_that_has_yet_to_arrive() -> None:
    """A call that is sent and arrives within 100 ms: the next slot opens 1.1 s later."""
    log = QuotaLog()
    log.apply(lease_request(count=2), START)
    log.apply(lease_request(arrived=((1, -100_000, ()), (2, -100_000, ()))), START)
    assert log.apply(lease_request(process="b", count=1), START).retry_in == SECOND


def test_slot_of_a_killed_process_expires() -> None:
    """An unreported slot is free again after lease, grace and period."""
    log = QuotaLog()
    log.apply(lease_request(count=2), START)
    at = START + 100_000 + 150_000 + SECOND
    assert log.apply(lease_request(process="b", count=1), at - 100_001).opens_in == ()
    assert log.apply(lease_request(process="b", count=1), at).opens_in == (0,)


def test_slot_in_flight_is_held_while_it_is_reported() -> None:
    """It stays while it is reported, and expires a period after the last report."""
    log = QuotaLog()
    log.apply(lease_request(count=2), START)
    at = START
    for _ in range(10):
        at += SECOND
        assert log.apply(lease_request(in_flight=((1, ()), (2, ()))), at).opens_in == ()
        assert log.apply(lease_request(process="b", count=1), at + 900_000).opens_in == ()
    assert log.apply(lease_request(process="b", count=1), at + 1_150_000).opens_in == (0,)


def test_released_slot_is_free_at_once() -> None:
    """Released slots can be granted to others at once, together with their tokens in the bucket."""
    log = QuotaLog()
    log.apply(lease_request(count=2), START)
    log.apply(lease_request(released=(1, 2)), START)
    assert log.apply(lease_request(process="b", count=2), START).opens_in == (0, 0)


def test_repeated_request_counts_once() -> None:
    """If a response is lost its numbers are released, and the same slots are granted again."""
    log = QuotaLog()
    log.apply(lease_request(count=2), START)
    again = log.apply(lease_request(count=2, first=3, released=(1, 2)), START + 1000)
    assert len(again.opens_in) == 2
    assert len(log.log[""]) == 2


def test_interactive_calls_get_nine_of_ten_slots() -> None:
    """Both wait for each slot: nine of ten go to the interactive process."""
    log, now = QuotaLog(), START
    won = {"a": 0, "b": 0}
    number = 1
    for _ in range(4000):
        now += 10_000
        for me, priority in (("a", 1), ("b", 0)):
            response = log.apply(
                lease_request(process=me, count=1, first=number, priority=priority), now
            )
            if response.opens_in:
                won[me] += 1
                age = -response.opens_in[0]
                log.apply(
                    lease_request(
                        process=me,
                        arrived=((number, age, ()),),
                        count=0,
                        priority=priority,
                    ),
                    now,
                )
            number += 1
    assert sum(won.values()) > 60
    assert won["a"] == pytest.approx(sum(won.values()) / 10, abs=1)


def test_rate_limit_pauses_all_processes() -> None:
    """The vendor asks one process to wait five seconds: no process gets a slot before."""
    log = QuotaLog()
    log.apply(lease_request(accepted=3, rejected=1, pause=5 * SECOND), START)
    response = log.apply(lease_request(process="b", count=1), START)
    assert (response.opens_in, response.pause, response.accepted, response.rejected) == (
        (),
        5 * SECOND,
        3,
        1,
    )
    assert log.apply(lease_request(process="b", count=1), START + 5 * SECOND).opens_in == (0,)


def test_longest_pause_applies_and_ends_with_an_empty_bucket() -> None:
    """A shorter pause does not end a longer one, and at its end only one call is sent at once."""
    log = QuotaLog()
    log.apply(lease_request(pause=5 * SECOND), START)
    log.apply(lease_request(process="b", pause=SECOND), START)
    at = START + 5 * SECOND
    early = log.apply(lease_request(process="b", count=1, lease=0), at - 1)
    assert (early.opens_in, early.pause) == ((), 1)
    assert log.apply(lease_request(process="b", count=2, lease=0), at).opens_in == (0,)


def test_reported_quotas_of_all_processes_apply() -> None:
    """Another program's stricter quota applies to all until its reports have ended."""
    strict = QuotaSpec(limit=1, period=SECOND, interval=SECOND, burst=1.0)
    log = QuotaLog()
    log.apply(lease_request(quotas=(strict,)), START)
    response = log.apply(lease_request(process="b", count=2), START)
    assert response.opens_in == (0,)
    assert response.quotas == ("1/1000000", "2/1000000")
    later = log.apply(lease_request(process="b", count=2, first=5), START + 120 * SECOND)
    assert later.opens_in == (0, 0)
    assert later.quotas == ("2/1000000",)


def test_quota_applies_for_its_period_and_a_minute() -> None:
    """A quota of 100 s that nobody has reported for 160 s still limits the calls before it."""
    log, long = QuotaLog(), QuotaSpec(limit=1, period=100 * SECOND, interval=1, burst=1.0)
    log.apply(lease_request(quotas=(long,)), START)
    names = [
        log.apply(lease_request(process="b"), START + 160 * SECOND + late).quotas for late in (0, 1)
    ]
    assert names == [(long.name, TWO.name), (TWO.name,)]


@pytest.mark.parametrize(
    ("known", "assume_spent", "waits"),
    [("", False, 0), ("", True, 3 * SECOND), ("e0", False, 3 * SECOND)],
    ids=["a first start", "a cold start", "lost data"],
)
def test_new_log_is_spent_if_data_was_lost(known: str, assume_spent: bool, waits: int) -> None:
    """An empty store is an empty window only for a process that knows no other epoch."""
    log = QuotaLog()
    response = log.apply(lease_request(epoch=known, assume_spent=assume_spent, count=1), START)
    assert (response.opens_in == (0,)) is (waits == 0)
    assert log.apply(lease_request(epoch="e1", count=1, first=2), START + waits).opens_in


def test_process_that_returns_from_an_outage_holds_all() -> None:
    """Others may have sent calls by themselves: nothing is granted until they have reported."""
    log = QuotaLog()
    log.apply(lease_request(recovering=True), START)
    response = log.apply(lease_request(process="b", count=1), START)
    assert response.retry_in == 2 * SECOND - QUIET.lease


def test_shorter_hold_does_not_end_a_longer_one() -> None:
    """A process returns from an outage to a log that has lost data: the longer wait applies."""
    log = QuotaLog()
    log.apply(lease_request(epoch="e0"), START)
    response = log.apply(lease_request(epoch="e1", recovering=True, count=1), START)
    assert response.retry_in == 3 * SECOND - QUIET.lease


@pytest.mark.parametrize(("seen", "waits"), [(START, 4), (START + 1, 5)])
def test_promoted_replica_holds_until_all_have_reported(seen: int, waits: int) -> None:
    """Nothing is granted for the takeover time; for a period more if a process has seen more."""
    log = QuotaLog()
    log.apply(lease_request(count=1), START, server="old")
    assert log.apply(lease_request(process="b"), START + SECOND, server="new").server == "new"
    known = lease_request(first=2, count=1, epoch="e1", seen=("old", seen))
    second = log.apply(known, START + SECOND, server="new")
    assert second.retry_in == waits * SECOND - QUIET.lease
    later = lease_request(first=3, count=1, epoch="e1", seen=("new", START + SECOND))
    assert log.apply(later, START + (1 + waits) * SECOND, server="new").opens_in == (0,)


def test_clock_set_back_counts_as_a_spent_window() -> None:
    """The clock is set back by a day: no call too many, and responses resume in three seconds."""
    log = QuotaLog()
    log.apply(lease_request(count=2, pause=5 * SECOND), START)
    at = START - 86_400 * SECOND
    response = log.apply(lease_request(epoch="e1", new_epoch="e2", count=2, first=3), at)
    assert (response.opens_in, response.epoch) == ((), "e2")
    at += 3 * SECOND
    assert log.apply(lease_request(epoch="e2", count=2, first=5), at).opens_in == (0, 0)


def test_members_are_counted() -> None:
    """A process that asks or reports counts; one that left, or whose ttl is over, does not."""
    log = QuotaLog()
    for me in "ca":
        log.apply(lease_request(process=me), START)
    response = log.apply(lease_request(process="b"), START)
    assert response.member_count == 3
    log.apply(lease_request(process="a", goodbye=True), START + SECOND)
    response = log.apply(lease_request(process="b"), START + 2 * SECOND)
    assert response.member_count == 2
    response = log.apply(lease_request(process="b"), START + 4 * SECOND)
    assert response.member_count == 1


def test_overdue_heartbeats_hold_grants() -> None:
    """A heartbeat of `b` is overdue: `a` waits for `detection_time`, unless `b` has left."""
    for leave in (False, True):
        for gap in (1_250_000, 1_250_001, 60 * SECOND):
            log, at = QuotaLog(), START + gap
            beat = lease_request(process="b", heartbeat_due=SECOND)
            log.apply(beat, START)
            log.apply(msgspec.structs.replace(beat, goodbye=leave), START)
            at_once = leave or gap == 1_250_000
            assert bool(log.apply(lease_request(count=1), at).opens_in) is at_once
            log.apply(lease_request(), at + SECOND)
            repeated = lease_request(count=1, first=2)
            assert log.apply(repeated, at + 2 * SECOND).opens_in == (0,)
    for late, at_once in ((250_000, True), (250_001, False)):
        log = QuotaLog()
        log.apply(lease_request(process="b", heartbeat_due=2 * SECOND), START)
        response = log.apply(lease_request(count=1), START + 2 * SECOND + late)
        assert bool(response.opens_in) is at_once
    alone = QuotaLog()
    alone.apply(lease_request(heartbeat_due=SECOND), START)
    assert alone.apply(lease_request(count=1), START + 60 * SECOND).opens_in


def test_process_overdue_for_long_holds_no_grants() -> None:
    """`b` was killed: only the first silence in which it is overdue delays the others."""
    for overdue_for, at_once in ((1_999_999, False), (2_000_000, True)):
        log, at = QuotaLog(), START + 1_250_000 + overdue_for
        log.apply(lease_request(process="b", heartbeat_due=SECOND, ttl=30 * SECOND), START)
        log.apply(lease_request(), START + SECOND)
        log.apply(lease_request(), START + 2 * SECOND)
        log.apply(lease_request(), at)
        granted = log.apply(lease_request(count=1), at + 1_300_000)
        assert bool(granted.opens_in) is at_once


def test_membership_lasts_while_the_store_recovers() -> None:
    """An outage outlasts the ttl: the block of a member is not given to the first that returns."""
    log = QuotaLog()
    held: dict[str, Block] = {"a": NONE, "b": NONE}
    for at in range(4):
        for me in "ab":
            response = log.apply(
                lease_request(process=me, block_held=held[me]), START + at * SECOND
            )
            held[me] = response.start, response.size
    assert {size for _, size in held.values()} == {UNIT // 2}
    returns = START + 60 * SECOND
    first = log.apply(lease_request(process="a", recovering=True, block_held=held["a"]), returns)
    assert (first.member_count, (first.start, first.size)) == (2, held["a"])
    later = log.apply(lease_request(process="a", block_held=held["a"]), returns + 2 * SECOND)
    assert later.member_count == 1


class Lua:
    """The script on a real server, with the time as an argument."""

    def __init__(self, url: str) -> None:
        self._client: Any = redis.Redis.from_url(url)  # pyright: ignore[reportUnknownMemberType]
        head, request = load_script().index("local clock"), load_script().index("local request")
        given = "local now, server = tonumber(ARGV[4]), ARGV[5]\n"
        script = load_script()[:head] + given + load_script()[request:]
        self._script = self._client.register_script(script)

    def apply(self, request: LeaseRequest, now: int, server: str = "") -> LeaseResponse:
        arguments: list[bytes | int | str] = [*script_arguments(request), now, server]
        return decode_reply(self._script(keys=script_keys("t", "s", request), args=arguments))

    def set_control(self, field: str, value: str) -> None:
        """Set what an operator wants."""
        key, script = "t:v4:{s}:state", load_script("control.lua")
        self._client.eval(
            script, 1, key, field, value, "intouch", 60_000_000, script_arguments(QUIET)[2]
        )

    def log(self) -> QuotaLog:
        """Return what the server has of the scope."""
        client: Any = self._client
        state = client.get("t:v4:{s}:state")
        log = msgspec.msgpack.decode(state, type=QuotaLog)
        log.log = {"": {}, **{quota.spec.group: {} for quota in log.quotas.values()}}
        for group in msgspec.msgpack.decode(state)["groups"]:
            key = f"t:v4:{{s}}:log{group and ':'}{group}"
            slots = client.zrange(key, 0, -1, withscores=True)
            log.log[group] = {slot.decode(): int(at) for slot, at in slots}
        return log

    def close(self) -> None:
        self._client.close()


def random_block(random: Random) -> Block:
    size = UNIT >> random.randint(0, 4)
    return random.randrange(UNIT // size) * size, size


KINDS = ((), ("ops:a.*",), ("share:night",), ("ops:a.*", "share:night"))
"""Groups of the calls in random histories."""


def calendar_spec(
    limit: int, wall: int, length: int, *, group: str = "", used: int = 0
) -> QuotaSpec:
    """Return a calendar quota whose windows of *length* begin at multiples of it."""
    start = wall - wall % length
    return QuotaSpec(
        limit=limit,
        period=length,
        interval=0,
        burst=0.0,
        group=group,
        calendar="hour:UTC",
        previous=start - length,
        start=start,
        next=start + length,
        used=used,
    )


def random_quotas(random: Random, wall: int, menu: list[int]) -> tuple[QuotaSpec, ...]:
    """Return some of the quotas whose numbers are in *menu*."""
    choices = [
        TWO,
        QuotaSpec(limit=5, period=3 * SECOND, interval=600_000, burst=2.5),
        QuotaSpec(limit=40, period=4 * SECOND, interval=100_000, burst=3.0),
        QuotaSpec(limit=3, period=2 * SECOND, interval=700_000, burst=2.0, group="ops:a.*"),
        QuotaSpec(limit=4, period=5 * SECOND, interval=900_000, burst=2.0, group="share:night"),
        calendar_spec(6, wall, 10 * SECOND, used=random.choice([0, 0, 2])),
        calendar_spec(3, wall, 20 * SECOND, group="share:night"),
    ]
    return tuple(choices[number] for number in menu if random.random() < 0.8)


def rarely(random: Random, rare: T, usual: T) -> T:
    """Return *rare* once in thirty times, which would drown out everything else if it were often."""
    return random.choice([rare] + [usual] * 29)


def random_requests(random: Random, steps: int) -> list[tuple[LeaseRequest, int]]:
    """Return a random history of four processes; reports may name slots that were not granted."""
    now, vendor_clock, number = START, START + 123_456_789, dict.fromkeys("abcd", 1)
    menu = sorted(random.sample(range(7), random.randint(1, 5)))
    held = {me: random_block(random) for me in "abcd"}
    requests: list[tuple[LeaseRequest, int]] = []
    for _ in range(steps):
        passed = random.choice([0, 1000, 50_000, 300_000, 900_000])
        passed += rarely(random, random.choice([1_500_000, 70 * SECOND]), 0)
        now, vendor_clock = now + passed, vendor_clock + passed
        now -= rarely(random, random.choice([900_000, 30 * SECOND]), 0)
        me = random.choice("abcd")
        known = range(max(1, number[me] - 4), number[me])
        pick = {n: random.choice(["settled", "renewed", *["freed", ""] * 5]) for n in known}
        wanted, cost = random.randint(0, 3), random.choice([1, 1, 1, 2, 3])
        wall = vendor_clock + random.choice([0, 0, 3000, 900_000, -900_000])
        requests.append(
            (
                lease_request(
                    process=me,
                    epoch=rarely(random, random.choice(["e1", "e2", UNKNOWN_EPOCH]), ""),
                    seen=(
                        random.choice(["", "s1", "s2"]),
                        now - random.choice([0, 1000, 2 * SECOND]),
                    ),
                    new_epoch=random.choice(["e1", "e2"]),
                    recovering=rarely(random, True, False),
                    wall=wall,
                    quotas=random_quotas(random, wall, menu),
                    arrived=tuple(
                        (n, random.randint(-100_000, 400_000), random.choice(KINDS))
                        for n in known
                        if pick[n] == "settled"
                    ),
                    in_flight=tuple(
                        (n, random.choice(KINDS)) for n in known if pick[n] == "renewed"
                    ),
                    released=tuple(n for n in known if pick[n] == "freed"),
                    first=number[me],
                    count=wanted,
                    cost=cost,
                    groups=random.choice(KINDS),
                    priority=random.randint(0, 1),
                    accepted=random.randint(0, 3),
                    rejected=random.randint(0, 1),
                    pause=rarely(random, random.choice([SECOND // 4, 2 * SECOND]), 0),
                    idle=random.random() < 0.2,
                    block_held=random.choice([held[me], held[me], NONE, (0, UNIT)]),
                    heartbeat_due=random.choice([SECOND, 1_400_000, 10 * SECOND]),
                    goodbye=random.random() < 0.03,
                    recovery_hold=300_000,
                    detection_time=rarely(random, 2 * SECOND, 200_000),
                ),
                now,
            )
        )
        number[me] += wanted * cost
    return requests


@pytest.mark.parametrize("seed", range(10))
def test_script_and_quota_log_agree(url: str, seed: int) -> None:
    """Random histories of four processes: Lua and Python give equal responses."""
    random, log, lua, server = Random(seed), QuotaLog(), Lua(url), "s1"
    for request, now in random_requests(random, 300):
        server = random.choice([server] * 9 + ["s1", "s2", ""])
        assert lua.apply(request, now, server) == log.apply(request, now, server=server)
        assert lua.log() == log
    lua.close()
