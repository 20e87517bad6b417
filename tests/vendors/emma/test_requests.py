"""Each operation's request, held against the manual's text."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest
from aiohttp import ClientResponse
from aioresponses import aioresponses
from yarl import URL

from asyncclients import EmmaClient, SessionPool
from asyncclients.vendors.emma import NewTouchpoint

BASE = "https://api.e2ma.net/100"
KIND = {"touchpoint_type_id": 300, "type_name": "visited_website"}
NAMES = {"type_name": "visited_website", "display_name": "Visited Website"}


class Answer(ClientResponse):
    """A response that has no stream writer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"stream_writer": Mock(), **kwargs})


@dataclass(frozen=True)
class Case:
    call: Callable[[EmmaClient], Awaitable[Any]]
    method: str
    path: str
    body: Any = None
    reply: Any = None


CASES: dict[str, Case] = {
    "create type": Case(
        lambda e: e.touchpoint_types.create("visited_website", "Visited Website"),
        "POST",
        "/touchpoints",
        NAMES,
        KIND,
    ),
    "list types": Case(lambda e: e.touchpoint_types.list(), "GET", "/touchpoints", reply=[KIND]),
    "get type": Case(lambda e: e.touchpoint_types.get(200), "GET", "/touchpoints/200", reply=KIND),
    "update type": Case(
        lambda e: e.touchpoint_types.update(200, "visited_website", "Visited Website"),
        "PUT",
        "/touchpoints/200",
        NAMES,
        KIND,
    ),
    "delete type": Case(
        lambda e: e.touchpoint_types.delete(200), "DELETE", "/touchpoints/200", reply=True
    ),
    "create": Case(
        lambda e: e.touchpoints.create(
            [
                NewTouchpoint(
                    email="a@example.com",
                    type_name="visited_website",
                    touchpoint_monetary_value=8,
                    touchpoint_timestamp=datetime(2025, 12, 2, 11, 23, 47),  # noqa: DTZ001
                    attributes={"page": "/"},
                ),
                NewTouchpoint(member_id=2169469051, touchpoint_type_id=300, mailing_id=None),
            ]
        ),
        "POST",
        "/touchpoints/members",
        {
            "touchpoints": [
                {
                    "email": "a@example.com",
                    "type_name": "visited_website",
                    "touchpoint_monetary_value": 8,
                    "touchpoint_timestamp": "@D:2025-12-02T11:23:47",
                    "attributes": {"page": "/"},
                },
                {"member_id": 2169469051, "touchpoint_type_id": 300},
            ]
        },
        [{"touchpoint_type_id": 300}] * 2,
    ),
    "list": Case(lambda e: e.touchpoints.list(555), "GET", "/touchpoints/members/555", reply=[]),
    "get": Case(
        lambda e: e.touchpoints.get(200),
        "GET",
        "/touchpoints/members/touchpoints/200",
        reply={"touchpoint_type_id": 300},
    ),
    "delete": Case(
        lambda e: e.touchpoints.delete(200),
        "DELETE",
        "/touchpoints/members/touchpoints/200",
        reply=True,
    ),
}


@pytest.mark.parametrize("name", CASES)
async def test_request_matches_the_manual(name: str) -> None:
    """The method, the path with the account and the JSON body are those of the manual."""
    case = CASES[name]
    vendor: Any
    with aioresponses() as vendor:
        body = msgspec.json.encode(case.reply)
        vendor.add(BASE + case.path, case.method, body=body, response_class=Answer)
        async with SessionPool() as pool:
            emma = EmmaClient(pool, account_id=100, public_key="public", private_key="private")
            await case.call(emma)
        ((sent, (request,)),) = vendor.requests.items()
    assert sent == (case.method, URL(BASE + case.path))
    headers, data = request.kwargs.get("headers", {}), request.kwargs.get("data")
    assert headers.get("Content-Type") == (None if case.body is None else "application/json")
    assert (None if data is None else msgspec.json.decode(data)) == case.body


@pytest.mark.parametrize(
    "number", ["members", "touchpoints", "", ".", "..", "1\n", True, 3.5, None]
)
async def test_id_that_changes_the_path_is_rejected(number: Any) -> None:
    """An id that is a word of the manual's paths, a dot segment or no id at all is never sent."""
    vendor: Any
    with aioresponses() as vendor:
        async with SessionPool() as pool:
            emma = EmmaClient(pool, account_id=100, public_key="public", private_key="private")
            for call in (
                emma.touchpoint_types.get,
                emma.touchpoint_types.delete,
                emma.touchpoints.list,
                emma.touchpoints.get,
                emma.touchpoints.delete,
            ):
                with pytest.raises(ValueError, match="_id must"):
                    await call(number)
        assert not vendor.requests
