"""One call from request to result: permits, retries, deadlines, errors, events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from multidict import CIMultiDict
from yarl import URL

from asyncclients.core.endpoint import Response
from asyncclients.core.error_mapping import redacted_excerpt
from asyncclients.core.events import (
    AttemptEnded,
    AttemptStarted,
    CallEnded,
    CallStarted,
    CapturedResponse,
    ScopePaused,
)
from asyncclients.core.options import call_context
from asyncclients.core.pool import SessionPool
from asyncclients.core.prepare import PreparedRequest
from asyncclients.core.retry import RetryPolicy
from asyncclients.errors import (
    AsyncClientsError,
    BadRequestError,
    ConfigurationError,
    ConflictError,
    DeadlineExceededError,
    DecodeError,
    ForbiddenError,
    NotFoundError,
    OutcomeUnknownError,
    RateLimitedError,
    ServerError,
    StatusError,
    UnauthorizedError,
    UnexpectedRedirectError,
    UnprocessableEntityError,
)
from asyncclients.ratelimit.quota import Priority, Quota
from asyncclients.secret import Secret
from tests.support.byte_server import ByteServer, Connection, byte_server, hangs_up, http
from tests.support.fake_vendor import QUICK, Thing, ToyClient
from tests.support.leaks import CANARY, leaks

pytestmark = pytest.mark.virtual_time

FAST = Quota(1000, 1.0)
FINE = http(body=b'{"id": 1}')


@asynccontextmanager
async def serve(
    *replies: bytes, retry: RetryPolicy = QUICK, quota: Quota = FAST, **settings: Any
) -> AsyncGenerator[tuple[ByteServer, ToyClient]]:
    """A server that sends *replies* in order, the last one repeatedly, and a client of it."""
    left = list(replies)

    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.send(left.pop(0) if len(left) > 1 else left[0])

    async with byte_server(script) as server, SessionPool(retry=retry, **settings) as pool:
        yield server, ToyClient(pool, base_url=server.url, quotas=(quota,))


def now() -> float:
    return asyncio.get_running_loop().time()


# --- Answers that say no --------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, BadRequestError),
        (401, UnauthorizedError),
        (403, ForbiddenError),
        (404, NotFoundError),
        (405, StatusError),
        (409, ConflictError),
        (418, StatusError),
        (422, UnprocessableEntityError),
        (500, ServerError),
        (501, ServerError),
        (503, ServerError),
        (302, UnexpectedRedirectError),
    ],
)
async def test_status_raises_its_error(status: int, error: type[AsyncClientsError]) -> None:
    """Each status raises its error, with call, excerpt and request id; a POST is sent once."""
    body = b'{"message": "no", "errors": {"email": ["taken"]}}'
    reply = http(status, body, {"X-Request-Id": "r-7"})
    async with serve(reply) as (server, client):
        with pytest.raises(error) as caught:
            await client.things.make()
        problem = caught.value
        assert type(problem) is error
        assert (problem.status, problem.attempts, len(server.arrived)) == (status, 1, 1)
        assert (problem.vendor, problem.operation, problem.path) == (
            "toy",
            "things.make",
            "/things",
        )
        assert problem.request_id == "r-7"
        assert problem.excerpt is not None
        assert "taken" in problem.excerpt
        if isinstance(problem, UnprocessableEntityError):
            assert problem.errors == {"email": ["taken"]}
        assert leaks(problem, CANARY) == []


@pytest.mark.parametrize("where", ["body", "header", "location", "errors", "decode"])
async def test_echoed_credential_is_redacted(where: str) -> None:
    """A credential that the vendor echoes is in no part of the error."""
    echo = CANARY.replace("/", "\\/")
    reply = {
        "body": http(400, f'{{"you": "{echo}"}}'.encode()),
        "header": http(400, headers={"X-Request-Id": CANARY}),
        "location": http(302, headers={"Location": f"https://x.example/{CANARY}/y"}),
        "errors": http(422, f'{{"errors": {{"key": ["{echo} is bad"]}}}}'.encode()),
        "decode": http(200, f'{{"id": "{echo}"}}'.encode()),
    }[where]
    async with serve(reply) as (_, client):
        with pytest.raises(AsyncClientsError) as caught:
            await client.things.make()
        assert leaks(caught.value, CANARY, echo) == []
        assert "[credential]" in repr(caught.value)


def test_excerpt_shows_no_part_of_a_long_credential() -> None:
    """An excerpt contains no part of a long credential that the body repeats."""
    token = "".join(chr(65 + n % 26) for n in range(1000))
    body = b"  ".join([token.encode()] * 20)
    assert "ABCDEFGH" not in redacted_excerpt(body, [Secret(token)])
    assert redacted_excerpt(body, [Secret(token)]).startswith("[credential]")


# --- Repetition -------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_server_error_is_retried_for_get(status: int) -> None:
    """A retryable call succeeds on the third attempt; the pauses hold no slot."""
    async with serve(http(status), http(status), FINE) as (server, client):
        assert await client.things.get() == Thing(id=1)
        assert len(server.arrived) == 3
        assert client.stats().in_flight == 0


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (500, ServerError),
        (502, OutcomeUnknownError),
        (503, ServerError),
        (504, OutcomeUnknownError),
    ],
)
async def test_server_error_is_not_retried_for_post(
    status: int, error: type[AsyncClientsError]
) -> None:
    """A POST is sent once; after the failure of a gateway its outcome is unknown."""
    async with serve(http(status), FINE) as (server, client):
        with pytest.raises(error) as caught:
            await client.things.make()
        assert (caught.value.status, len(server.arrived)) == (status, 1)


async def test_retry_unsafe_repeats_a_post() -> None:
    """With `retry_unsafe` a call that is not idempotent is retried."""
    async with serve(http(502), FINE) as (server, client):
        assert await client.with_options(retry_unsafe=True).things.make() == Thing(id=1)
        assert len(server.arrived) == 2


async def test_attempts_count_all_requests() -> None:
    """429s and failures both count as requests; the error has their number."""
    policy = RetryPolicy(max_retries=1, max_rate_limited=1, base=0.01, cap=0.01)
    replies = (http(429), http(503), http(503))
    async with serve(*replies, retry=policy) as (server, client):
        with pytest.raises(ServerError, match="after 3 attempts") as caught:
            await client.things.get()
        assert caught.value.attempts == len(server.arrived) == client.stats().sent == 3


@pytest.mark.parametrize("reply", [http(429), http(503), http(502)])
async def test_max_attempts_of_one_sends_one_request(reply: bytes) -> None:
    """With `max_attempts=1` nothing is retried, whatever the outcome."""
    async with serve(reply, FINE) as (server, client):
        with pytest.raises(AsyncClientsError) as caught:
            await client.with_options(max_attempts=1).things.get()
        assert caught.value.attempts == len(server.arrived) == 1


async def test_not_found_after_lost_delete_is_success() -> None:
    """After a lost response to a DELETE, a 404 to its retry means that it is done."""

    async def gone(connection: Connection) -> None:
        await connection.request()
        await connection.send(http(404))

    async with byte_server(hangs_up, gone) as server, SessionPool(retry=QUICK) as pool:
        await ToyClient(pool, base_url=server.url).things.delete()
        assert len(server.arrived) == 2
    async with serve(http(404)) as (_, client):
        with pytest.raises(NotFoundError):
            await client.things.delete()


async def test_header_bytes_that_are_not_utf8_are_escaped() -> None:
    """Bytes that are not UTF-8 in a request id or location are escaped in the error."""
    head = b"HTTP/1.1 302 Found\r\nX-Request-Id: r\xff\r\nLocation: /a\xe9b\r\n"
    reply = head + b"Retry-After: \xb2\r\nContent-Length: 0\r\n\r\n"
    async with serve(reply) as (_, client):
        with pytest.raises(UnexpectedRedirectError) as caught:
            await client.things.get()
    assert caught.value.request_id == "r\\udcff"
    assert caught.value.location == "/a\\udce9b"
    str(caught.value).encode()


async def test_not_found_after_delete_that_aiohttp_resends_is_success() -> None:
    """If a DELETE is lost where aiohttp would resend it, a 404 to the retry means it is done."""

    async def forgets(connection: Connection) -> None:
        await connection.request()
        await connection.send(FINE)
        await connection.request()  # carried out; the connection ends without a response

    async def gone(connection: Connection) -> None:
        await connection.request()
        await connection.send(http(404))

    async with byte_server(forgets, gone) as server, SessionPool(retry=QUICK) as pool:
        client = ToyClient(pool, base_url=server.url, quotas=(FAST,))
        await client.things.get()
        await client.things.delete()
        assert [request.method for request in server.arrived] == ["GET", "DELETE", "DELETE"]
        assert server.connections == 2


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "GET"])
async def test_request_without_body_has_no_content_type(method: str) -> None:
    """A request without a body has no content type, and one with a body has one."""
    async with serve(FINE) as (server, client):
        await client.request(method, "things")
        assert "content-type" not in server.arrived[0].headers
        await client.request(method, "things", headers={"Content-Type": "text/csv"})
        assert server.arrived[1].headers["content-type"] == "text/csv"
        await client.request(method, "things", json={"a": 1})
        assert server.arrived[2].headers["content-type"] == "application/json"


# --- Unavailable vendors ----------------------------------------------------------------


@pytest.mark.parametrize("status", [503, 521, 522, 523, 529])
@pytest.mark.parametrize("method", ["get", "make"])
async def test_unavailability_with_retry_after_pauses_the_scope(status: int, method: str) -> None:
    """A 503 with `Retry-After` pauses the scope like a 429, and is not counted as one."""
    away = http(status, b"busy", {"Retry-After": "7"})
    told: list[object] = []
    async with serve(away, FINE, listeners=(told.append,)) as (_, client):
        began = now()
        first = asyncio.create_task(getattr(client.things, method)())
        await asyncio.sleep(1)
        assert client.stats().paused_for == pytest.approx(6, abs=0.1)
        (pause,) = [event for event in told if isinstance(event, ScopePaused)]
        assert pause.unavailable
        assert pause.seconds == pytest.approx(7, abs=0.1)
        await client.things.get(2)
        assert now() - began >= 7
        assert client.stats().rejected == 0
        if method == "get":
            assert await first == Thing(id=1)
            return
        with pytest.raises(ServerError) as caught:
            await first
        assert caught.value.retry_after == 7.0


async def test_unavailability_without_retry_after_pauses_no_other_call() -> None:
    """A 503 without `Retry-After` does not pause other calls."""
    async with serve(http(503), FINE) as (_, client):
        first = asyncio.create_task(client.things.get())
        await asyncio.sleep(0.001)
        assert client.stats().paused_for == 0
        await first


# --- Refusals by rate -------------------------------------------------------------------


@pytest.mark.parametrize("method", ["get", "make"])
async def test_rate_limit_is_retried_after_its_pause(method: str) -> None:
    """A 429 is retried for each operation; nothing is sent before the pause is over."""
    async with serve(http(429, headers={"Retry-After": "7"}), FINE) as (server, client):
        began = now()
        await getattr(client.things, method)()
        assert now() - began >= 7.0
        assert len(server.arrived) == 2
        assert client.stats().rejected == 1


async def test_rate_limit_pauses_the_whole_scope() -> None:
    """After one 429 in a hundred calls, no call of the scope is sent before the pause is over."""
    sent: list[float] = []

    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            sent.append(now())
            refused = len(sent) == 1
            await connection.send(http(429, headers={"Retry-After": "9"}) if refused else FINE)

    quota = Quota(5, 1.0)
    async with byte_server(script) as server, SessionPool() as pool:
        client = ToyClient(pool, base_url=server.url, quotas=(quota,))
        first = asyncio.create_task(client.things.get())
        await asyncio.sleep(0.1)
        assert len(sent) == 1
        await asyncio.gather(first, *(client.things.get() for _ in range(20)))
    assert min(sent[1:]) - sent[0] >= 9.0


async def test_retry_after_above_the_cap_raises_at_once() -> None:
    """If the vendor asks for an hour, an interactive call raises at once, with `.retry_after`."""
    async with serve(http(429, headers={"Retry-After": "3600"})) as (server, client):
        began = now()
        with pytest.raises(RateLimitedError, match="asked to wait 3600 s") as caught:
            await client.things.get()
        assert now() - began < 1.0
        assert (caught.value.retry_after, len(server.arrived)) == (3600.0, 1)


async def test_retry_after_beyond_the_deadline_raises_at_once() -> None:
    """If `Retry-After` exceeds the deadline, the call raises at once, with `.retry_after`."""
    async with serve(http(429, headers={"Retry-After": "60"})) as (_, client):
        began = now()
        with pytest.raises(RateLimitedError) as caught:
            await client.with_options(deadline=10.0).things.get()
        assert now() - began < 1.0
        assert caught.value.retry_after == 60.0


async def test_exhausted_quota_is_not_retried() -> None:
    """An exhausted quota is not retried, and the advice explains that waiting does not help."""
    spent = http(429, b'{"message":"Limit Exceeded"}')
    async with serve(spent) as (server, client):
        with pytest.raises(RateLimitedError, match="quota is used up") as caught:
            await client.things.get()
        assert len(server.arrived) == 1
        assert "a short wait will not help" in str(caught.value)


# --- Deadlines ------------------------------------------------------------------------------


async def test_deadline_that_the_queue_cannot_meet_raises_at_once() -> None:
    """A deadline that the queue cannot meet raises at once with the ETA; nothing is sent."""
    async with serve(FINE, quota=Quota(1, 10.0)) as (server, client):
        await client.things.get()
        waiting = [asyncio.create_task(client.things.get()) for _ in range(3)]
        await asyncio.sleep(0.1)
        began = now()
        with pytest.raises(DeadlineExceededError, match=r"would wait .* for its turn") as caught:
            await client.with_options(deadline=5.0).things.get()
        assert now() == began
        assert caught.value.eta == pytest.approx(40.0, abs=1.0)
        assert (caught.value.attempts, caught.value.operation) == (0, "things.get")
        assert len(server.arrived) == 1
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_deadline_ends_a_call_that_is_overtaken() -> None:
    """A background call that is overtaken by interactive ones ends at its deadline."""
    async with serve(FINE, quota=Quota(1, 1.0)) as (_, client):
        patient = client.with_options(priority=Priority.BACKGROUND, deadline=4.0)
        await client.things.get()
        late = asyncio.create_task(patient.things.get())
        await asyncio.sleep(0)
        flood = [asyncio.create_task(client.things.get()) for _ in range(8)]
        with pytest.raises(DeadlineExceededError) as caught:
            await late
        assert now() == pytest.approx(4.0, abs=0.1)
        assert caught.value.eta is not None
        await asyncio.gather(*flood)


async def test_deadline_includes_attempts_and_pauses() -> None:
    """The deadline includes attempts and pauses, also if the server fails each time."""
    slow = RetryPolicy(max_attempts=100, base=1.0, cap=4.0)
    async with serve(http(503), retry=slow) as (server, client):
        began = now()
        with pytest.raises(ServerError) as caught:
            await client.with_options(deadline=20.0).things.get()
        assert now() - began <= 20.0
        assert caught.value.attempts == len(server.arrived) > 2


# --- Contexts, headers, events ------------------------------------------------------------


async def test_call_context_lowers_the_priority() -> None:
    """Inside the context the calls of an interactive client wait behind other interactive ones."""
    order: list[str] = []
    async with serve(FINE, quota=Quota(1, 1.0)) as (_, client):

        async def get(name: str) -> None:
            await client.things.get()
            order.append(name)

        await client.things.get()
        with call_context(Priority.BACKGROUND, "job"):
            job = [asyncio.create_task(get("job")) for _ in range(2)]
        await asyncio.sleep(0)
        web = [asyncio.create_task(get("web")) for _ in range(2)]
        await asyncio.gather(*job, *web)
    assert order == ["web", "web", "job", "job"]


async def test_headers_of_options_and_calls() -> None:
    """Headers of options and of a call are sent; the call's win; none replaces the credential."""
    async with serve(FINE) as (server, client):
        mine = client.with_options(headers={"X-A": "1", "accept": "text/x", "X-API-KEY": "no"})
        await mine.request("GET", "things", headers={"x-a": "2"})
        (seen,) = server.arrived
        assert seen.headers["x-a"] == "2"
        assert seen.headers["accept"] == "text/x"
        assert seen.headers["x-api-key"] == CANARY
        assert "cookie" not in seen.headers


@pytest.mark.parametrize(
    "headers", [{"X-A": "a\r\nX-Evil: 1"}, {"X-A\r\n": "a"}, {"X A": "a"}, {"": "a"}, {"X": "\0"}]
)
async def test_invalid_header_is_rejected(headers: dict[str, str]) -> None:
    """An invalid header is rejected by name, without its value and without inner frames."""
    async with serve(FINE) as (server, client):
        with pytest.raises(ConfigurationError, match="no header may have") as caught:
            client.with_options(headers=headers)
        assert leaks(caught.value, CANARY) == []
        with pytest.raises(ConfigurationError, match="no header may have") as caught:
            await client.request("GET", "things", headers=headers)
        assert leaks(caught.value, CANARY) == []
        assert server.arrived == []


async def test_listener_gets_the_events_of_a_call() -> None:
    """The events are start, each attempt and its end, and the end; no credential, body or query."""
    heard: list[Any] = []
    async with serve(http(503), FINE, listeners=(heard.append,)) as (server, client):
        await client.things.get()
        port = server.url
    calls = [event for event in heard if hasattr(event, "call")]
    assert [type(event) for event in calls] == [
        CallStarted,
        AttemptStarted,
        AttemptEnded,
        AttemptStarted,
        AttemptEnded,
        CallEnded,
    ]
    started, _, first, _, second, ended = calls
    assert (started.operation, started.method, started.template) == (
        "things.get",
        "GET",
        "/things/{id}",
    )
    assert started.origin + "/" == port
    assert (first.attempt, first.status, second.attempt, second.status) == (1, 503, 2, 200)
    assert (ended.attempts, ended.error) == (2, None)
    assert CANARY not in repr(heard)


async def test_failing_listener_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An exception of a listener is logged, and the call continues."""

    def broken(event: object) -> None:
        raise ValueError(type(event).__name__)

    async with serve(FINE, listeners=(broken,)) as (_, client):
        assert await client.things.get() == Thing(id=1)
    assert "raised ValueError; the work continues" in caplog.text


async def test_log_contains_no_credential(caplog: pytest.LogCaptureFixture) -> None:
    """No logger logs a credential at DEBUG, in 429s, failures and successes."""
    caplog.set_level(logging.DEBUG)
    replies = (http(429), http(503), http(400, CANARY.encode()), FINE)
    async with serve(*replies) as (_, client):
        with pytest.raises(BadRequestError):
            await client.things.get()
        assert await client.things.get() == Thing(id=1)
    assert CANARY not in caplog.text
    assert caplog.records


async def test_concurrent_calls_get_their_own_outcomes() -> None:
    """Concurrent calls with different failures get their own outcomes, and the next call works."""
    replies = [http(503), FINE, http(404), http(429, headers={"Retry-After": "1"}), http(200, b"[")]
    async with serve(*replies, *[FINE] * 5) as (_, client):
        outcomes = [
            type(outcome).__name__
            for outcome in await asyncio.gather(
                *(client.things.get() for _ in range(5)), return_exceptions=True
            )
        ]
        assert sorted(outcomes) == ["DecodeError", "NotFoundError", "Thing", "Thing", "Thing"]
        assert client.stats().in_flight == 0
        assert await client.things.get() == Thing(id=1)


async def test_large_body_is_decoded_in_a_thread() -> None:
    """A body of two megabytes is decoded in a thread; an invalid one is a `DecodeError`."""
    text = "x" * 2_000_000
    async with serve(http(body=f'{{"id": 1, "text": "{text}"}}'.encode())) as (_, client):
        assert (await client.things.get()).text == text
    async with serve(http(body=f'{{"id": 1, "text": "{text}"'.encode())) as (_, client):
        with pytest.raises(DecodeError) as caught:
            await client.things.get()
        assert caught.value.excerpt is not None
        assert len(caught.value.excerpt) <= 200


def test_toy_client_has_the_credential_that_tests_search() -> None:
    """The credential of the toy client is the one that the tests search for."""
    client = ToyClient(SessionPool())
    login = client._config.login  # pyright: ignore[reportPrivateUsage]
    assert login is not None
    assert login.value.reveal() == CANARY


def test_repr_of_a_response_shows_no_body() -> None:
    """`repr` and the hooks of crash reporters do not show the body of a response."""
    echo = f'{{"you": "{CANARY}"}}'.encode()
    answer = Response(400, CIMultiDict({"X-Echo": CANARY}), echo)
    captured = CapturedResponse(
        vendor="toy",
        operation="things.get",
        attempt=1,
        status=400,
        headers=answer.headers,
        body=echo,
        request_id=None,
    )
    wire = PreparedRequest("POST", URL(f"https://x.example/a?b={CANARY}"), {}, echo)
    for value in (answer, captured, wire):
        assert CANARY not in repr(value)
        assert CANARY not in repr(value.__rich_repr__())


async def test_call_runs_in_the_context_of_its_caller() -> None:
    """A listener sees the context of its own call, in a thousand interleaved calls."""
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
    seen: dict[int, set[str]] = {}

    def listener(event: Any) -> None:
        if hasattr(event, "call"):
            seen.setdefault(event.call, set()).add(tenant.get())

    async with serve(FINE, listeners=(listener,)) as (_, client):

        async def run(name: str) -> None:
            tenant.set(name)
            await client.things.get()

        await asyncio.gather(*(run("ab"[n % 2]) for n in range(1000)))
    assert all(len(names) == 1 for names in seen.values())
    assert sum(names == {"a"} for names in seen.values()) == 500
