"""The mock Digital Onboarding against its manual, over HTTP with plain aiohttp."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from .conftest import basic, read

if TYPE_CHECKING:
    from asyncclients.sandbox import Sandbox

    from .conftest import Open

FORM = {"grant_type": "client_credentials"}
PERSON = {"email": "a@example.com", "name_first": "Ann"}


def login(sandbox: Sandbox) -> tuple[str, str]:
    """Client id and secret."""
    env = sandbox.environ
    return env["DIGITAL_ONBOARDING_CLIENT_ID"], env["DIGITAL_ONBOARDING_CLIENT_SECRET"]


async def ask_token(sandbox: Sandbox, **options: Any) -> tuple[int, Any]:
    """Status and body of one token request."""
    url = f"{sandbox.url('digital_onboarding')}oauth2/token"
    return await read(aiohttp.request("POST", url, **options))


async def test_token_endpoint_accepts_each_login(sandbox: Sandbox) -> None:
    """Basic with a form, credentials in a form and credentials in JSON each get a token."""
    client_id, secret = login(sandbox)
    full = {**FORM, "client_id": client_id, "client_secret": secret}
    replies = [
        await ask_token(sandbox, data=FORM, headers=basic(client_id, secret)),
        await ask_token(sandbox, data=full),
        await ask_token(sandbox, json=full),
    ]
    assert [status for status, _ in replies] == [200] * 3
    assert all(body.keys() == {"access_token", "expires_in", "token_type"} for _, body in replies)
    assert len({body["access_token"] for _, body in replies}) == 3


async def test_token_endpoint_reports_its_errors(sandbox: Sandbox) -> None:
    """The errors of RFC 6749: wrong secret, wrong grant, two logins, no readable body."""
    client_id, secret = login(sandbox)
    right = basic(client_id, secret)
    full = {**FORM, "client_id": client_id, "client_secret": secret}
    plain = {**right, "Content-Type": "text/plain"}
    for expected, options in {
        (401, "invalid_client"): {"data": FORM, "headers": basic(client_id, "wrong")},
        (400, "unsupported_grant_type"): {"data": {"grant_type": "password"}, "headers": right},
        (400, "invalid_request"): {"data": full, "headers": right},
    }.items():
        status, body = await ask_token(sandbox, **options)
        assert (status, body["error"]) == expected
    assert (await ask_token(sandbox, data=b"x", headers=plain))[0] == 400
    assert sandbox.state("digital_onboarding").token_requests == 0


async def test_credentials_in_a_query_are_revoked(sandbox: Sandbox, connect: Open) -> None:
    """They get no token, and neither they nor their tokens work afterwards."""
    session = await connect("digital_onboarding")
    client_id, secret = login(sandbox)
    query = {**FORM, "client_id": client_id, "client_secret": secret}
    assert (await ask_token(sandbox, params=query, data=FORM))[0] == 401
    assert (await ask_token(sandbox, data=FORM, headers=basic(client_id, secret)))[0] == 401
    assert (await read(session.get("v1/templates")))[0] == 401
    assert sandbox.state("digital_onboarding").revoked == {client_id}


@pytest.mark.virtual_time
async def test_token_expires_after_its_lifetime(sandbox: Sandbox, connect: Open) -> None:
    """It works for `lifetime` seconds whatever `expires_in` is, then 401 `invalid_token`."""
    state = sandbox.state("digital_onboarding")
    state.lifetime, state.expires_in = 10.0, "3600"
    session = await connect("digital_onboarding")
    await asyncio.sleep(9.9)
    assert (await read(session.get("v1/templates")))[0] == 200
    await asyncio.sleep(0.1)
    assert await read(session.get("v1/templates")) == (401, {"error": "invalid_token"})


@pytest.mark.parametrize("expires_in", [0, "3600", 1e300, None])
async def test_expires_in_can_be_set(sandbox: Sandbox, expires_in: object) -> None:
    """Zero, text, absurd numbers; None omits the field."""
    sandbox.state("digital_onboarding").expires_in = expires_in
    _, body = await ask_token(sandbox, data=FORM, headers=basic(*login(sandbox)))
    assert body.get("expires_in") == expires_in
    assert ("expires_in" in body) == (expires_in is not None)


async def test_revoked_token_is_rejected(sandbox: Sandbox, connect: Open) -> None:
    """A revoked token is a 401 with `invalid_token` in its body."""
    session = await connect("digital_onboarding")
    sandbox.state("digital_onboarding").revoke_tokens()
    assert await read(session.get("v1/templates")) == (401, {"error": "invalid_token"})


async def test_contact_is_created_then_updated(connect: Open) -> None:
    """`unique_id` defaults to the email; an update keeps the id and all fields it omits."""
    session = await connect("digital_onboarding")
    status, first = await read(session.post("v1/contacts", json=PERSON))
    assert (status, first["unique_id"], first["name_first"]) == (201, "a@example.com", "Ann")
    again = {"unique_id": "a@example.com", "name_last": "Lee", "id": "mine"}
    status, second = await read(session.post("v1/contacts", json=again))
    assert status == 200
    assert (second["name_first"], second["name_last"], second["id"]) == ("Ann", "Lee", first["id"])
    assert second["inserted_at"] == first["inserted_at"] == "2026-01-01T00:00:00Z"


async def test_contact_without_a_key_is_created_each_time(sandbox: Sandbox, connect: Open) -> None:
    """Without unique_id and email, each call creates a contact, with a UUID of version 4."""
    session = await connect("digital_onboarding")
    made = [
        (await read(session.post("v1/contacts", json={"name_first": "Ann"})))[1] for _ in range(2)
    ]
    assert len({contact["unique_id"] for contact in made}) == 2
    assert {uuid.UUID(contact["unique_id"]).version for contact in made} == {4}
    assert len(sandbox.state("digital_onboarding").contacts) == 2


async def test_batch_separates_new_and_existing_contacts(sandbox: Sandbox, connect: Open) -> None:
    """Created and updated contacts are returned apart; one invalid contact rejects the batch."""
    session = await connect("digital_onboarding")
    await read(session.post("v1/contacts", json=PERSON))
    batch = [{**PERSON, "name_first": "Eve"}, {"email": "b@example.com"}]
    bad = {"contacts": [*batch, {"email": "c@example.com", "city": 5}]}
    assert (await read(session.post("v1/contacts", json=bad)))[0] == 422
    assert sandbox.state("digital_onboarding").contacts["a@example.com"]["name_first"] == "Ann"
    status, told = await read(session.post("v1/contacts", json={"contacts": batch}))
    assert status == 200
    assert [contact["email"] for contact in told["new_contacts"]] == ["b@example.com"]
    assert [contact["name_first"] for contact in told["existing_contacts"]] == ["Eve"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name_first", 5),
        ("unsubscribe_email", "no"),
        ("meta_public", []),
        ("journey", {"template_id": "unknown"}),
        ("direct-deposit", "perhaps"),
    ],
)
async def test_invalid_field_is_a_422(connect: Open, field: str, value: object) -> None:
    """Texts, flags, objects, templates and objectives each have their rule."""
    session = await connect("digital_onboarding")
    status, told = await read(session.post("v1/contacts", json={**PERSON, field: value}))
    assert status == 422
    assert told["errors"].keys() == {field}


@pytest.mark.parametrize("value", ["done", "TRUE", True, "2026-01-01T10:00:00+00:00"])
async def test_top_level_key_completes_an_objective(
    sandbox: Sandbox, connect: Open, value: object
) -> None:
    """An objective's key with a time or a word for done is kept; other keys are passed on."""
    session = await connect("digital_onboarding")
    body = {**PERSON, "debit-card-activation": value, "branch": "x"}
    status, contact = await read(session.post("v1/contacts", json=body))
    assert (status, contact["branch"], contact["debit-card-activation"]) == (201, "x", value)
    stored = sandbox.state("digital_onboarding").contacts["a@example.com"]
    assert stored["debit-card-activation"] == value


async def test_journey_starts_from_a_template(sandbox: Sandbox, connect: Open) -> None:
    """The response has id, slug and URL; the contact is upserted; the template names the journey."""
    session = await connect("digital_onboarding")
    state = sandbox.state("digital_onboarding")
    template = state.templates[0]
    path = f"v1/templates/{template['id']}/journeys"
    status, journey = await read(session.post(path, json={"contact": PERSON}))
    assert (status, journey.keys()) == (201, {"id", "slug", "web_client_url"})
    assert state.journeys[journey["id"]]["name"] == template["name"]
    assert state.contacts.keys() == {"a@example.com"}
    assert (await read(session.post(path, json={})))[0] == 422
    assert (await read(session.post("v1/templates/x/journeys", json={"contact": PERSON})))[0] == 404


@pytest.mark.parametrize("flat", [False, True])
async def test_contact_starts_its_journey_once(
    sandbox: Sandbox, connect: Open, *, flat: bool
) -> None:
    """`journey.template_id`, nested or flat, starts one journey, also when repeated."""
    session = await connect("digital_onboarding")
    state = sandbox.state("digital_onboarding")
    template = state.templates[0]["id"]
    journey = {"journey.template_id": template} if flat else {"journey": {"template_id": template}}
    for _ in range(2):
        await read(session.post("v1/contacts", json={**PERSON, **journey}))
    assert [j["template_id"] for j in state.journeys.values()] == [template]


async def test_lists_are_wrapped(sandbox: Sandbox, connect: Open) -> None:
    """Templates and objectives are in an object under their name."""
    session = await connect("digital_onboarding")
    state = sandbox.state("digital_onboarding")
    assert await read(session.get("v1/templates")) == (200, {"templates": state.templates})
    assert await read(session.get("v1/objectives")) == (200, {"objectives": state.objectives})
