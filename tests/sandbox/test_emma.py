"""The mock Emma against its manual, over HTTP with plain aiohttp."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from .conftest import read

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from asyncclients.sandbox import Sandbox

    from .conftest import Open

TYPE = {"type_name": "visited_website", "display_name": "Visited Website"}
VISIT = {"email": "a@example.com", "type_name": "visited_website"}


@pytest.fixture
async def emma(sandbox: Sandbox, connect: Open) -> Callable[..., Awaitable[tuple[int, Any]]]:
    session = await connect("emma")
    account = sandbox.environ["EMMA_ACCOUNT_ID"]

    async def ask(method: str, path: str, body: object = None) -> tuple[int, Any]:
        return await read(session.request(method, f"{account}/touchpoints{path}", json=body))

    return ask


async def test_type_lifecycle(emma: Any, sandbox: Sandbox) -> None:
    """Create, list, get, update, delete with a bare true, then 404."""
    status, made = await emma("POST", "", TYPE)
    assert status == 200
    assert TYPE.items() <= made.items()
    assert made["account_id"] == sandbox.state("emma").account_id
    assert made["created_at"] == "@D:2026-01-01T00:00:00"
    path = f"/{made['touchpoint_type_id']}"
    assert await emma("GET", "") == (200, [made])
    assert await emma("GET", path) == (200, made)
    renamed = {**TYPE, "display_name": "Visited"}
    assert await emma("PUT", path, renamed) == (200, {**made, **renamed})
    assert await emma("DELETE", path) == (200, True)
    assert (await emma("GET", path))[0] == 404
    assert (await emma("PUT", path, TYPE))[0] == 404


@pytest.mark.parametrize("missing", ["type_name", "display_name"])
async def test_type_needs_both_names(emma: Any, missing: str) -> None:
    """Without one of its names a type is a 400, on create and on update."""
    body = {name: value for name, value in TYPE.items() if name != missing}
    assert (await emma("POST", "", body))[0] == 400
    _, made = await emma("POST", "", TYPE)
    assert (await emma("PUT", f"/{made['touchpoint_type_id']}", body))[0] == 400


async def test_type_name_is_unique(emma: Any) -> None:
    """Another type's name is a 400; its own is not."""
    _, first = await emma("POST", "", TYPE)
    _, second = await emma("POST", "", {**TYPE, "type_name": "other"})
    assert (await emma("POST", "", TYPE))[0] == 400
    assert (await emma("PUT", f"/{second['touchpoint_type_id']}", TYPE))[0] == 400
    assert (await emma("PUT", f"/{first['touchpoint_type_id']}", TYPE))[0] == 200


async def test_touchpoint_lifecycle(emma: Any) -> None:
    """Only create returns the id; get and list omit it, as in the manual's samples."""
    await emma("POST", "", TYPE)
    given = {
        **VISIT,
        "touchpoint_timestamp": "@D:2025-12-02T11:23:47",
        "touchpoint_monetary_value": 8.0,
        "attributes": {"page": "/"},
    }
    status, (made,) = await emma("POST", "/members", {"touchpoints": [given]})
    assert status == 200
    assert made["touchpoint_id"] > 2**31
    assert made["touchpoint_timestamp"] == "@D:2025-12-02T11:23:47"
    assert (made["touchpoint_monetary_value"], made["attributes"]) == (8.0, {"page": "/"})
    shown = {k: v for k, v in made.items() if k not in {"touchpoint_id", "attributes"}}
    path = f"/members/touchpoints/{made['touchpoint_id']}"
    assert await emma("GET", path) == (200, shown)
    assert await emma("GET", f"/members/{made['member_id']}") == (200, [shown])
    assert await emma("DELETE", path) == (200, True)
    assert (await emma("GET", path))[0] == 404
    assert await emma("GET", f"/members/{made['member_id']}") == (200, [])


async def test_batch_holds_at_most_ten_touchpoints(emma: Any, sandbox: Sandbox) -> None:
    """Ten are stored in order; none, eleven, or one invalid among valid ones is a 400."""
    await emma("POST", "", TYPE)
    visits = [{**VISIT, "touchpoint_monetary_value": number} for number in range(11)]
    assert (await emma("POST", "/members", {"touchpoints": []}))[0] == 400
    assert (await emma("POST", "/members", {}))[0] == 400
    assert (await emma("POST", "/members", {"touchpoints": visits}))[0] == 400
    assert (await emma("POST", "/members", {"touchpoints": [VISIT, {}]}))[0] == 400
    assert not sandbox.state("emma").touchpoints
    status, made = await emma("POST", "/members", {"touchpoints": visits[:10]})
    assert status == 200
    assert [row["touchpoint_monetary_value"] for row in made] == list(range(10))
    assert len({row["touchpoint_id"] for row in made}) == 10
    assert len({row["member_id"] for row in made}) == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"email": None},
        {"member_id": 1},
        {"type_name": "unknown"},
        {"touchpoint_type_id": 1},
        {"touchpoint_timestamp": "yesterday"},
        {"touchpoint_timestamp": "2025-12-02T11:23:47+00:00"},
        {"touchpoint_monetary_value": "8"},
        {"attributes": []},
        {"mailing_id": "x"},
    ],
)
async def test_invalid_touchpoint_is_a_400(emma: Any, bad: dict[str, object]) -> None:
    """Neither member nor email, an unknown type, or a value of a wrong type."""
    await emma("POST", "", TYPE)
    assert (await emma("POST", "/members", {"touchpoints": [{**VISIT, **bad}]}))[0] == 400


@pytest.mark.parametrize("path", ["/1", "/members", "/members/1", "/members/touchpoints/1"])
async def test_unknown_resource_is_a_404(emma: Any, path: str) -> None:
    """Unknown types, members and touchpoints; `members` is not the id of a type."""
    assert (await emma("GET", path))[0] == 404


async def test_deleting_a_type_deletes_its_touchpoints(emma: Any, sandbox: Sandbox) -> None:
    """The touchpoints of other types stay."""
    _, first = await emma("POST", "", TYPE)
    await emma("POST", "", {**TYPE, "type_name": "other"})
    visits = [VISIT, {**VISIT, "type_name": "other"}]
    _, (_, kept) = await emma("POST", "/members", {"touchpoints": visits})
    await emma("DELETE", f"/{first['touchpoint_type_id']}")
    assert list(sandbox.state("emma").touchpoints) == [kept["touchpoint_id"]]


async def test_wrong_account_is_another_403(sandbox: Sandbox, connect: Open) -> None:
    """The 403 of a wrong account does not mention a rate limit."""
    session = await connect("emma")
    async with session.get("1/touchpoints") as response:
        assert response.status == 403
        assert "rate limit" not in (await response.text()).lower()
    assert sandbox.rejected("emma") == 0
