"""Totango's Touchpoints API: origin, quotas, login, advice.

Limit: https://support.totango.com/hc/en-us/articles/15312978301588-API-rate-limit
"""

from __future__ import annotations

from asyncclients.core.endpoint import Response
from asyncclients.core.vendor import Vendor, standard_advice
from asyncclients.ratelimit.quota import Quota

REGIONS = {"us": "https://api.totango.com/", "eu": "https://api-eu1.totango.com/"}
"""Region -> base URL, from the manual."""


def advice(response: Response) -> str:
    """Return advice for an error response. Tokens belong to a user and may expire:
    https://support.totango.com/hc/en-us/articles/203036939-Personal-Access-Token-and-Service-ID
    """
    if response.status in (401, 403):
        return (
            "Check TOTANGO_APP_TOKEN: the token is wrong, expired or revoked, or belongs to "
            "the other region (region=, TOTANGO_REGION)"
        )
    if response.status == 400:
        return "Check the account id and the ids of types, tags and flows: all must exist already"
    return standard_advice(response)


TOTANGO = Vendor(
    name="totango",
    base_url=REGIONS["us"],
    # "a global rate limit of 100 calls/minute for each token", over all of Totango's APIs
    quotas=(Quota(100, 60.0),),
    manual="https://support.totango.com/hc/en-us/articles/115000597266-Touchpoints-API",
    environment={"app_token": "TOTANGO_APP_TOKEN"},
    settings={"region": "TOTANGO_REGION"},
    advice=advice,
)
