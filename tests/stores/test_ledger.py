"""The rules of the shared log, in plain values; and that Lua says the same as Python."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import pytest
import redis

from asyncclients.stores.claim import Claim, Grant, PacedQuota
from asyncclients.stores.ledger import Ledger
from asyncclients.stores.script import SCRIPT, keys
from asyncclients.stores.shares import NONE, UNIT, Block

SECOND = 1_000_000
TWO = PacedQuota(limit=2, period=SECOND, interval=SECOND // 2, burst=2.0)
START = 1_700_000_000 * SECOND

QUIET = Claim(
    me="a",
    epoch="",
    fresh="e1",
    returns=False,
    cold=False,
    quotas=(TWO,),
    settled=(),
    renewed=(),
    freed=(),
    first=1,
    wanted=0,
    priority=1,
    admitted=0,
    refused=0,
    pause=0,
    beat=False,
    leave=False,
    idle=False,
    held=(0, 0),
    due=SECOND,
    lease=100_000,
    grace=150_000,
    live=3 * SECOND,
    poll=125_000,
    spent=SECOND,
    notice=2 * SECOND,
)


def claim(**changes: object) -> Claim:
    return msgspec.structs.replace(QUIET, **changes)


def test_slots_are_given_until_the_window_is_full() -> None:
    """Two per second: two at once, and the third is told to come when one may open, at best."""
    ledger = Ledger()
    assert ledger.exchange(claim(wanted=5), START).opens == (0, 0)
    third = ledger.exchange(claim(me="b", wanted=1), START)
    assert third.opens == ()
    assert third.wait == 900_000


def test_a_settled_slot_opens_a_period_after_its_arrival() -> None:
    """Both arrived 30 ms after the grant: the next slot opens 1.03 s after it, and not before."""
    ledger = Ledger()
    ledger.exchange(claim(wanted=2), START)
    at = START + 50_000
    ledger.exchange(claim(settled=((1, 20_000), (2, 20_000))), at)
    told = ledger.exchange(claim(me="b", wanted=1), at)
    assert told.wait == 1_030_000 - 100_000 - 50_000
    at += told.wait
    assert ledger.exchange(claim(me="b", wanted=1), at).opens == (100_000,)


def test_a_dead_process_s_slot_ends_by_itself() -> None:
    """Never settled: lease, grace and period after its opening the slot is free."""
    ledger = Ledger()
    ledger.exchange(claim(wanted=2), START)
    at = START + 100_000 + 150_000 + SECOND
    assert ledger.exchange(claim(me="b", wanted=1), at - 100_001).opens == ()
    assert ledger.exchange(claim(me="b", wanted=1), at).opens == (0,)


def test_a_slot_in_flight_is_held_as_long_as_it_is_renewed() -> None:
    """Renewed at each beat, it stays for ten seconds, and ends a period after the last beat."""
    ledger = Ledger()
    ledger.exchange(claim(wanted=2), START)
    at = START
    for _ in range(10):
        at += SECOND
        assert ledger.exchange(claim(renewed=(1, 2)), at).opens == ()
        assert ledger.exchange(claim(me="b", wanted=1), at + 900_000).opens == ()
    assert ledger.exchange(claim(me="b", wanted=1), at + 1_150_000).opens == (0,)


def test_a_slot_that_is_freed_is_free_at_once() -> None:
    """Freed slots may be had by others in the same instant, and their pace with them."""
    ledger = Ledger()
    ledger.exchange(claim(wanted=2), START)
    ledger.exchange(claim(freed=(1, 2)), START)
    assert ledger.exchange(claim(me="b", wanted=2), START).opens == (0, 0)


def test_a_repeated_claim_counts_once() -> None:
    """The answer was lost: the numbers are given up, and the same slots come again."""
    ledger = Ledger()
    ledger.exchange(claim(wanted=2), START)
    again = ledger.exchange(claim(wanted=2, first=3, freed=(1, 2)), START + 1000)
    assert len(again.opens) == 2
    assert len(ledger.log) == 2


def test_an_interactive_call_elsewhere_goes_first_but_every_tenth_is_background_s() -> None:
    """Both wait for each slot: nine of ten go to the interactive process."""
    ledger, now = Ledger(), START
    won = {"a": 0, "b": 0}
    number = 1
    for _ in range(4000):
        now += 10_000
        for me, priority in (("a", 1), ("b", 0)):
            grant = ledger.exchange(claim(me=me, wanted=1, first=number, priority=priority), now)
            if grant.opens:
                won[me] += 1
                age = -grant.opens[0]
                ledger.exchange(
                    claim(
                        me=me,
                        settled=((number, age),),
                        wanted=1,
                        first=9_000_000,
                        priority=priority,
                    ),
                    now,
                )
                ledger.exchange(claim(me=me, freed=(9_000_000,), wanted=0), now)
            number += 1
    assert sum(won.values()) > 60
    assert 0.05 < won["a"] / sum(won.values()) < 0.2


def test_refusals_pause_everybody() -> None:
    """One process was told to wait five seconds: nobody gets a slot before."""
    ledger = Ledger()
    ledger.exchange(claim(admitted=3, refused=1, pause=5 * SECOND), START)
    told = ledger.exchange(claim(me="b", wanted=1), START)
    assert (told.opens, told.pause, told.admitted, told.refused) == ((), 5 * SECOND, 3, 1)
    assert ledger.exchange(claim(me="b", wanted=1), START + 5 * SECOND).opens == (0,)


def test_every_quota_spoken_of_holds() -> None:
    """Another program's stricter quota binds all; it is forgotten when nobody speaks of it."""
    strict = PacedQuota(limit=1, period=SECOND, interval=SECOND, burst=1.0)
    ledger = Ledger()
    ledger.exchange(claim(quotas=(strict,)), START)
    grant = ledger.exchange(claim(me="b", wanted=2), START)
    assert grant.opens == (0,)
    assert grant.quotas == ("1/1000000", "2/1000000")
    later = ledger.exchange(claim(me="b", wanted=2, first=5), START + 120 * SECOND)
    assert later.opens == (0, 0)
    assert later.quotas == ("2/1000000",)


@pytest.mark.parametrize(
    ("known", "cold", "waits"),
    [("", False, 0), ("", True, 3 * SECOND), ("e0", False, 3 * SECOND)],
    ids=["a first start", "a cold start", "lost data"],
)
def test_a_new_ledger(known: str, cold: bool, waits: int) -> None:
    """An empty store is an empty window only to who knows no other ledger."""
    ledger = Ledger()
    grant = ledger.exchange(claim(epoch=known, cold=cold, wanted=1), START)
    assert (grant.opens == (0,)) is (waits == 0)
    assert ledger.exchange(claim(epoch="e1", wanted=1, first=2), START + waits).opens


def test_a_clock_that_is_set_back_counts_as_a_spent_window() -> None:
    """The store's clock goes back by a day: no call too many, and it goes on in three seconds."""
    ledger = Ledger()
    ledger.exchange(claim(wanted=2, pause=5 * SECOND), START)
    at = START - 86_400 * SECOND
    grant = ledger.exchange(claim(epoch="e1", fresh="e2", wanted=2, first=3), at)
    assert (grant.opens, grant.epoch) == ((), "e2")
    at += 3 * SECOND
    assert ledger.exchange(claim(epoch="e2", wanted=2, first=5), at).opens == (0, 0)


def test_the_living_are_counted() -> None:
    """Who beats counts; who leaves or is silent for `live` does not."""
    ledger = Ledger()
    for me in "ca":
        ledger.exchange(claim(me=me, beat=True), START)
    grant = ledger.exchange(claim(me="b", beat=True), START)
    assert grant.live == 3
    ledger.exchange(claim(me="a", leave=True), START + SECOND)
    grant = ledger.exchange(claim(me="b", beat=True), START + 2 * SECOND)
    assert grant.live == 2
    grant = ledger.exchange(claim(me="b", beat=True), START + 4 * SECOND)
    assert grant.live == 1


def test_the_living_who_are_not_heard_are_waited_for() -> None:
    """No sign of life of `b` when one was due: `a` waits for `notice`, unless `b` has left."""
    for leave in (False, True):
        for gap in (1_250_000, 1_250_001, 60 * SECOND):
            ledger, at = Ledger(), START + gap
            ledger.exchange(claim(me="b", beat=True), START)
            ledger.exchange(claim(me="b", leave=leave), START)
            at_once = leave or gap == 1_250_000
            assert bool(ledger.exchange(claim(wanted=1, beat=True), at).opens) is at_once
            ledger.exchange(claim(beat=True), at + SECOND)
            told = claim(wanted=1, first=2, beat=True)
            assert ledger.exchange(told, at + 2 * SECOND).opens == (0,)
    alone = Ledger()
    alone.exchange(claim(beat=True), START)
    assert alone.exchange(claim(wanted=1), START + 60 * SECOND).opens


class Lua:
    """The script on a real server, told the time."""

    def __init__(self, url: str) -> None:
        self._client: Any = redis.Redis.from_url(url)  # pyright: ignore[reportUnknownMemberType]
        head = "local clock = redis.call('TIME')\nlocal now = clock[1] * 1000000 + clock[2]"
        assert head in SCRIPT
        told = SCRIPT.replace(head, "local now = tonumber(ARGV[2])")
        self._script = self._client.register_script(told)

    def exchange(self, claim: Claim, now: int) -> Grant:
        answer = self._script(keys=keys("t", "s"), args=[msgspec.json.encode(claim), now])
        first, epoch, *rest, quotas = answer
        return msgspec.convert((first, epoch.decode(), *rest, [q.decode() for q in quotas]), Grant)

    def close(self) -> None:
        self._client.close()


def random_block(random: Random) -> Block:
    size = UNIT >> random.randint(0, 4)
    return random.randrange(UNIT // size) * size, size


def random_claims(random: Random, steps: int) -> list[tuple[Claim, int]]:
    """A random history of four processes; what is settled and freed was given, or was not."""
    now, number = START, dict.fromkeys("abcd", 1)
    held = {me: random_block(random) for me in "abcd"}
    claims: list[tuple[Claim, int]] = []
    quotas = [TWO, PacedQuota(limit=5, period=3 * SECOND, interval=600_000, burst=2.5)]
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
                    me=me,
                    epoch=random.choice(["", "e1", "e1", "e1", "e9"]),
                    fresh="e1",
                    returns=random.random() < 0.05,
                    quotas=tuple(random.sample(quotas, random.randint(1, 2))),
                    settled=tuple(
                        (n, random.randint(-100_000, 400_000))
                        for n in known
                        if pick[n] == "settled"
                    ),
                    renewed=tuple(n for n in known if pick[n] == "renewed"),
                    freed=tuple(n for n in known if pick[n] == "freed"),
                    first=number[me],
                    wanted=wanted,
                    priority=random.randint(0, 1),
                    admitted=random.randint(0, 3),
                    refused=random.randint(0, 1),
                    pause=random.choice([0] * 19 + [2 * SECOND]),
                    beat=random.random() < 0.5,
                    idle=random.random() < 0.2,
                    held=random.choice([held[me], held[me], NONE, (0, UNIT)]),
                    due=random.choice([SECOND, SECOND, 10 * SECOND]),
                    leave=random.random() < 0.03,
                ),
                now,
            )
        )
        number[me] += wanted
    return claims


@pytest.mark.parametrize("seed", range(5))
def test_the_script_says_what_the_ledger_says(url: str, seed: int) -> None:
    """Random histories of four processes: answer by answer, Lua and Python agree."""
    random, ledger, lua = Random(seed), Ledger(), Lua(url)
    for asked, now in random_claims(random, 300):
        assert lua.exchange(asked, now) == ledger.exchange(asked, now)
    lua.close()
