"""The way of one call, from request to result.

`Dispatcher.send` is the table of contents: take the credential · exchange (the
permit is taken inside, once per wire attempt) · judge · return, wait and
repeat, or raise. What each step knows is in `call.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

from asyncclients.core.call import Call
from asyncclients.core.decoding import DECODED_IN_THREAD
from asyncclients.core.endpoint import Options, Request
from asyncclients.core.retry import Decision
from asyncclients.core.settings import ClientConfig, PoolConfig
from asyncclients.errors import AsyncClientsError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from asyncclients.core.auth import Login
    from asyncclients.core.scope import Scope
    from asyncclients.core.vendor import Vendor

T = TypeVar("T")
_DONE = Decision.DONE


class Dispatcher:
    """Sends the requests of one client."""

    def __init__(
        self,
        scope: Callable[[], Scope],
        vendor: Vendor,
        login: Login | None,
        base_url: str,
        *,
        settings: PoolConfig,
        options: Options,
        account: str = "",
    ) -> None:
        self.terms = ClientConfig(
            scope=scope,
            vendor=vendor,
            login=login,
            base_url=base_url,
            pool=settings,
            options=options,
            account=account,
        )

    def with_options(self, options: Options) -> Dispatcher:
        """The same, with other defaults."""
        sibling = Dispatcher.__new__(Dispatcher)
        sibling.terms = msgspec.structs.replace(self.terms, options=options)
        return sibling

    def send(self, request: Request[T]) -> Coroutine[Any, Any, T]:
        """Make one call and return what its endpoint promises.

        Raises:
            AsyncClientsError: with vendor, operation, method, path and attempts filled in.
        """
        return run(Call(self.terms, request))


def terms_of(owner: object) -> ClientConfig | None:
    """Return what the client lays down that *owner* is, or is a resource of; None for others."""
    sender = getattr(owner, "_dispatcher", None) or getattr(
        getattr(owner, "_send", None), "__self__", None
    )
    return sender.terms if isinstance(sender, Dispatcher) else None


async def run(call: Call[T]) -> T:
    """Take *call* from its first attempt to its end; see `Dispatcher.send`."""
    error: AsyncClientsError
    try:
        call.open()
        while True:
            if call.bearer is not None:
                await call.bearer.ensure()
            outcome = call.record(await call.exchange())
            verdict = await call.decide_with_token(outcome) if call.bearer else call.decide(outcome)
            if verdict is _DONE:
                long = len(call.response.body) > DECODED_IN_THREAD
                return await call.long_result() if long else call.result()
            if verdict is Decision.ALREADY_DELETED:
                call.ended(None)
                return cast("T", None)
            if not await call.wait(verdict, outcome):
                raise call.failure(verdict, outcome)  # noqa: TRY301 - for the line below
    except AsyncClientsError as raised:
        error = raised.with_facts(**call.error_fields())
    except BaseException as foreign:
        call.ended(foreign)
        raise
    call.ended(error)
    try:
        raise error
    finally:
        # The traceback holds this frame: without this the client would live until a collection.
        del error, call
