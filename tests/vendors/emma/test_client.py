"""The client of Emma against the sandbox, over real sockets."""

from __future__ import annotations

import asyncio
import pickle
from base64 import b64encode
from dataclasses import replace

import pytest

from asyncclients import (
    BadRequestError,
    ConfigurationError,
    DecodeError,
    EmmaClient,
    ForbiddenError,
    NotFoundError,
    OutcomeUnknownError,
    Quota,
    RateLimitedError,
    ServerError,
    SessionPool,
    StatusError,
    UnauthorizedError,
)
from asyncclients.sandbox import Sandbox, delay, drop, html, status
from asyncclients.sandbox.faults import Fault
from asyncclients.vendors.emma import NewTouchpoint, Touchpoint

JSON = {"Content-Type": "application/json"}
ONE = '{"touchpoint_type_id": 3, "touchpoint_id": 17}'

pytestmark = pytest.mark.virtual_time


def visits(count: int) -> list[NewTouchpoint]:
    """Touchpoints that differ by their value."""
    return [
        NewTouchpoint(email="a@example.com", type_name="visit", touchpoint_monetary_value=value)
        for value in range(count)
    ]


async def test_touchpoint_type_life_cycle(sandbox: Sandbox, emma: EmmaClient) -> None:
    """A type is created, listed, read, updated and deleted."""
    state = sandbox.state("emma")
    created = await emma.touchpoint_types.create("visit", "Visit")
    number = created.touchpoint_type_id
    assert number > 2**31
    assert created.created_at is not None
    assert f"@D:{created.created_at.isoformat()}" == state.types[number]["created_at"]
    assert await emma.touchpoint_types.list() == [created]
    assert await emma.touchpoint_types.get(number) == created
    updated = await emma.touchpoint_types.update(number, "visited", "Visited")
    assert (updated.type_name, updated.display_name) == ("visited", "Visited")
    await emma.touchpoint_types.delete(number)
    assert state.types == {}
    with pytest.raises(NotFoundError):
        await emma.touchpoint_types.get(number)


async def test_touchpoints_live_from_create_to_delete(sandbox: Sandbox, emma: EmmaClient) -> None:
    """Ten touchpoints are created in one call, listed, read and deleted."""
    await emma.touchpoint_types.create("visit", "Visit")
    created = await emma.touchpoints.create(visits(10))
    assert [touchpoint.touchpoint_monetary_value for touchpoint in created] == [*range(10)]
    stored = sandbox.state("emma").touchpoints
    assert [touchpoint.touchpoint_id for touchpoint in created] == [*stored]
    number, member = created[0].touchpoint_id, created[0].member_id
    assert number is not None
    assert member is not None
    listed = await emma.touchpoints.list(member)
    assert [touchpoint.touchpoint_monetary_value for touchpoint in listed] == [*range(10)]
    assert (await emma.touchpoints.get(number)) == listed[0]
    assert listed[0].touchpoint_id is None
    await emma.touchpoints.delete(number)
    assert len(stored) == 9
    with pytest.raises(NotFoundError):
        await emma.touchpoints.delete(number)


async def test_deleting_a_type_deletes_its_touchpoints(sandbox: Sandbox, emma: EmmaClient) -> None:
    """Deleting a type deletes its touchpoints at the vendor."""
    kind = await emma.touchpoint_types.create("visit", "Visit")
    await emma.touchpoints.create(visits(2))
    await emma.touchpoint_types.delete(id=kind.touchpoint_type_id)
    assert sandbox.state("emma").touchpoints == {}


@pytest.mark.parametrize("reply", [status(200, "true"), status(200), status(204)], ids=str)
async def test_delete_accepts_every_documented_reply(
    sandbox: Sandbox, emma: EmmaClient, reply: Fault
) -> None:
    """`true`, an empty 200 and a 204 complete a deletion."""
    kind = await emma.touchpoint_types.create("visit", "Visit")
    sandbox.fail("emma", replace(reply, committed=True))
    await emma.touchpoint_types.delete(kind.touchpoint_type_id)
    assert sandbox.state("emma").types == {}


async def test_eleven_are_too_many_for_one_create(sandbox: Sandbox, emma: EmmaClient) -> None:
    """`create` of eleven is a `ValueError` that names `create_many`; nothing is sent."""
    with pytest.raises(ValueError, match=r"at most 10 .* not 11; create_many"):
        await emma.touchpoints.create(visits(11))
    assert sandbox.requests("emma") == ()
    with pytest.raises(BadRequestError, match="No touchpoints provided"):
        await emma.touchpoints.create([])


async def test_create_many_splits_into_tens(sandbox: Sandbox, emma: EmmaClient) -> None:
    """25 touchpoints of a generator are three requests; awaited, they are a list in order."""
    await emma.touchpoint_types.create("visit", "Visit")
    created = await emma.touchpoints.create_many(visit for visit in visits(25))
    assert [touchpoint.touchpoint_monetary_value for touchpoint in created] == [*range(25)]
    assert len(sandbox.requests("emma")) == 1 + 3
    assert await emma.touchpoints.create_many([]) == []
    assert len(sandbox.requests("emma")) == 1 + 3


async def test_create_many_yields_what_succeeded(sandbox: Sandbox, emma: EmmaClient) -> None:
    """If the second ten are rejected, the first ten were yielded and the third were not sent."""
    await emma.touchpoint_types.create("visit", "Visit")
    rows = visits(25)
    rows[15] = NewTouchpoint(email="a@example.com", type_name="unknown")
    yielded: list[Touchpoint] = []

    async def read() -> None:
        async for touchpoint in emma.touchpoints.create_many(rows):
            yielded.append(touchpoint)  # noqa: PERF401  # what came before the error counts

    with pytest.raises(BadRequestError):
        await read()
    assert [touchpoint.touchpoint_monetary_value for touchpoint in yielded] == [*range(10)]
    assert len(sandbox.state("emma").touchpoints) == 10
    assert len(sandbox.requests("emma")) == 1 + 2


@pytest.mark.parametrize(
    ("reply", "ids"),
    [
        ("[]", []),
        (f"[{ONE}]", [17]),
        (f'[{ONE}, {{"error": "no such type"}}]', [17]),
        (f"[{ONE}, null]", [17]),
        (f'[{ONE}, {{"touchpoint_type_id": 3}}, {ONE}]', [17, None, 17]),
    ],
)
async def test_create_of_another_length_keeps_the_ids(
    sandbox: Sandbox, emma: EmmaClient, reply: str, ids: list[int | None]
) -> None:
    """A response with another number of touchpoints is a `DecodeError` that has them."""
    sandbox.fail("emma", status(200, reply, JSON))
    with pytest.raises(DecodeError, match=f"{len(ids)} touchpoints where 2 were sent") as caught:
        await emma.touchpoints.create(visits(2))
    assert [touchpoint.touchpoint_id for touchpoint in caught.value.received] == ids
    assert all(str(number) in str(caught.value) for number in ids)
    assert pickle.loads(pickle.dumps(caught.value)) == caught.value


async def test_create_many_of_another_length_keeps_all_ids(
    sandbox: Sandbox, emma: EmmaClient
) -> None:
    """The error of a later request has the touchpoints of the earlier ones as well."""
    await emma.touchpoint_types.create("visit", "Visit")
    first = sandbox.state("emma").touchpoints
    sandbox.fail("emma", delay(0.0))
    sandbox.fail("emma", status(200, f"[{ONE}]", JSON))
    with pytest.raises(DecodeError) as caught:
        await emma.touchpoints.create_many(visits(12))
    assert [each.touchpoint_id for each in caught.value.received] == [*first, 17]
    assert len(first) == 10


async def test_lost_batch_is_not_retried(sandbox: Sandbox, emma: EmmaClient) -> None:
    """If a response is lost, `OutcomeUnknownError` is raised, and no further request is sent."""
    await emma.touchpoint_types.create("visit", "Visit")
    sandbox.fail("emma", drop(committed=True))
    with pytest.raises(OutcomeUnknownError):
        await emma.touchpoints.create_many(visits(25))
    assert len(sandbox.state("emma").touchpoints) == 10


async def test_lost_delete_is_retried(sandbox: Sandbox, emma: EmmaClient) -> None:
    """A 404 to the retry of a DELETE means that it is done."""
    kind = await emma.touchpoint_types.create("visit", "Visit")
    sandbox.fail("emma", drop(committed=True))
    await emma.touchpoint_types.delete(kind.touchpoint_type_id)
    methods = [arrival.method for arrival in sandbox.requests("emma")]
    assert methods == ["POST", "DELETE", "DELETE"]


async def test_forbidden_for_rate_pauses_the_scope(sandbox: Sandbox) -> None:
    """A 403 because of the rate limit pauses the scope, and all calls succeed."""
    async with Sandbox(quotas={"emma": (5, 10.0)}) as narrow, SessionPool() as pool:
        emma = EmmaClient.from_env(pool, narrow.environ)
        await asyncio.gather(*(emma.touchpoint_types.list() for _ in range(20)))
        summary = narrow.summary("emma")
        assert summary.by_status[200] == 20
        assert summary.by_status[403] == summary.rejected == emma.stats().rejected > 0


async def test_create_is_retried_after_forbidden_for_rate(
    sandbox: Sandbox, emma: EmmaClient
) -> None:
    """After a 403 because of the rate limit, one retry creates exactly one type."""
    sandbox.fail("emma", status(403, "Rate Limit Exceeded"))
    await emma.touchpoint_types.create("visit", "Visit")
    assert len(sandbox.state("emma").types) == 1
    assert [arrival.status for arrival in sandbox.requests("emma")] == [403, 200]


async def test_forbidden_for_rate_raises_rate_limited_error(
    sandbox: Sandbox, emma: EmmaClient
) -> None:
    """With `max_attempts=1` the error is a `RateLimitedError` with the vendor's wait."""
    sandbox.fail("emma", status(403, "Rate Limit Exceeded", {"Retry-After": "9"}))
    with pytest.raises(RateLimitedError) as caught:
        await emma.with_options(max_attempts=1).touchpoint_types.list()
    assert (caught.value.status, caught.value.retry_after) == (403, 9.0)


async def test_another_403_names_both_causes_at_once(sandbox: Sandbox) -> None:
    """A 403 for another account raises `ForbiddenError` at once, with advice for both causes."""
    async with SessionPool() as pool:
        emma = EmmaClient.from_env(pool, {**sandbox.environ, "EMMA_ACCOUNT_ID": "1"})
        with pytest.raises(ForbiddenError) as caught:
            await emma.touchpoint_types.list()
    assert caught.value.excerpt == '{"error":"Forbidden"}'
    assert "EMMA_ACCOUNT_ID" in str(caught.value)
    assert "rate limit was exceeded" in str(caught.value)
    assert len(sandbox.requests("emma")) == 1


async def test_four_are_in_flight_at_most(sandbox: Sandbox) -> None:
    """At most four requests are in flight; `max_in_flight` changes that."""
    for limit, given in ((4, None), (2, 2)):
        async with SessionPool() as pool:
            arguments = {
                key.lower()[5:]: value
                for key, value in sandbox.environ.items()
                if key.startswith("EMMA_")
            }
            emma = EmmaClient(pool, **arguments, max_in_flight=given, quotas=[Quota(1000, 1.0)])
            sandbox.fail("emma", delay(5.0), times=12)
            before = len(sandbox.requests("emma"))
            await asyncio.gather(*(emma.touchpoint_types.list() for _ in range(12)))
        instants = sorted(arrival.at for arrival in sandbox.requests("emma")[before:])
        assert max(sum(at <= other < at + 5 for other in instants) for at in instants) == limit


ANSWERS = {
    "JSON": (status(400, '{"error":"Bad names"}', JSON), BadRequestError),
    "text that claims to be JSON": (status(404, "No such type", JSON), NotFoundError),
    "markup": (status(401, "<html><body>Sign in</body></html>"), UnauthorizedError),
    "nothing": (status(418), StatusError),
    "a broken server": (status(500, "oops"), ServerError),
}


@pytest.mark.parametrize("body", ANSWERS)
async def test_any_error_body_becomes_the_right_error(
    sandbox: Sandbox, emma: EmmaClient, body: str
) -> None:
    """The status selects the error, the excerpt is the vendor's text, and the next call works."""
    answer, error = ANSWERS[body]
    sandbox.fail("emma", answer)
    with pytest.raises(error) as caught:
        await emma.touchpoint_types.create("visit", "Visit")
    assert type(caught.value) is error
    assert answer.reply is not None
    assert caught.value.status == answer.reply.status
    assert caught.value.excerpt == answer.reply.body.decode()
    assert await emma.touchpoint_types.list() == []


async def test_login_page_is_a_decode_error(sandbox: Sandbox, emma: EmmaClient) -> None:
    """A login page with status 200 is a `DecodeError` of a delete."""
    kind = await emma.touchpoint_types.create("visit", "Visit")
    sandbox.fail("emma", html())
    with pytest.raises(DecodeError):
        await emma.touchpoint_types.delete(kind.touchpoint_type_id)
    assert await emma.touchpoint_types.list() == [kind]


async def test_keys_are_sent_as_basic_and_never_shown(sandbox: Sandbox) -> None:
    """Public and private key are sent as user and password; no error has either."""
    async with SessionPool() as pool:
        emma = EmmaClient(
            pool,
            account_id="100",
            public_key="canary-public",
            private_key="canary-private",
            base_url=sandbox.environ["EMMA_BASE_URL"],
        )
        with pytest.raises(UnauthorizedError) as caught:
            await emma.touchpoint_types.list()
    (arrival,) = sandbox.requests("emma")
    login = b64encode(b"canary-public:canary-private").decode()
    assert arrival.headers["Authorization"] == f"Basic {login}"
    assert "EMMA_PRIVATE_KEY" in str(caught.value)
    assert "canary" not in repr(caught.value) + repr(emma)
    assert login not in repr(caught.value) + repr(emma)


async def test_missing_settings_are_named() -> None:
    """Each missing variable is named; an empty account is rejected."""
    async with SessionPool() as pool:
        with pytest.raises(ConfigurationError, match="EMMA_PUBLIC_KEY and EMMA_PRIVATE_KEY"):
            EmmaClient.from_env(pool, {"EMMA_ACCOUNT_ID": "100"})
        with pytest.raises(ConfigurationError, match="EMMA_ACCOUNT_ID"):
            EmmaClient(pool, account_id=" ", public_key="u", private_key="p")
