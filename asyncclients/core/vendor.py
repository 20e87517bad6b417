"""The description of a vendor: address, quotas, environment, and how to read its responses.

Values and pure functions of a response. Each vendor's package states how it differs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum
from functools import singledispatch
from typing import Any

import msgspec

from asyncclients.core.codec import read_object
from asyncclients.core.endpoint import Response
from asyncclients.errors import encodable
from asyncclients.ratelimit.headers import retry_after_seconds
from asyncclients.ratelimit.quota import Quota


class ResponseKind(Enum):
    """The meaning of a response that is no success."""

    RATE_LIMITED = "rate limited"
    """Not carried out because of the rate: retryable, also if it is not idempotent."""
    QUOTA_EXHAUSTED = "quota spent"
    """Not carried out; the quota is used up for hours or days."""
    FAILURE = "failure"


_QUOTA_EXHAUSTED = re.compile(
    rb"(?:\A|[\"'>])\s*(?:(?:daily|weekly|monthly|usage|plan|quota)[ -])?"
    rb"(?:limit|quota) exceeded[.!]?\s*(?:\Z|[\"'<])",
    re.IGNORECASE,
)
"""Matches a whole message, so that "Concurrency Limit Exceeded" does not match."""


def classify_response(response: Response) -> ResponseKind:
    """Return the kind of a response that is no success, by its status: 429 is rate-limited.

    A 429 with the message `Limit Exceeded` and without `Retry-After` is the usage-plan
    quota of an AWS API Gateway, for a day or a month:
    https://docs.aws.amazon.com/apigateway/latest/developerguide/supported-gateway-response-types.html
    """
    if response.status == 429:
        headers: Any = response.headers
        if _QUOTA_EXHAUSTED.search(response.body[:2048]) and retry_after_seconds(headers) is None:
            return ResponseKind.QUOTA_EXHAUSTED
        return ResponseKind.RATE_LIMITED
    return ResponseKind.FAILURE


def standard_advice(response: Response) -> str:
    """Return advice for an error response, by its status."""
    if response.status >= 500:
        return "The vendor failed: try again later; if it fails again, look at its status page"
    return _ADVICE.get(response.status, "Compare the quoted response with the vendor's manual")


_ADVICE: Mapping[int, str] = {
    400: "Correct the request; the vendor's message is quoted here",
    401: "Check the credential: it is missing, wrong, expired or was revoked",
    403: "The credential is known but may not do this; ask the vendor's account admin",
    404: "Check the id, and that base_url is the right one for this account",
    408: "Nothing was carried out: try again; if it happens again, check the network",
    409: "Read the vendor's current state and decide again",
    425: "Nothing was carried out: try again later",
    422: "Correct the fields named in .errors and send again",
    429: "Other clients use the same quota; lower quotas= or wait .retry_after seconds",
}


def is_unauthorized(response: Response) -> bool:
    """Return True for a 401."""
    return response.status == 401


class Vendor(msgspec.Struct, frozen=True, kw_only=True):
    """The description of one vendor.

    Attributes:
        name: as in `intouch`; also the name of its package.
        base_url: the default base URL.
        quotas: its published limits.
        max_in_flight: most requests at the same time; None for no limit.
        manual: URL of its manual.
        environment: argument for a credential -> variable that `from_env` reads.
        settings: other argument -> variable, which may be unset.
        classify: returns the kind of a response that is no success: of any status but 2xx, or
            but the one that the endpoint expects.
        advice: returns advice for an error response.
        rejects_key: returns True for a response that rejects the credential of a login by
            header, which is then read again if it rotates.
        request_id_headers: headers that may hold its id of a request.
    """

    name: str
    base_url: str
    quotas: tuple[Quota, ...]
    manual: str
    environment: Mapping[str, str]
    settings: Mapping[str, str] = msgspec.field(default_factory=dict[str, str])
    max_in_flight: int | None = None
    classify: Callable[[Response], ResponseKind] = classify_response
    advice: Callable[[Response], str] = standard_advice
    rejects_key: Callable[[Response], bool] = is_unauthorized
    request_id_headers: tuple[str, ...] = ("x-request-id", "x-amzn-requestid", "x-amz-request-id")

    def request_id(self, headers: Mapping[str, str]) -> str | None:
        """Return the vendor's id of a request; None if it sent none."""
        for name in self.request_id_headers:
            if found := headers.get(name):
                return encodable(found)[:100]
        return None


def field_errors(body: bytes) -> dict[str, Any] | list[Any] | None:
    """Return the `errors` of a 422 body, as Laravel and Phoenix write them."""
    errors: dict[str, Any] | list[Any] | None = (read_object(body) or {}).get("errors")
    return errors if isinstance(errors, (dict, list)) else None


@singledispatch
def sync_target_of(resource: Any) -> Any:
    """Return the target of a sync for *resource*; an object without a registered one is its own.

    A resource such as `intouch.contacts` has the operations of the vendor's manual. What a sync
    needs besides them (which field is the key, how an item is found by it, what its id is) is in
    the target, which the vendor's package registers here.
    """
    return resource
