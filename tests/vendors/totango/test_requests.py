"""Each operation's request, held against the manual's text."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest
from aiohttp import ClientResponse
from aioresponses import aioresponses
from yarl import URL

from asyncclients import SessionPool, TotangoClient
from asyncclients.vendors.totango import NewTouchpoint, TouchpointUpdate

US = "https://api.totango.com"
FORM = "application/x-www-form-urlencoded"
EVENT = "4a0c13edzfacez3038zbb46z85f97f04238f"


class Answer(ClientResponse):
    """A response that has no stream writer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"stream_writer": Mock(), **kwargs})


@dataclass(frozen=True)
class Case:
    call: Callable[[TotangoClient], Awaitable[Any]]
    method: str
    url: str
    body: bytes | dict[str, Any] | None = None
    reply: Any = None


CASES: dict[str, Case] = {
    "create": Case(
        lambda t: t.touchpoints.create(
            NewTouchpoint(
                account_id="0000",
                content="this is a curl test",
                activity_type_id="escalation",
                created_by="avon@barksdale-industries.org",
                create_date=1461110400000,
                disable_sync=True,
                touchpoint_type="0af9272e",
                subject="just text",
            )
        ),
        "POST",
        f"{US}/api/v3/touchpoints/",
        b"activity_type_id=escalation&created_by=avon%40barksdale-industries.org"
        b"&create_date=1461110400000&disable_sync=true&touchpointType=0af9272e"
        b"&subject=just+text&account_id=0000&content=this+is+a+curl+test",
        {"note": {"id": 47124}},
    ),
    "create with lists": Case(
        lambda t: t.touchpoints.create(
            NewTouchpoint(
                account_id="0000",
                content="c",
                touchpoint_tags=["450ea17a"],
                participant_list=["user1"],
            )
        ),
        "POST",
        f"{US}/api/v3/touchpoints/",
        {
            "account_id": "0000",
            "content": "c",
            "touchpoint_tags": ["450ea17a"],
            "participantList": [{"userId": "user1"}],
        },
        {"note": {"id": 47124}},
    ),
    "create with a null": Case(
        lambda t: t.touchpoints.create(NewTouchpoint(account_id="0000", content="c", subject=None)),
        "POST",
        f"{US}/api/v3/touchpoints/",
        {"account_id": "0000", "content": "c", "subject": None},
        {"note_id": "47124"},
    ),
    "update": Case(
        lambda t: t.touchpoints.update(
            47124, TouchpointUpdate(event_id=EVENT, account_id="0000", content="new")
        ),
        "PUT",
        f"{US}/api/v3/touchpoints/47124",
        f"note_id=47124&account_id=0000&event_id={EVENT}&content=new".encode(),
    ),
    "update with a list": Case(
        lambda t: t.touchpoints.update(
            "47124", TouchpointUpdate(event_id=EVENT, touchpoint_tags=[])
        ),
        "PUT",
        f"{US}/api/v3/touchpoints/47124",
        {"note_id": "47124", "event_id": EVENT, "touchpoint_tags": []},
    ),
    "delete": Case(
        lambda t: t.touchpoints.delete(292920, EVENT),
        "DELETE",
        f"{US}/api/v3/touchpoints/292920",
        f"event_id={EVENT}".encode(),
    ),
    "delete of a strange id": Case(
        lambda t: t.touchpoints.delete("../admin", EVENT),
        "DELETE",
        f"{US}/api/v3/touchpoints/..%2Fadmin",
        f"event_id={EVENT}".encode(),
    ),
    "touchpoints": Case(
        lambda t: t.touchpoints.list("0000"),
        "GET",
        f"{US}/api/v2/events/?account_id=0000",
        reply=[],
    ),
    "events": Case(
        lambda t: t.events.list("a b&c"),
        "GET",
        f"{US}/api/v2/events/?account_id=a+b%26c",
        reply=[],
    ),
    "types": Case(
        lambda t: t.touchpoint_types.list(), "GET", f"{US}/api/v3/touchpoint-types/", reply={}
    ),
    "tags": Case(
        lambda t: t.touchpoint_tags.list(), "GET", f"{US}/api/v3/touchpoint-tags/", reply={}
    ),
    "flows": Case(
        lambda t: t.activity_types.list(), "GET", f"{US}/api/v3/activity-types/", reply={}
    ),
}


async def sent(case: Case, **arguments: Any) -> tuple[str, URL, dict[str, Any]]:
    """Return method, URL and arguments of the one request that *case* makes."""
    vendor: Any
    with aioresponses() as vendor:
        url = URL(case.url, encoded=True)
        body = b"" if case.reply is None else msgspec.json.encode(case.reply)
        vendor.add(url, case.method, body=body, response_class=Answer)
        async with SessionPool() as pool:
            await case.call(TotangoClient(pool, app_token="secret-token", **arguments))
        ((method, url), (request,)) = vendor.requests.popitem()
        assert not vendor.requests
        return method, url, request.kwargs


@pytest.mark.parametrize("name", CASES)
async def test_request_matches_the_manual(name: str) -> None:
    """Method, path with its slash, query, body and Content-Type are those of the manual."""
    case = CASES[name]
    method, url, request = await sent(case)
    assert (method, str(url)) == (case.method, case.url)
    headers, data = request.get("headers", {}), request.get("data")
    if isinstance(case.body, dict):
        assert headers["Content-Type"] == "application/json"
        assert msgspec.json.decode(data or b"") == case.body
    else:
        assert data == case.body
        assert headers.get("Content-Type") == (FORM if case.body else None)


async def test_eu_accounts_are_asked_at_their_own_host() -> None:
    """`region="eu"` selects the EU host of the manual, unless `base_url` is given."""
    eu = replace(CASES["types"], url="https://api-eu1.totango.com/api/v3/touchpoint-types/")
    _, url, _ = await sent(eu, region="eu")
    assert url.host == "api-eu1.totango.com"
    own = replace(eu, url="https://totango.example/api/v3/touchpoint-types/")
    _, url, _ = await sent(own, region="eu", base_url="https://totango.example")
    assert url.host == "totango.example"
