"""The mock Totango against its manual, over HTTP with plain aiohttp."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from .conftest import read

if TYPE_CHECKING:
    import aiohttp

    from asyncclients.sandbox import Sandbox

    from .conftest import Open

PATH = "api/v3/touchpoints/"
NOTE = {"account_id": "0000", "content": "Called"}


@pytest.fixture
async def totango(connect: Open) -> aiohttp.ClientSession:
    return await connect("totango")


async def events(totango: aiohttp.ClientSession, account: str) -> Any:
    """The events of *account*."""
    status, found = await read(totango.get("api/v2/events/", params={"account_id": account}))
    assert status == 200
    return found


@pytest.mark.parametrize("form", [False, True])
async def test_touchpoint_lifecycle(totango: aiohttp.ClientSession, *, form: bool) -> None:
    """Create returns the note's id only; update and delete need the event's id from the list."""

    def send(method: str, path: str, body: dict[str, str]) -> Any:
        if form:
            return totango.request(method, path, data=body)
        return totango.request(method, path, json=body)

    status, created = await read(send("POST", PATH, NOTE))
    assert status == 200
    note_id = created["note"]["id"]
    assert isinstance(note_id, int)
    assert "event_id" not in str(created)
    (event,) = await events(totango, "0000")
    assert event["note_content"]["note_id"] == note_id
    assert (event["type"], event["account"]) == ("note", {"id": "0000"})
    body = {**NOTE, "note_id": str(note_id), "event_id": event["id"], "content": "Wrote"}
    assert (await read(send("PUT", f"{PATH}{note_id}", body)))[0] == 200
    assert (await events(totango, "0000"))[0]["note_content"]["text"] == "Wrote"
    assert (await read(send("DELETE", f"{PATH}{note_id}", {"event_id": event["id"]})))[0] == 200
    assert await events(totango, "0000") == []
    assert (await read(send("DELETE", f"{PATH}{note_id}", {"event_id": event["id"]})))[0] == 404


async def test_form_has_lists_and_numbers(sandbox: Sandbox, totango: aiohttp.ClientSession) -> None:
    """Bracketed indexes make a list, `create_date` a number, `disable_sync` a flag."""
    state = sandbox.state("totango")
    tags = list(state.touchpoint_tags)[:2]
    form = {
        **NOTE,
        "create_date": "1461110400000",
        "disable_sync": "true",
        "touchpoint_tags[0]": tags[0],
        "touchpoint_tags[1]": tags[1],
        "participantList[0][userId]": "user1@example.com",
    }
    assert (await read(totango.post(PATH, data=form)))[0] == 200
    (note,) = state.touchpoints.values()
    assert (note["touchpoint_tags"], note["create_date"]) == (tags, 1461110400000)
    assert note["disable_sync"] is True
    assert note["participantList"] == [{"userId": "user1@example.com"}]
    (event,) = await events(totango, "0000")
    assert (event["timestamp"], event["properties"]["touchpoint_tags"]) == (1461110400000, tags)


@pytest.mark.parametrize(
    "bad",
    [
        {"account_id": ""},
        {"account_id": 0},
        {"content": None},
        {"content": "x" * 12_001},
        {"activity_type_id": "nothing"},
        {"create_date": "yesterday"},
        {"create_date": 1461110400},
        {"disable_sync": "yes"},
        {"touchpointType": "nothing"},
        {"touchpoint_tags": "one"},
        {"touchpoint_tags": ["nothing"]},
        {"participantList": ["user1@example.com"]},
        {"subject": 5},
    ],
)
async def test_invalid_field_is_a_400(
    sandbox: Sandbox, totango: aiohttp.ClientSession, bad: dict[str, object]
) -> None:
    """The message names the field, and nothing is stored."""
    status, told = await read(totango.post(PATH, json={**NOTE, **bad}))
    assert status == 400
    assert next(iter(bad)) in told["message"]
    assert not sandbox.state("totango").touchpoints


async def test_delete_needs_the_right_event(totango: aiohttp.ClientSession) -> None:
    """DELETE without `event_id`, or with that of another touchpoint, is a 400."""
    ids = [(await read(totango.post(PATH, json=NOTE)))[1]["note"]["id"] for _ in range(2)]
    other = (await events(totango, "0000"))[1]["id"]
    for body in ({}, {"event_id": other}):
        assert (await read(totango.delete(f"{PATH}{ids[0]}", json=body)))[0] == 400
    assert len(await events(totango, "0000")) == 2


async def test_events_are_of_one_account(sandbox: Sandbox, totango: aiohttp.ClientSession) -> None:
    """Notes are listed with tasks and alerts; no account is a 400."""
    sandbox.state("totango").other_events["1"] = [{"id": "a", "type": "task"}]
    await read(totango.post(PATH, json={**NOTE, "account_id": "1"}))
    await read(totango.post(PATH, json={**NOTE, "account_id": "2"}))
    assert [event["type"] for event in await events(totango, "1")] == ["note", "task"]
    assert (await read(totango.get("api/v2/events/")))[0] == 400


async def test_types_and_tags_are_objects(sandbox: Sandbox, totango: aiohttp.ClientSession) -> None:
    """Types and tags are an array of objects with id and name."""
    state = sandbox.state("totango")
    for path, names in (
        ("api/v3/touchpoint-types/", state.touchpoint_types),
        ("api/v3/touchpoint-tags", state.touchpoint_tags),
    ):
        objects = [{"id": key, "display_name": name} for key, name in names.items()]
        assert len(objects) >= 3
        assert await read(totango.get(path)) == (200, objects)


async def test_flows_are_keyed_by_id(totango: aiohttp.ClientSession) -> None:
    """Activity types are an object, including a disabled flow."""
    status, flows = await read(totango.get("api/v3/activity-types/"))
    assert status == 200
    assert all(flow["activity_type_id"] == key for key, flow in flows.items())
    assert flows["renewal"]["display_name"] == "Renewal"
    assert [flow["disabled"] for key, flow in flows.items() if key.startswith("disabled_")] == [
        True
    ]
