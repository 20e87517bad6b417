"""Asking a vendor for an access token: one request, by the way of all requests.

It takes a permit of the same quota as any other call of its credential, and is
repeated at most once; whoever waits for the token would rather know.
"""

from __future__ import annotations

import asyncio

import msgspec

from asyncclients.core.auth import (
    ClientCredentials,
    HeaderLogin,
    Token,
    TokenReplyError,
    read_token,
)
from asyncclients.core.dispatch import Dispatcher
from asyncclients.core.endpoint import Endpoint, Options, Response
from asyncclients.core.events import TokenRefreshed, emit, logger
from asyncclients.core.retry import RetryPolicy
from asyncclients.core.scope import Scope
from asyncclients.core.settings import PoolConfig
from asyncclients.core.vendor import Vendor
from asyncclients.errors import (
    AsyncClientsError,
    ClientClosedError,
    StatusError,
    TokenEndpointError,
    TokenError,
    TokenRejectedError,
)

_RETRY = RetryPolicy(max_retries=1, max_rate_limited=0)
_TIMEOUT = 15.0
"""Seconds: an endpoint that only signs a few bytes, and that others wait for."""
_FIRST = Options(flow="oauth2.token")
"""A flow of its own: its turn comes before the next of those who queue, for they need it."""


class TokenSource:
    """Asks for the tokens of one credential."""

    def __init__(
        self,
        scope: Scope,
        vendor: Vendor,
        login: ClientCredentials,
        base_url: str,
        settings: PoolConfig,
    ) -> None:
        basic = HeaderLogin(header="Authorization", value=login.basic, secrets=login.secrets)
        own = msgspec.structs.replace(settings, retry=_RETRY, timeout=_TIMEOUT)
        self._dispatcher = Dispatcher(
            lambda: scope, vendor, basic, base_url, settings=own, options=_FIRST
        )
        self._endpoint: Endpoint[Response] = Endpoint(
            "oauth2.token", "POST", login.path, Response, idempotent=True, encoding="form"
        )
        self._login, self._vendor, self._settings = login, vendor, settings

    async def fetch(self) -> Token:
        """A new token.

        Raises:
            TokenRejectedError: the vendor does not accept this client.
            TokenEndpointError: no usable answer.
        """
        try:
            token = await self._ask()
        except TokenError as failure:
            self._tell(type(failure).__name__)
            raise
        self._tell(None)
        return token

    def _tell(self, error: str | None) -> None:
        if error is not None:
            logger.warning("%s gave no access token: %s", self._vendor.name, error)
        event = TokenRefreshed(vendor=self._vendor.name, error=error)
        emit(self._settings.listeners, event)

    async def _ask(self) -> Token:
        failure: AsyncClientsError
        request = self._endpoint.request(body={"grant_type": "client_credentials"})
        try:
            response = await self._dispatcher.send(request)
            return read_token(response.body, asyncio.get_running_loop().time())
        except ClientClosedError:
            raise
        except AsyncClientsError as error:
            failure = error
        except TokenReplyError as error:
            failure = AsyncClientsError(str(error), status=200, attempts=1)
        raise _token_error(failure.with_facts(**self._facts()))

    def _facts(self) -> dict[str, str]:
        endpoint = self._endpoint
        return {
            "vendor": self._vendor.name,
            "operation": endpoint.operation,
            "method": endpoint.method,
            "path": "/" + endpoint.path,
        }


def _token_error(failure: AsyncClientsError) -> TokenError:
    facts = {
        name: value
        for name, value in vars(failure).items()
        if hasattr(TokenError, name) and name != "message"
    }
    if isinstance(failure, StatusError) and failure.status in (400, 401, 403):
        facts["advice"] = "Check client_id and client_secret; the vendor may have revoked them"
        return TokenRejectedError("did not accept this client", **facts)
    facts["advice"] = "The vendor's token endpoint fails; calls will ask again in a few seconds"
    return TokenEndpointError(f"gave no token: {failure.message}", **facts)
