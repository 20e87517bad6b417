"""A worker in a process of its own, to be killed: `dbos_worker.py URL`. Says `go` when it is up.

The environment of this process has that of the sandbox.
"""

import asyncio
import signal
import sys

from asyncclients import DigitalOnboardingClient, IntouchClient, Quota, SessionPool
from asyncclients.backfill.steps import PushTarget
from asyncclients.integrations.dbos import Backfills
from asyncclients.paging import Paginator
from asyncclients.vendors.digital_onboarding import NewContact
from asyncclients.vendors.intouch import NewHierarchy

ENOUGH = [Quota(100_000, 1.0)]
LEASE = 1.5


def resolve_with(pool: SessionPool, spec: str) -> PushTarget | Paginator[object]:
    """Return the jobs of the tests."""
    intouch = IntouchClient.from_env(pool, quotas=ENOUGH)
    if spec == "create":
        return PushTarget(
            target=intouch.hierarchies.create, row_type=NewHierarchy, concurrency=4, max_outage=60.0
        )
    if spec == "list":
        return intouch.contacts.list(sort_by="created_at", limit=5)
    if spec == "nodes":
        return intouch.hierarchies.list(sort_by="created_at", limit=5)
    onboarding = DigitalOnboardingClient.from_env(pool, quotas=ENOUGH)
    return PushTarget(
        target=onboarding.contacts.upsert_many, batch=3, row_type=NewContact, concurrency=4
    )


async def work(url: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with (
        SessionPool() as pool,
        Backfills(url, lambda spec: resolve_with(pool, spec), lease=LEASE),
    ):
        sys.stdout.write("go\n")
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1]))
