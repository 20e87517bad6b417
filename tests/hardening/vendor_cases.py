"""The five clients, each with an idempotent call, another one, and canaries.

Every credential here is a canary; `Subject.canaries` is each of them in the forms in
which it travels. The server's good answers are the vendors' own, as short as allowed.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from asyncclients import (
    DigitalOnboardingClient,
    EmmaClient,
    IntemptClient,
    IntouchClient,
    SessionPool,
    TotangoClient,
)
from asyncclients.vendors import digital_onboarding, emma, totango
from tests.support.byte_server import Connection, RawRequest, http

KEY: Final = "ii_Canary/Key+4711=="
USER: Final = "canary-user-0815"
WORD: Final = "Canary/Word+2342=="
TOKEN: Final = "canary-token-1337"
CONTENT: Final = "canary-free content"

_BASIC = base64.b64encode(f"{USER}:{WORD}".encode()).decode()
_TAG = {"uuid": "3f1c", "name": "gold"}
_ITEM: dict[str, Any] = {"id": 7, "collId": 1, "data": {}}
_VISIT = {"touchpoint_id": 9, "member_id": 5, "touchpoint_type_id": 1}
_TOKEN_REPLY = msgspec.json.encode({"access_token": TOKEN, "expires_in": 3600})

Call = Callable[[Any], Awaitable[Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class Subject:
    """One client under test."""

    vendor: str
    client: Callable[[SessionPool, str], Any]
    read: Call
    write: Call
    read_reply: Any
    write_reply: Any
    canaries: tuple[str, ...]

    def reply(self, request: RawRequest) -> bytes:
        """Return the correct response to *request*."""
        if request.target == "/oauth2/token":
            return _TOKEN_REPLY
        found = self.read_reply if request.method == "GET" else self.write_reply
        return msgspec.json.encode(found)

    async def serves(self, connection: Connection) -> None:
        """Send the correct response to every request."""
        while True:
            await connection.send(http(body=self.reply(await connection.request())))

    async def serves_once(self, connection: Connection) -> None:
        """Send the correct responses to one call and its prerequisites; then close."""
        while True:
            request = await connection.request()
            last = request.target != "/oauth2/token"
            fields = {"Connection": "close"} if last else {}
            await connection.send(http(body=self.reply(request), headers=fields))
            if last:
                return


def _post(client: Any) -> Awaitable[Any]:
    """Intempt has no operation that must not be repeated: one of one's own."""
    made: Awaitable[Any] = client.request("POST", "v1/x", json={}, response_type=_Made)
    return made


class _Made(msgspec.Struct, frozen=True, kw_only=True):
    made: bool


SUBJECTS: Final = {
    subject.vendor: subject
    for subject in (
        Subject(
            "intouch",
            lambda pool, url: IntouchClient(pool, api_key=KEY, base_url=url),
            lambda c: c.tags.get("3f1c"),
            lambda c: c.tags.create("gold"),
            _TAG,
            _TAG,
            (KEY,),
        ),
        Subject(
            "totango",
            lambda pool, url: TotangoClient(pool, app_token=KEY, base_url=url),
            lambda c: c.events.list("0000"),
            lambda c: c.touchpoints.create(
                totango.NewTouchpoint(account_id="0000", content=CONTENT)
            ),
            [],
            {"note_id": "n1"},
            (KEY,),
        ),
        Subject(
            "intempt",
            lambda pool, url: IntemptClient(pool, api_key=KEY, org="acme", base_url=url),
            lambda c: c.collections.get_item("1", "7"),
            _post,
            _ITEM,
            {"made": True},
            (KEY,),
        ),
        Subject(
            "emma",
            lambda pool, url: EmmaClient(
                pool, account_id="1", public_key=USER, private_key=WORD, base_url=url
            ),
            lambda c: c.touchpoints.get(9),
            lambda c: c.touchpoints.create([emma.NewTouchpoint(member_id=5, type_name="visit")]),
            _VISIT,
            [_VISIT],
            (WORD, _BASIC),
        ),
        Subject(
            "digital_onboarding",
            lambda pool, url: DigitalOnboardingClient(
                pool, client_id=USER, client_secret=WORD, base_url=url
            ),
            lambda c: c.templates.list(),
            lambda c: c.journeys.create("t1", digital_onboarding.NewContact(email="a@example.com")),
            {"templates": []},
            {"id": "j1"},
            (WORD, _BASIC, TOKEN),
        ),
    )
}
