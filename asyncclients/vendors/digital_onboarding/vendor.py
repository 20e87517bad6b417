"""Digital Onboarding API v1, as data.

Manual: https://docs.digitalonboarding.com/docs/api
"""

from __future__ import annotations

from asyncclients.core.endpoint import Response
from asyncclients.core.vendor import Vendor, standard_advice
from asyncclients.ratelimit.quota import Quota

MANUAL = "https://docs.digitalonboarding.com/docs/api"

TOKEN_PATH = "oauth2/token"  # noqa: S105 - a path


def advice(response: Response) -> str:
    """What to do about an answer that says no; the manual names one, for an expired token."""
    if response.status == 401:
        return "The access token is good, and may not do this: ask the vendor for its scopes"
    if response.status == 413:
        return "Send fewer contacts at a time"
    return standard_advice(response)


DIGITAL_ONBOARDING = Vendor(
    name="digital_onboarding",
    base_url="https://api.digitalonboarding.com/",
    # None is published; this is modest, and the user's to change.
    quotas=(Quota(10, 1.0),),
    manual=MANUAL,
    environment={
        "client_id": "DIGITAL_ONBOARDING_CLIENT_ID",
        "client_secret": "DIGITAL_ONBOARDING_CLIENT_SECRET",
    },
    advice=advice,
)
