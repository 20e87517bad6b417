"""A sandbox, and plain aiohttp sessions that carry one vendor's credential."""

from __future__ import annotations

import json
from base64 import b64encode
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp
import pytest

from asyncclients.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping


class Open(Protocol):
    """Opens a session for *vendor*; *headers* replace the credential's."""

    async def __call__(
        self, vendor: str, headers: Mapping[str, str] | None = None
    ) -> aiohttp.ClientSession: ...


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as opened:
        yield opened


@pytest.fixture
async def connect(sandbox: Sandbox) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def connect(
            vendor: str, headers: Mapping[str, str] | None = None
        ) -> aiohttp.ClientSession:
            given = await _login(sandbox, vendor) if headers is None else headers
            base_url = sandbox.environ[f"{vendor.upper()}_BASE_URL"]
            session = aiohttp.ClientSession(base_url, headers=given)
            return await stack.enter_async_context(session)

        yield connect


async def read(call: Any) -> tuple[int, Any]:
    """Return the status and the decoded body of *call*; None for an empty body."""
    async with call as response:
        body = await response.read()
        return response.status, json.loads(body) if body else None


async def _login(sandbox: Sandbox, vendor: str) -> dict[str, str]:
    env = sandbox.environ
    if vendor == "intouch":
        return {"x-api-key": env["INTOUCH_API_KEY"]}
    if vendor == "totango":
        return {"app-token": env["TOTANGO_APP_TOKEN"]}
    if vendor == "intempt":
        return {"Authorization": f"ApiKey {env['INTEMPT_API_KEY']}"}
    if vendor == "emma":
        return basic(env["EMMA_PUBLIC_KEY"], env["EMMA_PRIVATE_KEY"])
    login = basic(env["DIGITAL_ONBOARDING_CLIENT_ID"], env["DIGITAL_ONBOARDING_CLIENT_SECRET"])
    url = f"{env['DIGITAL_ONBOARDING_BASE_URL']}oauth2/token"
    form = {"grant_type": "client_credentials"}
    async with aiohttp.request("POST", url, data=form, headers=login) as response:
        return {"Authorization": f"Bearer {(await response.json())['access_token']}"}


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"}
