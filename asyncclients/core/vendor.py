"""A vendor as data: where it is, what it allows, how it logs in, how it says no.

Everything here is a value or a pure function of a reply. What differs between
vendors is stated once, in the vendor's own room; the machinery only reads it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import msgspec

from asyncclients.core.codec import read_object
from asyncclients.core.endpoint import Response
from asyncclients.errors import encodable
from asyncclients.ratelimit.headers import retry_after_seconds
from asyncclients.ratelimit.quota import Quota


class ResponseKind(Enum):
    """What an answer means for the call that got it."""

    SUCCESS = "success"
    RATE_LIMITED = "rate limited"
    """Not carried out, because of the rate: may be repeated whatever it was."""
    QUOTA_EXHAUSTED = "quota spent"
    """Not carried out, and waiting seconds will not help."""
    FAILURE = "failure"


_SUCCESS = ResponseKind.SUCCESS  # to look up a member takes as long as all the rest here
_QUOTA_SPENT = re.compile(
    rb"(?:\A|[\"'>])\s*(?:(?:daily|weekly|monthly|usage|plan|quota)[ -])?"
    rb"(?:limit|quota) exceeded[.!]?\s*(?:\Z|[\"'<])",
    re.IGNORECASE,
)
"""The whole of a message; "Concurrency Limit Exceeded" and the like are another matter."""


def classify_response(response: Response) -> ResponseKind:
    """2xx is success and 429 a refusal by rate, as RFC 6585 has it.

    A 429 that says `Limit Exceeded`, not of which rate and not until when, is the
    usage-plan quota of an AWS API Gateway (a day's or a month's):
    https://docs.aws.amazon.com/apigateway/latest/developerguide/supported-gateway-response-types.html
    """
    if 200 <= response.status < 300:
        return _SUCCESS
    if response.status == 429:
        headers: Any = response.headers
        if _QUOTA_SPENT.search(response.body[:2048]) and retry_after_seconds(headers) is None:
            return ResponseKind.QUOTA_EXHAUSTED
        return ResponseKind.RATE_LIMITED
    return ResponseKind.FAILURE


def standard_advice(response: Response) -> str:
    """What to do about an answer that says no, by its status alone."""
    if response.status >= 500:
        return "The vendor failed: try again later, and look at its status page if it goes on"
    return _ADVICE.get(response.status, "Compare what the vendor says here with its manual")


_ADVICE: Mapping[int, str] = {
    400: "Correct the request: what the vendor says of it is quoted here",
    401: "Check the credential: it is missing, wrong, expired or was revoked",
    403: "The credential is known but may not do this; ask the vendor's account admin",
    404: "Check the id, and that base_url is the right one for this account",
    408: "Nothing was carried out: try again, and check the network if it goes on",
    409: "Read the vendor's current state and decide again",
    425: "Nothing was carried out: try again later",
    422: "Correct the fields named in .errors and send again",
    429: "The quota is used by others too; lower quotas= or wait .retry_after seconds",
}


class Vendor(msgspec.Struct, frozen=True, kw_only=True):
    """One vendor.

    Attributes:
        name: as in `intouch`; also the name of its module.
        base_url: where requests go when the user names no other.
        quotas: what it allows by its published limits.
        max_in_flight: requests at the same time, None for no limit of its own.
        manual: address of its document.
        environment: credential argument -> variable that `from_env` reads.
        settings: argument that is no credential -> variable, which may be unset.
        classify: what an answer means.
        advice: what to do about an answer that says no.
        request_id_headers: where it puts its own id of an exchange.
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
    request_id_headers: tuple[str, ...] = ("x-request-id", "x-amzn-requestid", "x-amz-request-id")

    def request_id(self, headers: Mapping[str, str]) -> str | None:
        """The vendor's id of an exchange, None where it sent none."""
        for name in self.request_id_headers:
            if found := headers.get(name):
                return encodable(found)[:100]
        return None


def field_errors(body: bytes) -> dict[str, Any] | list[Any] | None:
    """The `errors` of a 422 body, as Laravel and Phoenix write them."""
    errors: dict[str, Any] | list[Any] | None = (read_object(body) or {}).get("errors")
    return errors if isinstance(errors, (dict, list)) else None
