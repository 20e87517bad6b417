"""One backfill in a process of its own, to be killed: `killed_job.py KIND SOURCE STATE`.

Says `go` when the job begins and prints its report as JSON at the end. The
sandbox's environment comes in the environment.
"""

import asyncio
import sys

import msgspec

from asyncclients import DigitalOnboardingClient, IntouchClient, Quota, SessionPool
from asyncclients.backfill import Report, SyncReport, pull, push, sync
from asyncclients.vendors.digital_onboarding import NewContact
from asyncclients.vendors.intouch import NewHierarchy

ENOUGH = [Quota(100_000, 1.0)]


async def work(kind: str, source: str, state: str) -> Report | SyncReport:
    async with SessionPool() as pool:
        if kind == "upsert":
            onboarding = DigitalOnboardingClient.from_env(pool, quotas=ENOUGH)
            return await push(
                source,
                onboarding.contacts.upsert_many,
                batch=3,
                row_type=NewContact,
                state=state,
                concurrency=4,
            )
        intouch = IntouchClient.from_env(pool, quotas=ENOUGH)
        if kind in ("create", "retry"):
            return await push(
                source,
                intouch.hierarchies.create,
                row_type=NewHierarchy,
                state=state,
                concurrency=8,
                max_failed=1.0,
                retry_failed=kind == "retry",
            )
        if kind in ("hierarchies", "contacts"):
            return await sync(
                source,
                getattr(intouch, kind),
                state=state,
                on_missing="delete",
                max_deleted=1.0,
                concurrency=8,
            )
        contacts = intouch.contacts.list(sort_by="created_at")
        if kind == "pull":
            return await pull(contacts, source, state=state)
        return await pull(
            contacts,
            source,
            state=state,
            refresh=True,
            since="updated_at" if kind == "since" else None,
            changes=source + ".changes",
        )


if __name__ == "__main__":
    sys.stdout.write("go\n")
    sys.stdout.flush()
    report = asyncio.run(work(*sys.argv[1:4]))
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
