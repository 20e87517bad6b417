"""The way of one call, from request to result.

`Dispatcher.send` is the table of contents: take the credential · exchange (the
permit is taken inside, once per wire attempt) · judge · return, wait and
repeat, or raise. What each step knows lives elsewhere.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import msgspec
from yarl import URL

from asyncclients.core import codec
from asyncclients.core.auth import ClientCredentials, Login, Token, names_invalid_token
from asyncclients.core.capture import capture
from asyncclients.core.endpoint import (
    NoResponse,
    Options,
    Outcome,
    Priority,
    Request,
    Response,
    current_lane,
)
from asyncclients.core.events import (
    AttemptEnded,
    AttemptStarted,
    CallEnded,
    CallStarted,
    Listener,
    ScopePaused,
    log_pause,
    logger,
    tell,
)
from asyncclients.core.failure import failure_of, quoted, unknown_outcome
from asyncclients.core.ratelimit_headers import retry_after_seconds
from asyncclients.core.retry import RetryPolicy, Tally, Verdict, judge
from asyncclients.core.scheduler import Ticket
from asyncclients.core.secret import Secret, cut
from asyncclients.core.transport import Exchange, Wire
from asyncclients.core.vendor import Meaning, Vendor
from asyncclients.errors import (
    AsyncClientsError,
    DeadlineExceededError,
    DecodeError,
    TokenRejectedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncclients.core.scope import Scope

T = TypeVar("T")

_DECODE_IN_THREAD = 2**20
"""Bytes from which a body is decoded off the event loop."""
_calls = itertools.count(1)

_CONTENT_TYPES = {"json": "application/json", "form": "application/x-www-form-urlencoded"}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the pool lays down for all calls."""

    timeout: float
    retry: RetryPolicy
    max_response_bytes: int
    listeners: tuple[Listener, ...] = ()


class Dispatcher:
    """Sends the requests of one client."""

    def __init__(
        self,
        scope: Callable[[], Scope],
        vendor: Vendor,
        login: Login | None,
        base_url: str,
        *,
        settings: Settings,
        options: Options,
    ) -> None:
        self.scope, self.vendor, self.login, self.base_url = scope, vendor, login, base_url
        self.settings, self.options = settings, options
        self.policy = _policy(settings.retry, options)

    def with_options(self, options: Options) -> Dispatcher:
        """The same, with other defaults."""
        return Dispatcher(
            self.scope,
            self.vendor,
            self.login,
            self.base_url,
            settings=self.settings,
            options=options,
        )

    async def send(self, request: Request[T]) -> T:
        """Make one call and return what its endpoint promises.

        Raises:
            AsyncClientsError: with vendor, operation, method, path and attempts filled in.
        """
        call: Call[T] = Call(self, request)
        error: AsyncClientsError
        try:
            while True:
                token = await call.token()
                outcome = await call.exchange(token)
                if await call.token_refused(outcome, token):
                    continue
                verdict = call.judge(outcome)
                if verdict is Verdict.DONE:
                    return await call.result(outcome)
                if verdict is Verdict.GONE:
                    return call.nothing()
                if not await call.wait(verdict, outcome):
                    raise call.failure(verdict, outcome)  # noqa: TRY301 - for the line below
        except AsyncClientsError as raised:
            error = raised.with_facts(**call.facts())
        except BaseException as foreign:
            call.ended(type(foreign).__name__)
            raise
        call.ended(type(error).__name__)
        raise error


class Call(Generic[T]):
    """The state of one call between its attempts."""

    __slots__ = (
        "deadline_at",
        "dispatcher",
        "exchanged",
        "meaning",
        "number",
        "renewed",
        "request",
        "scope",
        "tally",
        "ticket",
        "used",
        "wire",
    )

    def __init__(self, dispatcher: Dispatcher, request: Request[T]) -> None:
        options, lane = dispatcher.options, current_lane()
        self.dispatcher = dispatcher
        self.scope = dispatcher.scope()
        if options.retry_unsafe and not request.idempotent:
            request = msgspec.structs.replace(request, idempotent=True)
        self.request = request
        self.deadline_at = math.inf
        if options.deadline is not None:
            self.deadline_at = asyncio.get_running_loop().time() + options.deadline
        priority, flow = options.priority, options.flow
        if lane is not None:
            priority, flow = max(priority, lane.priority), flow or lane.flow
        self.ticket = Ticket(priority, flow, self.deadline_at)
        self.wire = self._wire(dispatcher, request)
        self.tally = Tally()
        self.renewed = False
        self.meaning = Meaning.FAILURE
        self.exchanged: Exchange | None = None
        self.used: Token | None = None
        self.number = next(_calls)
        self._started()

    @staticmethod
    def _wire(dispatcher: Dispatcher, request: Request[Any]) -> Wire:
        endpoint = request.endpoint
        url = dispatcher.base_url + request.path.lstrip("/")
        if request.params and (query := codec.encode_query(request.params)):
            url += "?" + query
        headers: dict[str, str] = {"Accept": "application/json"}
        body: bytes | None = None
        if request.body is not None:
            body = (
                codec.encode(request.body)
                if endpoint.form == "json"
                else codec.encode_form(request.body)
            )
            headers["Content-Type"] = _CONTENT_TYPES[endpoint.form]
        for extra in (dispatcher.options.headers, request.headers):
            if extra:
                headers.update(extra)
        return Wire(endpoint.method, URL(url, encoded=True), headers, body)

    # --- The steps of one attempt -------------------------------------------------

    async def token(self) -> Token | None:
        """The access token, where the login is by token."""
        tokens = self.scope.tokens
        if tokens is None or not isinstance(self.dispatcher.login, ClientCredentials):
            return None
        now = asyncio.get_running_loop().time()
        found = tokens.current(now)
        if found is not None:
            return found
        if self.deadline_at == math.inf:
            return await tokens.get(now)
        try:
            async with asyncio.timeout_at(self.deadline_at):
                return await tokens.get(now)
        except DeadlineExceededError:
            raise
        except TimeoutError:
            pass
        raise DeadlineExceededError("got no access token before its deadline")

    async def exchange(self, token: Token | None) -> Outcome:
        """One request on the wire, once its permit is granted."""
        dispatcher = self.dispatcher
        settings, login = dispatcher.settings, dispatcher.login
        credential: tuple[str, Secret] | None = None
        self.used = token
        if token is not None:
            credential = ("Authorization", token.authorization)
        elif login is not None and not isinstance(login, ClientCredentials):
            credential = (login.header, login.value)
        session = self.scope.session()
        exchange = Exchange(
            self.scope.scheduler,
            self.ticket,
            timeout=dispatcher.options.timeout or settings.timeout,
            credential=credential,
            on_sent=self._sent if settings.listeners else None,
        )
        self.exchanged = exchange
        outcome = await exchange.run(session, self.wire, settings.max_response_bytes)
        self.tally.attempts += 1
        self.ticket.again = True
        capture(outcome, dispatcher.vendor, self.request.endpoint.operation, self.tally.attempts)
        if settings.listeners:
            self._tell_outcome(outcome)
        return outcome

    async def token_refused(self, outcome: Outcome, token: Token | None) -> bool:
        """Was *token* refused, and is it worth one more try with a new one?"""
        if token is None or isinstance(outcome, NoResponse) or outcome.status != 401:
            return False
        if not names_invalid_token(outcome.status, outcome.headers, outcome.body):
            return False
        tokens = self.scope.tokens
        assert tokens is not None
        await tokens.forget(token)
        if not self.renewed:
            self.renewed = True
            return True
        raise TokenRejectedError(
            "refused a token that it had just issued",
            status=401,
            excerpt=quoted(outcome.body, self._secrets()),
            advice="Check that the client is enabled for this API, and the clocks",
        )

    def judge(self, outcome: Outcome) -> Verdict:
        """What to do with *outcome*."""
        dispatcher, request = self.dispatcher, self.request
        if isinstance(outcome, Response):
            self.meaning = self._meaning(outcome)
            if self.meaning is Meaning.RATE_LIMITED:
                self._note_refusal(outcome)
        return judge(request, outcome, self.meaning, self.tally, dispatcher.policy)

    def _meaning(self, outcome: Response) -> Meaning:
        expects = self.request.endpoint.expects
        if expects is None:
            return self.dispatcher.vendor.meaning(outcome)
        if outcome.status == expects:
            return Meaning.SUCCESS
        meaning = self.dispatcher.vendor.meaning(outcome)
        return Meaning.FAILURE if meaning is Meaning.SUCCESS else meaning

    def _note_refusal(self, outcome: Response) -> None:
        scope = self.scope
        if outcome.status != 429:  # a 429 was seen by the transport, at its headers
            permit = self.exchanged.permit if self.exchanged else None
            scope.scheduler.refuse(_retry_after(outcome), permit)
        seconds = scope.scheduler.limiter.paused_until - asyncio.get_running_loop().time()
        if seconds > 0:
            paused = ScopePaused(vendor=scope.vendor, scope=scope.key, seconds=seconds)
            log_pause(paused)
            tell(self.dispatcher.settings.listeners, paused)

    async def wait(self, verdict: Verdict, outcome: Outcome) -> bool:
        """Wait as *verdict* says; False where the call must not be repeated."""
        if verdict not in (Verdict.AGAIN, Verdict.REFUSED):
            return False
        asked = _retry_after(outcome) if isinstance(outcome, Response) else None
        now = asyncio.get_running_loop().time()
        interactive = self.ticket.priority is Priority.INTERACTIVE
        longest = self.dispatcher.policy.longest_retry_after if interactive else math.inf
        if asked is not None and (asked > longest or now + asked > self.deadline_at):
            return False
        if verdict is Verdict.REFUSED:
            # The scope is paused: the queue is the place to wait.
            self.tally.refusals += 1
            return True
        self.tally.failures += 1
        self.tally.doubtful |= isinstance(outcome, Response) or outcome.sent == "maybe"
        pause = max(self.dispatcher.policy.wait(self.tally.failures), asked or 0.0)
        if now + pause > self.deadline_at:
            return False
        logger.debug("%s: attempt %d, again in %.2f s", self._name(), self.tally.attempts, pause)
        await asyncio.sleep(pause)
        return True

    # --- The end --------------------------------------------------------------------

    async def result(self, outcome: Outcome) -> T:
        """What the endpoint promises, decoded."""
        assert isinstance(outcome, Response)
        returns: Any = self.request.endpoint.returns
        result: Any = outcome
        try:
            if returns is not Response:
                if len(outcome.body) > _DECODE_IN_THREAD:
                    result = await asyncio.to_thread(codec.decode, outcome.body, returns)
                else:
                    result = codec.decode(outcome.body, returns)
        except DecodeError as bad:
            secrets = self._secrets()
            raise DecodeError(
                cut(bad.message, secrets),
                status=outcome.status,
                excerpt=quoted(outcome.body, secrets),
                request_id=self.dispatcher.vendor.request_id(outcome.headers),
                advice=bad.advice,
            ) from None
        self.ended(None)
        return cast("T", result)

    def nothing(self) -> T:
        """The result of a deletion that was done before."""
        self.ended(None)
        return cast("T", None)

    def failure(self, verdict: Verdict, outcome: Outcome) -> AsyncClientsError:
        """The error that ends the call."""
        secrets = self._secrets()
        vendor = self.dispatcher.vendor
        if verdict is Verdict.UNKNOWN:
            return unknown_outcome(outcome, vendor, secrets)
        return failure_of(outcome, self.meaning, vendor, secrets)

    def facts(self) -> dict[str, Any]:
        """What every error of this call says about it."""
        endpoint = self.request.endpoint
        return {
            "vendor": self.dispatcher.vendor.name,
            "operation": endpoint.operation,
            "method": endpoint.method,
            "path": "/" + self.request.path.lstrip("/"),
            "attempts": self.tally.attempts,
        }

    def _secrets(self) -> tuple[Secret, ...]:
        """All that must be cut from what the vendor echoes."""
        login = self.dispatcher.login
        secrets = () if login is None else login.secrets
        return secrets if self.used is None else (*secrets, *self.used.secrets)

    # --- Telling --------------------------------------------------------------------

    def _name(self) -> str:
        return f"{self.dispatcher.vendor.name}.{self.request.endpoint.operation}"

    def _started(self) -> None:
        listeners = self.dispatcher.settings.listeners
        if listeners:
            endpoint = self.request.endpoint
            event = CallStarted(
                call=self.number,
                vendor=self.dispatcher.vendor.name,
                operation=endpoint.operation,
                method=endpoint.method,
                template=URL(self.dispatcher.base_url).path + endpoint.path,
                origin=str(self.wire.url.origin()),
            )
            tell(listeners, event)

    def _sent(self, waited: float) -> None:
        event = AttemptStarted(call=self.number, attempt=self.tally.attempts + 1, waited=waited)
        tell(self.dispatcher.settings.listeners, event)

    def _tell_outcome(self, outcome: Outcome) -> None:
        status: int | None = None
        error: str | None = None
        request_id: str | None = None
        if isinstance(outcome, Response):
            status = outcome.status
            request_id = self.dispatcher.vendor.request_id(outcome.headers)
        else:
            error = outcome.error.__name__
        event = AttemptEnded(
            call=self.number,
            attempt=self.tally.attempts,
            status=status,
            error=error,
            request_id=request_id,
        )
        tell(self.dispatcher.settings.listeners, event)

    def ended(self, error: str | None) -> None:
        """Tell that the call is over."""
        listeners = self.dispatcher.settings.listeners
        if listeners:
            tell(listeners, CallEnded(call=self.number, attempts=self.tally.attempts, error=error))


def _policy(policy: RetryPolicy, options: Options) -> RetryPolicy:
    if options.max_attempts is None:
        return policy
    return msgspec.structs.replace(
        policy, max_attempts=options.max_attempts, max_requests=options.max_attempts
    )


def _retry_after(outcome: Response) -> float | None:
    headers: Any = outcome.headers
    return retry_after_seconds(headers) if "Retry-After" in headers else None
