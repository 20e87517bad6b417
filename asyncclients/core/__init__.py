"""One call, of any vendor. Authors of clients of their own vendors import from here.

Each name is loaded at first use.
"""

from typing import TYPE_CHECKING

from asyncclients.lazy import lazy

if TYPE_CHECKING:
    from asyncclients.core.auth import (
        ClientCredentials,
        HeaderLogin,
        Login,
        api_key,
        basic,
        client_credentials,
    )
    from asyncclients.core.client import VendorClient
    from asyncclients.core.constraints import AnyOf, Constraint, choice, text
    from asyncclients.core.endpoint import (
        Endpoint,
        Request,
        Resource,
        Response,
        Send,
        endpoint_of,
        operation,
    )
    from asyncclients.core.sync_target import sync_target_of
    from asyncclients.core.vendor import ResponseKind, Vendor, classify_response

_LAZY = {
    "AnyOf": "asyncclients.core.constraints",
    "ClientCredentials": "asyncclients.core.auth",
    "Constraint": "asyncclients.core.constraints",
    "Endpoint": "asyncclients.core.endpoint",
    "HeaderLogin": "asyncclients.core.auth",
    "Login": "asyncclients.core.auth",
    "Request": "asyncclients.core.endpoint",
    "Resource": "asyncclients.core.endpoint",
    "Response": "asyncclients.core.endpoint",
    "ResponseKind": "asyncclients.core.vendor",
    "Send": "asyncclients.core.endpoint",
    "Vendor": "asyncclients.core.vendor",
    "VendorClient": "asyncclients.core.client",
    "api_key": "asyncclients.core.auth",
    "basic": "asyncclients.core.auth",
    "choice": "asyncclients.core.constraints",
    "classify_response": "asyncclients.core.vendor",
    "client_credentials": "asyncclients.core.auth",
    "endpoint_of": "asyncclients.core.endpoint",
    "operation": "asyncclients.core.endpoint",
    "sync_target_of": "asyncclients.core.sync_target",
    "text": "asyncclients.core.constraints",
}

__all__ = [
    "AnyOf",
    "ClientCredentials",
    "Constraint",
    "Endpoint",
    "HeaderLogin",
    "Login",
    "Request",
    "Resource",
    "Response",
    "ResponseKind",
    "Send",
    "Vendor",
    "VendorClient",
    "api_key",
    "basic",
    "choice",
    "classify_response",
    "client_credentials",
    "endpoint_of",
    "operation",
    "sync_target_of",
    "text",
]

__getattr__, __dir__ = lazy(__name__, _LAZY)
