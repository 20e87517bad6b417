"""Load the contacts of Intouch into DuckDB every night, the changed ones only; needs asyncclients[dlt].

Run it from cron. The first night reads every contact, each further one only what changed.
"""

import asyncio
import logging

import dlt

from asyncclients import IntouchClient, SessionPool
from asyncclients.integrations.dlt import resource

log = logging.getLogger("intouch_to_duckdb")


async def main() -> None:
    pipeline = dlt.pipeline(
        "intouch", destination=dlt.destinations.duckdb("crm.duckdb"), dataset_name="intouch"
    )
    async with SessionPool() as pool:
        intouch = IntouchClient.from_env(pool)
        contacts = resource(intouch.contacts.list(), primary_key="uuid", incremental="updated_at")
        tags = resource(intouch.tags.list(), primary_key="uuid", incremental="updated_at")
        # In a thread: `run` blocks, and the event loop has to read the pages meanwhile.
        load = await asyncio.to_thread(pipeline.run, [contacts, tags])
    log.info("%s", load)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main())
