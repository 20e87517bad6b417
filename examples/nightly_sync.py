"""Bring the contacts of Intouch into agreement with a CSV file, and log the saved hours.

Run it from cron after each export. Only new and changed rows are sent.
"""

import asyncio
import logging
import sys

from asyncclients import IntouchClient, SessionPool
from asyncclients.backfill import SyncReport, sync

log = logging.getLogger("nightly_sync")


async def main(file: str) -> SyncReport:
    async with SessionPool() as pool:
        intouch = IntouchClient.from_env(pool)
        report = await sync(file, intouch.contacts, key="email", state="contacts.sync")
        saved = intouch.eta(report.unchanged) if report.unchanged else 0.0
    log.info(
        "%d created, %d updated, %d unchanged, which saved %.1f h",
        report.created,
        report.updated,
        report.unchanged,
        saved / 3600,
    )
    for warning in report.warnings:
        log.warning("%s", warning)
    return report


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main(sys.argv[1]))
