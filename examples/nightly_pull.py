"""Pull all contacts of Intouch into a Parquet file; run it again to resume."""

import asyncio
import logging

from asyncclients import IntouchClient, SessionPool
from asyncclients.backfill import Progress, Report, pull

log = logging.getLogger("nightly")


def log_progress(progress: Progress) -> None:
    log.info("%d contacts, %.1f a second", progress.done, progress.rate)


async def main() -> Report:
    async with SessionPool() as pool:
        contacts = IntouchClient.from_env(pool).contacts.list(sort_by="created_at")
        report = await pull(
            contacts, "contacts.parquet", state="contacts.db", progress=log_progress
        )
    for problem in report.unverified:
        log.warning("not verified: %s", problem)
    log.info("%d contacts, %.1f %% of the quota", report.done, 100 * report.quota_use)
    return report


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main())
