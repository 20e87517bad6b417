"""Damaged state files are rejected with a clear error and never trusted."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from asyncclients import StateError
from asyncclients.backfill import push

ROWS: Final = 30
FLIPS: Final = 400


async def pushed(state: Path) -> list[dict[str, Any]]:
    """The rows of the push."""
    sent: list[dict[str, Any]] = []

    async def target(row: dict[str, Any]) -> None:
        sent.append(row)

    rows = [{"id": number} for number in range(ROWS)]
    await push(rows, target, state=state)
    return sent


async def once_more(state: Path) -> tuple[list[dict[str, Any]], StateError | None]:
    """Return the rows sent by a push that finds *state*, or its error."""
    try:
        return await pushed(state), None
    except StateError as refusal:
        return [], refusal


def damaged(content: bytes, random: Random) -> bytes:
    """*content* with one byte changed, every other time where the state stands, or cut off."""
    at = random.randrange(1, len(content))  # an empty file cannot be recognised
    if random.random() < 0.5:
        at = content.rindex(b'"read"') + random.randrange(-40, 60)
    elif random.random() < 0.4:
        return content[:at]
    changed = content[at] ^ (1 << random.randrange(8))
    return content[:at] + bytes((changed,)) + content[at + 1 :]


@pytest.mark.parametrize("seed", range(4))
async def test_damaged_state_file_is_rejected_or_harmless(tmp_path: Path, seed: int) -> None:
    """A flipped bit or a truncated end: StateError, or an unchanged result and nothing sent."""
    state = tmp_path / "push.db"
    assert len(await pushed(state)) == ROWS
    whole, random = state.read_bytes(), Random(seed)
    refused = 0
    for _ in range(FLIPS // 4):
        state.write_bytes(damaged(whole, random))
        sent, refusal = await once_more(state)
        assert sent == []
        if refusal is not None:
            refused += 1
            assert str(state) in str(refusal)
            assert refusal.advice
        for rest in tmp_path.glob("push.db?*"):
            rest.unlink()
    assert refused > FLIPS // 100
