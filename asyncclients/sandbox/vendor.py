"""What every pretend vendor is: a name, a limit, a login, and answers.

A vendor is data and synchronous functions. It never sees a socket, a fault or
the record: the gate in front of it does. Its words for *no* are its own, hence
the methods to override.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from .exchange import RefusedError, Reply
from .limits import SlidingLog
from .routing import Route, Router

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from random import Random

    from .exchange import SandboxRequest
    from .limits import ServerLimit

S = TypeVar("S")


class Vendor(ABC, Generic[S]):
    """A pretend vendor with its state.

    `quota` is what its manual allows, requests per seconds; None: no limit.
    `prefix` is the path that its base URL ends in.
    """

    name: ClassVar[str]
    prefix: ClassVar[str] = "/"
    quota: ClassVar[tuple[float, float] | None]

    def __init__(self, state: S, routes: Sequence[Route[S]]) -> None:
        self.state = state
        self._router = Router(routes)

    @abstractmethod
    def issue(self, random: Random) -> dict[str, str]:
        """Make a new credential; return it as the environment variables of a client."""

    def listens_at(self, urls: Mapping[str, str]) -> None:
        """Learn the base URL of each vendor, as soon as all of them listen."""
        del urls

    @abstractmethod
    def credential(self, call: SandboxRequest) -> str:
        """Whose quota *call* counts against, empty for nobody's.

        Raises RefusedError when *call* carries no right credential.
        """

    @abstractmethod
    def refusal(self, limit: ServerLimit, now: float) -> Reply:
        """The answer to a call beyond the limit."""

    def new_limit(self, limit: float, period: float) -> ServerLimit:
        """How this vendor counts *limit* requests in *period* seconds."""
        return SlidingLog(limit, period)

    def limit_headers(self, limit: ServerLimit, now: float) -> Mapping[str, str]:
        """What each answer tells about the limit."""
        del limit, now
        return {}

    def complaint(self, status: int, message: str) -> Reply:
        """This vendor's way to say *status* where no rule of its own applies."""
        return Reply.json(status, {"message": message})

    def answer(self, call: SandboxRequest) -> Reply:
        """Do what *call* asks and say how it went."""
        matches = self._router.matches(call.segments)
        if not matches:
            return self.complaint(404, "Not Found")
        for match in matches:
            if call.method in match.route.methods.split():
                try:
                    return match.route.handler(self.state, replace(call, ids=match.ids))
                except RefusedError as refused:
                    return refused.reply
        return self.complaint(405, "Method Not Allowed")
