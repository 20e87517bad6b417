"""Intempt API v1 (origin, quotas, login, advice), and the storage for its CSV files."""

from __future__ import annotations

import msgspec

from asyncclients.core.endpoint import Response
from asyncclients.core.vendor import Vendor, standard_advice
from asyncclients.ratelimit.quota import Quota


def advice(response: Response) -> str:
    """Return advice for an error response; the manual documents no statuses."""
    if response.status == 401:
        return "Check INTEMPT_API_KEY: it is the key of one source, shown in the source's settings"
    if response.status == 403:
        return "Check that INTEMPT_ORG is the organization that the source's key belongs to"
    if response.status == 404:
        return "Check INTEMPT_ORG and the id; one key sees only its own source's collections"
    if response.status == 413:
        return "Send fewer rows at a time, or a file with collections.upload_csv"
    return standard_advice(response)


def storage_advice(response: Response) -> str:
    """Return advice for an error response of the storage (Amazon S3).

    https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
    """
    if response.status == 403:
        return "The upload link has expired or was altered: call upload_csv again for a new one"
    return "The file was not stored: call upload_csv again"


INTEMPT = Vendor(
    name="intempt",
    base_url="https://api.intempt.com/",
    # The vendor publishes no limit; this default is conservative.
    quotas=(Quota(10, 1.0),),
    manual="https://dev.intempt.com",
    environment={"api_key": "INTEMPT_API_KEY", "org": "INTEMPT_ORG"},
    advice=advice,
)

STORAGE = msgspec.structs.replace(INTEMPT, quotas=(), advice=storage_advice)
"""The target of an upload link: another host, without a quota; the link is the credential."""
