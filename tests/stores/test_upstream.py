"""Behaviour of redis-py that this library works around; an upgrade that changes it fails."""

from __future__ import annotations

import inspect

import redis.asyncio as redis

from asyncclients.stores.redis_client import create_client, parse_address


async def test_redis_py_retries_commands_by_default() -> None:
    """Upstream: a client repeats a command up to ten times, and a script then counts that often.

    Ours: none, whatever the default of `from_url` is.
    """
    default = inspect.signature(redis.Redis).parameters["retry"].default
    assert default.get_retries() == 10
    ours = create_client(parse_address("redis://127.0.0.1:1"))
    assert isinstance(ours, redis.Redis)
    retry = ours.get_retry()
    assert retry is not None
    assert retry.get_retries() == 0
    await ours.aclose()
