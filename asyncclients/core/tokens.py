"""Access tokens and credentials that rotate: the cache, the token endpoint, the token of a call.

A token is requested when a call needs one: at first use, after it has expired, or after the
vendor has rejected *that* token. Near the end of its lifetime a call that uses it starts
the refresh and does not wait for it. The request runs in a task of its own, so that a
cancelled caller does not cancel the others that wait. A failure is kept for a few
seconds, so that a thousand waiting calls fail once and not one after the other.

A rotating credential is kept in the same cache. It is the *token* of a call whose login is a
header: after a 401 it is read again, once for all calls that used it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Any, Protocol, TypeVar

from asyncclients.core.auth import (
    Header,
    Login,
    Token,
    is_invalid_token_response,
    problem_of,
    read_token,
)
from asyncclients.core.endpoint import Endpoint, NoResponse, Outcome, Response, Send
from asyncclients.core.error_mapping import redacted_excerpt
from asyncclients.core.events import Callback, TokenRefreshed, emit, logger
from asyncclients.core.options import Options
from asyncclients.core.retry import RetryPolicy
from asyncclients.errors import (
    AsyncClientsError,
    ClientClosedError,
    ConfigurationError,
    DeadlineExceededError,
    StatusError,
    TokenEndpointError,
    TokenError,
    TokenRejectedError,
    error_text,
)
from asyncclients.secret import Secret

T = TypeVar("T")

FAILURE_REMEMBERED = 5.0
"""Seconds for which a failed refresh fails further calls as well."""
TOKEN_RETRY = RetryPolicy(max_retries=1, max_rate_limited=0)
"""Of the token request: other calls wait for it."""
TOKEN_TIMEOUT = 15.0
"""Seconds for the token request."""
TOKEN_OPTIONS = Options(flow="oauth2.token")
"""A flow of its own, which gets the next turn: queued calls of other flows need the token."""

TOKEN_EXPIRED = NoResponse("no", TokenError, "had its access token expire while it waited")
"""Outcome of an attempt that was not sent and has given its permit back."""


class TokenStore(Protocol):
    """Keeps tokens beyond this process. A failure of it does not fail a call."""

    async def load(self, key: str, now: float) -> Token | None:
        """Return the token of *key*, if it is valid at *now*; None to request one.

        May wait, for a bounded time, while another process requests one.
        """

    async def save(self, key: str, token: Token, now: float) -> None:
        """Keep *token* under *key* until it expires."""

    async def drop(self, key: str, token: Token) -> None:
        """Delete *token* if it is the one kept under *key*."""

    async def release(self, key: str) -> None:
        """Let other processes request a token: this one failed after `load` returned None."""


class TokenCache:
    """The current token of one credential, in *store* under *key*, if processes share it.

    *fetch* requests a new one, or raises `TokenError`. A credential that rotates has a *first* value.
    """

    def __init__(
        self,
        key: str,
        fetch: Callable[[], Awaitable[Token]],
        store: TokenStore | None = None,
        *,
        rejects: Callable[[Response], bool] = is_invalid_token_response,
        first: Token | None = None,
    ) -> None:
        self._key, self._fetch, self._store = key, fetch, store
        self.rejects, self.is_of_key = rejects, first is not None
        self._token = first
        self._task: asyncio.Task[Token] | None = None
        self._failure: TokenError | None = None
        self._failed_until = -math.inf
        self._rejected: Token | None = None
        self.refreshes = 0

    def current(self, now: float) -> Token | None:
        """Return the token if it is valid at *now*, else None; start a refresh if it is due."""
        token = self._token
        if token is None or now >= token.expires_at:
            return None
        if now >= max(token.refresh_at, self._failed_until) and self._task is None:
            self._start()
        return token

    @property
    def is_refreshing(self) -> bool:
        """True while a new token is requested."""
        return self._task is not None

    def _start(self) -> asyncio.Task[Token]:
        # In an empty context: the token serves all callers, not the context of one.
        task = asyncio.create_task(self._refresh(), name="asyncclients token", context=Context())
        task.add_done_callback(self._on_refreshed)
        self._task = task
        return task

    async def get(self, now: float) -> Token:
        """Return a token that is valid at *now*, or raise the `TokenError` of the request for one."""
        token = self.current(now)
        if token is not None:
            return token
        if self._task is None and self._failure is not None and now < self._failed_until:
            raise self._failure.with_facts()
        task = self._task or self._start()
        await asyncio.wait((task,))  # a cancelled caller does not cancel the task
        if task.cancelled():
            raise ClientClosedError(
                "the pool was closed while an access token was requested",
                advice="Close the pool after its last call",
            )
        return task.result()

    async def invalidate(self, token: Token) -> None:
        """Drop *token*, which the vendor rejected, unless it has been replaced already."""
        if self._token is token:
            self._token = None
        if self._rejected is not token:
            self._rejected = token
            await self._ask_store(lambda store: store.drop(self._key, token))

    def remember_failure(self, failure: TokenError, now: float) -> None:
        """Fail further calls with *failure* for a few seconds, instead of requesting a token."""
        self._failure, self._failed_until = failure, now + FAILURE_REMEMBERED

    async def _refresh(self) -> Token:
        loop = asyncio.get_running_loop()
        kept = await self._ask_store(lambda store: store.load(self._key, loop.time()))
        # The store may still have the token that was rejected, or that is being replaced.
        olds = {old.value for old in (self._rejected, self._token) if old is not None}
        if kept is not None and kept.value not in olds:
            return kept
        self.refreshes += 1
        try:
            token = await self._fetch()
        except BaseException:
            await asyncio.shield(self._ask_store(lambda store: store.release(self._key)))
            raise
        await self._ask_store(lambda store: store.save(self._key, token, loop.time()))
        return token

    async def _ask_store(self, step: Callable[[TokenStore], Awaitable[T]]) -> T | None:
        """Return the result of a *step* of the store; None without one, or if it fails."""
        if self._store is None:
            return None
        try:
            return await step(self._store)
        except AsyncClientsError:
            raise  # a store that cannot be used at all: a configuration error
        except Exception as failure:  # noqa: BLE001 - of a driver
            logger.warning(
                "token store failed: %s: %s; this process continues without it",
                type(failure).__name__,
                error_text(failure),
            )
            return None

    def _on_refreshed(self, task: asyncio.Task[Token]) -> None:
        self._task = None
        if task.cancelled():
            return
        failure = task.exception()
        if failure is None:
            self._token, self._failure, self._failed_until = task.result(), None, -math.inf
        elif isinstance(failure, TokenError):
            self.remember_failure(failure, task.get_loop().time())

    async def aclose(self) -> None:
        """Cancel a refresh and the calls that wait for it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class TokenSource:
    """Requests the tokens of one credential.

    The request takes a permit of the credential's quota like any other call, and is retried
    at most once. If the vendor rejects a credential that rotates, it is read again.
    """

    def __init__(
        self,
        send_as: Callable[[Login], Send],
        login: Login,
        vendor: str,
        listeners: Sequence[Callback[Any]],
    ) -> None:
        self._send_as, self._login = send_as, login
        self._vendor, self._listeners = vendor, listeners
        path = login.token_path or ""
        self._endpoint: Endpoint[Response] = Endpoint(
            "oauth2.token", "POST", path, Response, idempotent=True, encoding="form"
        )

    async def fetch(self) -> Token:
        """Return a new token; raises `TokenRejectedError` or `TokenEndpointError`."""
        try:
            token = await self._request_renewed()
        except TokenError as failure:
            name = type(failure).__name__
            logger.warning("%s: no access token: %s", self._vendor, name)
            emit(self._listeners, TokenRefreshed(vendor=self._vendor, error=name))
            raise
        emit(self._listeners, TokenRefreshed(vendor=self._vendor, error=None))
        return token

    async def _request_renewed(self) -> Token:
        """Request a token, and again if the credential was rejected and has changed."""
        try:
            return await self._request()
        except TokenRejectedError:
            old = self._login
            if old.renew is None:
                raise
            self._login = await renewed(old, self._vendor)
            if self._login.value == old.value:
                raise
        return await self._request()

    async def _request(self) -> Token:
        endpoint = self._endpoint
        failure: AsyncClientsError
        try:
            request = endpoint.request(body={"grant_type": "client_credentials"})
            response = await self._send_as(self._login)(request)
            return read_token(response.body, asyncio.get_running_loop().time())
        except ClientClosedError:
            raise
        except TokenEndpointError as error:
            failure = error.with_facts(
                vendor=self._vendor,
                operation=endpoint.operation,
                method=endpoint.method,
                path="/" + endpoint.path,
                status=200,
                attempts=1,
                advice=_ASKED_AGAIN,
            )
        except AsyncClientsError as error:
            failure = _token_error(error)
        raise failure


_ASKED_AGAIN = "The token endpoint failed; it is asked again in a few seconds"


def _token_error(failure: AsyncClientsError) -> TokenError:
    facts = {name: value for name, value in vars(failure).items() if hasattr(TokenError, name)}
    if isinstance(failure, StatusError) and failure.status in (400, 401, 403):
        facts["advice"] = "Check client_id and client_secret; the vendor may have revoked them"
        return TokenRejectedError("did not accept this client", **facts)
    facts["advice"] = _ASKED_AGAIN
    return TokenEndpointError(f"gave no token: {failure.message}", **facts)


# --- Credentials that rotate --------------------------------------------------


def rotating_key_cache(
    login: Login, vendor: str, rejects: Callable[[Response], bool]
) -> TokenCache:
    """Return the cache of the current value of *login*, which can be renewed."""
    current = login

    async def read_again() -> Token:
        nonlocal current
        current = await renewed(current, vendor)
        return _as_token(current)

    return TokenCache("", read_again, rejects=rejects, first=_as_token(login))


def _as_token(login: Login) -> Token:
    value = login.value
    return Token(value=value, authorization=value, header=login.header, parts=login.secrets)


async def renewed(login: Login, vendor: str) -> Login:
    """Return *login* with the current credential, which is read in a thread.

    Raises `TokenEndpointError` if it cannot be read or cannot be sent.
    """
    assert login.renew is not None
    try:
        found = await asyncio.to_thread(login.renew)
        problem = problem_of(found)
    except ConfigurationError as failure:
        problem = failure.message
    except Exception as failure:  # noqa: BLE001 - of a function of the user
        # Its text may hold a credential.
        problem = f"could not be read: {type(failure).__name__}"
    else:
        if problem is None:
            return found
    raise TokenEndpointError(
        f"was rejected, and the credential, read again, {problem}",
        vendor=vendor,
        advice="Check the function or file that the credential comes from; it is asked again "
        "in a few seconds",
    )


# --- One call -----------------------------------------------------------------


class CallToken:
    """The token of one call, or the current value of a rotating credential.

    *used* is the one that was sent last, or is about to be.
    """

    __slots__ = ("_cache", "_deadline_at", "_has_expired", "_renewed", "used")

    def __init__(self, cache: TokenCache, deadline_at: float) -> None:
        self._cache, self._deadline_at = cache, deadline_at
        self._renewed = self._has_expired = False
        self.used: Token | None = None

    async def ensure(self) -> None:
        """Get a token before the attempt, or raise `TokenError` or `DeadlineExceededError`."""
        now, deadline_at = asyncio.get_running_loop().time(), self._deadline_at
        self.used = self._cache.current(now)
        if self.used is not None:
            return
        try:
            async with asyncio.timeout_at(None if deadline_at == math.inf else deadline_at):
                self.used = await self._cache.get(now)
        except AsyncClientsError:
            raise
        except TimeoutError:
            pass
        if self.used is None:
            raise DeadlineExceededError(
                "got no access token before its deadline",
                advice="Allow a longer deadline: requesting a token takes time as well",
            )

    def header(self, now: float) -> Header | None:
        """Return the header to send at *now*; None if the token has expired in the queue.

        A token that expires in the queue a second time is sent all the same: the vendor's
        clock decides.
        """
        found = self._cache.current(now) or (self.used if self._has_expired else None)
        self.used = found
        return None if found is None else (found.header, found.authorization)

    def is_rejected(self, outcome: Outcome) -> bool:
        """Return True if *outcome* rejects the token, or if it had expired before sending."""
        if isinstance(outcome, NoResponse):
            return outcome is TOKEN_EXPIRED
        return self.used is not None and self._cache.rejects(outcome)

    async def renew(self, outcome: Outcome, secrets: Callable[[], tuple[Secret, ...]]) -> bool:
        """Replace the token that *outcome* rejects; *secrets* returns what to redact.

        Returns True if the call is to be sent again: not with a credential that was read again
        and has not changed, or has been rejected twice.

        Raises:
            TokenRejectedError: it was the second token.
            TokenError: there is no new one.
        """
        if not isinstance(outcome, Response):
            self._has_expired = True
            return True
        rejected, cache = self.used, self._cache
        assert rejected is not None
        if self._renewed and cache.is_of_key:
            return False
        await cache.invalidate(rejected)
        if not self._renewed:
            self._renewed = True
            await self.ensure()
            return not (cache.is_of_key and self.used == rejected)
        error = TokenRejectedError(
            "rejected a token that it had just issued",
            status=401,
            excerpt=redacted_excerpt(outcome.body, secrets()),
            advice="Check that the client is enabled for this API, and the clocks",
        )
        cache.remember_failure(error, asyncio.get_running_loop().time())
        raise error
