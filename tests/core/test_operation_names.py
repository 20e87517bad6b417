"""Quotas of operations and `explain` name operations that the client has."""

from __future__ import annotations

from typing import Any

import pytest

from asyncclients import IntouchClient, Quota, SessionPool
from asyncclients.core.endpoint import Endpoint, Resource, Send
from asyncclients.errors import ConfigurationError
from tests.support.fake_vendor import ToyClient

pytestmark = pytest.mark.virtual_time


def tags(*operations: str) -> list[Quota]:
    return [Quota(100, 60.0), Quota(5, 60.0, operations=operations)]


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("tag.create", "tags.create"),
        ("intouch.tag.create", "tags.create"),
        ("tag.*", "tags.*"),
        ("Tags.create", "tags.create"),
    ],
)
async def test_client_refuses_a_pattern_that_matches_no_operation(pattern: str, meant: str) -> None:
    """The error names vendor, pattern, the operation that was meant, and all others."""
    environ = {"INTOUCH_API_KEY": "ii_key"}
    async with SessionPool() as pool:
        with pytest.raises(ConfigurationError) as error:
            IntouchClient.from_env(pool, environ, quotas=tags("contacts.*", pattern))
    text = str(error.value)
    assert text.startswith(f"intouch: no operation matches {pattern!r}, a pattern of a quota")
    assert f"did you mean {meant!r}" in text
    assert "contacts.create, contacts.delete" in text


@pytest.mark.parametrize("name", ["tags.create", "intouch.tags.create", "intouch.tags.*"])
async def test_client_accepts_the_name_that_errors_print(name: str) -> None:
    """With and without the vendor in front of it, a quota limits the same operation."""
    async with SessionPool() as pool:
        client = IntouchClient(pool, api_key="ii_key", quotas=tags(name))
        quotas = client.stats().quotas
        assert quotas == tuple(tags(name.removeprefix("intouch.")))
        assert quotas[1].applies_to("tags.create")
        assert client.explain("intouch.tags.create") == client.explain("tags.create")


async def test_client_accepts_the_operation_of_its_request_method() -> None:
    """Calls by `client.request` are the operation `request`."""
    async with SessionPool() as pool:
        client = IntouchClient(pool, api_key="ii_key", quotas=tags("request"))
        assert client.explain("request").reasons == ()


async def test_explain_refuses_an_unknown_operation() -> None:
    """The error names the operation that was meant."""
    async with SessionPool() as pool:
        client = IntouchClient(pool, api_key="ii_key")
        with pytest.raises(ConfigurationError, match=r"'tag.creat' \(did you mean 'tags.create'"):
            client.explain("tag.creat")


async def test_own_vendor_is_known_by_its_endpoint_table() -> None:
    """Endpoints that are global names of the resource's module count without `@operation`."""
    async with SessionPool() as pool:
        quotas = tuple(tags("things.make", "toy.things.p*"))
        assert ToyClient(pool, quotas=quotas).stats().quotas[1].operations == (
            "things.make",
            "things.p*",
        )
        with pytest.raises(ConfigurationError, match=r"did you mean 'things\.make'"):
            ToyClient(pool, quotas=tuple(tags("thing.make")))


class Hidden(Resource):
    """A resource whose endpoint only its method knows."""

    async def make(self) -> Any:
        """Create one."""
        endpoint = Endpoint("hidden.make", "POST", "x", dict[str, Any], idempotent=False)
        return await self._send(endpoint.request())


class HiddenClient(ToyClient):
    """A client with a resource whose endpoint cannot be found."""

    def _add_resources(self, send: Send) -> None:
        super()._add_resources(send)
        self.hidden = Hidden(send)


async def test_own_vendor_with_hidden_endpoints_may_name_any_operation() -> None:
    """A client whose operations cannot all be found is not checked."""
    async with SessionPool() as pool:
        client = HiddenClient(pool, quotas=tuple(tags("hidden.make")))
        assert client.stats().quotas[1].operations == ("hidden.make",)
        assert client.explain("hidden.make").reasons == ()
