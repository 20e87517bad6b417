"""Emma's Touchpoints API, as data.

Manual: https://api.myemma.com/api/external/touchpoints.html
Address, login and refusals: http://myemma.com/api-docs/
"""

from __future__ import annotations

import re

from asyncclients.core.endpoint import Response
from asyncclients.core.vendor import ResponseKind, Vendor, classify_response, standard_advice
from asyncclients.ratelimit.quota import Quota

MANUAL = "https://api.myemma.com/api/external/touchpoints.html"

_RATE_LIMIT = re.compile(rb"rate[ _-]?limit", re.IGNORECASE)


def meaning(response: Response) -> ResponseKind:
    """Emma refuses by rate with 403 "Rate Limit Exceeded"; only its words tell.

    http://myemma.com/api-docs/ ; a 403 that asks to come back later is one as
    well: https://github.com/joseph3114/EmmaSharper (Rate-Limiting-and-Resilience).
    """
    if response.status == 403 and (
        "Retry-After" in response.headers or _RATE_LIMIT.search(response.body[:2048])
    ):
        return ResponseKind.RATE_LIMITED
    return classify_response(response)


def advice(response: Response) -> str:
    """What to do about an answer that says no."""
    if meaning(response) is ResponseKind.RATE_LIMITED:
        return standard_advice(Response(429, response.headers, b""))
    if response.status == 401:
        return "Check EMMA_PUBLIC_KEY and EMMA_PRIVATE_KEY: the pair is wrong or was revoked"
    if response.status == 403:
        return (
            "Either the keys may not use this account (check EMMA_ACCOUNT_ID; an HQ customer "
            "needs the id of a subaccount), or Emma refused by rate without saying so"
        )
    return standard_advice(response)


EMMA = Vendor(
    name="emma",
    base_url="https://api.e2ma.net/",
    # The vendor's limit as a third party tells it; its own page has a limit and no number.
    quotas=(Quota(180, 60.0),),
    # https://github.com/joseph3114/EmmaSharper: more at a time are refused in practice.
    max_in_flight=4,
    manual=MANUAL,
    environment={
        "account_id": "EMMA_ACCOUNT_ID",
        "public_key": "EMMA_PUBLIC_KEY",
        "private_key": "EMMA_PRIVATE_KEY",
    },
    classify=meaning,
    advice=advice,
)
