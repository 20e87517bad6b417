"""One call between its attempts: what each step of `Dispatcher.send` knows."""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import msgspec

from asyncclients.core.auth import ClientCredentials, HeaderLogin, Token, names_invalid_token
from asyncclients.core.decoding import decoded, is_long
from asyncclients.core.endpoint import (
    NoResponse,
    Outcome,
    Request,
    Response,
    Sending,
    current_lane,
)
from asyncclients.core.events import logger
from asyncclients.core.failure import failure_of, quoted, retry_after, unknown_outcome
from asyncclients.core.narrator import narrator_of
from asyncclients.core.retry import Tally, Verdict, judge
from asyncclients.core.transport import STALE, Exchange
from asyncclients.core.vendor import Meaning
from asyncclients.core.wire import Wire, wire_of
from asyncclients.errors import (
    AsyncClientsError,
    DeadlineExceededError,
    TokenRejectedError,
)
from asyncclients.limits.priority import Priority
from asyncclients.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from asyncclients.core.endpoint import Watch
    from asyncclients.core.scope import Scope
    from asyncclients.core.settings import Terms
    from asyncclients.core.transport import Credential, Header
    from asyncclients.limits.permit import Permit

T = TypeVar("T")


class Call(Generic[T]):
    """The state of one call."""

    __slots__ = (
        "_lane",
        "_meaning",
        "_permit",
        "_renewed",
        "_request",
        "_scope",
        "_stale",
        "_tally",
        "_terms",
        "_ticket",
        "_used",
        "_wire",
        "narrator",
    )

    _scope: Scope
    _wire: Wire

    def __init__(self, terms: Terms, request: Request[T]) -> None:
        if terms.options.retry_unsafe and not request.idempotent:
            request = msgspec.structs.replace(request, idempotent=True)
        self._terms, self._request = terms, request
        self._lane = current_lane()
        self._ticket = terms.ticket(self._lane)
        self._tally = Tally()
        self._meaning = Meaning.FAILURE
        self._permit: Permit | None = None
        self._used: Token | None = None
        self._renewed = self._stale = False
        self.narrator = narrator_of(terms, request)

    def open(self) -> None:
        """Find the scope and put the request together; nothing is sent.

        Raises:
            ClientClosedError: the pool is closed.
            WrongEventLoopError: the pool is another loop's.
            ValueError: the request has no form on the wire.
        """
        terms, request = self._terms, self._request
        self._scope = terms.scope()
        self._wire = wire_of(terms.base_url, request, terms.options.headers)
        self.narrator.started(terms.base_url, request)

    # --- The steps of one attempt -------------------------------------------------

    @property
    def by_token(self) -> bool:
        """Does the login go by an access token?"""
        tokens, login = self._scope.tokens, self._terms.login
        return tokens is not None and isinstance(login, ClientCredentials)

    async def token(self) -> Token:
        """The access token, for a login that goes by one."""
        tokens = self._scope.tokens
        assert tokens is not None
        now = asyncio.get_running_loop().time()
        found = tokens.current(now)
        if found is not None:
            return found
        deadline_at = self._ticket.deadline_at
        try:
            async with asyncio.timeout_at(None if deadline_at == math.inf else deadline_at):
                return await tokens.get(now)
        except AsyncClientsError:
            raise
        except TimeoutError:
            pass
        raise DeadlineExceededError(
            "got no access token before its deadline",
            advice="Allow a longer deadline: asking for a token is a request of its own",
        )

    async def exchange(self, token: Token | None) -> Outcome:
        """One request on the wire, once its permit is granted."""
        session = self._scope.session()
        exchange = Exchange(
            self._scope.scheduler,
            self._scope.alarm,
            self._ticket,
            timeout=self._terms.timeout,
            credential=self._credential(token),
        )
        if self.narrator.listening:
            exchange.on_sent = self.narrator.sent
        if self._lane is not None:
            exchange.watch = self._watch(self._lane.watch)
        try:
            outcome = await exchange.run(
                session, self._wire, self._terms.settings.max_response_bytes
            )
        finally:
            self._permit = exchange.permit
            self._tally.attempts += exchange.sent
        self._ticket.again = True
        if outcome is STALE:
            self._stale = True
            return outcome
        # Test doubles of a session know no middleware: they send without a permit.
        self._tally.attempts += not exchange.sent
        self.narrator.outcome(outcome, self._tally.attempts, self._secrets)
        return outcome

    def _credential(self, token: Token | None) -> Credential:
        """The header that carries the credential, or what gives it when the turn has come."""
        login = self._terms.login
        if token is not None:
            self._used = token
            return self._fresh
        return (login.header, login.value) if isinstance(login, HeaderLogin) else None

    def _fresh(self, now: float) -> Header | None:
        """The access token at *now*, which may be another's by then; an old one only once."""
        tokens = self._scope.tokens
        assert tokens is not None
        found = tokens.current(now) or (self._used if self._stale else None)
        self._used = found
        return None if found is None else ("Authorization", found.authorization)

    def _watch(self, watch: Watch | None) -> Callable[[], Awaitable[None]] | None:
        """Tells *watch* that the request is about to go out."""
        if watch is None:
            return None
        quotas = self._scope.scheduler.limiter.quotas
        return partial(watch.sending, Sending(self._scope.key, quotas, self._request.idempotent))

    async def token_refused(self, outcome: Outcome) -> bool:
        """Is the access token no good, and is it worth one more try with a new one?"""
        if outcome is STALE:
            return True
        token = self._used
        if token is None or isinstance(outcome, NoResponse) or outcome.status != 401:
            return False
        if not names_invalid_token(outcome.status, outcome.headers, outcome.body):
            return False
        tokens = self._scope.tokens
        assert tokens is not None
        await tokens.forget(token)
        if not self._renewed and self._tally.requests_left(self._terms.policy):
            self._renewed = True
            return True
        error = TokenRejectedError(
            "refused a token that it had just issued" if self._renewed else "refused its token",
            status=401,
            excerpt=quoted(outcome.body, self._secrets()),
            advice="Check that the client is enabled for this API, and the clocks",
        )
        if self._renewed:
            tokens.fail(error, asyncio.get_running_loop().time())
        raise error

    def judge(self, outcome: Outcome) -> Verdict:
        """What to do with *outcome*."""
        if isinstance(outcome, Response):
            self._meaning = self._read(outcome)
            if self._meaning is Meaning.SUCCESS:
                return Verdict.DONE
            if self._meaning is Meaning.RATE_LIMITED:
                self._note_refusal(outcome)
        return judge(self._request, outcome, self._meaning, self._tally, self._terms.policy)

    def _read(self, outcome: Response) -> Meaning:
        expects = self._request.endpoint.expects
        if expects is None:
            return self._terms.vendor.meaning(outcome)
        if outcome.status == expects:
            return Meaning.SUCCESS
        meaning = self._terms.vendor.meaning(outcome)
        return Meaning.FAILURE if meaning is Meaning.SUCCESS else meaning

    def _note_refusal(self, outcome: Response) -> None:
        # With a permit, the transport saw a 429 at its headers.
        if outcome.status != 429 or self._permit is None:
            self._scope.scheduler.refuse(retry_after(outcome), self._permit)
        if self._lane is not None and self._lane.watch is not None:
            self._lane.watch.refused()
        self.narrator.paused(self._scope, asyncio.get_running_loop().time())

    async def wait(self, verdict: Verdict, outcome: Outcome) -> bool:
        """Wait as *verdict* says; False where the call must not be repeated."""
        if verdict not in (Verdict.AGAIN, Verdict.REFUSED):
            return False
        asked = retry_after(outcome) if isinstance(outcome, Response) else None
        now, deadline_at = asyncio.get_running_loop().time(), self._ticket.deadline_at
        interactive = self._ticket.priority is Priority.INTERACTIVE
        longest = self._terms.policy.longest_retry_after if interactive else math.inf
        if asked is not None and (asked > longest or now + asked > deadline_at):
            return False
        if verdict is Verdict.REFUSED:
            # The scope is paused: the queue is the place to wait, for those who pass it.
            self._tally.refusals += 1
            if self._permit is None:
                await self._scope.pause(self._scope.scheduler.limiter.snapshot(now).paused_for)
            return True
        self._tally.failures += 1
        self._tally.doubtful |= isinstance(outcome, Response) or outcome.sent == "maybe"
        pause = max(self._terms.policy.wait(self._tally.failures), asked or 0.0)
        if now + pause > deadline_at:
            return False
        logger.debug("%s: %d attempts, again in %.2f s", self._name(), self._tally.attempts, pause)
        await self._scope.pause(pause)
        return True

    # --- The end --------------------------------------------------------------------

    async def result(self, outcome: Outcome) -> T:
        """What the endpoint promises, decoded."""
        assert isinstance(outcome, Response)
        returns = self._request.endpoint.returns
        vendor = self._terms.vendor
        if is_long(outcome):
            result = await asyncio.to_thread(decoded, outcome, returns, vendor, self._secrets)
        else:
            result = decoded(outcome, returns, vendor, self._secrets)
        self.narrator.ended(None)
        return result

    def nothing(self) -> T:
        """The result of a deletion that was done before."""
        self.narrator.ended(None)
        return cast("T", None)

    def failure(self, verdict: Verdict, outcome: Outcome) -> AsyncClientsError:
        """The error that ends the call."""
        secrets, vendor = self._secrets(), self._terms.vendor
        if verdict is Verdict.UNKNOWN:
            return unknown_outcome(outcome, vendor, secrets)
        return failure_of(outcome, self._meaning, vendor, secrets)

    def facts(self) -> dict[str, Any]:
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
        return secrets if self._used is None else (*secrets, *self._used.secrets)

    def _name(self) -> str:
        return f"{self._terms.vendor.name}.{self._request.endpoint.operation}"
