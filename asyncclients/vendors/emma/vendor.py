"""Emma's Touchpoints API: origin, quotas, login, rate-limit responses, advice.

Origin, login and rate limit: http://myemma.com/api-docs/
"""

from __future__ import annotations

import re

from asyncclients.core.endpoint import Response
from asyncclients.core.vendor import ResponseKind, Vendor, classify_response, standard_advice
from asyncclients.ratelimit.quota import Quota

_RATE_LIMIT = re.compile(rb"rate[ _-]?limit", re.IGNORECASE)


def classify(response: Response) -> ResponseKind:
    """Classify a response; Emma's rate limit is a 403 with the text "Rate Limit Exceeded".

    http://myemma.com/api-docs/ ; a 403 with `Retry-After` is one as well:
    https://github.com/joseph3114/EmmaSharper (Rate-Limiting-and-Resilience).
    """
    if response.status == 403 and (
        "Retry-After" in response.headers or _RATE_LIMIT.search(response.body[:2048])
    ):
        return ResponseKind.RATE_LIMITED
    return classify_response(response)


def advice(response: Response) -> str:
    """Return advice for an error response."""
    if classify(response) is ResponseKind.RATE_LIMITED:
        return standard_advice(Response(429, response.headers, b""))
    if response.status == 401:
        return "Check EMMA_PUBLIC_KEY and EMMA_PRIVATE_KEY: the pair is wrong or was revoked"
    if response.status == 403:
        return (
            "Either the keys may not use this account (check EMMA_ACCOUNT_ID; an HQ customer "
            "needs the id of a subaccount), or Emma's rate limit was exceeded"
        )
    return standard_advice(response)


EMMA = Vendor(
    name="emma",
    base_url="https://api.e2ma.net/",
    # From a third party; the vendor's page mentions a limit without a number.
    quotas=(Quota(180, 60.0),),
    # https://github.com/joseph3114/EmmaSharper: in practice, more concurrent calls are rejected.
    max_in_flight=4,
    manual="https://api.myemma.com/api/external/touchpoints.html",
    environment={
        "account_id": "EMMA_ACCOUNT_ID",
        "public_key": "EMMA_PUBLIC_KEY",
        "private_key": "EMMA_PRIVATE_KEY",
    },
    classify=classify,
    advice=advice,
)
