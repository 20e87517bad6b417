"""Raw answers on request: what the vendor really said, beside the typed result.

`capture_responses` notes every answer that calls inside its block get, refused
and failed ones included, one per request on the wire. It follows the context:
tasks started inside the block are heard, neighbours are not. Answers of token
endpoints are never captured: they hold the token.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import msgspec

from asyncclients.core.endpoint import Outcome, Response

if TYPE_CHECKING:
    from collections.abc import Generator

    from asyncclients.core.vendor import Vendor


class CapturedResponse(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of a vendor, as it came.

    Attributes:
        vendor: its name.
        operation: the call that was answered, as in `contacts.create`.
        attempt: which request of that call, from 1.
        status: HTTP status.
        headers: of the answer; looked up whatever their case.
        body: decompressed.
        request_id: the vendor's own id of the exchange, None where it sent none.
    """

    vendor: str
    operation: str
    attempt: int
    status: int
    headers: Mapping[str, str]
    body: bytes
    request_id: str | None

    def __repr__(self) -> str:
        # Headers and body may hold what should not be printed by a traceback.
        name = f"{self.vendor}.{self.operation}"
        return f"<CapturedResponse {name} {self.status}, {len(self.body)} bytes>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("status", self.status)]


_captures: ContextVar[tuple[list[CapturedResponse], ...]] = ContextVar(
    "asyncclients_captures", default=()
)
captures = _captures.get
"""The lists of all who capture around the running code."""


@contextmanager
def capture_responses() -> Generator[list[CapturedResponse]]:
    """Collect the raw answers of all calls inside the block, in order of arrival.

    ```python
    with capture_responses() as responses:
        contact = await intouch.contacts.get(uuid)
    print(responses[-1].status, responses[-1].headers["Date"], responses[-1].request_id)
    ```

    The list keeps whole bodies: leave the block before a long listing.
    """
    responses: list[CapturedResponse] = []
    token = _captures.set((*captures(), responses))
    try:
        yield responses
    finally:
        _captures.reset(token)


def capture(outcome: Outcome, vendor: Vendor, operation: str, attempt: int) -> None:
    """Give *outcome* to whoever captures, if it is an answer."""
    lists = captures()
    if not lists or not isinstance(outcome, Response):
        return
    answer = CapturedResponse(
        vendor=vendor.name,
        operation=operation,
        attempt=attempt,
        status=outcome.status,
        headers=outcome.headers,
        body=outcome.body,
        request_id=vendor.request_id(outcome.headers),
    )
    for responses in lists:
        responses.append(answer)
