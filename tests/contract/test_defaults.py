"""Defaults of addresses, quotas and the environment."""

from __future__ import annotations

from typing import Any, Final

import pytest

from asyncclients import (
    ConfigurationError,
    DigitalOnboardingClient,
    EmmaClient,
    IntemptClient,
    IntouchClient,
    Quota,
    SessionPool,
    TotangoClient,
)
from asyncclients.core.client import VendorClient
from tests.support.clients import CLIENTS

VENDORS: Final[dict[type[VendorClient], tuple[str, tuple[Quota, ...], int | None]]] = {
    IntouchClient: ("https://api.intouchinsight.com/public/v1/", (Quota(2, 1.0),), None),
    TotangoClient: ("https://api.totango.com/", (Quota(100, 60.0),), None),
    IntemptClient: ("https://api.intempt.com/", (Quota(10, 1.0),), None),
    EmmaClient: ("https://api.e2ma.net/", (Quota(180, 60.0),), 4),
    DigitalOnboardingClient: ("https://api.digitalonboarding.com/", (Quota(10, 1.0),), None),
}


@pytest.mark.parametrize("client", VENDORS, ids=lambda cls: cls.__name__)
async def test_client_defaults_to_production_address_and_published_quota(
    client: type[VendorClient],
) -> None:
    """The defaults are the production address and the published quota; `quotas` replaces it."""
    base_url, quotas, in_flight = VENDORS[client]
    made = client(SessionPool(), **CLIENTS[client])
    assert made.base_url == base_url
    assert made.stats().quotas == quotas
    assert made.vendor.max_in_flight == in_flight
    other: Any = client
    replaced = other(SessionPool(), **CLIENTS[client], quotas=[Quota(7, 3.0)])
    assert replaced.stats().quotas == (Quota(7, 3.0),)


def test_totango_region_selects_the_host() -> None:
    """`region="eu"` and `TOTANGO_REGION=eu` select the European host."""
    pool = SessionPool()
    environ = {"TOTANGO_APP_TOKEN": "key-4711", "TOTANGO_REGION": "eu"}
    for client in (
        TotangoClient(pool, app_token="key-4711", region="eu"),
        TotangoClient.from_env(pool, environ),
    ):
        assert client.base_url == "https://api-eu1.totango.com/"


ENVIRONMENT: Final[dict[type[VendorClient], str]] = {
    IntouchClient: "INTOUCH_API_KEY",
    TotangoClient: "TOTANGO_APP_TOKEN",
    IntemptClient: "INTEMPT_API_KEY INTEMPT_ORG",
    EmmaClient: "EMMA_ACCOUNT_ID EMMA_PUBLIC_KEY EMMA_PRIVATE_KEY",
    DigitalOnboardingClient: "DIGITAL_ONBOARDING_CLIENT_ID DIGITAL_ONBOARDING_CLIENT_SECRET",
}


@pytest.mark.parametrize("client", ENVIRONMENT, ids=lambda cls: cls.__name__)
def test_from_env_reads_the_documented_variables(client: type[VendorClient]) -> None:
    """All variables together make a client, `<VENDOR>_BASE_URL` included; a missing one is named."""
    names = ENVIRONMENT[client].split()
    environ = dict.fromkeys(names, "value-4711")
    address = f"{client.vendor.name.upper()}_BASE_URL"
    made = client.from_env(SessionPool(), {**environ, address: "http://127.0.0.1:8080/x"})
    assert made.base_url == "http://127.0.0.1:8080/x/"
    for name in names:
        without = {other: value for other, value in environ.items() if other != name}
        with pytest.raises(ConfigurationError, match=name):
            client.from_env(SessionPool(), without)
    for bad in ("http://example.com", "https://user:pass@example.com", "ftp://example.com"):
        with pytest.raises(ConfigurationError, match=address):
            client.from_env(SessionPool(), {**environ, address: bad})
