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

__version__ = "0.1.0"

if TYPE_CHECKING:
    from asyncclients.core.events import CapturedResponse as CapturedResponse
    from asyncclients.core.events import capture_responses as capture_responses
    from asyncclients.core.options import Options as Options
    from asyncclients.core.pool import SessionPool as SessionPool
    from asyncclients.core.retry import RetryPolicy as RetryPolicy
    from asyncclients.errors import AsyncClientsError as AsyncClientsError
    from asyncclients.errors import AttemptTimeoutError as AttemptTimeoutError
    from asyncclients.errors import BackfillError as BackfillError
    from asyncclients.errors import BackfillStoppedError as BackfillStoppedError
    from asyncclients.errors import BadRequestError as BadRequestError
    from asyncclients.errors import ClientClosedError as ClientClosedError
    from asyncclients.errors import ConfigurationError as ConfigurationError
    from asyncclients.errors import ConflictError as ConflictError
    from asyncclients.errors import ConnectError as ConnectError
    from asyncclients.errors import DeadlineExceededError as DeadlineExceededError
    from asyncclients.errors import DecodeError as DecodeError
    from asyncclients.errors import DisconnectedError as DisconnectedError
    from asyncclients.errors import ForbiddenError as ForbiddenError
    from asyncclients.errors import InputError as InputError
    from asyncclients.errors import InvalidValueError as InvalidValueError
    from asyncclients.errors import NoResponseError as NoResponseError
    from asyncclients.errors import NotFoundError as NotFoundError
    from asyncclients.errors import OutcomeUnknownError as OutcomeUnknownError
    from asyncclients.errors import PaginationError as PaginationError
    from asyncclients.errors import RateLimitedError as RateLimitedError
    from asyncclients.errors import ResponseTooLargeError as ResponseTooLargeError
    from asyncclients.errors import ServerError as ServerError
    from asyncclients.errors import StateError as StateError
    from asyncclients.errors import StateInUseError as StateInUseError
    from asyncclients.errors import StateMismatchError as StateMismatchError
    from asyncclients.errors import StatusError as StatusError
    from asyncclients.errors import TLSError as TLSError
    from asyncclients.errors import TokenEndpointError as TokenEndpointError
    from asyncclients.errors import TokenError as TokenError
    from asyncclients.errors import TokenRejectedError as TokenRejectedError
    from asyncclients.errors import UnauthorizedError as UnauthorizedError
    from asyncclients.errors import UnexpectedRedirectError as UnexpectedRedirectError
    from asyncclients.errors import UnprocessableEntityError as UnprocessableEntityError
    from asyncclients.errors import UploadError as UploadError
    from asyncclients.errors import WrongEventLoopError as WrongEventLoopError
    from asyncclients.middleware import quota_middleware as quota_middleware
    from asyncclients.ratelimit.quota import Priority as Priority
    from asyncclients.ratelimit.quota import Quota as Quota
    from asyncclients.vendors.digital_onboarding import (
        DigitalOnboardingClient as DigitalOnboardingClient,
    )
    from asyncclients.vendors.emma import EmmaClient as EmmaClient
    from asyncclients.vendors.intempt import IntemptClient as IntemptClient
    from asyncclients.vendors.intouch import IntouchClient as IntouchClient
    from asyncclients.vendors.totango import TotangoClient as TotangoClient
else:
    from asyncclients import errors
    from asyncclients.lazy import lazy

    __getattr__, __dir__, __all__ = lazy(
        __name__,
        {
            "core.events": "CapturedResponse capture_responses",
            "core.options": "Options",
            "core.pool": "SessionPool",
            "core.retry": "RetryPolicy",
            "errors": " ".join(name for name in vars(errors) if name.endswith("Error")),
            "middleware": "quota_middleware",
            "ratelimit.quota": "Priority Quota",
            "vendors.digital_onboarding": "DigitalOnboardingClient",
            "vendors.emma": "EmmaClient",
            "vendors.intempt": "IntemptClient",
            "vendors.intouch": "IntouchClient",
            "vendors.totango": "TotangoClient",
        },
    )
    __all__ += ["__version__"]
