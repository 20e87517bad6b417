"""One of several workers on one key, which share its quota and its token through two files.

`python worker.py airports-us.csv.gz 0 4` starts the first of four. On more than one host, use
`RedisLimits` and `RedisTokens` instead of the files.
"""

import asyncio
import csv
import gzip
import sys
from collections.abc import Iterable
from itertools import islice

from asyncclients import DigitalOnboardingClient, SessionPool
from asyncclients.stores import FileLimits, FileTokens
from asyncclients.vendors.digital_onboarding import NewContact


async def work(rows: Iterable[dict[str, str]]) -> None:
    limits, tokens = FileLimits("limits.db"), FileTokens("tokens.json")
    async with SessionPool(limits=limits, tokens=tokens) as pool:
        contacts = DigitalOnboardingClient.from_env(pool).contacts
        async with asyncio.TaskGroup() as tasks:
            for row in rows:
                airport = NewContact(unique_id=row["iata"], name_first=row["name"])
                tasks.create_task(contacts.upsert(airport))


def main(path: str, worker: int, workers: int) -> None:
    with gzip.open(path, "rt", newline="", encoding="utf-8") as file:
        rows = list(islice(csv.DictReader(file), worker, None, workers))
    asyncio.run(work(rows))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
