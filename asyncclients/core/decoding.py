"""From an answer to what its endpoint promises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from asyncclients.core import codec
from asyncclients.core.endpoint import Endpoint, Response
from asyncclients.core.error_mapping import redacted_excerpt, request_id
from asyncclients.errors import DecodeError
from asyncclients.secret import Secret, redact

if TYPE_CHECKING:
    from asyncclients.core.vendor import Vendor

T = TypeVar("T")

DECODED_IN_THREAD = 2**20
"""Bytes from which a body is decoded off the event loop."""


def decode_response(
    answer: Response, endpoint: Endpoint[T], vendor: Vendor, secrets: Callable[[], Sequence[Secret]]
) -> T:
    """The body of *answer* as *endpoint* returns it; the answer itself where that is `Response`.

    Raises:
        DecodeError: it is something else, or markup or an error that says it went well;
            quotes its start, without *secrets*.
    """
    cls: Any = endpoint.returns
    whole = cls is Response
    if whole and answer.status >= 300:
        return cast("T", answer)
    try:
        if whole:
            codec.check_body(answer.body, endpoint.result_fields)
            return cast("T", answer)
        return cast("T", codec.decode(answer.body, cls))
    except DecodeError as caught:
        bad = caught
    known = secrets()
    raise DecodeError(
        redact(bad.message, known),
        status=answer.status,
        excerpt=redacted_excerpt(answer.body, known),
        request_id=request_id(answer, vendor, known),
        advice=bad.advice,
        is_error_body=bad.is_error_body,
    )
