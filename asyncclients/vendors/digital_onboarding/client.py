"""Digital Onboarding: the endpoint table, the resources, the client.

Manual: https://docs.digitalonboarding.com/docs/api. One path accepts a contact or a batch,
distinguished by the shape of the body.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import UNSET

from asyncclients.base_url import wrap_userinfo
from asyncclients.core.auth import client_credentials
from asyncclients.core.client import FromEnvironment, VendorClient, check_pool, read_credential
from asyncclients.core.endpoint import Endpoint, Resource, Send, operation
from asyncclients.core.events import logger
from asyncclients.core.pool import SessionPool
from asyncclients.ratelimit.quota import Quota
from asyncclients.secret import CredentialSource, FilePath, Secret, sealed
from asyncclients.vendors.digital_onboarding.models import (
    BatchResult,
    Contact,
    Journey,
    NewContact,
    NewContacts,
    NewJourney,
    Objective,
    Template,
    read_batch,
    read_contact,
    read_objectives,
    read_templates,
)
from asyncclients.vendors.digital_onboarding.vendor import DIGITAL_ONBOARDING, TOKEN_PATH

_KEYED = "updates the contact with its unique_id or email; with neither, each call creates one"
_NO_KEY = "a second request starts a second journey"

UPSERT = Endpoint(
    "contacts.upsert",
    "POST",
    "v1/contacts",
    Contact,
    idempotent=True,
    idempotency_note=_KEYED,
    reader=read_contact,
    takes=NewContact,
)
UPSERT_MANY = Endpoint(
    "contacts.upsert_many",
    "POST",
    "v1/contacts",
    BatchResult,
    idempotent=True,
    idempotency_note=_KEYED,
    reader=read_batch,
    max_batch_size=100,
)
CREATE_JOURNEY = Endpoint(
    "journeys.create",
    "POST",
    "v1/templates/{template_id}/journeys",
    Journey,
    idempotency_note=_NO_KEY,
)
LIST_TEMPLATES = Endpoint(
    "templates.list", "GET", "v1/templates", list[Template], reader=read_templates
)
LIST_OBJECTIVES = Endpoint(
    "objectives.list", "GET", "v1/objectives", list[Objective], reader=read_objectives
)


class Contacts(Resource):
    """Contacts: the people to onboard."""

    @operation(UPSERT)
    async def upsert(self, contact: NewContact) -> Contact:
        """Create *contact*, or update the one with its `unique_id` (or `email`).

        Without both, the vendor generates a `unique_id`: each such call creates a new contact,
        and is not retried if its response is lost.
        """
        UPSERT.check_argument_type(contact)
        request = UPSERT.request(body=contact, idempotent=contact.key is not None)
        return await self._send(request)

    @operation(UPSERT_MANY)
    async def upsert_many(self, contacts: Iterable[NewContact]) -> BatchResult:
        """Create or update *contacts* in one call.

        The manual gives no maximum batch size; 100 contacts is a conservative size. It shows
        no errors of single contacts: `BatchResult.unacknowledged` returns those that are not in
        the response, and a warning is logged.
        """
        sent = UPSERT_MANY.as_structs("contacts", contacts, NewContact)
        if not sent:
            return BatchResult(new_contacts=[], existing_contacts=[])
        request = UPSERT_MANY.request(
            body=NewContacts(contacts=sent),
            idempotent=all(contact.key is not None for contact in sent),
        )
        result = await self._send(request)
        if missing := result.unacknowledged(sent):
            count, total = len(missing), len(sent)
            logger.warning(
                "digital_onboarding: %d of %d contacts are not in the response", count, total
            )
        return result


class Journeys(Resource):
    """Journeys of contacts."""

    @operation(CREATE_JOURNEY)
    async def create(
        self,
        template_id: str,
        contact: NewContact,
        *,
        owner_id: str | None = None,
        name: str | None = None,
    ) -> Journey:
        """Start a journey for *contact*, which is created or updated.

        Args:
            template_id: id of its template, see `templates.list`.
            contact: the contact.
            owner_id: id of the user who owns the journey.
            name: the journey's name, by default the template's.
        """
        CREATE_JOURNEY.check_argument_type(contact, NewContact)
        journey = NewJourney(
            contact=contact,
            owner_id=UNSET if owner_id is None else owner_id,
            name=UNSET if name is None else name,
        )
        return await self._send(CREATE_JOURNEY.request(template_id=template_id, body=journey))


class Templates(Resource):
    """Templates of journeys."""

    @operation(LIST_TEMPLATES)
    async def list(self) -> list[Template]:
        """Return the templates of your team."""
        return await self._send(LIST_TEMPLATES.request())


class Objectives(Resource):
    """Objectives that contacts can complete."""

    @operation(LIST_OBJECTIVES)
    async def list(self) -> list[Objective]:
        """Return the objectives of your team and those of all teams."""
        return await self._send(LIST_OBJECTIVES.request())


class DigitalOnboardingClient(VendorClient):
    """Client of Digital Onboarding; *client_id* and *client_secret* are in its admin interface.

    They are only sent in the header of the token request: the vendor immediately revokes
    credentials that it receives in a query string.
    """

    vendor = DIGITAL_ONBOARDING

    def __init__(
        self,
        pool: SessionPool,
        *,
        client_id: CredentialSource | None = None,
        client_id_file: FilePath | None = None,
        client_secret: CredentialSource | None = None,
        client_secret_file: FilePath | None = None,
        base_url: str | Secret | None = None,
        quotas: Sequence[Quota] | None = None,
        max_in_flight: int | None = None,
        quota_key: str | None = None,
    ) -> None:
        client_id, client_secret = sealed(client_id), sealed(client_secret)
        base_url = wrap_userinfo(base_url)
        check_pool(pool)
        client_id = read_credential(DIGITAL_ONBOARDING, "client_id", client_id, client_id_file)
        client_secret = read_credential(
            DIGITAL_ONBOARDING, "client_secret", client_secret, client_secret_file
        )
        super().__init__(
            pool,
            client_credentials(TOKEN_PATH, client_id, client_secret),
            base_url=base_url,
            quotas=quotas,
            max_in_flight=max_in_flight,
            quota_key=quota_key,
        )

    from_env = FromEnvironment(__init__)

    def _add_resources(self, send: Send) -> None:
        self.contacts = Contacts(send)
        self.journeys = Journeys(send)
        self.templates = Templates(send)
        self.objectives = Objectives(send)
