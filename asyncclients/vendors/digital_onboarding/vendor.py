"""Digital Onboarding API v1: origin, quotas, login, advice."""

from __future__ import annotations

from asyncclients.core.endpoint import Response
from asyncclients.core.vendor import Vendor, standard_advice
from asyncclients.ratelimit.quota import Quota

TOKEN_PATH = "oauth2/token"  # noqa: S105 - a path


def advice(response: Response) -> str:
    """Return advice for an error response; the manual documents only that of an expired token."""
    if response.status == 401:
        return "The access token is valid but has no permission: ask the vendor for its scopes"
    if response.status == 413:
        return "Send fewer contacts at a time"
    return standard_advice(response)


DIGITAL_ONBOARDING = Vendor(
    name="digital_onboarding",
    base_url="https://api.digitalonboarding.com/",
    # The vendor publishes no limit; this default is conservative.
    quotas=(Quota(10, 1.0),),
    manual="https://docs.digitalonboarding.com/docs/api",
    environment={
        "client_id": "DIGITAL_ONBOARDING_CLIENT_ID",
        "client_secret": "DIGITAL_ONBOARDING_CLIENT_SECRET",
    },
    advice=advice,
)
