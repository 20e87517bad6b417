"""Intempt API v1, as data, and the storage that its CSV files are uploaded to.

Manual: https://dev.intempt.com
"""

from __future__ import annotations

import msgspec

from asyncclients.core.endpoint import Response
from asyncclients.core.vendor import Vendor, standard_advice
from asyncclients.ratelimit.quota import Quota

MANUAL = "https://dev.intempt.com"


def advice(response: Response) -> str:
    """What to do about an answer that says no; the manual names no statuses."""
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
    """What to do when the storage refuses a file (Amazon S3 error responses).

    https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
    """
    if response.status == 403:
        return "The upload link has expired or was altered: call upload_csv again for a new one"
    return "The file was not taken: call upload_csv again"


INTEMPT = Vendor(
    name="intempt",
    base_url="https://api.intempt.com/",
    # None is published; this is modest, and the user's to change.
    quotas=(Quota(10, 1.0),),
    manual=MANUAL,
    environment={"api_key": "INTEMPT_API_KEY", "org": "INTEMPT_ORG"},
    advice=advice,
)

STORAGE = msgspec.structs.replace(INTEMPT, quotas=(), advice=storage_advice)
"""Where an upload link leads: another host, which needs no credential but the link."""
