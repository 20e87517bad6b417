"""Each operation's request and reply, held against the manual's tables."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from asyncclients import DecodeError, DigitalOnboardingClient, SessionPool
from asyncclients.core.codec import ExactId, JsonObject
from asyncclients.vendors.digital_onboarding import (
    BatchResult,
    Contact,
    Journey,
    NewContact,
    Objective,
    Template,
)
from tests.support.byte_server import answers, byte_server, http

TOKEN = http(body=b'{"access_token": "abcdef", "expires_in": 3600, "token_type": "bearer"}')
ANN: dict[str, Any] = {
    "id": "0b7c",
    "unique_id": "7",
    "name_first": "Ann",
    "email": "ann@example.com",
    "unsubscribe_sms": None,
    "meta_public": [],
    "inserted_at": "2026-01-02T03:04:05Z",
    "updated_at": "2026-01-02T03:04:05.678900",
    "debit-card-activation": "2026-01-02T00:00:00Z",
    "branch": {"id": 4},
}
CONTACT = Contact(
    id=ExactId("0b7c"),
    unique_id=ExactId("7"),
    name_first="Ann",
    email="ann@example.com",
    meta_public=JsonObject(),
    inserted_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    updated_at=datetime(2026, 1, 2, 3, 4, 5, 678_900),  # noqa: DTZ001 - the vendor named no zone
    extra={"debit-card-activation": "2026-01-02T00:00:00Z", "branch": {"id": 4}},
)

Call = Callable[[DigitalOnboardingClient], Awaitable[Any]]


@dataclass(frozen=True)
class Case:
    call: Call
    method: str
    target: str
    reply: Any
    result: Any
    body: Any = None


EVERY_FIELD: dict[str, Any] = {
    "unique_id": "7",
    "name_title": "Dr",
    "name_first": "Ann",
    "name_last": "Lee",
    "name_suffix": "Jr",
    "address": "1 Main St",
    "address2": "Apt 2",
    "city": "Boston",
    "state": "MA",
    "county": "Suffolk",
    "country": "US",
    "post_code": "02110",
    "timezone": "America/New_York",
    "email": "ann@example.com",
    "phone_home": "1",
    "phone_mobile": "2",
    "phone_work": "3",
    "unsubscribe_email": False,
    "unsubscribe_sms": True,
    "meta_public": {"color": "blue", "n": [1, None]},
}

CASES: dict[str, Case] = {
    "upsert": Case(
        lambda c: c.contacts.upsert(NewContact(email="ann@example.com")),
        "POST",
        "/v1/contacts",
        ANN,
        CONTACT,
        {"email": "ann@example.com"},
    ),
    "upsert, every field": Case(
        lambda c: c.contacts.upsert(NewContact(**EVERY_FIELD)),
        "POST",
        "/v1/contacts",
        ANN,
        CONTACT,
        EVERY_FIELD,
    ),
    "upsert, extra, journey and null": Case(
        lambda c: c.contacts.upsert(
            NewContact(
                unique_id="7",
                phone_home=None,
                journey_template_id="t-1",
                extra={
                    "debit-card-activation": datetime(2026, 1, 2, tzinfo=UTC),
                    "direct-deposit": True,
                    "estatements": None,
                },
            )
        ),
        "POST",
        "/v1/contacts",
        {**ANN, "journey": {"template_id": "t-1"}},
        msgspec.structs.replace(CONTACT, journey_template_id=ExactId("t-1")),
        {
            "unique_id": "7",
            "phone_home": None,
            "journey": {"template_id": "t-1"},
            "debit-card-activation": "2026-01-02T00:00:00Z",
            "direct-deposit": True,
            "estatements": None,
        },
    ),
    "upsert_many": Case(
        lambda c: c.contacts.upsert_many([NewContact(unique_id="7"), NewContact(email="b@x.org")]),
        "POST",
        "/v1/contacts",
        {"new_contacts": [ANN], "existing_contacts": [{"email": "b@x.org"}], "more": 1},
        BatchResult(
            new_contacts=[CONTACT],
            existing_contacts=[Contact(email="b@x.org")],
            extra={"more": 1},
        ),
        {"contacts": [{"unique_id": "7"}, {"email": "b@x.org"}]},
    ),
    "upsert_many, a list left out": Case(
        lambda c: c.contacts.upsert_many(iter([NewContact(unique_id="7")])),
        "POST",
        "/v1/contacts",
        {"new_contacts": None, "existing_contacts": [ANN]},
        BatchResult(new_contacts=[], existing_contacts=[CONTACT]),
        {"contacts": [{"unique_id": "7"}]},
    ),
    "journeys.create": Case(
        lambda c: c.journeys.create("t/1", NewContact(unique_id="7", extra={"k": 1})),
        "POST",
        "/v1/templates/t%2F1/journeys",
        {"id": "j", "slug": "s", "web_client_url": "https://x.example/s", "account_id": 1},
        Journey(id=ExactId("j"), slug="s", web_client_url="https://x.example/s"),
        {"contact": {"unique_id": "7", "k": 1}},
    ),
    "journeys.create, owned and named": Case(
        lambda c: c.journeys.create("t", NewContact(), owner_id="u", name="Welcome"),
        "POST",
        "/v1/templates/t/journeys",
        {"id": 5},
        Journey(id=ExactId("5")),
        {"owner_id": "u", "name": "Welcome", "contact": {}},
    ),
    "templates.list": Case(
        lambda c: c.templates.list(),
        "GET",
        "/v1/templates",
        {"templates": [{"id": "t-1", "name": "Welcome"}, {"id": 2}]},
        [Template(id=ExactId("t-1"), name="Welcome"), Template(id=ExactId("2"))],
    ),
    "templates.list, bare": Case(
        lambda c: c.templates.list(),
        "GET",
        "/v1/templates",
        [{"id": "t-1", "name": "Welcome"}],
        [Template(id=ExactId("t-1"), name="Welcome")],
    ),
    "objectives.list": Case(
        lambda c: c.objectives.list(),
        "GET",
        "/v1/objectives",
        {"objectives": [{"key": "direct-deposit", "name": "D", "id": "o", "team_id": None}]},
        [Objective(key="direct-deposit", name="D", id=ExactId("o"))],
    ),
    "objectives.list, bare": Case(lambda c: c.objectives.list(), "GET", "/v1/objectives", [], []),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_request_and_reply_match_the_manual(pool: SessionPool, case: Case) -> None:
    """Method, target, token, type, body and result are those of the manual."""
    reply = http(body=json.dumps(case.reply).encode())
    async with byte_server(answers(TOKEN, reply)) as server:
        client = DigitalOnboardingClient(
            pool, client_id="i", client_secret="s3cret", base_url=server.url
        )
        result = await case.call(client)
    _, request = server.arrived
    assert (request.method, request.target) == (case.method, case.target)
    assert request.headers["authorization"] == "Bearer abcdef"
    has_body = case.body is not None
    assert request.headers.get("content-type") == ("application/json" if has_body else None)
    assert (json.loads(request.body) if has_body else None) == case.body
    assert result == case.result


WRONG: dict[str, tuple[Call, Iterable[Any]]] = {
    "upsert": (lambda c: c.contacts.upsert(NewContact()), ([ANN], 7, {"email": 7}, None)),
    "upsert_many": (
        lambda c: c.contacts.upsert_many([NewContact()]),
        ({}, ANN, [ANN], {"new_contacts": [7]}),
    ),
    "templates.list": (lambda c: c.templates.list(), ({}, {"templates": 7}, [{"name": "x"}])),
    "objectives.list": (lambda c: c.objectives.list(), ({}, {"objectives": 7}, [{"id": 1}])),
}


@pytest.mark.parametrize("operation", WRONG)
async def test_undocumented_reply_is_a_decode_error(pool: SessionPool, operation: str) -> None:
    """A response that the manual does not describe is a `DecodeError` that names the call."""
    call, replies = WRONG[operation]
    for reply in replies:
        body = http(body=json.dumps(reply).encode())
        async with byte_server(answers(TOKEN, body)) as server:
            client = DigitalOnboardingClient(
                pool, client_id="i", client_secret="s3cret", base_url=server.url
            )
            with pytest.raises(DecodeError) as caught:
                await call(client)
        assert caught.value.operation == (
            f"contacts.{operation}" if "." not in operation else operation
        )
