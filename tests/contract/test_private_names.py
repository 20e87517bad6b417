"""Private names of aiohttp and asyncio may disappear: calls then work as with aiohttp alone."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any, Final, cast

import aiohttp
import pytest
from aiohttp.payload import BytesPayload

from asyncclients import DigitalOnboardingClient, IntouchClient, SessionPool
from asyncclients.sandbox import Sandbox
from asyncclients.vendors.digital_onboarding import NewContact as Person
from asyncclients.vendors.intouch import NewContact
from tests.support.byte_server import Connection, byte_server, http

HIDDEN: Final = {
    "ClientRequest._body": (aiohttp.ClientRequest, "_body"),
    "ClientRequest._traces": (aiohttp.ClientRequest, "_traces"),
    "ClientRequest._continue": (aiohttp.ClientRequest, "_continue"),
    "ClientRequest._timer": (aiohttp.ClientRequest, "_timer"),
    "ClientRequest._session": (aiohttp.ClientRequest, "_session"),
    "BytesPayload._value": (BytesPayload, "_value"),
    "BaseConnector._conns": (aiohttp.BaseConnector, "_conns"),
    "ClientSession._middlewares": (aiohttp.ClientSession, "_middlewares"),
    "transport._ssl_protocol": (asyncio.Transport, "_ssl_protocol"),
    "transport.max_size": (asyncio.Transport, "max_size"),
}


_MISSING: Final = object()


class _Hidden:
    """A name that our modules do not find, and the library itself does."""

    def __init__(self, name: str, default: Any) -> None:
        self._name, self._default = name, default

    def __get__(self, owner: Any, kind: Any) -> Any:
        frame = inspect.currentframe()
        assert frame is not None
        assert frame.f_back is not None
        caller = str(frame.f_back.f_globals.get("__name__", ""))
        default: Any = self._default
        instance = cast("dict[str, Any]", getattr(owner, "__dict__", {}))
        if self._name in instance:
            default = instance[self._name]
        elif hasattr(default, "__get__"):
            default = default.__get__(owner, kind)
        if default is _MISSING or caller.startswith("asyncclients."):
            raise AttributeError(self._name)
        return default

    def __set__(self, owner: Any, value: Any) -> None:
        vars(owner)[self._name] = value


@pytest.fixture(params=HIDDEN)
def hidden(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Hide one private name from the package."""
    kind, name = HIDDEN[request.param]
    default = vars(kind).get(name, _MISSING)
    monkeypatch.setattr(kind, name, _Hidden(name, default), raising=False)
    return str(request.param)


@pytest.mark.virtual_time
async def test_calls_work_without_a_private_name(hidden: str, sandbox: Sandbox) -> None:
    """Creates, lists, deletions and token requests work while the name is missing."""
    async with SessionPool() as pool:
        intouch = IntouchClient.from_env(pool, sandbox.environ)
        people = DigitalOnboardingClient.from_env(pool, sandbox.environ)
        made = [await intouch.contacts.create(NewContact(email=f"{n}@x.org")) for n in range(3)]
        assert [contact.uuid async for contact in intouch.contacts.list()] == [
            contact.uuid for contact in made
        ]
        await intouch.contacts.delete(made[0].uuid)
        assert (await people.contacts.upsert(Person(unique_id="1"))).unique_id == "1", hidden


async def test_borrowed_session_works_without_a_private_name(hidden: str) -> None:
    """A borrowed session works while the name is missing."""

    async def answers(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.send(http(body=b'{"uuid": "t", "name": "tag"}'))

    async with (
        byte_server(answers) as server,
        aiohttp.ClientSession() as session,
        SessionPool(session=session) as pool,
    ):
        client = IntouchClient(pool, api_key="key", base_url=server.url)
        assert (await client.tags.create("tag")).uuid == "t", hidden
        assert (await client.tags.get("t")).uuid == "t"
