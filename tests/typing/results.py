"""The type of every kind of result, as users' checkers see it. Checked, never run."""

from __future__ import annotations

from typing import Any, assert_type

from asyncclients import (
    CapturedResponse,
    DigitalOnboardingClient,
    EmmaClient,
    IntemptClient,
    IntouchClient,
    Options,
    Priority,
    SessionPool,
    TotangoClient,
    capture_responses,
)
from asyncclients.core.explain import Explanation
from asyncclients.core.scope import ScopeStats
from asyncclients.paging import Page, Paginator
from asyncclients.vendors import digital_onboarding as do
from asyncclients.vendors import emma, intempt, intouch, totango


async def methods_return_the_vendors_structs(pool: SessionPool) -> None:
    api = IntouchClient(pool, api_key="ii_...")
    assert_type(await api.contacts.create(intouch.NewContact(email="a@b.example")), intouch.Contact)
    assert_type(await api.contacts.subscribe("uuid"), intouch.Contact)
    assert_type(await api.tags.update("uuid", "name"), intouch.Tag)
    assert_type(await api.external_programs.add_record("uuid", {"a": 1}), intouch.Record)

    notes = TotangoClient(pool, app_token="token", region="eu")
    new = totango.NewTouchpoint(account_id="1", content="hello")
    assert_type(await notes.touchpoints.create(new), totango.Touchpoint)
    assert_type(await notes.touchpoints.list("1"), list[totango.Event])
    assert_type(await notes.touchpoint_types.list(), list[totango.NamedItem])

    mail = EmmaClient(pool, account_id=1, public_key="p", private_key="s")
    assert_type(await mail.touchpoints.create([]), list[emma.Touchpoint])
    assert_type(await mail.touchpoints.create_many([]), list[emma.Touchpoint])
    assert_type(await mail.touchpoint_types.get(1), emma.TouchpointType)

    rows = IntemptClient(pool, api_key="key", org="org")
    assert_type(await rows.info(), intempt.ServiceInfo)
    assert_type(await rows.collections.list_items("1"), list[intempt.DataItem])
    assert_type(await rows.collections.upload_csv("1", b"a\n"), intempt.UploadReceipt)
    assert_type(await rows.events.matches(profile_id="1"), intempt.EventMatches)

    people = DigitalOnboardingClient(pool, client_id="id", client_secret="secret")
    assert_type(await people.contacts.upsert(do.NewContact(email="a@b.example")), do.Contact)
    assert_type(await people.contacts.upsert_many([]), do.BatchResult)
    assert_type(await people.journeys.create("1", do.NewContact()), do.Journey)


async def lists_are_of_their_items(api: IntouchClient) -> None:
    listing = api.contacts.list(sort_by="created_at", order="desc")
    assert_type(listing, Paginator[intouch.Contact])
    async for contact in listing:
        assert_type(contact, intouch.Contact)
    async for page in listing.pages():
        assert_type(page, Page[intouch.Contact])
        assert_type(page.last, bool)
    assert_type(await listing.first(), intouch.Contact | None)


async def clients_stay_themselves(pool: SessionPool, api: IntouchClient) -> None:
    assert_type(IntouchClient.from_env(pool), IntouchClient)
    assert_type(IntouchClient.from_env(pool, {}, api_key="k", quotas=[]), IntouchClient)
    assert_type(IntouchClient.from_env(pool, environ={}), IntouchClient)
    assert_type(TotangoClient.from_env(pool, region="eu", max_in_flight=2), TotangoClient)
    assert_type(EmmaClient.from_env(pool, account_id=1, private_key="k"), EmmaClient)
    assert_type(IntemptClient.from_env(pool, org="o", base_url="https://x.org"), IntemptClient)
    assert_type(DigitalOnboardingClient.from_env(pool, client_id="i"), DigitalOnboardingClient)
    assert_type(api.with_options(priority=Priority.BACKGROUND, deadline=2.0), IntouchClient)
    assert_type(api.stats(), ScopeStats)
    assert_type(api.explain(), Explanation)
    assert_type(api.eta(3), float)
    assert_type(pool.stats(), tuple[ScopeStats, ...])
    async with SessionPool() as opened:
        assert_type(opened, SessionPool)


async def requests_return_what_they_are_told(api: IntouchClient) -> None:
    assert_type(await api.request("GET", "tags"), Any)
    assert_type(await api.request("GET", "tags/1", response_type=intouch.Tag), intouch.Tag)
    assert_type(await api.request("GET", "x", response_type=list[int]), list[int])
    assert_type(await api.request("DELETE", "tags/1", response_type=type(None)), None)
    with capture_responses() as responses:
        assert_type(responses, list[CapturedResponse])


async def mistakes_are_found(pool: SessionPool, api: IntouchClient) -> None:
    """Each line is wrong; an ignore that nothing needs would be an error of its own."""
    IntouchClient(pool, "ii_...")  # type: ignore[call-arg]
    IntouchClient(pool, api_key="k", quotas=(2, 1))  # type: ignore[arg-type]
    IntouchClient.from_env(pool, quota=[])  # type: ignore[call-arg]
    IntouchClient.from_env(pool, quotas=(2, 1))  # type: ignore[arg-type]
    IntouchClient.from_env(pool, app_token="t")  # type: ignore[call-arg]
    TotangoClient.from_env(pool, region="asia")  # type: ignore[arg-type]
    EmmaClient.from_env(pool, public_key=5)  # type: ignore[arg-type]
    IntemptClient.from_env(pool, organization="o")  # type: ignore[call-arg]
    DigitalOnboardingClient.from_env(pool, secret="s")  # type: ignore[call-arg]
    TotangoClient(pool, app_token="token", region="asia")  # type: ignore[arg-type]
    intouch.NewContact()  # type: ignore[call-arg]
    intouch.NewHierarchy(name="n", type="shop", parent_uuid="u")  # type: ignore[arg-type]
    await api.contacts.create({"email": "a@b.example"})  # type: ignore[arg-type]
    api.contacts.list(order="up")  # type: ignore[arg-type]
    api.with_options(priorty=Priority.BACKGROUND)  # type: ignore[call-arg]
    api.with_options(deadline="2 s")  # type: ignore[arg-type]
    Options(priority="background")  # type: ignore[arg-type]
    contact = await api.contacts.get("uuid")
    contact.email = "b@c.example"  # type: ignore[misc]
