"""The token cache: concurrent callers, failures, and a shared store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from asyncclients.core.auth import Token, bearer
from asyncclients.core.options import call_context, current_call_context
from asyncclients.core.tokens import FAILURE_REMEMBERED, TokenCache
from asyncclients.errors import ClientClosedError, TokenEndpointError
from asyncclients.ratelimit.quota import Priority
from asyncclients.secret import Secret

pytestmark = pytest.mark.virtual_time


class Endpoint:
    """Issues the tokens `t1`, `t2`, ... valid for *lifetime* seconds, each after *delay*."""

    def __init__(self, delay: float = 1.0, lifetime: float = 100.0) -> None:
        self.delay, self.lifetime = delay, lifetime
        self.asked = 0
        self.failing = False
        self.lanes: list[object] = []

    async def fetch(self) -> Token:
        self.asked += 1
        number = self.asked
        self.lanes.append(current_call_context())
        await asyncio.sleep(self.delay)
        if self.failing:
            raise TokenEndpointError("down")
        now = asyncio.get_running_loop().time()
        end = now + self.lifetime
        return bearer(Secret(f"t{number}"), end, end - 10)


class Store:
    """Keeps tokens in a dict; each method takes *delay* seconds."""

    def __init__(self, delay: float = 0.5) -> None:
        self.kept: dict[str, Token] = {}
        self.delay = delay
        self.dropped = self.released = 0

    async def load(self, key: str, now: float) -> Token | None:
        await asyncio.sleep(self.delay)
        token = self.kept.get(key)
        return token if token is not None and now < token.expires_at else None

    async def save(self, key: str, token: Token, now: float) -> None:
        await asyncio.sleep(self.delay)
        assert now < token.expires_at
        self.kept[key] = token

    async def drop(self, key: str, token: Token) -> None:
        await asyncio.sleep(self.delay)
        self.dropped += 1
        if key in self.kept and self.kept[key].value == token.value:
            del self.kept[key]

    async def release(self, key: str) -> None:
        self.released += 1


def now() -> float:
    return asyncio.get_running_loop().time()


async def ask(cache: TokenCache) -> str:
    """Return the text of the current token of *cache*."""
    return (await cache.get(now())).value.reveal()


async def all_of(*calls: Awaitable[str]) -> list[str | BaseException]:
    return await asyncio.gather(*calls, return_exceptions=True)


async def test_new_cache_requests_no_token() -> None:
    """A new cache has no token and has requested none."""
    endpoint = Endpoint()
    cache = TokenCache("key", endpoint.fetch)
    await asyncio.sleep(100)
    assert cache.current(now()) is None
    assert endpoint.asked == cache.refreshes == 0


async def test_concurrent_callers_share_one_request() -> None:
    """1,000 concurrent callers cause one request; later callers cause none."""
    endpoint = Endpoint()
    cache = TokenCache("key", endpoint.fetch)
    assert set(await all_of(*(ask(cache) for _ in range(1000)))) == {"t1"}
    assert now() == pytest.approx(1.0)
    assert await ask(cache) == "t1"
    assert endpoint.asked == cache.refreshes == 1


async def test_token_is_used_until_it_expires() -> None:
    """A token with a lifetime of 100 seconds is used at 99 and not at 100."""
    endpoint = Endpoint()
    cache = TokenCache("key", endpoint.fetch)
    await ask(cache)
    began = now()
    assert cache.current(began + 89) is not None
    assert cache.current(began + 100) is None
    assert endpoint.asked == 1


async def test_late_in_its_life_a_token_serves_while_the_next_is_asked_for() -> None:
    """In the last ten seconds the token is used while one request fetches the next one."""
    endpoint = Endpoint()
    cache = TokenCache("key", endpoint.fetch)
    await ask(cache)
    await asyncio.sleep(95)
    assert [await ask(cache) for _ in range(5)] == ["t1"] * 5
    await asyncio.sleep(2)
    assert await ask(cache) == "t2"
    assert endpoint.asked == 2


async def test_late_rejection_keeps_the_new_token() -> None:
    """A late rejection of the old token does not invalidate the new one."""
    endpoint = Endpoint()
    cache = TokenCache("key", endpoint.fetch)
    old = await cache.get(now())
    await cache.invalidate(old)
    assert await ask(cache) == "t2"
    await cache.invalidate(old)
    assert await ask(cache) == "t2"
    assert endpoint.asked == 2


async def test_many_rejections_of_one_token_cause_one_request() -> None:
    """Five hundred rejections of one token cause one token request."""
    endpoint = Endpoint()
    cache = TokenCache("key", endpoint.fetch)
    token = await cache.get(now())

    async def refused() -> str:
        await cache.invalidate(token)
        return await ask(cache)

    assert set(await all_of(*(refused() for _ in range(500)))) == {"t2"}
    assert endpoint.asked == 2


async def test_cancelled_caller_does_not_cancel_the_request() -> None:
    """Cancelling the first of three callers does not cancel the token request."""
    endpoint = Endpoint()
    cache = TokenCache("key", endpoint.fetch)
    leader, *others = [asyncio.create_task(ask(cache)) for _ in range(3)]
    await asyncio.sleep(0.5)
    leader.cancel()
    assert await all_of(*others) == ["t1", "t1"]
    assert leader.cancelled()
    assert endpoint.asked == 1


async def test_token_is_kept_if_all_callers_are_cancelled() -> None:
    """If all callers are cancelled, the token still arrives and is used by the next caller."""
    endpoint = Endpoint()
    cache = TokenCache("key", endpoint.fetch)
    tasks = [asyncio.create_task(ask(cache)) for _ in range(3)]
    await asyncio.sleep(0.5)
    for task in tasks:
        task.cancel()
    await asyncio.sleep(1)
    assert await ask(cache) == "t1"
    assert endpoint.asked == 1


async def test_failed_request_raises_in_all_callers() -> None:
    """A failed request raises in all 100 callers, after one second."""
    endpoint = Endpoint()
    endpoint.failing = True
    cache = TokenCache("key", endpoint.fetch)
    results = await all_of(*(ask(cache) for _ in range(100)))
    assert {type(result) for result in results} == {TokenEndpointError}
    assert now() == pytest.approx(1.0)
    assert endpoint.asked == 1


async def test_failure_is_cached_for_seconds() -> None:
    """After a failure nothing is requested for some seconds, at most ten."""
    endpoint = Endpoint()
    endpoint.failing = True
    cache = TokenCache("key", endpoint.fetch)
    for _ in range(10):
        with pytest.raises(TokenEndpointError):
            await ask(cache)
    assert endpoint.asked == 1
    assert FAILURE_REMEMBERED <= 10
    endpoint.failing = False
    await asyncio.sleep(FAILURE_REMEMBERED)
    assert await ask(cache) == "t2"


async def test_failed_early_refresh_keeps_the_token() -> None:
    """If an early refresh fails, the token is used until it expires, and no call fails."""
    endpoint = Endpoint()
    cache = TokenCache("key", endpoint.fetch)
    await ask(cache)
    endpoint.failing = True
    await asyncio.sleep(91)
    while now() < 100:
        assert await ask(cache) == "t1"
        await asyncio.sleep(0.5)
    assert 2 <= endpoint.asked <= 4
    await asyncio.sleep(2)
    with pytest.raises(TokenEndpointError):
        await ask(cache)


async def test_rejected_fresh_token_stops_requests_for_a_while() -> None:
    """After `remember_failure` nothing is requested for some seconds."""
    endpoint = Endpoint()
    cache = TokenCache("key", endpoint.fetch)
    cache.remember_failure(TokenEndpointError("refused what it had issued"), now())
    with pytest.raises(TokenEndpointError):
        await ask(cache)
    assert endpoint.asked == 0
    await asyncio.sleep(FAILURE_REMEMBERED)
    assert await ask(cache) == "t1"


async def test_unexpected_error_is_not_cached() -> None:
    """An unexpected exception reaches all waiting callers, and the next caller tries again."""
    calls: list[int] = []

    async def fetch() -> Token:
        calls.append(1)
        if len(calls) == 1:
            raise LookupError("a fault")
        return bearer(Secret("good"), now() + 10)

    cache = TokenCache("key", fetch)
    with pytest.raises(LookupError):
        await ask(cache)
    assert await ask(cache) == "good"


async def test_closing_ends_the_wait() -> None:
    """Closing ends waiting callers with `ClientClosedError`; closing again does nothing."""
    endpoint = Endpoint(delay=1000)
    cache = TokenCache("key", endpoint.fetch)
    waiters = [asyncio.create_task(ask(cache)) for _ in range(3)]
    await asyncio.sleep(1)
    await cache.aclose()
    results = await all_of(*waiters)
    assert {type(result) for result in results} == {ClientClosedError}
    await cache.aclose()


async def test_token_request_runs_in_an_empty_context() -> None:
    """A request that a backfill caused does not have the priority of the backfill."""
    endpoint = Endpoint()
    cache = TokenCache("key", endpoint.fetch)
    with call_context(Priority.BACKGROUND, "night"):
        await ask(cache)
    assert endpoint.lanes == [None]


async def test_stored_token_is_used_first() -> None:
    """A valid token of another process is used; an expired one is not."""
    store, endpoint = Store(), Endpoint()
    store.kept["key"] = bearer(Secret("kept"), now() + 50)
    cache = TokenCache("key", endpoint.fetch, store)
    assert await ask(cache) == "kept"
    assert endpoint.asked == 0
    await asyncio.sleep(60)
    assert await ask(cache) == "t1"
    assert store.kept["key"].value.reveal() == "t1"


async def test_rejected_token_is_dropped_from_the_store_once() -> None:
    """500 rejections of a stored token drop it once, and a slow store does not return it again."""
    store, endpoint = Store(), Endpoint()
    store.kept["key"] = bearer(Secret("kept"), now() + 5000)
    cache = TokenCache("key", endpoint.fetch, store)
    token = await cache.get(now())

    async def refused() -> str:
        await cache.invalidate(token)
        return await ask(cache)

    assert set(await all_of(*(refused() for _ in range(500)))) == {"t1"}
    assert (store.dropped, endpoint.asked) == (1, 1)
    assert store.kept["key"].value.reveal() == "t1"


async def test_newer_token_in_the_store_is_used() -> None:
    """Late in a token's lifetime a newer one in the store is used instead of a request."""
    store, endpoint = Store(), Endpoint()
    cache = TokenCache("key", endpoint.fetch, store)
    assert await ask(cache) == "t1"
    store.kept["key"] = bearer(Secret("newer"), now() + 5000)
    await asyncio.sleep(95)
    assert await ask(cache) == "t1"
    await asyncio.sleep(2)
    assert await ask(cache) == "newer"
    assert endpoint.asked == 1


async def test_same_token_in_the_store_is_not_newer() -> None:
    """Late in a token's lifetime the same token in the store is not taken for a newer one."""
    store, endpoint = Store(), Endpoint()
    cache = TokenCache("key", endpoint.fetch, store)
    await ask(cache)
    await asyncio.sleep(95)
    await ask(cache)
    await asyncio.sleep(3)
    assert await ask(cache) == "t2"
    assert endpoint.asked == 2


async def test_stored_token_has_the_time_of_the_save() -> None:
    """The token is saved with the time of the save."""
    saved: list[tuple[float, float]] = []

    class Noting(Store):
        async def save(self, key: str, token: Token, now: float) -> None:
            saved.append((now, token.expires_at))

    cache = TokenCache("key", Endpoint(delay=7, lifetime=100).fetch, Noting())
    await ask(cache)
    saved_at, expires_at = saved[0]
    assert saved_at == pytest.approx(7.5)
    assert expires_at == pytest.approx(107.5)


async def test_failed_request_releases_the_store() -> None:
    """After a failed request `release` is called, so that another process may request a token."""
    store, endpoint = Store(), Endpoint()
    endpoint.failing = True
    cache = TokenCache("key", endpoint.fetch, store)
    with pytest.raises(TokenEndpointError):
        await ask(cache)
    assert store.released == 1


def test_cache_can_be_created_without_a_loop() -> None:
    """A `TokenCache` can be created without an event loop."""
    fetch: Callable[[], Awaitable[Token]] = Endpoint().fetch
    assert TokenCache("key", fetch).current(0.0) is None


class BrokenStore(Store):
    """A store whose methods all raise."""

    def __init__(self, step: str) -> None:
        super().__init__()
        self.step = step

    async def load(self, key: str, now: float) -> Token | None:
        if self.step == "load":
            raise MemoryError
        return await super().load(key, now)

    async def save(self, key: str, token: Token, now: float) -> None:
        if self.step == "save":
            raise MemoryError
        await super().save(key, token, now)

    async def drop(self, key: str, token: Token) -> None:
        if self.step == "drop":
            raise MemoryError
        await super().drop(key, token)

    async def release(self, key: str) -> None:
        if self.step == "release":
            raise MemoryError
        await super().release(key)


@pytest.mark.parametrize("step", ["load", "save", "drop"])
async def test_token_store_that_fails_stops_no_call(
    step: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception of a store is logged, and tokens are requested as without a store."""
    loop = asyncio.get_running_loop()
    endpoint = Endpoint()
    cache = TokenCache("key", endpoint.fetch, BrokenStore(step))
    token, other = await asyncio.gather(cache.get(loop.time()), cache.get(loop.time()))
    assert token is other
    await cache.invalidate(token)
    assert (await cache.get(loop.time())).value.reveal() == "t2"
    assert "token store failed" in caplog.text


async def test_token_store_that_fails_hides_no_failure() -> None:
    """An exception of a store does not replace the error of the token endpoint."""
    endpoint = Endpoint()
    endpoint.failing = True
    cache = TokenCache("key", endpoint.fetch, BrokenStore("release"))
    with pytest.raises(TokenEndpointError, match="down"):
        await cache.get(asyncio.get_running_loop().time())
