"""Wrong arguments are rejected where they are passed, by an error that shows the right form."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncclients import (
    AsyncClientsError,
    ConfigurationError,
    DigitalOnboardingClient,
    EmmaClient,
    IntemptClient,
    IntouchClient,
    Options,
    Priority,
    Quota,
    RetryPolicy,
    SessionPool,
    TotangoClient,
    quota_middleware,
)
from asyncclients.core.client import VendorClient
from asyncclients.errors import UnexpectedRedirectError
from asyncclients.integrations.monitor import Monitor
from asyncclients.middleware import QuotaMiddleware
from asyncclients.stores import FileLimits, FileTokens
from asyncclients.stores.redis import RedisLimits, RedisTokens
from asyncclients.vendors.intempt.client import Collections
from tests.support.byte_server import answers, byte_server, http
from tests.support.clients import CLIENTS
from tests.support.leaks import CANARY, leaks

NAN, INF = float("nan"), float("inf")
SECONDS: Final = [
    *[0, 0.0, -1, -0.5, NAN, INF, -INF, 10**400, True, "30", timedelta(seconds=3), [1]],
    Decimal("0.5"),
]
"""Values that are no number of seconds above 0."""
COUNTS: Final = [0, -1, NAN, INF, 1.0, 2.5, True, False, "3", [1], 1 + 0j]
"""Values that are no whole number of at least 1."""
TEXTS: Final = [4711, b"key", ["key"], True, 1.5, object()]
"""Values that are no text."""

Row = tuple[Callable[..., Any], dict[str, Any], tuple[str, ...]]
"""A call, its wrong argument, and what the error has to contain."""

BAD_URLS: Final[list[Any]] = [None, 5, b"x", [], "x", "http://x", "redis://"]
"""Values that are no address of a Redis."""

FORM: Final = "quotas=[Quota(2, 1.0)]"
QUOTAS: Final[list[Any]] = [
    (2, 1),
    [(2, 1.0)],
    [Quota(2, 1.0), (100, 60.0)],
    Quota(2, 1.0),
    2,
    "2/1",
    {"intouch": (2, 1.0)},
    [None],
    [Quota],
]


async def request(method: Any = "GET", path: Any = "x", **arguments: Any) -> None:
    """`client.request` with *arguments* beside a method and a path."""
    client = IntouchClient(SessionPool(), api_key="k")
    await client.request(method, path, **arguments)


def middleware(**arguments: Any) -> QuotaMiddleware:
    """`quota_middleware` with a quota and *arguments*."""
    return quota_middleware(Quota(2, 1.0), **arguments)


def client(api_key: Any = "k", **arguments: Any) -> object:
    """`IntouchClient` with *arguments*."""
    return IntouchClient(SessionPool(), api_key=api_key, **arguments)


def from_env(**arguments: Any) -> object:
    """`IntouchClient.from_env` with *arguments*."""
    return IntouchClient.from_env(SessionPool(), {"INTOUCH_API_KEY": "k"}, **arguments)


def with_options(**arguments: Any) -> object:
    """`with_options` of a client."""
    return IntouchClient(SessionPool(), api_key="k").with_options(**arguments)


async def a_coroutine(_: Any) -> None:
    """Not a function of a request."""


def returns(value: object) -> Callable[[Any], Any]:
    """A function of a request that returns *value*; from a function, what that returns."""
    return lambda request: value(request) if callable(value) else value


def rows(call: Callable[..., Any], name: str, values: list[Any], *forms: str) -> list[Row]:
    """One row for each wrong value of one argument."""
    return [(call, {name: value}, (name, *forms)) for value in values]


WRONG: Final[list[Row]] = [
    *rows(SessionPool, "max_connections", COUNTS, "whole number of at least 1"),
    *rows(SessionPool, "max_response_bytes", COUNTS, "whole number of at least 1"),
    *rows(SessionPool, "timeout", SECONDS, "finite number of seconds above 0", "30.0"),
    *rows(SessionPool, "retry", [None, 3, {}, RetryPolicy], "RetryPolicy(max_attempts=3)"),
    *rows(SessionPool, "session", ["s", 1, aiohttp.ClientSession], "aiohttp.ClientSession()"),
    *rows(
        SessionPool,
        "limits",
        [f"redis://:{CANARY}@x", Path("limits.db"), FileLimits, 5],
        "RedisLimits(url)",
        "FileLimits(path)",
    ),
    *rows(SessionPool, "tokens", [f"redis://:{CANARY}@x", Path("t"), 5], "FileTokens(path)"),
    *rows(SessionPool, "listeners", [print, 5, None, [5], {print}, [a_coroutine]], "listeners=["),
    *rows(SessionPool, "admission", ["bold", None, 1, ["exact"]], "'adaptive' or 'exact'"),
    *rows(SessionPool, "cold_start", ["warm", None, 1, ["full"]], "'empty' or 'full'"),
    *rows(RetryPolicy, "max_attempts", COUNTS, "whole number of at least 1"),
    *rows(RetryPolicy, "max_retries", [n for n in COUNTS if n != 0], "at least 0"),
    *rows(RetryPolicy, "max_rate_limited", [-1, NAN, True, "3"], "at least 0"),
    *rows(RetryPolicy, "base", [n for n in SECONDS if n != 0], "number of seconds", "60.0"),
    *rows(RetryPolicy, "cap", [n for n in SECONDS if n != 0], "number of seconds", "60.0"),
    *rows(RetryPolicy, "longest_retry_after", [-1, NAN, INF, True, "9"], "number of seconds"),
    (RetryPolicy, {"base": 31.0}, ("base", "cap", "RetryPolicy(base=0.5, cap=30.0)")),
    *[
        row
        for options in (Options, with_options)
        for row in (
            *rows(options, "timeout", SECONDS, "number of seconds above 0", "30.0"),
            *rows(options, "deadline", SECONDS, "number of seconds above 0", "30.0"),
            *rows(options, "max_attempts", COUNTS, "at least 1", "max_attempts=1"),
            *rows(
                options,
                "priority",
                [0, 1, 2, True, None, "interactive", "BACKGROUND", Priority],
                "Priority.BACKGROUND",
            ),
            *rows(options, "flow", [1, b"x", ["x"], True], "flow='nightly'"),
            *rows(options, "retry_unsafe", [1, 0, "yes", None], "retry_unsafe=True"),
        )
    ],
    *[
        row
        for call in (Options, with_options, request)
        for row in (
            *rows(call, "headers", [[("a", "b")], "a: b", 5], "{'name': 'value'}"),
            *rows(
                call,
                "headers",
                [{"X": 1}, {"X": b"1"}, {"X": None}, {1: "x"}, {b"X": "x"}, {"X": ["a"]}],
                "headers={'X-Trace': '1'}",
            ),
            *rows(
                call,
                "headers",
                [{"": "x"}, {"a b": "x"}, {"a:": "x"}, {"ä": "x"}, {"X": "a\nb"}, {"X": "\0"}],
                "no header may have",
            ),
        )
    ],
    *rows(partial(Quota, period=1.0), "limit", COUNTS, "Quota(2, 1.0)"),
    *rows(partial(Quota, limit=1), "period", SECONDS, "Quota(100, 60.0)"),
    *[
        row
        for call in (client, from_env)
        for row in (
            *rows(call, "quotas", QUOTAS, FORM),
            *rows(call, "max_in_flight", COUNTS, "whole number of at least 1"),
            *rows(call, "base_url", TEXTS, "base_url='https://api.example.com/'"),
        )
    ],
    *rows(request, "params", [[("a", 1)], "a=1", 5], "params={'name': 'value'}"),
    *rows(request, "form", [[("a", 1)], "a=1", 5], "form={'name': 'value'}"),
    *rows(
        request,
        "response_type",
        [5, "Tag", b"x", [int], int | bytes | memoryview | list[int] | tuple[int, ...]],
        "response_type=list[Item]",
    ),
    *rows(partial(Monitor, SessionPool()), "port", [-1, True, 1.5, "80"], "any free one"),
    *rows(request, "idempotent", [0, "yes"], "idempotent=True"),
    *rows(request, "method", [None, 5, b"GET", "GRAB"], "GET, POST, PUT, DELETE, PATCH"),
    *rows(request, "path", [None, 5, b"x", ["x"]], "'contacts/1'"),
    (quota_middleware, {}, ("quota_middleware(Quota(2, 1.0))",)),
    *rows(FileLimits, "path", [None, 5, b"x", ["x"]], "FileLimits('limits.db')"),
    *rows(FileTokens, "path", [None, 5, b"x", ["x"]], "FileTokens('tokens.json')"),
    *rows(partial(FileLimits, "x"), "lease", [*SECONDS, 1.5], "at most 1 s", "lease=0.1"),
    *rows(partial(FileLimits, "x"), "when_down", ["go", None, ["local"]], "'safe_share'"),
    *[
        row
        for store in (RedisLimits, RedisTokens)
        for row in (
            *[(store, {"url": url}, ("redis://host:6379/0",)) for url in BAD_URLS],
            *rows(partial(store, "redis://localhost"), "prefix", [None, 5, b"x"], "prefix='"),
        )
    ],
    *rows(middleware, "scope", [5, "host", a_coroutine], "lambda request: request.url.host"),
    *rows(middleware, "priority", [Priority.BACKGROUND, a_coroutine], "lambda request: Priority"),
    *rows(middleware, "admission", ["bold", None], "'adaptive' or 'exact'"),
    *[
        (partial(quota_middleware, quotas), {}, ("quota_middleware(Quota(2, 1.0)",))
        for quotas in QUOTAS
        if not isinstance(quotas, Quota)
    ],
    *rows(client, "api_key", TEXTS, "must be text", "api_key='...'", "INTOUCH_API_KEY"),
    *rows(from_env, "api_key", TEXTS, "must be text", "api_key='...'", "INTOUCH_API_KEY"),
    *rows(client, "api_key", [None, ""], "api_key='...'", "INTOUCH_API_KEY"),
]


def _name(value: object) -> str:
    return getattr(value, "__name__", None) or re.sub(" at 0x[0-9a-f]+", "", ascii(value))[:40]


@pytest.mark.parametrize(("call", "arguments", "forms"), WRONG, ids=_name)
async def test_wrong_argument_is_rejected_before_sending(
    call: Callable[..., Any], arguments: dict[str, Any], forms: tuple[str, ...]
) -> None:
    """The error names the argument and shows no credential; no request is sent."""
    expected = ValueError if call is request else ConfigurationError

    async def make() -> None:
        made = call(**arguments)
        if inspect.isawaitable(made):
            await made

    with pytest.raises(expected) as caught:
        await make()
    assert [form for form in forms if form not in str(caught.value)] == []
    assert CANARY not in str(caught.value)


# --- Credentials ------------------------------------------------------------------------

CREDENTIALS: Final = [
    (made, name, made.vendor.environment[name])
    for made, arguments in CLIENTS.items()
    for name in arguments
]


@pytest.mark.parametrize("wrong", [*TEXTS, None, "", "key\n", "\ud800", bytearray(b"x")])
@pytest.mark.parametrize(("made", "name", "variable"), CREDENTIALS)
def test_constructor_rejects_a_credential_of_another_type(
    made: type[VendorClient], name: str, variable: str, wrong: Any
) -> None:
    """The error names the argument and its environment variable."""
    if name == "account_id" and wrong == 4711:
        return
    call: Any = made
    with pytest.raises(ConfigurationError) as caught:
        call(SessionPool(), **{**CLIENTS[made], name: wrong})
    assert name in str(caught.value)
    assert variable in str(caught.value)
    assert (caught.value.vendor, "4711" in str(caught.value)) == (made.vendor.name, False)


@pytest.mark.parametrize(("made", "name", "variable"), CREDENTIALS)
def test_from_env_rejects_a_variable_of_another_type(
    made: type[VendorClient], name: str, variable: str
) -> None:
    """A mapping passed as environment may hold values that are not text."""
    if name == "account_id":
        return
    environ: dict[str, Any] = dict.fromkeys(made.vendor.environment.values(), "value")
    environ[variable] = 4711
    with pytest.raises(ConfigurationError, match=f"{name}.*{variable}"):
        made.from_env(SessionPool(), environ)


@pytest.mark.parametrize(
    ("made", "name"), [(EmmaClient, "public_key"), (DigitalOnboardingClient, "client_id")]
)
def test_basic_user_name_rejects_a_colon(made: type[VendorClient], name: str) -> None:
    """Servers split user name and password at the first colon; a password may have colons."""
    call: Any = made
    with pytest.raises(ConfigurationError, match="contains a colon") as caught:
        call(SessionPool(), **{**CLIENTS[made], name: f"user:{CANARY}"})
    assert leaks(caught.value, CANARY) == []
    call(SessionPool(), **{key: "a:b" if key != name else "a" for key in CLIENTS[made]})


@pytest.mark.parametrize("region", ["asia", "US", "", 5, None, ["us"], b"us"])
def test_constructor_rejects_an_unknown_region(region: Any) -> None:
    """An unknown region is an error even if `base_url` makes it irrelevant."""
    for base_url in (None, "https://example.com/"):
        with pytest.raises(ConfigurationError, match="region must be one of us, eu"):
            TotangoClient(SessionPool(), app_token="t", region=region, base_url=base_url)


@pytest.mark.parametrize("org", ["", ".", "..", "a\nb", 5, None, b"acme"])
def test_constructor_rejects_an_organization_unfit_for_a_path(org: Any) -> None:
    """The error names the environment variable."""
    with pytest.raises(ConfigurationError, match="INTEMPT_ORG"):
        IntemptClient(SessionPool(), api_key="k", org=org)


@pytest.mark.parametrize("account", ["", " ", ".", "..", "a\nb", None, True, 1.5, b"100", ["1"]])
def test_constructor_rejects_an_account_unfit_for_a_path(account: Any) -> None:
    """The error names the environment variable."""
    with pytest.raises(ConfigurationError, match="EMMA_ACCOUNT_ID"):
        EmmaClient(SessionPool(), account_id=account, public_key="a", private_key="b")


# --- from_env -----------------------------------------------------------------------------


@pytest.mark.parametrize("made", CLIENTS)
def test_from_env_has_the_keywords_of_the_constructor(made: type[VendorClient]) -> None:
    """It has exactly the constructor's keywords and types, so Python and checkers find typos."""
    constructor = dict(inspect.signature(made.__init__).parameters)
    found = dict(inspect.signature(made.from_env).parameters)
    assert list(found)[:2] == ["pool", "environ"]
    del constructor["self"], found["environ"]
    assert list(found) == list(constructor)
    for name, parameter in found.items():
        assert parameter.kind == constructor[name].kind
        wanted = constructor[name].annotation.removesuffix(" | None")
        assert parameter.annotation.removesuffix(" | None") == wanted
    call: Any = made
    for misspelt in ("quota", "max_inflight", "baseurl", "apikey"):
        with pytest.raises(TypeError, match=misspelt):
            call.from_env(SessionPool(), {}, **{misspelt: None})
        with pytest.raises(TypeError, match=misspelt):
            call(SessionPool(), **CLIENTS[made], **{misspelt: None})


@pytest.mark.parametrize("made", CLIENTS)
def test_from_env_argument_replaces_its_variable(made: type[VendorClient]) -> None:
    """An argument replaces its variable, whether that is set or not."""
    call: Any = made
    environ = dict.fromkeys(made.vendor.environment.values(), "other")
    address = f"{made.vendor.name.upper()}_BASE_URL"
    for variables in ({}, {**environ, address: "https://other.example.com/"}):
        built = call.from_env(
            SessionPool(), variables, **CLIENTS[made], base_url="https://api.example.com"
        )
        assert built.base_url == "https://api.example.com/"
        login = built._config.login
        assert login == call(SessionPool(), **CLIENTS[made])._config.login


@pytest.mark.parametrize("made", CLIENTS)
def test_from_env_traceback_shows_no_credential(made: type[VendorClient]) -> None:
    """A traceback with locals shows neither the arguments nor the environment."""
    call: Any = made
    address = f"https://user:{CANARY}@example.com"
    for arguments in ({"base_url": address}, {"quotas": 5}):
        given = {
            name: CANARY if name not in {"account_id", "org"} else text
            for name, text in CLIENTS[made].items()
        }
        environ = dict.fromkeys(made.vendor.environment.values(), CANARY)
        with pytest.raises(ConfigurationError) as caught:
            call.from_env(SessionPool(), environ, **given, **arguments)
        assert leaks(caught.value, CANARY) == []


@pytest.mark.parametrize("pool", [None, {}, "key", SessionPool, aiohttp.ClientSession])
@pytest.mark.parametrize("made", CLIENTS)
def test_constructor_rejects_another_type_of_pool(made: type[VendorClient], pool: Any) -> None:
    """The error explains how to wrap a session in a pool."""
    call: Any = made
    with pytest.raises(ConfigurationError, match=r"SessionPool\(session=session\)"):
        call(pool, **CLIENTS[made])
    with pytest.raises(ConfigurationError, match=r"SessionPool\(session=session\)"):
        call.from_env(pool, {})


@pytest.mark.parametrize("environ", ["INTOUCH_API_KEY", ["INTOUCH_API_KEY=k"], 5])
def test_from_env_rejects_an_environment_that_is_no_mapping(environ: Any) -> None:
    """The error shows the right form."""
    with pytest.raises(ConfigurationError, match="environ must be a mapping"):
        IntouchClient.from_env(SessionPool(), environ)


# --- In use -------------------------------------------------------------------------------


@pytest.mark.parametrize("calls", COUNTS)
async def test_eta_rejects_a_count_below_one(calls: Any) -> None:
    """`eta` needs a count of at least one call."""
    async with SessionPool() as pool:
        with pytest.raises(ConfigurationError, match="calls must be a whole number"):
            IntouchClient(pool, api_key="k").eta(calls)


@pytest.mark.parametrize(
    ("arguments", "form"),
    [
        ({"scope": returns(["host"])}, "request.url.host"),
        ({"scope": returns(set[str]())}, "request.url.host"),
        ({"scope": returns(a_coroutine)}, "request.url.host"),
        ({"priority": returns(0)}, "Priority.BACKGROUND"),
        ({"priority": returns("background")}, "Priority.BACKGROUND"),
        ({"priority": returns(None)}, "Priority.BACKGROUND"),
        ({"priority": returns(a_coroutine)}, "Priority.BACKGROUND"),
    ],
)
async def test_middleware_rejects_a_wrong_result_of_its_function(
    arguments: dict[str, Any], form: str
) -> None:
    """The request fails before it is sent, and the session stays usable."""
    limited = middleware(**arguments)
    async with byte_server(answers(http())) as server:
        async with aiohttp.ClientSession(middlewares=(limited,)) as session:
            with pytest.raises(ConfigurationError) as caught:
                await session.get(server.url)
        assert form in str(caught.value)
        assert server.arrived == []


BAD_HOSTS: Final = [
    "a..com",
    "a" * 64 + ".com",
    ".com",
    "ü" * 70 + ".com",
    "a<b.com",
    "a\u3002.com",
    "\u2024",
    "a\u2024\u2024b",
    "%0\u00aa",
]


@pytest.mark.parametrize("host", BAD_HOSTS)
@pytest.mark.parametrize("made", CLIENTS)
def test_base_url_rejects_a_host_that_cannot_be_encoded(
    made: type[VendorClient], host: str
) -> None:
    """The constructor and `from_env` reject it; `from_env` names the variable."""
    call: Any = made
    with pytest.raises(ConfigurationError, match=r"base_url .*host name"):
        call(SessionPool(), **CLIENTS[made], base_url=f"https://{host}/")
    address = f"{made.vendor.name.upper()}_BASE_URL"
    environ = dict.fromkeys(made.vendor.environment.values(), "value")
    with pytest.raises(ConfigurationError, match=rf"{address} .*host name"):
        made.from_env(SessionPool(), {**environ, address: f"https://{host}/"})


@given(st.text(min_size=1, max_size=80))
def test_base_url_host_is_rejected_or_encodable(host: str) -> None:
    """No text makes a client whose calls fail with an error of the encoder."""
    try:
        made = IntouchClient(SessionPool(), api_key="k", base_url=f"https://{host}/")
    except ConfigurationError:
        return
    assert made.base_url.isascii()
    made.base_url.split("/")[2].rpartition("@")[2].encode("idna")


def test_base_url_host_is_encoded_to_ascii() -> None:
    """The address has the ASCII form of the host, as sent on the wire."""
    made = IntouchClient(SessionPool(), api_key="k", base_url="https://bücher.example/ü")
    assert made.base_url == "https://xn--bcher-kva.example/%C3%BC/"


@pytest.mark.parametrize("host", [*BAD_HOSTS, "xn--99999999.com", "[::g]", ""])
async def test_location_with_an_unencodable_host_is_an_error(host: str, pool: SessionPool) -> None:
    """A redirect or upload link to such a host is an error of the library; no file is sent."""
    location = {"Location": f"https://{host}/x?sig=1"}
    async with byte_server(answers(http(307, headers=location))) as server:
        made = IntemptClient(pool, api_key="k", org="o", base_url=server.url)
        with pytest.raises(UnexpectedRedirectError):
            await made.request("GET", "x")
        with pytest.raises(AsyncClientsError, match="not sent"):
            await made.collections.upload_csv("1", b"a,b\n1,2\n")


@pytest.mark.parametrize(
    ("arguments", "form"),
    [
        ({"source": 5}, "path"),
        ({"source": None}, "path"),
        ({"source": ["a,b\n"]}, "async iterable"),
        ({"source": iter([b"a"])}, "async iterable"),
        ({"source": b"ab", "length": 3}, "2 bytes"),
        ({"source": b"ab", "length": "2"}, "whole number"),
        ({"source": b"ab", "length": 2.0}, "whole number"),
        ({"source": b"a", "length": True}, "whole number"),
        ({"source": b"ab", "length": -1}, "whole number"),
        ({"source": b"ab", "progress": 5}, "progress=print"),
        ({"source": b"ab", "progress": a_coroutine}, "progress=print"),
    ],
)
async def test_upload_rejects_another_type_of_source(
    arguments: dict[str, Any], form: str, pool: SessionPool
) -> None:
    """It is a ValueError, before the link is requested."""
    async with byte_server(answers(http())) as server:
        made = IntemptClient(pool, api_key="k", org="o", base_url=server.url)
        uploads: Collections = made.collections
        with pytest.raises(ValueError, match=form):
            await uploads.upload_csv("1", **arguments)
        assert server.arrived == []


async def test_valid_arguments_are_accepted(pool: SessionPool) -> None:
    """The checks reject no valid argument."""
    async with aiohttp.ClientSession() as session:
        SessionPool(session=session, timeout=1, max_connections=1, listeners=(print,))
    RetryPolicy(max_attempts=1, max_retries=0, base=0, cap=0, longest_retry_after=0)
    made = IntouchClient(pool, api_key="k", quotas=(Quota(2, 1), Quota(9, 0.5)), max_in_flight=1)
    IntouchClient(pool, api_key="k", quotas=[])
    made.with_options(timeout=1, deadline=0.5, flow="", headers={"X": "ü", "Y": "\t"})
    assert made.eta(1) == 0.0
    loop = asyncio.get_running_loop()
    assert loop.time() > 0
