"""One call, of any vendor. Authors of clients of their own vendors import from here.

Each name is loaded at first use.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncclients.core.auth import Login as Login
    from asyncclients.core.auth import api_key as api_key
    from asyncclients.core.auth import basic as basic
    from asyncclients.core.auth import client_credentials as client_credentials
    from asyncclients.core.client import VendorClient as VendorClient
    from asyncclients.core.constraints import AnyOf as AnyOf
    from asyncclients.core.constraints import Constraint as Constraint
    from asyncclients.core.constraints import choice as choice
    from asyncclients.core.constraints import text as text
    from asyncclients.core.endpoint import Endpoint as Endpoint
    from asyncclients.core.endpoint import Request as Request
    from asyncclients.core.endpoint import Resource as Resource
    from asyncclients.core.endpoint import Response as Response
    from asyncclients.core.endpoint import Send as Send
    from asyncclients.core.endpoint import endpoint_of as endpoint_of
    from asyncclients.core.endpoint import operation as operation
    from asyncclients.core.vendor import ResponseKind as ResponseKind
    from asyncclients.core.vendor import Vendor as Vendor
    from asyncclients.core.vendor import classify_response as classify_response
    from asyncclients.core.vendor import sync_target_of as sync_target_of
else:
    from asyncclients.lazy import lazy

    __getattr__, __dir__, __all__ = lazy(
        __name__,
        {
            "auth": "Login api_key basic client_credentials",
            "client": "VendorClient",
            "constraints": "AnyOf Constraint choice text",
            "endpoint": "Endpoint Request Resource Response Send endpoint_of operation",
            "vendor": "ResponseKind Vendor classify_response sync_target_of",
        },
    )
