"""Seen tells new digests from old ones, in little memory."""

from __future__ import annotations

from random import Random

from asyncclients.backfill.seen import Seen, digest_of, digests_of


def test_it_is_a_set() -> None:
    """Each digest is new exactly once, through a growth; others are not in it."""
    random = Random(0)
    digests = [random.getrandbits(64) or 1 for _ in range(100_000)]
    seen, expected = Seen(), set[int]()
    twice = digests * 2
    for start in range(0, 200_000, 1000):
        some = twice[start : start + 1000]
        assert seen.add(some) == [digest not in expected for digest in some]
        expected.update(some)
    assert len(seen) == len(expected)
    assert all(digest in seen for digest in digests)
    assert seen.add([5, 6, 5]) == [True, True, False]
    assert not any(digest + 1 in seen for digest in digests if digest + 1 not in expected)


def test_digests_differ_and_last() -> None:
    """A key has the same digest in every process, be it a text or a number."""
    assert digest_of("a1b2") == 1784681969115828630  # state files hold such numbers
    assert digest_of(12) == digest_of("12")
    assert list(digests_of(["a1b2", 12])) == [digest_of("a1b2"), digest_of("12")]
    assert len({digest_of(key) for key in ("1", "2", ("1", 2), ("2", 1))}) == 4
