"""One call: token, attempt, decision, wait; repeated until there is a result or an error.

Start at [`ClientConfig.send`][asyncclients.core.call.ClientConfig.send]. `ClientConfig` is the
configuration that the calls of a client share; a `Call` is the state of one, and its methods are
the steps.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast
from weakref import ref

import msgspec
from msgspec.structs import force_setattr
from multidict import istr

from asyncclients.core import codec
from asyncclients.core.auth import Header, Login
from asyncclients.core.constraints import decoder_of, encode, find_problem, invalid_value
from asyncclients.core.endpoint import Outcome, Request, Response
from asyncclients.core.error_mapping import (
    error_from,
    is_unavailable,
    redacted_excerpt,
    request_id,
    retry_after,
    unknown_outcome,
)
from asyncclients.core.events import Callback, CallEvents, captures, logger
from asyncclients.core.options import CallContext, Options, OutgoingRequest, current_call_context
from asyncclients.core.prepare import PreparedRequest, prepare
from asyncclients.core.retry import Decision, RetryPolicy, RetryState, decide_failure
from asyncclients.core.scope import Scope
from asyncclients.core.tokens import TOKEN_EXPIRED, CallToken
from asyncclients.core.transport import Attempt
from asyncclients.core.vendor import ResponseKind, Vendor
from asyncclients.errors import AsyncClientsError, DecodeError
from asyncclients.ratelimit.quota import ONE, Demand, Priority, Quota, Share
from asyncclients.ratelimit.scheduler import PermitRequest
from asyncclients.secret import Secret, redact

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from asyncclients.core.endpoint import Endpoint

T = TypeVar("T")

_DECODED_IN_THREAD = 2**20
"""Bytes above which a body is decoded in a thread, so that the event loop is not blocked."""


class PoolConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a call's configuration that belongs to the pool."""

    timeout: float
    retry: RetryPolicy
    max_response_bytes: int
    validate: bool = True
    listeners: tuple[Callback[Any], ...] = ()


class ScopeHandle:
    """A client's reference to its scope. A scope with a live handle is not evicted.

    Args:
        find: finds or creates the scope at first use.
        check: raises if the pool is closed or belongs to another event loop.
        loop: returns the event loop of the pool; None before its first use.
    """

    __slots__ = ("__weakref__", "_check", "_find", "_scope", "loop")

    def __init__(
        self,
        find: Callable[[], Scope],
        check: Callable[[], object],
        loop: Callable[[], asyncio.AbstractEventLoop | None],
    ) -> None:
        self._find, self._check, self.loop = find, check, loop
        self._scope: Scope | None = None

    def __call__(self) -> Scope:
        """Return the scope.

        Raises:
            ClientClosedError: the pool is closed.
            WrongEventLoopError: the pool belongs to another event loop.
        """
        scope = self._scope
        if scope is None:
            scope = self._scope = self._find()
            scope.handles.add(ref(self, scope.handles.discard))
            return scope
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if scope.closed or loop is not scope.scheduler.loop:
            self._check()
        return scope


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration of the calls of one client.

    Attributes:
        scope: returns the scope of the credential; creates it at first use.
        vendor: the vendor.
        login: the credential; None for none.
        base_url: with a slash at its end.
        pool: the pool's part.
        options: the client's options.
        quotas: the client's own quotas; its scope may have those of other clients as well.
        account: name of the account, if the vendor has one besides the credential.
        timeout: seconds for one attempt.
        credential: the header with the login; None if the login has no fixed header.
        default_request: the permit request of a call without deadline and context.
        share: of the quotas, from the options; None for none.
    """

    scope: Callable[[], Scope]
    vendor: Vendor
    login: Login | None
    base_url: str
    pool: PoolConfig
    options: Options
    quotas: tuple[Quota, ...] = ()
    account: str = ""
    timeout: float = 0.0
    credential: Header | None = None
    default_request: PermitRequest | None = None
    share: Share | None = None

    def __post_init__(self) -> None:
        # Derived once, not by each call. `replace` copies them too: each is set, even to None.
        login, options = self.login, self.options
        force_setattr(self, "timeout", options.timeout or self.pool.timeout)
        header: Header | None = None
        if login is not None and login.token_path is None and login.renew is None:
            header = (istr(login.header), login.value)
        force_setattr(self, "credential", header)
        share = None if options.share is None else Share(options.flow or "", options.share)
        force_setattr(self, "share", share)
        demand = ONE if share is None else Demand(share=share)
        default = PermitRequest(options.priority, options.flow, demand=demand)
        force_setattr(self, "default_request", None if options.deadline is not None else default)

    @property
    def policy(self) -> RetryPolicy:
        """The pool's retry policy with the client's `max_attempts`."""
        policy, max_attempts = self.pool.retry, self.options.max_attempts
        if max_attempts is None:
            return policy
        return msgspec.structs.replace(policy, max_attempts=max_attempts)

    def permit_request(self, context: CallContext | None) -> PermitRequest:
        """Return the permit request of a call made now in *context*."""
        options = self.options
        priority, flow, deadline_at = options.priority, options.flow, math.inf
        if options.deadline is not None:
            deadline_at = asyncio.get_running_loop().time() + options.deadline
        share = self.share
        if context is not None:
            priority, flow = max(priority, context.priority), flow or context.flow
            if share is None or (context.share and context.share.fraction < share.fraction):
                share = context.share
        demand = ONE if share is None else Demand(share=share)
        return PermitRequest(priority, flow, deadline_at, demand=demand)

    def check(self, endpoint: Endpoint[Any], argument: msgspec.Struct) -> None:
        """Check the *argument* of a call of *endpoint*; nothing is sent.

        Raises:
            InvalidValueError: a value has the wrong type or, unless the pool was created with
                `validate=False`, contradicts the vendor's manual.
        """
        strict, problem = self.pool.validate, None
        try:
            decoder_of(type(argument), strict)(encode(argument))
        except Exception:  # noqa: BLE001 - of any kind: now each field is looked at
            problem = find_problem(argument, strict)
        if problem is not None:
            raise invalid_value(problem, endpoint, self.vendor, self.login)

    async def send(
        self,
        request: Request[T],
        call_factory: Callable[[ClientConfig, Request[T]], Call[T]] | None = None,
    ) -> T:
        """Send *request*, retry it as its policy allows, and return its decoded response.

        *call_factory* returns the call, by default a `Call`.

        Raises:
            AsyncClientsError: with vendor, operation, method, path and attempts filled in.
        """
        call: Call[T] = (call_factory or Call)(self, request)
        error: BaseException | None = None
        result: Any = None
        try:
            call.prepare()
            while True:
                if call.token is not None:
                    await call.token.ensure()
                outcome = await call.attempt()
                decision = call.decide(outcome)
                if decision is Decision.DONE:
                    assert isinstance(outcome, Response)
                    if len(outcome.body) > _DECODED_IN_THREAD:
                        result = await asyncio.to_thread(call.decode, outcome)
                    else:
                        result = call.decode(outcome)
                    break
                if decision is Decision.ALREADY_DELETED:
                    break
                if not await call.prepare_retry(decision, outcome):
                    raise call.error(decision, outcome)  # noqa: TRY301 - completed below
        except AsyncClientsError as raised:
            error = raised.with_facts(**call.error_fields())
        except BaseException as raised:  # noqa: BLE001 - raised below
            error = raised
        if call.events is not None:
            call.events.on_end(error)
        if error is None:
            return result  # type: ignore[no-any-return]  # a `cast` costs a Python call
        try:
            raise error
        finally:
            # The error refers to this frame by its traceback. If the frame referred to the error,
            # and to the call, they would stay until the next garbage collection.
            del error, call


def config_of(owner: object) -> ClientConfig | None:
    """Return the configuration of a client or of the client of a resource; None for others."""
    config = getattr(owner, "_config", None) or getattr(
        getattr(owner, "_send", None), "__self__", None
    )
    return config if isinstance(config, ClientConfig) else None


def check_argument(owner: object, endpoint: Endpoint[Any], argument: msgspec.Struct) -> None:
    """Check *argument* as `ClientConfig.check`; *owner* is the client or resource to send it.

    Raises:
        InvalidValueError: see there.
    """
    config = config_of(owner)
    if config is not None:
        config.check(endpoint, argument)


class Call(Generic[T]):
    """The state of one call; its methods are the steps of `ClientConfig.send`.

    Attributes:
        token: its access token; None if the login needs none.
        events: emits events and captures responses; None without listeners and captures.
    """

    __slots__ = (
        "_attempt",
        "_config",
        "_context",
        "_permit_request",
        "_prepared",
        "_request",
        "_scope",
        "_state",
        "events",
        "token",
    )

    _scope: Scope
    _prepared: PreparedRequest
    _attempt: Attempt

    def __init__(self, config: ClientConfig, request: Request[T]) -> None:
        if config.options.retry_unsafe and not request.idempotent:
            request = msgspec.structs.replace(request, idempotent=True)
        self._config, self._request = config, request
        self._context = context = current_call_context()
        default = config.default_request if context is None else None
        self._permit_request = default or config.permit_request(context)
        self._state = RetryState()
        self.token: CallToken | None = None
        self.events: CallEvents | None = None
        if config.pool.listeners or captures():
            self.events = CallEvents(config.pool.listeners, config.vendor, request.endpoint)

    def prepare(self) -> None:
        """Find the scope and build the request; nothing is sent.

        Raises:
            ClientClosedError: the pool is closed.
            WrongEventLoopError: the pool belongs to another event loop.
            InvalidValueError: see `ClientConfig.check`.
            ConfigurationError: the call costs more than a quota allows.
            ValueError: a parameter or the body cannot be encoded.
        """
        config, request = self._config, self._request
        self._scope = scope = config.scope()
        endpoint, limiter = request.endpoint, scope.scheduler.limiter
        if request.argument is not None:
            config.check(endpoint, request.argument)
        permit_request = self._permit_request
        if endpoint.cost > 1 or permit_request.demand is not ONE or limiter.by_operation:
            self._permit_request = permit_request.of(endpoint.cost, endpoint.operation, limiter)
        self._prepared = prepare(config.base_url, request, config.options.headers)
        if config.credential is None and scope.tokens is not None:
            self.token = CallToken(scope.tokens, self._permit_request.deadline_at)
        if self.events is not None:
            self.events.on_start(config.base_url)

    def attempt(self) -> Awaitable[Outcome]:
        """Send the request once, as soon as a permit is granted."""
        scope, config = self._scope, self._config
        session = scope.session or scope.open()
        self._attempt = attempt = Attempt(
            self._prepared,
            scope,
            self._permit_request,
            self._state,
            config.timeout,
            config.credential if self.token is None else self.token.header,
        )
        if self.events is not None:
            attempt.on_sent = self.events.on_sent
        if self._context is not None and (hook := self._context.hook) is not None:
            demand, idempotent = self._permit_request.demand, self._request.idempotent
            outgoing = OutgoingRequest(scope.key, scope.scheduler, idempotent, demand)
            attempt.before_send = partial(hook.before_send, outgoing)
        return attempt.run(session, config.pool.max_response_bytes)

    def decide(self, outcome: Outcome) -> Decision:
        """Record *outcome*, pause the scope if it asks for that, and return what to do next."""
        if outcome is not TOKEN_EXPIRED:
            if not self._attempt.sent:
                # Not counted yet: some test doubles of a session call no middleware.
                self._state.attempts += 1
            if self.events is not None:
                self.events.on_outcome(outcome, self._state.attempts, self._secrets)
        if self.token is not None and self.token.is_rejected(outcome):
            return Decision.RETRY_WITH_NEW_TOKEN
        if isinstance(outcome, Response):
            status, expects = outcome.status, self._request.endpoint.expects
            if status == expects or (expects is None and 200 <= status < 300):
                return Decision.DONE
        kind = self._kind_of(outcome)
        if isinstance(outcome, Response):
            self._pause_if_asked(outcome, kind)
        return decide_failure(self._request, outcome, kind, self._state, self._config.policy)

    def _kind_of(self, outcome: Outcome) -> ResponseKind:
        if isinstance(outcome, Response):
            return self._config.vendor.classify(outcome)
        return ResponseKind.FAILURE

    def _pause_if_asked(self, response: Response, kind: ResponseKind) -> None:
        """Pause the scope if *response* asks for it, and report the pause."""
        scheduler, is_rate_limited = self._scope.scheduler, kind is ResponseKind.RATE_LIMITED
        if is_rate_limited:
            permit = self._attempt.permit
            # The limiter knows of a 429 to an attempt with a permit: its headers were reported.
            if response.status != 429 or permit is None:
                scheduler.on_rate_limited(retry_after(response, rate_limited=True), permit)
            if self._context is not None and self._context.hook is not None:
                self._context.hook.on_rate_limited()
        if is_rate_limited or is_unavailable(response):
            self._scope.events.emit_pause(scheduler, unavailable=not is_rate_limited)

    async def prepare_retry(self, decision: Decision, outcome: Outcome) -> bool:
        """Renew the token or wait for the next attempt; return False if there must be none."""
        self._permit_request = self._permit_request.as_retry()
        if decision is Decision.RETRY_WITH_NEW_TOKEN:
            assert self.token is not None
            if not await self.token.renew(outcome, self._secrets):
                return False
            self._state.renewed += outcome is not TOKEN_EXPIRED
            return True
        if decision not in (Decision.RETRY, Decision.RETRY_AFTER_PAUSE):
            return False
        rate_limited = decision is Decision.RETRY_AFTER_PAUSE
        asked_wait = None
        if isinstance(outcome, Response):
            asked_wait = retry_after(outcome, rate_limited=rate_limited)
        policy, scope, state = self._config.policy, self._scope, self._state
        now, deadline_at = scope.scheduler.loop.time(), self._permit_request.deadline_at
        interactive = self._permit_request.priority is Priority.INTERACTIVE
        longest = policy.longest_retry_after if interactive else math.inf
        if asked_wait is not None and (asked_wait > longest or now + asked_wait > deadline_at):
            return False
        if rate_limited:
            state.rate_limits += 1
            # An attempt with a permit waits in the queue of its scope, one without waits here.
            if self._attempt.permit is None:
                await scope.pause(scope.scheduler.paused_for)
            return True
        state.note_failure(outcome)
        pause = max(policy.wait(state.retries), asked_wait or 0.0)
        if now + pause > deadline_at:
            return False
        name = f"{self._config.vendor.name}.{self._request.endpoint.operation}"
        logger.debug("%s: %d attempts, next in %.2f s", name, state.attempts, pause)
        await scope.pause(pause)
        return True

    def decode(self, response: Response) -> T:
        """Return the body as the endpoint's type, or *response* itself if that is `Response`.

        Raises:
            DecodeError: the body is of another type, is markup, or reports an error; quotes
                its start, redacted.
        """
        endpoint = self._request.endpoint
        try:
            if endpoint.returns is Response:
                if response.status < 300:
                    codec.check_body(response.body, endpoint.result_fields)
                return cast("T", response)
            if endpoint.reader is not None:
                returns, reader = endpoint.returns, endpoint.reader
                return codec.read(response.body, returns, reader, endpoint.result_fields)
            result: T = codec.decode(response.body, endpoint.returns)
        except DecodeError as caught:
            bad = caught
        else:
            return result
        raise self._decode_error(response, bad)

    def _decode_error(self, response: Response, bad: DecodeError) -> DecodeError:
        secrets = self._secrets()
        return DecodeError(
            redact(bad.message, secrets),
            status=response.status,
            excerpt=redacted_excerpt(response.body, secrets),
            request_id=request_id(response, self._config.vendor, secrets),
            advice=bad.advice,
            is_error_body=bad.is_error_body,
        )

    def error(self, decision: Decision, outcome: Outcome) -> AsyncClientsError:
        """Return the error that ends the call."""
        secrets, vendor = self._secrets(), self._config.vendor
        if decision is Decision.OUTCOME_UNKNOWN:
            return unknown_outcome(outcome, vendor, secrets)
        return error_from(outcome, self._kind_of(outcome), vendor, secrets)

    def error_fields(self) -> dict[str, Any]:
        """Return the fields that every error of this call has."""
        endpoint = self._request.endpoint
        return {
            "vendor": self._config.vendor.name,
            "operation": endpoint.operation,
            "method": endpoint.method,
            "path": "/" + self._request.path.lstrip("/"),
            "attempts": self._state.attempts,
        }

    def _secrets(self) -> tuple[Secret, ...]:
        """Return everything to redact from what the vendor sends."""
        login = self._config.login
        secrets = () if login is None else login.secrets
        used = None if self.token is None else self.token.used
        return secrets if used is None else (*secrets, *used.secrets)
