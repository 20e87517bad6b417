"""The behaviour of every client: credentials, environment, options, and calls without a method."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from types import NoneType
from typing import Any

import pytest

from asyncclients.core.pool import SessionPool
from asyncclients.errors import ConfigurationError, DecodeError, OutcomeUnknownError
from asyncclients.ratelimit.quota import Priority, Quota
from tests.support.byte_server import answers, byte_server, hangs_up, http
from tests.support.fake_vendor import QUICK, Thing, ToyClient
from tests.support.leaks import CANARY, leaks

FINE = http(body=b'{"id": 1}')
pytestmark = pytest.mark.virtual_time


# --- From the environment -------------------------------------------------------------


async def test_from_env(pool: SessionPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials and base_url are read from a mapping, or from the environment of the process."""
    async with byte_server(answers(FINE)) as server:
        environ = {"TOY_KEY": CANARY, "TOY_BASE_URL": server.url, "OTHER": "x"}
        client = ToyClient.from_env(pool, environ)
        assert client.base_url == server.url
        assert await client.things.get() == Thing(id=1)
        assert server.arrived[0].headers["x-api-key"] == CANARY
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        assert ToyClient.from_env(pool).base_url == server.url


class WideClient(ToyClient):
    """A client with an option of its own, which passes the others on."""

    def __init__(self, pool: SessionPool, *, region: str, **options: Any) -> None:
        super().__init__(pool, **options)
        self.region = region


def test_from_env_has_the_keywords_of_a_constructor_of_ones_own() -> None:
    """It takes what the constructor takes, and rejects other names."""
    environ = {"TOY_KEY": CANARY, "TOY_BASE_URL": "https://toy.example.com/v2/"}
    from_env: Any = WideClient.from_env
    client = from_env(SessionPool(), environ, region="eu", quota_key="acme")
    assert (client.region, client.base_url) == ("eu", "https://toy.example.com/v2/")
    toy: Any = ToyClient.from_env
    assert (
        toy(SessionPool(), {}, key="other", base_url=None).base_url == "https://toy.example.com/v1/"
    )
    with pytest.raises(TypeError, match="region"):
        toy(SessionPool(), environ, region="eu")


class NarrowClient(ToyClient):
    """A client without a `base_url` of its own."""

    def __init__(self, pool: SessionPool, *, key: str) -> None:
        super().__init__(pool, key=key)


class OpenClient(ToyClient):
    """A client that passes all arguments on."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)


@pytest.mark.parametrize("kind", [NarrowClient, OpenClient])
def test_from_env_of_a_constructor_without_base_url(kind: Any) -> None:
    """The vendor's address is used, and no argument is passed that was not given."""
    client = kind.from_env(SessionPool(), {"TOY_KEY": CANARY})
    assert client.base_url == ToyClient.vendor.base_url


@pytest.mark.parametrize("environ", [{}, {"TOY_KEY": ""}, {"toy_key": "lower"}])
def test_from_env_names_a_missing_variable(environ: Mapping[str, str]) -> None:
    """If a variable is missing or empty, the error names it and advises to set it."""
    with pytest.raises(ConfigurationError, match=r"^toy: TOY_KEY is not set") as caught:
        ToyClient.from_env(SessionPool(), environ)
    assert "Set TOY_KEY" in str(caught.value)
    assert caught.value.vendor == "toy"


def test_empty_base_url_is_rejected() -> None:
    """The constructor rejects an empty base_url; an empty variable counts as not set."""
    with pytest.raises(ConfigurationError, match=r"^base_url"):
        ToyClient(SessionPool(), base_url="")
    client = ToyClient.from_env(SessionPool(), {"TOY_KEY": CANARY, "TOY_BASE_URL": ""})
    assert client.base_url == ToyClient.vendor.base_url


@pytest.mark.parametrize("url", ["http://api.example.com/", "https://u:p@api.example.com/", "x"])
def test_unsafe_base_url_is_rejected(url: str) -> None:
    """The constructor rejects an unsafe base_url, and so does `from_env`, naming the variable."""
    with pytest.raises(ConfigurationError, match=r"^base_url") as caught:
        ToyClient(SessionPool(), base_url=url)
    assert leaks(caught.value, CANARY) == []
    with pytest.raises(ConfigurationError, match=r"^TOY_BASE_URL") as caught:
        ToyClient.from_env(SessionPool(), {"TOY_KEY": CANARY, "TOY_BASE_URL": url})
    assert leaks(caught.value, CANARY) == []


@pytest.mark.parametrize(
    "key", ["", CANARY + "\n", CANARY + "\r\nX-Evil: 1", f" {CANARY}", f"{CANARY}é", "\0" + CANARY]
)
def test_credential_that_no_header_can_carry_is_rejected(key: str) -> None:
    """The constructor rejects a credential that no header can carry, without quoting it."""
    with pytest.raises(ConfigurationError, match=r"toy: (key|the credential) ") as caught:
        ToyClient(SessionPool(), key=key)
    assert "TOY_KEY" in str(caught.value)
    assert leaks(caught.value, CANARY) == []


@pytest.mark.parametrize("settings", [{"max_in_flight": 0}, {"max_in_flight": -1}])
def test_invalid_max_in_flight_is_rejected(settings: dict[str, Any]) -> None:
    """The constructor rejects an invalid `max_in_flight`."""
    with pytest.raises(ConfigurationError, match="max_in_flight"):
        ToyClient(SessionPool(), **settings)


# --- Secrecy ----------------------------------------------------------------------------


def test_client_shows_no_credential() -> None:
    """repr, str and attributes show no credential; neither does the error of a pickle."""
    client = ToyClient(SessionPool())
    shown = [repr(client), str(client), repr(vars(client)), repr(vars(client.things))]
    assert not any(CANARY in text for text in shown)
    assert "toy.example.com" in repr(client)
    with pytest.raises(TypeError, match="holds a credential") as caught:
        pickle.dumps(client)
    assert CANARY not in str(caught.value)
    assert copy.copy(client.things) is not client.things


# --- Options ------------------------------------------------------------------------------


async def test_with_options_shares_the_quota(pool: SessionPool) -> None:
    """`with_options` returns a client with other defaults and the same quota; options add up."""
    async with byte_server(answers(FINE)) as server:
        client = ToyClient(pool, base_url=server.url, quotas=(Quota(3, 60.0),))
        patient = client.with_options(priority=Priority.BACKGROUND, max_attempts=1)
        both = patient.with_options(headers={"X-A": "1"})
        await both.things.get()
        await client.things.get()
        assert [("x-a" in seen.headers) for seen in server.arrived] == [True, False]
        assert client.stats() == patient.stats() == both.stats()
        assert type(both) is ToyClient
        options = both._config.options  # pyright: ignore[reportPrivateUsage]
        assert (options.priority, options.max_attempts) == (Priority.BACKGROUND, 1)


@pytest.mark.parametrize("options", [{"timeout": -1}, {"deadline": 0}, {"max_attempts": 0}])
def test_options_that_cannot_work(options: dict[str, Any]) -> None:
    """Invalid options are rejected by `with_options`, not by a later call."""
    with pytest.raises(ConfigurationError):
        ToyClient(SessionPool()).with_options(**options)


def test_misspelled_option_is_a_type_error() -> None:
    """A misspelled option is a TypeError."""
    misspelled: dict[str, Any] = {"timout": 1.0}
    with pytest.raises(TypeError, match="timout"):
        ToyClient(SessionPool()).with_options(**misspelled)


# --- request() --------------------------------------------------------------------------------


async def test_request_speaks_for_what_has_no_method(pool: SessionPool) -> None:
    """`request` sends path, query, body and headers, with and without a leading slash."""
    async with byte_server(answers(FINE)) as server:
        client = ToyClient(pool, base_url=server.url + "v1")
        assert await client.request("GET", "/things/1", params={"a": 1, "b": None}) == {"id": 1}
        made = await client.request("post", "things", json={"x": 1}, response_type=Thing)
        assert made == Thing(id=1)
        await client.request("PUT", "things/2", form={"x": "a b"}, headers={"X-A": "1"})
        gone: Any = await client.request("DELETE", "things/3", response_type=NoneType)
        assert gone is None
        await client.request("GET", "wörter/%20/a%2Fb")
        read, post, put, delete, odd = server.arrived
        assert (read.method, read.target) == ("GET", "/v1/things/1?a=1")
        assert (post.target, post.body) == ("/v1/things", b'{"x":1}')
        assert post.headers["content-type"] == "application/json"
        assert (put.body, put.headers["x-a"]) == (b"x=a+b", "1")
        assert put.headers["content-type"] == "application/x-www-form-urlencoded"
        assert delete.method == "DELETE"
        assert odd.target == "/v1/w%C3%B6rter/%20/a%2Fb"


@pytest.mark.parametrize(
    "path",
    [
        "https://evil.example/",
        "http://127.0.0.1/",
        "//evil.example/x",
        "///x",
        "/\\evil.example",
        "\\\\evil",
        "..",
        "/../admin",
        "things/../../admin",
        "things/%2e%2e/admin",
        "things/%2E./admin",
        "things/..%2fadmin",
        "things/..%5cadmin",
        "./x",
        "things?a=1",
        "things#a",
        "a b",
        "a\nb",
        "a%0d%0ab",
        "HTTPS://evil.example",
        "https:/evil.example",
        "/https://evil.example",
        "file:///etc/passwd",
        "a+b://evil.example",
    ],
)
async def test_path_outside_of_the_base_is_rejected(pool: SessionPool, path: str) -> None:
    """A path that leads out of the base is a `ValueError`, and nothing is sent."""
    async with byte_server(answers(FINE)) as server:
        client = ToyClient(pool, base_url=server.url)
        with pytest.raises(ValueError, match="path must"):
            await client.request("GET", path)
        assert server.arrived == []


@pytest.mark.parametrize(
    "path", ["contacts:search", "a:b/c", "/v1:batch", "contacts/1:merge", "javascript:x", ":x"]
)
async def test_path_may_contain_a_colon(pool: SessionPool, path: str) -> None:
    """A colon in a path is part of a name, as in Google's custom methods."""
    async with byte_server(answers(FINE)) as server:
        await ToyClient(pool, base_url=server.url + "v1").request("GET", path)
        assert server.arrived[0].target == "/v1/" + path.removeprefix("/")


async def test_request_rejects_two_bodies_and_unknown_methods(pool: SessionPool) -> None:
    """`request` rejects two bodies, and methods that HTTP APIs do not use."""
    client = ToyClient(pool)
    with pytest.raises(ValueError, match="not both"):
        await client.request("POST", "x", json={}, form={})
    with pytest.raises(ValueError, match="method must be one of"):
        await client.request("CONNECT", "x")
    with pytest.raises(ValueError, match="method must be one of"):
        await client.request("GET\r\n", "x")


async def test_request_knows_what_may_be_repeated() -> None:
    """By default GET, PUT and DELETE are retried, POST and PATCH are not."""
    async with SessionPool(retry=QUICK) as pool:
        for method, idempotent, requests in (
            ("GET", None, 2),
            ("PUT", None, 2),
            ("POST", True, 2),
            ("POST", None, 1),
            ("PATCH", None, 1),
            ("PUT", False, 1),
        ):
            async with byte_server(hangs_up, answers(FINE)) as server:
                client = ToyClient(pool, base_url=server.url)
                try:
                    await client.request(method, "things", idempotent=idempotent)
                except OutcomeUnknownError:
                    assert requests == 1
                assert len(server.arrived) == requests, (method, idempotent)


async def test_request_decodes_the_response_type(pool: SessionPool) -> None:
    """A response that is not of `response_type` is a `DecodeError` of this call."""
    async with byte_server(answers(http(body=b"[1, 2]"))) as server:
        client = ToyClient(pool, base_url=server.url)
        assert await client.request("GET", "x", response_type=list[int]) == [1, 2]
        with pytest.raises(DecodeError) as caught:
            await client.request("GET", "x", response_type=Thing)
        assert (caught.value.operation, caught.value.path) == ("request", "/x")


async def test_body_without_json_form_is_rejected(pool: SessionPool) -> None:
    """A body without a JSON form is a `TypeError` or `ValueError`; nothing is sent."""
    async with byte_server(answers(FINE)) as server:
        client = ToyClient(pool, base_url=server.url)
        with pytest.raises(TypeError):
            await client.request("POST", "x", json={"a": object()})
        with pytest.raises(ValueError, match="no form as a flat field"):
            await client.request("POST", "x", form={"a": [1]})
        assert server.arrived == []
        assert await client.request("POST", "x", json={}) == {"id": 1}
