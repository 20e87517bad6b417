"""A vendor for tests: one resource with one operation of each kind, at any address."""

from __future__ import annotations

from types import NoneType
from typing import Any

import msgspec

from asyncclients.core.auth import api_key
from asyncclients.core.client import VendorClient, read_credential
from asyncclients.core.endpoint import Endpoint, Resource, Send
from asyncclients.core.pool import SessionPool
from asyncclients.core.retry import RetryPolicy
from asyncclients.core.vendor import Vendor
from asyncclients.ratelimit.quota import Quota
from asyncclients.secret import CredentialSource, FilePath, Secret
from tests.support.leaks import CANARY

TOY = Vendor(
    name="toy",
    base_url="https://toy.example.com/v1/",
    quotas=(Quota(10_000, 1.0),),
    manual="https://toy.example.com/manual",
    environment={"key": "TOY_KEY"},
)


class Thing(msgspec.Struct, frozen=True, kw_only=True):
    """An item of the fake vendor."""

    id: int
    text: str = ""


GET = Endpoint("things.get", "GET", "things/{id}", Thing, idempotent=True)
MAKE = Endpoint("things.make", "POST", "things", Thing, idempotent=False)
PUT = Endpoint("things.put", "PUT", "things/{id}", Thing, idempotent=True)
DELETE = Endpoint("things.delete", "DELETE", "things/{id}", NoneType, idempotent=True)


class Things(Resource):
    """Four operations, one of each kind."""

    async def get(self, number: int = 1) -> Thing:
        """Read it."""
        return await self._send(GET.request(id=str(number)))

    async def make(self, body: Any = None) -> Thing:
        """Create one; not idempotent."""
        return await self._send(MAKE.request(body={} if body is None else body))

    async def put(self, number: int = 1) -> Thing:
        """Replace it."""
        return await self._send(PUT.request(id=str(number), body={"text": "new"}))

    async def delete(self, number: int = 1) -> None:
        """Delete it."""
        await self._send(DELETE.request(id=str(number)))


class ToyClient(VendorClient):
    """The client of the toy vendor; its credential is the canary."""

    vendor = TOY

    def __init__(
        self,
        pool: SessionPool,
        *,
        key: CredentialSource = CANARY,
        key_file: FilePath | None = None,
        base_url: str | None = None,
        quotas: tuple[Quota, ...] | None = None,
        max_in_flight: int | None = None,
        quota_key: str | None = None,
    ) -> None:
        given = None if key_file is not None else Secret(key)
        super().__init__(
            pool,
            api_key("x-api-key", read_credential(TOY, "key", given, key_file)),
            base_url=base_url,
            quotas=quotas,
            max_in_flight=max_in_flight,
            quota_key=quota_key,
        )

    def _add_resources(self, send: Send) -> None:
        self.things = Things(send)


QUICK = RetryPolicy(base=0.01, cap=0.02)
"""Waits that a test does not notice."""
