"""Asyncio clients that use every request a vendor's rate limit allows, and not one more.

```python
import asyncio
from asyncclients import IntouchClient, SessionPool
from asyncclients.vendors.intouch import NewContact

async def main():
    async with SessionPool() as pool:
        intouch = IntouchClient(pool, api_key="ii_...")
        await intouch.contacts.create(NewContact(email="a@example.com"))
        async for contact in intouch.contacts.list(sort_by="created_at"):
            print(contact.uuid, contact.email)

asyncio.run(main())
```

Each name is loaded when it is first used, so that importing the package costs next to nothing.
"""

from typing import TYPE_CHECKING

from asyncclients.errors import (
    AsyncClientsError,
    AttemptTimeoutError,
    BackfillError,
    BackfillStoppedError,
    BadRequestError,
    ClientClosedError,
    ConfigurationError,
    ConflictError,
    ConnectError,
    DeadlineExceededError,
    DecodeError,
    DisconnectedError,
    ForbiddenError,
    InputError,
    InvalidValueError,
    NoResponseError,
    NotFoundError,
    OutcomeUnknownError,
    PaginationError,
    RateLimitedError,
    ResponseTooLargeError,
    ServerError,
    StateError,
    StateInUseError,
    StateMismatchError,
    StatusError,
    TLSError,
    TokenEndpointError,
    TokenError,
    TokenRejectedError,
    UnauthorizedError,
    UnexpectedRedirectError,
    UnprocessableEntityError,
    UploadError,
    WrongEventLoopError,
)
from asyncclients.lazy import lazy

if TYPE_CHECKING:
    from asyncclients.core.events import CapturedResponse, capture_responses
    from asyncclients.core.options import Options
    from asyncclients.core.pool import SessionPool
    from asyncclients.core.retry import RetryPolicy
    from asyncclients.middleware import quota_middleware
    from asyncclients.ratelimit.quota import Priority, Quota
    from asyncclients.vendors.digital_onboarding import DigitalOnboardingClient
    from asyncclients.vendors.emma import EmmaClient
    from asyncclients.vendors.intempt import IntemptClient
    from asyncclients.vendors.intouch import IntouchClient
    from asyncclients.vendors.totango import TotangoClient

__version__ = "0.1.0"

_LAZY = {
    "CapturedResponse": "asyncclients.core.events",
    "Options": "asyncclients.core.options",
    "Priority": "asyncclients.ratelimit.quota",
    "Quota": "asyncclients.ratelimit.quota",
    "RetryPolicy": "asyncclients.core.retry",
    "SessionPool": "asyncclients.core.pool",
    "capture_responses": "asyncclients.core.events",
    "quota_middleware": "asyncclients.middleware",
    "DigitalOnboardingClient": "asyncclients.vendors.digital_onboarding",
    "EmmaClient": "asyncclients.vendors.emma",
    "IntemptClient": "asyncclients.vendors.intempt",
    "IntouchClient": "asyncclients.vendors.intouch",
    "TotangoClient": "asyncclients.vendors.totango",
}

__all__ = [
    "AsyncClientsError",
    "AttemptTimeoutError",
    "BackfillError",
    "BackfillStoppedError",
    "BadRequestError",
    "CapturedResponse",
    "ClientClosedError",
    "ConfigurationError",
    "ConflictError",
    "ConnectError",
    "DeadlineExceededError",
    "DecodeError",
    "DigitalOnboardingClient",
    "DisconnectedError",
    "EmmaClient",
    "ForbiddenError",
    "InputError",
    "IntemptClient",
    "IntouchClient",
    "InvalidValueError",
    "NoResponseError",
    "NotFoundError",
    "Options",
    "OutcomeUnknownError",
    "PaginationError",
    "Priority",
    "Quota",
    "RateLimitedError",
    "ResponseTooLargeError",
    "RetryPolicy",
    "ServerError",
    "SessionPool",
    "StateError",
    "StateInUseError",
    "StateMismatchError",
    "StatusError",
    "TLSError",
    "TokenEndpointError",
    "TokenError",
    "TokenRejectedError",
    "TotangoClient",
    "UnauthorizedError",
    "UnexpectedRedirectError",
    "UnprocessableEntityError",
    "UploadError",
    "WrongEventLoopError",
    "__version__",
    "capture_responses",
    "quota_middleware",
]

__getattr__, __dir__ = lazy(__name__, _LAZY)
