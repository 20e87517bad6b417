"""The operations at each vendor: a row that is not idempotent, one that is, and a read.

Every row has a label, which identifies it in the vendor's data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final, cast

from asyncclients import (
    DigitalOnboardingClient,
    EmmaClient,
    IntemptClient,
    IntouchClient,
    TotangoClient,
)
from asyncclients.sandbox import Sandbox
from asyncclients.sandbox.intempt import Intempt
from asyncclients.sandbox.storage import Storage
from asyncclients.vendors import digital_onboarding, emma, totango
from tests.hardening.simulation.plan import VendorName

ACCOUNT: Final = "acme"
_MEMBER: Final = "ann@example.com"
_VISIT: Final = "visit"
_COLLECTION: Final = str(Intempt(Random(0), Storage(Random(0))).collections["bookings"].id)
"""The same in every sandbox."""

Call = Callable[[Any, str], Awaitable[Any]]
"""One call of a client, about the row of a label."""
Held = Callable[[Sandbox], Counter[str]]
"""How many times the vendor holds each label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trade:
    """One vendor's calls; what it does not have is None."""

    client: type[Any]
    look: Call
    create: Call | None = None
    upsert: Call | None = None
    made: Held = lambda _: Counter()
    kept: Held = lambda _: Counter()


# --- Intouch, Totango, Emma -----------------------------------------------------------------


def _tags(sandbox: Sandbox) -> Counter[str]:
    return Counter(str(tag["name"]) for tag in sandbox.state("intouch").tags.values())


def _note(client: TotangoClient, label: str) -> Awaitable[Any]:
    return client.touchpoints.create(totango.NewTouchpoint(account_id=ACCOUNT, content=label))


def _notes(sandbox: Sandbox) -> Counter[str]:
    return Counter(str(note["content"]) for note in sandbox.state("totango").touchpoints.values())


def visit(label: str) -> emma.NewTouchpoint:
    """The touchpoint of *label*."""
    return emma.NewTouchpoint(email=_MEMBER, type_name=_VISIT, attributes={"label": label})


def _visit(client: EmmaClient, label: str) -> Awaitable[Any]:
    return client.touchpoints.create([visit(label)])


def _visits(sandbox: Sandbox) -> Counter[str]:
    rows = sandbox.state("emma").touchpoints.values()
    return Counter(str(cast("dict[str, Any]", row["attributes"])["label"]) for row in rows)


# --- Digital Onboarding, Intempt ------------------------------------------------------------


def contact(label: str) -> digital_onboarding.NewContact:
    """The contact of *label*."""
    return digital_onboarding.NewContact(unique_id=label, email=f"{label}@example.com")


async def journey(client: DigitalOnboardingClient, label: str) -> Any:
    """Start a journey named *label*; what it is made from is looked up first."""
    template = (await client.templates.list())[0]
    return await client.journeys.create(template.id, contact(f"j-{label}"), name=label)


def _journeys(sandbox: Sandbox) -> Counter[str]:
    journeys = sandbox.state("digital_onboarding").journeys.values()
    return Counter(str(found["name"]) for found in journeys)


def _contacts(sandbox: Sandbox) -> Counter[str]:
    names = [row["unique_id"] for row in sandbox.state("digital_onboarding").contacts.values()]
    return Counter(str(name) for name in names if not str(name).startswith("j-"))


async def insert(client: IntemptClient, label: str) -> Any:
    """Insert the row of *label*."""
    return await client.collections.insert(_COLLECTION, {"id": label})


def _items(sandbox: Sandbox) -> Counter[str]:
    return Counter([*sandbox.state("intempt").collections["bookings"].items])


TRADES: Final[dict[VendorName, Trade]] = {
    "intouch": Trade(
        client=IntouchClient,
        look=lambda client, _: client.tags.list().first(),
        create=lambda client, label: client.tags.create(label),
        made=_tags,
    ),
    "totango": Trade(
        client=TotangoClient,
        look=lambda client, _: client.events.list(ACCOUNT),
        create=_note,
        made=_notes,
    ),
    "intempt": Trade(
        client=IntemptClient,
        look=lambda client, _: client.info(),
        upsert=insert,
        kept=_items,
    ),
    "emma": Trade(
        client=EmmaClient,
        look=lambda client, _: client.touchpoint_types.list(),
        create=_visit,
        made=_visits,
    ),
    "digital_onboarding": Trade(
        client=DigitalOnboardingClient,
        look=lambda client, _: client.templates.list(),
        create=journey,
        upsert=lambda client, label: client.contacts.upsert(contact(label)),
        made=_journeys,
        kept=_contacts,
    ),
}


def set_scene(sandbox: Sandbox) -> None:
    """The vendors' data before the first call."""
    state = sandbox.state("emma")
    number = state.new_id()
    kind = {"touchpoint_type_id": number, "type_name": _VISIT, "display_name": "Visit"}
    state.types[number] = {**kind, "account_id": state.account_id}
