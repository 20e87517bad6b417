"""Divide a quota into blocks, so that the shares of all processes never overlap.

A process needs its share when the store is down and cannot be asked. So the store assigns
each process a block of the quota in advance, and reassigns a part of it only after the owner
has confirmed a smaller block. At any instant the blocks that all processes believe to own are
disjoint, so they add up to one quota at most.

A block is *size* units from *start*, of `UNIT` in total. The size is a power of two and
divides the start (buddy allocation), so two blocks are disjoint or nested.
"""

from __future__ import annotations

from collections.abc import Sequence

Block = tuple[int, int]
UNIT = 1 << 20
NONE: Block = (0, 0)


def fair_sizes(members: int) -> tuple[int, int]:
    """Return the smaller and the larger size of a fair share among *members* processes."""
    fair = UNIT
    while fair * members > UNIT:
        fair //= 2
    return fair, fair if fair * members == UNIT else fair * 2


def next_block(
    own: Block, taken: Sequence[Block], *, fair: int, limit: int, is_idle: bool, is_wanted: bool
) -> Block:
    """Return the next block of the owner of *own*.

    Args:
        own: the block that the owner has confirmed, `NONE` for none.
        taken: the blocks of all others.
        fair: the smaller of `fair_sizes`.
        limit: largest size of the block now.
        is_idle: the owner has sent nothing for a while: shrink the block to *limit*.
        is_wanted: another process, which is not idle, has less than *fair*.
    """
    start, size = own
    if not size or _overlaps(own, taken):
        return _largest_free(taken, limit, NONE)
    if is_idle and size > limit:
        return start, limit
    if size > fair and is_wanted:
        return start, size // 2
    if is_wanted:
        limit = min(limit, fair)
    if size < limit and UNIT - sum(block[1] for block in taken) >= 2 * size:
        return _largest_free(taken, limit, own)
    return own


def contains(outer: Block, inner: Block) -> bool:
    """Return whether *inner* lies inside *outer*."""
    return not inner[1] or (outer[0] <= inner[0] and sum(inner) <= sum(outer))


def _overlaps(block: Block, taken: Sequence[Block]) -> bool:
    start, size = block
    return any(start < other + length and other < start + size for other, length in taken)


def _largest_free(taken: Sequence[Block], limit: int, own: Block) -> Block:
    """Return the largest free block up to *limit*; *own* unless there is a larger one."""
    best, at = own, 0
    for start, length in (*sorted(taken), (UNIT, 1)):
        size = limit
        while size > best[1]:
            first = -(-at // size) * size
            if first + size <= start:
                best = (first, size)
            size //= 2
        at = max(at, start + length)
    return best
