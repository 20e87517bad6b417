"""The five clients, each with the credentials that it takes, none of them real."""

from __future__ import annotations

from typing import Any, Final

from asyncclients import (
    DigitalOnboardingClient,
    EmmaClient,
    IntemptClient,
    IntouchClient,
    TotangoClient,
)
from asyncclients.core.client import VendorClient

CLIENTS: Final[dict[type[VendorClient], dict[str, Any]]] = {
    IntouchClient: {"api_key": "key-4711"},
    TotangoClient: {"app_token": "key-4711"},
    IntemptClient: {"api_key": "key-4711", "org": "acme"},
    EmmaClient: {"account_id": "100", "public_key": "pub-4711", "private_key": "key-4711"},
    DigitalOnboardingClient: {"client_id": "id-4711", "client_secret": "key-4711"},
}

BY_VENDOR: Final[dict[Any, type[VendorClient]]] = {client.vendor.name: client for client in CLIENTS}
"""The clients by the name of their vendor."""
