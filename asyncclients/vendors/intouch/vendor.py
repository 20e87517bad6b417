"""Intouch Insight Customer Platform API 1.0.0: origin, quotas, login, advice.

Manual: https://docs.api.intouchinsight.com
"""

from __future__ import annotations

from asyncclients.core.endpoint import Response
from asyncclients.core.vendor import Vendor, standard_advice
from asyncclients.ratelimit.quota import Quota

MANUAL = "https://docs.api.intouchinsight.com"


def advice(response: Response) -> str:
    """Return advice for an error response.

    The manual documents "Missing Authentication Token" for a missing key. This is a response
    of AWS API Gateway, which also sends it for an unknown path, and 403 "Forbidden" for a bad key:
    https://docs.aws.amazon.com/apigateway/latest/developerguide/supported-gateway-response-types.html
    """
    if response.status == 401:
        return "Check INTOUCH_API_KEY: the key is missing or wrong, or was revoked by an admin"
    if response.status == 403:
        return (
            "Either the API key is wrong or may not do this, or the path does not exist: "
            "check INTOUCH_API_KEY and base_url"
        )
    return standard_advice(response)


INTOUCH = Vendor(
    name="intouch",
    base_url="https://api.intouchinsight.com/public/v1/",
    # "the default rate limits to be 2 requests per second for all customers"
    quotas=(Quota(2, 1.0),),
    manual=MANUAL,
    environment={"api_key": "INTOUCH_API_KEY"},
    advice=advice,
)
