"""One call between its attempts: what each step of `Dispatcher.send` knows."""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from asyncclients.core.auth import ClientCredentials
from asyncclients.core.call_events import CallEvents, emit_scope_paused
from asyncclients.core.call_token import TOKEN_EXPIRED, CallToken
from asyncclients.core.capture import captures
from asyncclients.core.decoding import decode_response
from asyncclients.core.endpoint import (
    Outcome,
    OutgoingRequest,
    Request,
    Response,
    current_call_context,
)
from asyncclients.core.error_mapping import error_from, retry_after, unknown_outcome
from asyncclients.core.events import logger
from asyncclients.core.prepare import PreparedRequest, prepare
from asyncclients.core.retry import Decision, RetryState, decide
from asyncclients.core.transport import Attempt
from asyncclients.core.vendor import ResponseKind
from asyncclients.ratelimit.headers import UNAVAILABLE
from asyncclients.ratelimit.quota import Priority
from asyncclients.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from asyncclients.core.endpoint import SendHook
    from asyncclients.core.scope import Scope
    from asyncclients.core.settings import ClientConfig
    from asyncclients.errors import AsyncClientsError

T = TypeVar("T")

# The members that each call meets: to look one up costs as much as to call a function.
_DONE, _SUCCESS, _FAILURE = Decision.DONE, ResponseKind.SUCCESS, ResponseKind.FAILURE


class Call(Generic[T]):
    """The state of one call.

    Attributes:
        bearer: its access token; None where the login goes without.
        response: what says that it is done.
    """

    __slots__ = (
        "_exchange",
        "_lane",
        "_meaning",
        "_narrator",
        "_request",
        "_scope",
        "_tally",
        "_terms",
        "_ticket",
        "_wire",
        "bearer",
        "response",
    )

    _scope: Scope
    _wire: PreparedRequest
    _exchange: Attempt
    response: Response

    def __init__(self, terms: ClientConfig, request: Request[T]) -> None:
        if terms.options.retry_unsafe and not request.idempotent:
            request = msgspec.structs.replace(request, idempotent=True)
        self._terms, self._request = terms, request
        self._lane = lane = current_call_context()
        usual = terms.default_request if lane is None else None
        self._ticket = usual or terms.permit_request(lane)
        self._tally = RetryState()
        self._meaning = _FAILURE
        self._narrator: CallEvents | None = None
        if terms.pool.listeners or captures():
            self._narrator = CallEvents(terms, request)
        self.bearer: CallToken | None = None

    def open(self) -> None:
        """Find the scope and put the request together; nothing is sent.

        Raises:
            ClientClosedError: the pool is closed.
            WrongEventLoopError: the pool is another loop's.
            ValueError: the request has no form on the wire.
        """
        terms, request = self._terms, self._request
        self._scope = scope = terms.scope()
        self._wire = prepare(terms.base_url, request, terms.options.headers)
        if scope.tokens is not None and isinstance(terms.login, ClientCredentials):
            self.bearer = CallToken(scope.tokens, self._ticket.deadline_at)
        if self._narrator is not None:
            self._narrator.started(terms.base_url, request)

    # --- The steps of one attempt -------------------------------------------------

    def exchange(self) -> Awaitable[Outcome]:
        """One request on the wire, once its permit is granted."""
        scope, terms = self._scope, self._terms
        # Without the loop it would be asked for, which is a system call.
        task = asyncio.current_task(scope.scheduler.loop)
        assert task is not None
        session = scope.session()
        self._exchange = exchange = Attempt(
            self._wire,
            scope.scheduler,
            scope.timeouts,
            self._ticket,
            self._tally,
            terms.timeout,
            terms.credential if self.bearer is None else self.bearer.header,
            task=task,
            cancelling=task.cancelling(),
        )
        if self._narrator is not None:
            exchange.on_sent = self._narrator.sent
        if self._lane is not None:
            exchange.before_send = self._watch(self._lane.hook)
        return exchange.run(session, terms.pool.max_response_bytes)

    def _watch(self, watch: SendHook | None) -> Callable[[], Awaitable[None] | None] | None:
        """Tells *watch* that the request is about to go out."""
        if watch is None:
            return None
        quotas = self._scope.scheduler.limiter.quotas
        return partial(
            watch.before_send, OutgoingRequest(self._scope.key, quotas, self._request.idempotent)
        )

    def record(self, outcome: Outcome) -> Outcome:
        """The exchange is over."""
        if not self._exchange.sent and outcome is not TOKEN_EXPIRED:
            # Test doubles of a session know no middleware: they send without a permit.
            self._tally.attempts += 1
        if self._narrator is not None and outcome is not TOKEN_EXPIRED:
            self._narrator.outcome(outcome, self._tally.attempts, self._secrets)
        return outcome

    async def decide_with_token(self, outcome: Outcome) -> Decision:
        """As `judge`, for a call that goes by an access token."""
        assert self.bearer is not None
        if await self.bearer.handle_401(outcome, self._secrets):
            return Decision.RETRY_WITH_NEW_TOKEN
        return self.decide(outcome)

    def decide(self, outcome: Outcome) -> Decision:
        """What to do with *outcome*."""
        if isinstance(outcome, Response):
            expects, meaning = self._request.endpoint.expects, self._terms.vendor.classify(outcome)
            if expects is not None and (meaning is _SUCCESS) != (outcome.status == expects):
                meaning = _SUCCESS if outcome.status == expects else _FAILURE
            self._meaning = meaning
            if meaning is _SUCCESS:
                self.response = outcome
                return _DONE
            if meaning is ResponseKind.RATE_LIMITED:
                self._note_refusal(outcome)
            elif outcome.status in UNAVAILABLE and retry_after(outcome) is not None:
                now = asyncio.get_running_loop().time()
                emit_scope_paused(self._terms, self._scope, now, unavailable=True)
        return decide(self._request, outcome, self._meaning, self._tally, self._terms.policy)

    def _note_refusal(self, outcome: Response) -> None:
        # With a permit, the transport saw a 429 at its headers.
        permit = self._exchange.permit
        if outcome.status != 429 or permit is None:
            self._scope.scheduler.on_rate_limited(retry_after(outcome, refused=True), permit)
        if self._lane is not None and self._lane.hook is not None:
            self._lane.hook.on_rate_limited()
        emit_scope_paused(self._terms, self._scope, asyncio.get_running_loop().time())

    async def wait(self, verdict: Decision, outcome: Outcome) -> bool:
        """Wait as *verdict* says; False where the call must not be repeated."""
        self._ticket = self._ticket.as_retry()
        if verdict is Decision.RETRY_WITH_NEW_TOKEN:
            self._tally.renewed += outcome is not TOKEN_EXPIRED
            return True
        if verdict not in (Decision.RETRY, Decision.RETRY_AFTER_PAUSE):
            return False
        asked = None
        if isinstance(outcome, Response):
            asked = retry_after(outcome, refused=verdict is Decision.RETRY_AFTER_PAUSE)
        now, deadline_at = asyncio.get_running_loop().time(), self._ticket.deadline_at
        interactive = self._ticket.priority is Priority.INTERACTIVE
        longest = self._terms.policy.longest_retry_after if interactive else math.inf
        if asked is not None and (asked > longest or now + asked > deadline_at):
            return False
        if verdict is Decision.RETRY_AFTER_PAUSE:
            # The scope is paused: the queue is the place to wait, for those who pass it.
            self._tally.rate_limits += 1
            if self._exchange.permit is None:
                await self._scope.pause(self._scope.scheduler.limiter.snapshot(now).paused_for)
            return True
        self._tally.note_failure(outcome)
        pause = max(self._terms.policy.wait(self._tally.retries), asked or 0.0)
        if now + pause > deadline_at:
            return False
        logger.debug("%s: %d attempts, again in %.2f s", self._name(), self._tally.attempts, pause)
        await self._scope.pause(pause)
        return True

    # --- The end --------------------------------------------------------------------

    async def long_result(self) -> T:
        """As `result`, decoded off the event loop."""
        result = await asyncio.to_thread(self._decoded)
        self.ended(None)
        return result

    def result(self) -> T:
        """What the endpoint promises, decoded."""
        result = self._decoded()
        if self._narrator is not None:
            self._narrator.ended(None)
        return result

    def _decoded(self) -> T:
        return decode_response(
            self.response, self._request.endpoint, self._terms.vendor, self._secrets
        )

    def ended(self, error: BaseException | None) -> None:
        """The call returns, or raises *error*."""
        if self._narrator is not None:
            self._narrator.ended(error)

    def failure(self, verdict: Decision, outcome: Outcome) -> AsyncClientsError:
        """The error that ends the call."""
        secrets, vendor = self._secrets(), self._terms.vendor
        if verdict is Decision.OUTCOME_UNKNOWN:
            return unknown_outcome(outcome, vendor, secrets)
        return error_from(outcome, self._meaning, vendor, secrets)

    def error_fields(self) -> dict[str, Any]:
        """What every error of this call says about it."""
        endpoint = self._request.endpoint
        return {
            "vendor": self._terms.vendor.name,
            "operation": endpoint.operation,
            "method": endpoint.method,
            "path": "/" + self._request.path.lstrip("/"),
            "attempts": self._tally.attempts,
        }

    def _secrets(self) -> tuple[Secret, ...]:
        """All that must be cut from what the vendor echoes."""
        login = self._terms.login
        secrets = () if login is None else login.secrets
        used = None if self.bearer is None else self.bearer.used
        return secrets if used is None else (*secrets, *used.secrets)

    def _name(self) -> str:
        return f"{self._terms.vendor.name}.{self._request.endpoint.operation}"
