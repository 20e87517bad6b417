"""Intouch Insight Customer Platform API 1.0.0: origin, quotas, login, advice."""

from __future__ import annotations

from asyncclients.core.codec import read_object
from asyncclients.core.endpoint import Response
from asyncclients.core.vendor import Vendor, is_unauthorized, standard_advice
from asyncclients.ratelimit.quota import Quota


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


def rejects_key(response: Response) -> bool:
    """Return True for a 401, and for the 403 of AWS API Gateway about a key that it does not know.

    It is the type INVALID_API_KEY, with `{"message": "Forbidden"}`, in the list linked above.
    """
    if response.status == 403:
        return (read_object(response.body) or {}).get("message") == "Forbidden"
    return is_unauthorized(response)


INTOUCH = Vendor(
    name="intouch",
    base_url="https://api.intouchinsight.com/public/v1/",
    # "the default rate limits to be 2 requests per second for all customers"
    quotas=(Quota(2, 1.0),),
    manual="https://docs.api.intouchinsight.com",
    environment={"api_key": "INTOUCH_API_KEY"},
    advice=advice,
    rejects_key=rejects_key,
)
