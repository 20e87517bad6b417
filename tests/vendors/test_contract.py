"""Every operation of every vendor, from its row in the endpoint table to the wire.

The operations are found in the code, not listed here: a method without an endpoint, an
endpoint without a method, or either without a call in `tests/support/vendor_operations.py` fails.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any, Final, get_origin, get_type_hints
from urllib.parse import urlsplit

import pytest

from asyncclients import Quota, SessionPool, StatusError
from asyncclients.core.client import VendorClient
from asyncclients.core.endpoint import Endpoint, Resource, endpoint_of
from asyncclients.sandbox import Sandbox
from tests.support.clients import BY_VENDOR
from tests.support.vendor_operations import CALLS

NOT_OPERATIONS: Final = {"create_many"}
"""Public methods of resources that call operations, and are none themselves."""


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """The mock vendors, with quotas that no test exceeds."""
    async with Sandbox(quotas=dict.fromkeys(BY_VENDOR, (10_000, 1.0))) as opened:
        yield opened


def table(vendor: str) -> list[Endpoint[Any]]:
    """Return the endpoints of the vendor's client module."""
    module = import_module(f"asyncclients.vendors.{vendor}.client")
    return [value for value in vars(module).values() if isinstance(value, Endpoint)]


def is_second_step(endpoint: Endpoint[Any]) -> bool:
    """Return whether *endpoint* goes to a link from a response instead of to the vendor."""
    return endpoint.path == "{link}"


def client_of(vendor: str, pool: SessionPool, environ: dict[str, str]) -> VendorClient:
    return BY_VENDOR[vendor].from_env(pool, environ, quotas=[Quota(10_000, 1.0)])


def methods(client: VendorClient) -> Iterator[tuple[str, Any]]:
    """Public methods by name, as in `contacts.create`: the resources', and the client's own."""
    for resource, held in vars(client).items():
        if isinstance(held, Resource):
            for name, method in inspect.getmembers(held, callable):
                if not name.startswith("_"):
                    yield f"{resource}.{name}", method
    for name, method in inspect.getmembers(client, callable):
        if not name.startswith("_") and name not in dir(VendorClient):
            yield name, method


@pytest.mark.parametrize("vendor", BY_VENDOR)
async def test_methods_and_endpoints_correspond(
    vendor: str, sandbox: Sandbox, pool: SessionPool
) -> None:
    """Each method has an endpoint and a call of the same name, and none is left over."""
    found = {
        name: endpoint_of(method)
        for name, method in methods(client_of(vendor, pool, sandbox.environ))
        if name.rpartition(".")[2] not in NOT_OPERATIONS
    }
    endpoints = {e.operation: e for e in table(vendor) if not is_second_step(e)}
    assert found == endpoints
    assert CALLS[vendor].keys() == endpoints.keys(), (
        "add a call to tests/support/vendor_operations.py"
    )


@pytest.mark.parametrize(
    ("vendor", "operation"), [(vendor, name) for vendor, calls in CALLS.items() for name in calls]
)
async def test_operation_sends_method_and_path_of_its_endpoint(
    vendor: Any, operation: str, sandbox: Sandbox, pool: SessionPool
) -> None:
    """The vendor receives the method and path of the endpoint, and accepts the call."""
    client = client_of(vendor, pool, sandbox.environ)
    await CALLS[vendor][operation](client, sandbox.state(vendor))
    (endpoint,) = (e for e in table(vendor) if e.operation == operation and not is_second_step(e))
    arrival = sandbox.requests(vendor)[-1]
    assert arrival.method == endpoint.method
    path = below_the_base(arrival.path, sandbox.url(vendor))
    assert re.fullmatch(pattern(endpoint), path), path
    assert arrival.status is not None
    assert arrival.status < 400
    assert not {found.status for found in sandbox.requests(vendor)} & {401, 404, 405, 429}
    if not arrival.body:
        expected = "text/csv" if operation == "collections.upload_csv" else None
        assert arrival.headers.get("Content-Type") == expected


@pytest.mark.parametrize("vendor", BY_VENDOR)
@pytest.mark.parametrize("bad", ["", ".", "..", "a\nb", "a\x00", "\x7f", None])
async def test_id_that_is_no_segment_is_a_value_error(
    vendor: Any, bad: Any, sandbox: Sandbox, pool: SessionPool
) -> None:
    """Every method rejects an id that is empty, a dot segment or has control characters."""
    found = [*ids(client_of(vendor, pool, sandbox.environ))]
    for method, given, name in found:
        with pytest.raises(ValueError, match="must"):
            await method(**{**given, name: bad})
    assert found
    assert sandbox.requests(vendor) == ()


@pytest.mark.parametrize("vendor", BY_VENDOR)
async def test_id_is_one_encoded_segment(vendor: Any, sandbox: Sandbox, pool: SessionPool) -> None:
    """An id is one segment of the path, whatever it contains: `../admin` does not leave it."""
    for method, given, name in ids(client_of(vendor, pool, sandbox.environ)):
        with suppress(StatusError):
            await method(**{**given, name: "../ä?#%"})
        path = sandbox.requests(vendor)[-1].path
        assert "/..%2F%C3%A4%3F%23%25" in path
        below = below_the_base(path, sandbox.url(vendor))
        assert re.fullmatch(pattern(method.endpoint), below), path


def ids(client: VendorClient) -> Iterator[tuple[Any, dict[str, Any], str]]:
    """Each method with arguments that it accepts, and the name of an id that is in its path."""
    for _, method in methods(client):
        endpoint = endpoint_of(method)
        if endpoint is not None and {*endpoint.placeholders} - {"org", "account_id"}:
            given = arguments(method)
            names = [name for name in given if name.endswith(("id", "uuid"))]
            yield from ((method, given, name) for name in names if name != "event_id")


def arguments(method: Any) -> dict[str, Any]:
    """Return a valid argument for each required parameter of *method*."""
    found: dict[str, Any] = {}
    for name, hint in get_type_hints(method).items():
        parameter = inspect.signature(method).parameters.get(name)
        if parameter is None or parameter.default is not parameter.empty:
            continue
        if name == "source":
            found[name] = b"id\n1\n"
        elif hasattr(hint, "__struct_fields__"):
            found[name] = hint()
        else:
            found[name] = {} if get_origin(hint) is Mapping else "1"
    if method.endpoint.operation == "touchpoints.delete" and "note_id" in found:
        found["event_id"] = "1"
    return found


def below_the_base(path: str, base_url: str) -> str:
    return path.removeprefix(urlsplit(base_url).path)


def pattern(endpoint: Endpoint[Any]) -> str:
    """Return a pattern for the paths of an endpoint, with one segment for each placeholder."""
    return re.sub(r"\\{\w+\\}", "[^/]+", re.escape(endpoint.path))


async def test_upload_puts_the_file_to_the_link(sandbox: Sandbox, pool: SessionPool) -> None:
    """An upload puts the bytes to the link of another host, without the key."""
    (endpoint,) = (e for e in table("intempt") if is_second_step(e))
    client = client_of("intempt", pool, sandbox.environ)
    await CALLS["intempt"]["collections.upload_csv"](client, sandbox.state("intempt"))
    (asked,) = sandbox.requests("intempt")
    (put,) = sandbox.requests("storage")
    assert (asked.method, asked.status, asked.body) == ("POST", 307, b"")
    assert (put.method, put.status, put.body) == (endpoint.method, 200, b"id,name\n1,blue\n")
    assert put.headers["Content-Length"] == "15"
    assert sandbox.environ["INTEMPT_API_KEY"] not in str(put.headers)


async def test_token_request_follows_oauth(sandbox: Sandbox, pool: SessionPool) -> None:
    """The token request is one POST with a form and HTTP Basic, and has no query."""
    client = client_of("digital_onboarding", pool, sandbox.environ)
    await CALLS["digital_onboarding"]["templates.list"](client, None)
    token, _ = sandbox.requests("digital_onboarding")
    assert (token.method, token.path, token.status) == ("POST", "/oauth2/token", 200)
    assert (len(token.query), token.body) == (0, b"grant_type=client_credentials")
    assert token.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert token.headers["Authorization"].startswith("Basic ")
