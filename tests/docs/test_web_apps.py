"""The apps of the page about web apps respond from the mock vendors and stop cleanly."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from asyncclients import ClientClosedError
from asyncclients.vendors.intouch import NewContact

from .asgi import served
from .pages import ROOT, blocks, module_of

if TYPE_CHECKING:
    from asyncclients import IntouchClient
    from asyncclients.sandbox import Sandbox

PAGE = ROOT / "docs" / "web-apps.md"
pytestmark = pytest.mark.virtual_time


class Define(Protocol):
    """Runs the first block of the page that contains *text*, and returns its names."""

    async def __call__(self, text: str) -> dict[str, Any]: ...


@pytest.fixture
def define(monkeypatch: pytest.MonkeyPatch) -> Define:
    async def define(text: str) -> dict[str, Any]:
        namespace = module_of(monkeypatch)
        await next(block for block in blocks(PAGE) if text in block.code).run(namespace)
        return namespace

    return define


@pytest.fixture
async def uuid(sandbox: Sandbox, clients: dict[str, IntouchClient]) -> str:
    """Return the id of a contact at the mock Intouch."""
    contact = await clients["intouch"].contacts.create(NewContact(email="ada@example.com"))
    return contact.uuid


@pytest.mark.parametrize("framework", ["fastapi", "litestar"])
async def test_asgi_app_responds_from_the_vendor(framework: str, uuid: str, define: Define) -> None:
    """The app starts, returns the vendor's contact as JSON, and closes its pool on shutdown."""
    app = (await define(f"from {framework} import"))["app"]
    async with served(app) as running:
        answer = await running.get(f"/contacts/{uuid}")
        intouch: IntouchClient = app.state.intouch
    assert answer.status == 200
    assert json.loads(answer.body)["email"] == "ada@example.com"
    with pytest.raises(ClientClosedError):
        await intouch.contacts.get(uuid)


async def test_aiohttp_app_responds_from_the_vendor(uuid: str, define: Define) -> None:
    """The app starts, returns the vendor's contact as JSON, and closes its pool on cleanup."""
    namespace = await define("from aiohttp import")
    async with TestClient(TestServer(namespace["app"])) as browser:
        answer = await browser.get(f"/contacts/{uuid}")
        assert answer.status == 200
        assert (await answer.json())["email"] == "ada@example.com"
        intouch: IntouchClient = namespace["app"][namespace["INTOUCH"]]
    with pytest.raises(ClientClosedError):
        await intouch.contacts.get(uuid)


async def test_middleware_responds_503_to_a_full_queue(
    sandbox: Sandbox, clients: dict[str, IntouchClient], define: Define
) -> None:
    """A call that cannot meet its deadline becomes a 503 at once.

    Its Retry-After is the wait in whole seconds.
    """
    namespace = await define("retry_later")
    hasty = clients["intouch"].with_options(deadline=0.1)

    async def handler(_: web.Request) -> web.Response:
        return web.json_response([tag.name async for tag in hasty.tags.list()])

    app = web.Application(middlewares=[namespace["retry_later"]])
    app.router.add_get("/", handler)
    async with TestClient(TestServer(app)) as browser:
        statuses = [(await browser.get("/")).status for _ in range(2)]
        rejected = await browser.get("/")
    assert (statuses, rejected.status) == ([200, 200], 503)
    assert rejected.headers["Retry-After"] == "1"
    assert sandbox.summary("intouch").arrivals == 2
