"""The resources of Digital Onboarding against the sandbox, and the values that they accept."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from asyncclients import (
    ConfigurationError,
    DigitalOnboardingClient,
    NotFoundError,
    OutcomeUnknownError,
    Quota,
    SessionPool,
    UnauthorizedError,
    UnprocessableEntityError,
)
from asyncclients.sandbox import Sandbox
from asyncclients.sandbox.faults import drop, status
from asyncclients.vendors.digital_onboarding import BatchResult, Contact, NewContact
from tests.support.leaks import CANARY, leaks

from .conftest import DO


async def test_upsert_creates_and_updates(
    sandbox: Sandbox, client: DigitalOnboardingClient
) -> None:
    """A contact is created and then updated by its email; fields that are left out stay."""
    first = await client.contacts.upsert(NewContact(email="a@x.org", name_first="Ann"))
    assert first.unique_id == first.email == "a@x.org"
    objective = (await client.objectives.list())[0].key
    second = await client.contacts.upsert(
        NewContact(email="a@x.org", name_last="Lee", extra={objective: "done", "branch": "12"})
    )
    assert second.id == first.id
    assert (second.name_first, second.name_last) == ("Ann", "Lee")
    assert second.extra == {objective: "done", "branch": "12"}
    assert sandbox.state(DO).contacts["a@x.org"][objective] == "done"


async def test_batch_separates_new_and_existing_contacts(client: DigitalOnboardingClient) -> None:
    """A batch returns new and existing contacts in separate lists, and none is missing."""
    await client.contacts.upsert(NewContact(unique_id="1"))
    sent = [NewContact(unique_id="1", name_first="A"), NewContact(email="b@x.org")]
    result = await client.contacts.upsert_many(sent)
    assert [contact.unique_id for contact in result.existing_contacts] == ["1"]
    assert [contact.unique_id for contact in result.new_contacts] == ["b@x.org"]
    assert result.unacknowledged(sent) == []


async def test_unacknowledged_contact_is_reported(
    sandbox: Sandbox, client: DigitalOnboardingClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A contact that is missing in the response is logged and returned by `unacknowledged`."""
    sandbox.fail(DO, status(200, '{"new_contacts": [{"unique_id": "1"}]}'), match="/v1/contacts")
    sent = [NewContact(unique_id="1"), NewContact(unique_id="2"), NewContact(email="c@x.org")]
    with caplog.at_level(logging.WARNING, "asyncclients"):
        result = await client.contacts.upsert_many(sent)
    assert result.unacknowledged(sent) == sent[1:]
    assert "2 of 3 contacts are not in the response" in caplog.text


async def test_empty_batch_is_not_sent(sandbox: Sandbox, client: DigitalOnboardingClient) -> None:
    """An empty batch sends no request."""
    empty = BatchResult(new_contacts=[], existing_contacts=[])
    assert await client.contacts.upsert_many([]) == empty
    assert sandbox.requests(DO) == ()


async def test_journey_is_started(sandbox: Sandbox, client: DigitalOnboardingClient) -> None:
    """A journey starts for one contact or with the contact; a wrong template is `NotFoundError`."""
    template = (await client.templates.list())[0]
    journey = await client.journeys.create(template.id, NewContact(email="a@x.org"), name="N")
    assert journey.web_client_url == f"https://journeys.example.com/{journey.slug}"
    await client.contacts.upsert(NewContact(email="b@x.org", journey_template_id=template.id))
    started = [journey["unique_id"] for journey in sandbox.state(DO).journeys.values()]
    assert started == ["a@x.org", "b@x.org"]
    with pytest.raises(NotFoundError):
        await client.journeys.create("../contacts", NewContact(email="a@x.org"))
    with pytest.raises(UnprocessableEntityError) as caught:
        await client.contacts.upsert(NewContact(extra={"direct-deposit": "perhaps"}))
    assert caught.value.errors == {"direct-deposit": ["must be a time or a word for done"]}


async def test_templates_and_objectives_are_listed(client: DigitalOnboardingClient) -> None:
    """Templates and objectives are decoded without their envelope."""
    assert [template.name for template in await client.templates.list()] == [
        "Welcome",
        "Mobile Banking",
    ]
    objectives = await client.objectives.list()
    assert objectives[0].key == "debit-card-activation"
    assert objectives[0].team_id is None


@pytest.mark.virtual_time
async def test_lost_upsert_is_retried_only_with_a_key(
    sandbox: Sandbox, client: DigitalOnboardingClient
) -> None:
    """An upsert is retried after a lost response only if it has a unique_id or an email."""
    keyed = (NewContact(email="a@x.org"), NewContact(unique_id="b"))
    for contact in keyed:
        sandbox.fail(DO, drop(committed=True), match="/v1/")
        assert (await client.contacts.upsert(contact)).unique_id == contact.key
    sandbox.fail(DO, drop(committed=True), match="/v1/")
    assert len((await client.contacts.upsert_many(keyed)).existing_contacts) == 2
    assert len(sandbox.state(DO).contacts) == 2
    before = len(sandbox.requests(DO))
    for contact in (NewContact(name_first="X"), NewContact(email="", unique_id=None)):
        sandbox.fail(DO, drop(committed=True), match="/v1/")
        with pytest.raises(OutcomeUnknownError):
            await client.contacts.upsert(contact)
        sandbox.fail(DO, drop(committed=True), match="/v1/")
        with pytest.raises(OutcomeUnknownError):
            await client.contacts.upsert_many([*keyed, contact])
    sandbox.fail(DO, drop(committed=True), match="/v1/")
    with pytest.raises(OutcomeUnknownError):
        await client.journeys.create(sandbox_template(sandbox), NewContact(unique_id="b"))
    assert len(sandbox.requests(DO)) == before + 5


def sandbox_template(sandbox: Sandbox) -> str:
    """The id of a template."""
    return str(sandbox.state(DO).templates[0]["id"])


@pytest.mark.parametrize(
    "extra",
    [{"email": "b@x.org"}, {"journey": {}}, {"contacts": []}, {"id": "1"}, {"updated_at": None}],
)
def test_extra_keys_do_not_shadow_fields(extra: dict[str, Any]) -> None:
    """An extra key that is the name of a field, or `contacts`, is a `ValueError`."""
    with pytest.raises(ValueError, match=next(iter(extra))):
        NewContact(email="a@x.org", extra=extra)


def test_unknown_shapes_land_in_extra() -> None:
    """`extra` is empty by default; the key is the unique_id, or else the email."""
    assert Contact().extra == {}
    assert NewContact(unique_id="", email="e").key == "e"
    assert NewContact(unique_id="u", email="e").key == "u"
    assert NewContact().key is None


async def test_failures_show_no_credential(
    sandbox: Sandbox, pool: SessionPool, caplog: pytest.LogCaptureFixture
) -> None:
    """Client secret and token are in no error, log, event or repr, even if they are echoed."""
    caplog.set_level(logging.DEBUG)
    told = list[Any]()
    async with SessionPool(listeners=[told.append]) as listening:
        client = DigitalOnboardingClient(
            listening,
            client_id=sandbox.environ["DIGITAL_ONBOARDING_CLIENT_ID"],
            client_secret=sandbox.environ["DIGITAL_ONBOARDING_CLIENT_SECRET"],
            base_url=sandbox.environ["DIGITAL_ONBOARDING_BASE_URL"],
            quotas=[Quota(1000, 1.0)],
        )
        await client.templates.list()
        token = next(iter(sandbox.state(DO).tokens))
        sandbox.fail(DO, status(401, f'{{"error": "no {token}"}}'), match="/v1/")
        with pytest.raises(UnauthorizedError, match="credential") as caught:
            await client.templates.list()
    secret = sandbox.environ["DIGITAL_ONBOARDING_CLIENT_SECRET"]
    assert leaks(caught.value, token, secret) == []
    wrong = DigitalOnboardingClient(
        pool,
        client_id="i",
        client_secret=CANARY,
        base_url=sandbox.environ["DIGITAL_ONBOARDING_BASE_URL"],
    )
    basic = next(a for a in sandbox.requests(DO)).headers["Authorization"].partition(" ")[2]
    sandbox.fail(DO, status(400, f"what is {CANARY}?"), match="/oauth2/")
    with pytest.raises(Exception, match="client") as rejected:
        await wrong.templates.list()
    assert leaks(rejected.value, CANARY) == []
    shown = caplog.text + repr(told) + repr(client) + repr(wrong) + repr(pool.stats())
    assert not [text for text in (token, secret, CANARY, basic) if text in shown]


async def test_secret_is_sent_in_its_header_only(
    sandbox: Sandbox, client: DigitalOnboardingClient
) -> None:
    """The client secret is sent in its header only."""
    await client.contacts.upsert(NewContact(email="a@x.org"))
    token = next(iter(sandbox.state(DO).tokens))
    for arrival in sandbox.requests(DO):
        assert token not in f"{arrival.path}{arrival.query}{arrival.body!r}"
        named = [name for name, value in arrival.headers.items() if token in value]
        assert named == (["Authorization"] if arrival.path != "/oauth2/token" else [])
        secret = sandbox.environ["DIGITAL_ONBOARDING_CLIENT_SECRET"]
        assert secret not in str(arrival)


def test_invalid_configuration_is_rejected() -> None:
    """Missing variables are named together; a base_url without https is rejected."""
    names = "DIGITAL_ONBOARDING_CLIENT_ID and DIGITAL_ONBOARDING_CLIENT_SECRET"
    with pytest.raises(ConfigurationError, match=names):
        DigitalOnboardingClient.from_env(SessionPool(), {})
    with pytest.raises(ConfigurationError, match="not https") as caught:
        DigitalOnboardingClient(
            SessionPool(), client_id="i", client_secret=CANARY, base_url="http://api.example/"
        )
    assert leaks(caught.value, CANARY) == []


def test_default_quota_is_ten_per_second() -> None:
    """The default is ten calls per second, as the vendor publishes no limit."""
    client = DigitalOnboardingClient(SessionPool(), client_id="i", client_secret="s")
    assert client.base_url == "https://api.digitalonboarding.com/"
    assert client.vendor.quotas == (Quota(10, 1.0),)
