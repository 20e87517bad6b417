"""What holds when a program says nothing: addresses, quotas, and the environment."""

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
from tests.contract.credentials import CLIENTS

VENDORS: Final[dict[type[VendorClient], tuple[str, tuple[Quota, ...], int | None]]] = {
    IntouchClient: ("https://api.intouchinsight.com/public/v1/", (Quota(2, 1.0),), None),
    TotangoClient: ("https://api.totango.com/", (Quota(100, 60.0),), None),
    IntemptClient: ("https://api.intempt.com/", (Quota(10, 1.0),), None),
    EmmaClient: ("https://api.e2ma.net/", (Quota(180, 60.0),), 4),
    DigitalOnboardingClient: ("https://api.digitalonboarding.com/", (Quota(10, 1.0),), None),
}


@pytest.mark.parametrize("client", VENDORS, ids=lambda cls: cls.__name__)
async def test_each_client_knows_its_vendors_address_and_limits(client: type[VendorClient]) -> None:
    """By default the production address and the published quota; `quotas` replaces it."""
    base_url, quotas, in_flight = VENDORS[client]
    made = client(SessionPool(), **CLIENTS[client])
    assert made.base_url == base_url
    assert made.stats().quotas == quotas
    assert made.facts.max_in_flight == in_flight
    other: Any = client
    replaced = other(SessionPool(), **CLIENTS[client], quotas=[Quota(7, 3.0)])
    assert replaced.stats().quotas == (Quota(7, 3.0),)


def test_totango_has_two_regions() -> None:
    """`region="eu"` is another host; `TOTANGO_REGION` says the same in the environment."""
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
def test_clients_are_made_from_the_documented_variables(client: type[VendorClient]) -> None:
    """With all of them a client is made, `<VENDOR>_BASE_URL` included; without one it is named."""
    names = ENVIRONMENT[client].split()
    environ = dict.fromkeys(names, "value-4711")
    address = f"{client.facts.name.upper()}_BASE_URL"
    made = client.from_env(SessionPool(), {**environ, address: "http://127.0.0.1:8080/x"})
    assert made.base_url == "http://127.0.0.1:8080/x/"
    for name in names:
        without = {other: value for other, value in environ.items() if other != name}
        with pytest.raises(ConfigurationError, match=name):
            client.from_env(SessionPool(), without)
    for bad in ("http://example.com", "https://user:pass@example.com", "ftp://example.com"):
        with pytest.raises(ConfigurationError, match=address):
            client.from_env(SessionPool(), {**environ, address: bad})
