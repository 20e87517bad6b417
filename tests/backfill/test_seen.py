"""Seen tells new texts from old ones, in little memory."""

from __future__ import annotations

from random import Random

import pytest

from asyncclients.backfill import seen_keys as seen_module
from asyncclients.backfill.seen_keys import SeenKeys, digest


@pytest.mark.parametrize("few", [2**18, 1500, 0])
def test_it_is_a_set(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each text is new exactly once, few or many, through a growth; others are not in it."""
    monkeypatch.setattr(seen_module, "_FEW", few)
    monkeypatch.setattr(seen_module, "_FIRST", 2**12)
    random = Random(0)
    texts = [f"{random.getrandbits(64):x}" for _ in range(100_000)]
    seen, expected = SeenKeys(), set[str]()
    twice = texts * 2
    for start in range(0, 200_000, 1000):
        some = twice[start : start + 1000]
        assert seen.add(some) == [place for place, text in enumerate(some) if text in expected]
        expected.update(some)
    assert len(seen) == len(expected)
    assert all(text in seen for text in texts)
    assert seen.add(["5", "", "6", "5", "", "5"]) == [3, 4, 5]
    assert "" in seen
    assert not any(f"{text}-" in seen for text in texts)


def test_texts_differ_and_last() -> None:
    """A key has the same text in every process, be it a text or a number."""
    assert digest(b"a1b2") == "53405d4732473c332de0b05b0ed4c4c0"  # state files hold such texts
