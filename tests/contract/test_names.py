"""The names and parameters that programs use.

A change that breaks a test here breaks the programs of users.
"""

from __future__ import annotations

import inspect
import pydoc
from importlib import import_module
from typing import Any, Final

import pytest

import asyncclients
from asyncclients import (
    AsyncClientsError,
    DeadlineExceededError,
    DigitalOnboardingClient,
    EmmaClient,
    IntemptClient,
    IntouchClient,
    Options,
    Priority,
    Quota,
    RateLimitedError,
    SessionPool,
    TotangoClient,
    UnprocessableEntityError,
)
from asyncclients.core.client import VendorClient
from asyncclients.sandbox import Sandbox
from tests.support.clients import CLIENTS

ERRORS: Final = {
    "ConfigurationError": "AsyncClientsError",
    "ClientClosedError": "AsyncClientsError",
    "WrongEventLoopError": "AsyncClientsError",
    "DeadlineExceededError": "AsyncClientsError",
    "PaginationError": "AsyncClientsError",
    "DecodeError": "AsyncClientsError",
    "ResponseTooLargeError": "AsyncClientsError",
    "UnexpectedRedirectError": "AsyncClientsError",
    "NoResponseError": "AsyncClientsError",
    "ConnectError": "NoResponseError",
    "DisconnectedError": "NoResponseError",
    "AttemptTimeoutError": "NoResponseError",
    "TLSError": "NoResponseError",
    "OutcomeUnknownError": "AsyncClientsError",
    "TokenError": "AsyncClientsError",
    "TokenRejectedError": "TokenError",
    "TokenEndpointError": "TokenError",
    "StatusError": "AsyncClientsError",
    "BadRequestError": "StatusError",
    "UnauthorizedError": "StatusError",
    "ForbiddenError": "StatusError",
    "NotFoundError": "StatusError",
    "ConflictError": "StatusError",
    "UnprocessableEntityError": "StatusError",
    "RateLimitedError": "StatusError",
    "ServerError": "StatusError",
}

LISTING = "*, sort_by, order, search, page, limit"
CALLS: Final[dict[type[VendorClient], dict[str, str]]] = {
    IntouchClient: {
        "tags.list": LISTING,
        "tags.create": "name",
        "tags.get": "uuid",
        "tags.update": "uuid, name",
        "tags.delete": "uuid",
        "hierarchies.list": LISTING,
        "hierarchies.create": "hierarchy",
        "hierarchies.get": "uuid",
        "hierarchies.update": "uuid, hierarchy",
        "hierarchies.delete": "uuid",
        "contacts.list": LISTING,
        "contacts.create": "contact",
        "contacts.get": "uuid",
        "contacts.update": "uuid, contact",
        "contacts.delete": "uuid",
        "contacts.subscribe": "uuid",
        "contacts.unsubscribe": "uuid",
        "external_programs.add_record": "program_uuid, data",
        "external_programs.update_record": "program_uuid, document_id, data, meta=None",
    },
    TotangoClient: {
        "touchpoints.create": "touchpoint",
        "touchpoints.update": "note_id, touchpoint",
        "touchpoints.delete": "note_id, event_id=None, account_id=None",
        "touchpoints.list": "account_id",
        "events.list": "account_id",
        "touchpoint_types.list": "",
        "touchpoint_tags.list": "",
        "activity_types.list": "",
    },
    IntemptClient: {
        "info": "",
        "collections.get_item": "collection_id, item_id",
        "collections.delete_item": "collection_id, item_id",
        "collections.list_items": "collection_id",
        "collections.insert": "collection_id, data",
        "collections.upload_csv": "collection_id, source, *, length, progress",
        "sources.insert": "source_id, rows",
        "events.matches": "*, profile_id, master_id",
        "segmentations.latest": "*, profile_id, master_id, source_id, profile",
    },
    EmmaClient: {
        "touchpoint_types.create": "type_name, display_name",
        "touchpoint_types.list": "",
        "touchpoint_types.get": "id",
        "touchpoint_types.update": "id, type_name, display_name",
        "touchpoint_types.delete": "id",
        "touchpoints.create": "touchpoints",
        "touchpoints.create_many": "touchpoints",
        "touchpoints.list": "member_id",
        "touchpoints.get": "touchpoint_id",
        "touchpoints.delete": "touchpoint_id",
    },
    DigitalOnboardingClient: {
        "contacts.upsert": "contact",
        "contacts.upsert_many": "contacts",
        "journeys.create": "template_id, contact, *, owner_id, name",
        "templates.list": "",
        "objectives.list": "",
    },
}
STRUCTS: Final = {
    "intouch": "Tag Hierarchy NewHierarchy HierarchyUpdate Contact NewContact ContactUpdate Record",
    "totango": "NewTouchpoint TouchpointUpdate Touchpoint Event",
    "intempt": "ServiceInfo DataItem EventMatches Segmentation UploadReceipt",
    "emma": "TouchpointType NewTouchpoint Touchpoint",
    "digital_onboarding": "NewContact Contact BatchResult Journey Template Objective",
}


def words(function: Any) -> str:
    """Return the parameters as text; defaults only for optional ones."""
    said: list[str] = []
    starred = False
    for parameter in inspect.signature(function).parameters.values():
        keyword = parameter.kind is parameter.KEYWORD_ONLY
        if keyword and not starred:
            said.append("*")
            starred = True
        optional = parameter.default is not parameter.empty and not keyword
        said.append(f"{parameter.name}={parameter.default}" if optional else parameter.name)
    return ", ".join(said)


def defaults(function: Any) -> dict[str, Any]:
    """Return the keyword-only parameters that have defaults."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not parameter.empty
    }


def test_package_exports_the_documented_names() -> None:
    """Pool, clients, values, middleware, every error and the version; `dir` lists them."""
    names = {client.__name__ for client in CLIENTS} | ERRORS.keys()
    names |= {"SessionPool", "Quota", "Priority", "Options", "RetryPolicy", "quota_middleware"}
    assert [name for name in sorted(names) if not hasattr(asyncclients, name)] == []
    assert names <= set(dir(asyncclients))
    assert asyncclients.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        getattr(asyncclients, "Nonsense")  # noqa: B009 - type checkers know that it is missing


@pytest.mark.parametrize("package", [*(f"vendors.{name}" for name in STRUCTS), "sandbox"])
def test_help_of_a_package_describes_its_exports(package: str) -> None:
    """`help` of a package of a vendor or the sandbox describes each class and function of it."""
    module = import_module(f"asyncclients.{package}")
    printed = pydoc.plain(pydoc.render_doc(module))
    names = {*STRUCTS.get(package.removeprefix("vendors."), "Sandbox Summary status").split()}
    assert [name for name in sorted(names) if f"{name}(" not in printed] == []
    assert names <= {*module.__all__}
    assert not {"client", "models", "vendor"} & {*module.__all__}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_have_the_documented_bases(name: str) -> None:
    """Each error has its documented base, so `except` catches what is documented."""
    cls = getattr(asyncclients, name)
    assert cls.__bases__[0].__name__ == ERRORS[name]
    assert issubclass(cls, AsyncClientsError)


def test_errors_have_the_documented_attributes() -> None:
    """Every error has the facts of its call; some have attributes of their own."""
    error = AsyncClientsError("no")
    for fact in ("vendor", "operation", "method", "path", "status", "attempts", "advice"):
        assert getattr(error, fact) is None
    assert DeadlineExceededError(eta=2.0).eta == 2.0
    assert RateLimitedError(retry_after=3.0).retry_after == 3.0
    assert UnprocessableEntityError(errors={"a": ["b"]}).errors == {"a": ["b"]}
    assert asyncclients.ConnectError().sent == "no"
    assert asyncclients.DisconnectedError().sent == "maybe"
    assert issubclass(asyncclients.AttemptTimeoutError, TimeoutError)
    assert issubclass(asyncclients.DeadlineExceededError, TimeoutError)


@pytest.mark.parametrize("vendor", STRUCTS)
def test_vendor_modules_export_their_structs(vendor: str) -> None:
    """Everything that calls accept and return comes from `asyncclients.vendors.<vendor>`."""
    module = import_module(f"asyncclients.vendors.{vendor}")
    assert [name for name in STRUCTS[vendor].split() if not hasattr(module, name)] == []


def test_pool_has_the_documented_parameters() -> None:
    """They are keyword-only and have the documented defaults."""
    found = defaults(SessionPool)
    assert found.pop("retry") == asyncclients.RetryPolicy()
    assert found == {
        "session": None,
        "max_connections": 100,
        "timeout": 60.0,
        "limits": None,
        "tokens": None,
        "max_response_bytes": 64 * 2**20,
        "admission": "adaptive",
        "cold_start": "empty",
        "listeners": (),
        "ssl": None,
        "proxy": None,
        "validate": True,
    }


def test_call_options_have_the_documented_fields() -> None:
    """Each has a default, and `with_options` accepts the same names."""
    assert defaults(Options) == {
        "priority": Priority.INTERACTIVE,
        "timeout": None,
        "deadline": None,
        "max_attempts": None,
        "flow": None,
        "retry_unsafe": False,
        "headers": None,
        "share": None,
    }
    assert [priority.name for priority in Priority] == ["INTERACTIVE", "BACKGROUND"]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda cls: cls.__name__)
def test_clients_have_the_same_constructor(client: type[VendorClient]) -> None:
    """Constructors take *pool*, credentials, and the same four options; the methods are the same."""
    parameters = inspect.signature(client).parameters
    positional = [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == ["pool"]
    assert CLIENTS[client].keys() <= parameters.keys()
    common = ("base_url", "quotas", "max_in_flight", "quota_key")
    assert [parameters[name].default for name in common] == [None] * 4
    assert list(inspect.signature(client.from_env).parameters)[:2] == ["pool", "environ"]
    assert words(client.request) == (
        "self, method, path, *, params, json, form, headers, response_type, idempotent, cost"
    )
    assert words(client.eta) == "self, calls=1"


@pytest.mark.parametrize("client", CALLS, ids=lambda cls: cls.__name__)
async def test_resources_have_the_documented_methods(client: type[VendorClient]) -> None:
    """Every resource has its methods, with the names and order of their parameters."""
    made: Any = client(SessionPool(), **CLIENTS[client])
    for name, documented in CALLS[client].items():
        method = made
        for part in name.split("."):
            method = getattr(method, part)
        assert words(method) == documented, name


async def test_stats_have_the_documented_fields() -> None:
    """`stats` returns a tuple of frozen values, one per scope in use."""
    pool = SessionPool()
    assert pool.stats() == ()
    IntouchClient(pool, api_key="key-4711").eta()
    (stats,) = pool.stats()
    assert (stats.vendor, stats.quotas, stats.held) == ("intouch", (Quota(2, 1.0),), 0)
    assert stats.queued == {"interactive": 0, "background": 0}
    assert (stats.in_flight, stats.sent, stats.rejected) == (0, 0, 0)
    assert (stats.paused_for, stats.external_rate) == (0.0, 0.0)
    assert "key-4711" not in stats.scope
    writable: Any = stats
    with pytest.raises(AttributeError):
        writable.sent = 1


def test_sandbox_accepts_quotas_and_seed() -> None:
    """By position or by name; it rejects an address that other machines could reach."""
    parameters = inspect.signature(Sandbox).parameters
    assert list(parameters)[:2] == ["quotas", "seed"]
    assert (parameters["quotas"].default, parameters["seed"].default) == (None, 0)
    with pytest.raises(ValueError, match="loopback only"):
        Sandbox(host="0.0.0.0")
