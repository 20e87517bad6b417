"""Intouch: the resources and the client.

Manual: https://docs.api.intouchinsight.com; its rows are in `endpoints.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from msgspec import UNSET

from asyncclients.base_url import wrap_userinfo
from asyncclients.core.auth import api_key as api_key_login
from asyncclients.core.client import VendorClient, check_credentials
from asyncclients.core.dispatch import Dispatcher
from asyncclients.core.endpoint import Resource, operation
from asyncclients.core.pool import SessionPool
from asyncclients.paging import Paginator
from asyncclients.ratelimit.quota import Quota
from asyncclients.secret import Environment, Secret, sealed
from asyncclients.vendors.intouch.endpoints import (
    ADD_RECORD,
    CREATE_CONTACT,
    CREATE_HIERARCHY,
    CREATE_TAG,
    DELETE_CONTACT,
    DELETE_HIERARCHY,
    DELETE_TAG,
    GET_CONTACT,
    GET_HIERARCHY,
    GET_TAG,
    LIST_CONTACTS,
    LIST_HIERARCHIES,
    LIST_TAGS,
    SUBSCRIBE_CONTACT,
    UNSUBSCRIBE_CONTACT,
    UPDATE_CONTACT,
    UPDATE_HIERARCHY,
    UPDATE_RECORD,
    UPDATE_TAG,
)
from asyncclients.vendors.intouch.listing import PagedResource
from asyncclients.vendors.intouch.models import (
    Contact,
    ContactUpdate,
    Hierarchy,
    HierarchyUpdate,
    NewContact,
    NewHierarchy,
    NewRecord,
    NewTag,
    Order,
    Record,
    Tag,
)
from asyncclients.vendors.intouch.vendor import INTOUCH


class Tags(PagedResource):
    """Labels on data and hierarchies."""

    @operation(LIST_TAGS)
    def list(
        self,
        *,
        sort_by: str | None = None,
        order: Order | None = None,
        search: str | None = None,
        page: int | None = None,
        limit: int | None = None,
    ) -> Paginator[Tag]:
        """All tags from page *page* on; *sort_by* name, created_at or updated_at.

        *limit* items a page, 1 to 25 (the vendor's default).
        """
        query = {"sort_by": sort_by, "order": order, "search": search, "limit": limit}
        return self._pages(LIST_TAGS, page, query)

    @operation(CREATE_TAG)
    async def create(self, name: str) -> Tag:
        """Create a tag; *name* has at most 255 characters."""
        return await self._send(CREATE_TAG.request(body=NewTag(name=name)))

    @operation(GET_TAG)
    async def get(self, uuid: str) -> Tag:
        """One tag. Raises `NotFoundError` if there is none."""
        return await self._send(GET_TAG.request(uuid=uuid))

    @operation(UPDATE_TAG)
    async def update(self, uuid: str, name: str) -> Tag:
        """Rename a tag."""
        return await self._send(UPDATE_TAG.request(uuid=uuid, body=NewTag(name=name)))

    @operation(DELETE_TAG)
    async def delete(self, uuid: str) -> None:
        """Delete a tag; what carries it already keeps it."""
        await self._send(DELETE_TAG.request(uuid=uuid))


class Hierarchies(PagedResource):
    """The tree of locations and groups."""

    @operation(LIST_HIERARCHIES)
    def list(
        self,
        *,
        sort_by: str | None = None,
        order: Order | None = None,
        search: str | None = None,
        page: int | None = None,
        limit: int | None = None,
    ) -> Paginator[Hierarchy]:
        """All nodes; *sort_by* name, created_at, updated_at or client_code."""
        query = {"sort_by": sort_by, "order": order, "search": search, "limit": limit}
        return self._pages(LIST_HIERARCHIES, page, query)

    @operation(CREATE_HIERARCHY)
    async def create(self, hierarchy: NewHierarchy) -> Hierarchy:
        """Create a node.

        Raises `UnprocessableEntityError` if the parent does not exist.
        """
        return await self._send(CREATE_HIERARCHY.request(body=hierarchy))

    @operation(GET_HIERARCHY)
    async def get(self, uuid: str) -> Hierarchy:
        """One node. Raises `NotFoundError` if there is none."""
        return await self._send(GET_HIERARCHY.request(uuid=uuid))

    @operation(UPDATE_HIERARCHY)
    async def update(self, uuid: str, hierarchy: HierarchyUpdate) -> Hierarchy:
        """Change a node.

        The manual does not say whether fields that are left out are kept; to be
        sure, `get` the node and send all of it.
        """
        return await self._send(UPDATE_HIERARCHY.request(uuid=uuid, body=hierarchy))

    @operation(DELETE_HIERARCHY)
    async def delete(self, uuid: str) -> None:
        """Delete a node."""
        await self._send(DELETE_HIERARCHY.request(uuid=uuid))


class Contacts(PagedResource):
    """People who receive surveys."""

    @operation(LIST_CONTACTS)
    def list(
        self,
        *,
        sort_by: str | None = None,
        order: Order | None = None,
        search: str | None = None,
        page: int | None = None,
        limit: int | None = None,
    ) -> Paginator[Contact]:
        """All contacts.

        *sort_by* email, first_name, last_name, phone_number, language, status,
        created_at or updated_at.
        """
        query = {"sort_by": sort_by, "order": order, "search": search, "limit": limit}
        return self._pages(LIST_CONTACTS, page, query)

    @operation(CREATE_CONTACT)
    async def create(self, contact: NewContact) -> Contact:
        """Create *contact* and return it as Intouch stored it.

        Raises `UnprocessableEntityError` if the email is taken or not sendable.
        """
        return await self._send(CREATE_CONTACT.request(body=contact))

    @operation(GET_CONTACT)
    async def get(self, uuid: str) -> Contact:
        """One contact. Raises `NotFoundError` if there is none."""
        return await self._send(GET_CONTACT.request(uuid=uuid))

    @operation(UPDATE_CONTACT)
    async def update(self, uuid: str, contact: ContactUpdate) -> Contact:
        """Change a contact; see `hierarchies.update` about fields left out."""
        return await self._send(UPDATE_CONTACT.request(uuid=uuid, body=contact))

    @operation(DELETE_CONTACT)
    async def delete(self, uuid: str) -> None:
        """Delete a contact."""
        await self._send(DELETE_CONTACT.request(uuid=uuid))

    @operation(SUBSCRIBE_CONTACT)
    async def subscribe(self, uuid: str) -> Contact:
        """Let a contact who had unsubscribed receive surveys again."""
        return await self._send(SUBSCRIBE_CONTACT.request(uuid=uuid))

    @operation(UNSUBSCRIBE_CONTACT)
    async def unsubscribe(self, uuid: str) -> Contact:
        """Stop all delivery to a contact."""
        return await self._send(UNSUBSCRIBE_CONTACT.request(uuid=uuid))


class ExternalPrograms(Resource):
    """Your own data, in the structure an admin gave the program."""

    @operation(ADD_RECORD)
    async def add_record(self, program_uuid: str, data: Mapping[str, Any]) -> Record:
        """Add a record; the keys of *data* are the program's field names."""
        body = NewRecord(data=dict(data))
        return await self._send(ADD_RECORD.request(program_uuid=program_uuid, body=body))

    @operation(UPDATE_RECORD)
    async def update_record(
        self,
        program_uuid: str,
        document_id: str,
        data: Mapping[str, Any],
        meta: Mapping[str, Any] | None = None,
    ) -> Record:
        """Replace the record *document_id*, which `add_record` returned in `meta`."""
        body = NewRecord(data=dict(data), meta=UNSET if meta is None else dict(meta))
        request = UPDATE_RECORD.request(
            program_uuid=program_uuid, document_id=document_id, body=body
        )
        return await self._send(request)


class IntouchClient(VendorClient):
    """Intouch Insight. *api_key* is an admin's key, as in `ii_...`."""

    vendor = INTOUCH

    def __init__(
        self,
        pool: SessionPool,
        *,
        api_key: str | Secret,
        base_url: str | Secret | None = None,
        quotas: Sequence[Quota] | None = None,
        max_in_flight: int | None = None,
    ) -> None:
        api_key, base_url = Secret(api_key), wrap_userinfo(base_url)
        check_credentials(INTOUCH, api_key=api_key)
        super().__init__(
            pool,
            api_key_login("x-api-key", api_key),
            base_url=base_url,
            quotas=quotas,
            max_in_flight=max_in_flight,
        )

    @classmethod
    def from_env(
        cls,
        pool: SessionPool,
        environ: Mapping[str, str] | None = None,
        *,
        api_key: str | Secret | None = None,
        base_url: str | Secret | None = None,
        quotas: Sequence[Quota] | None = None,
        max_in_flight: int | None = None,
    ) -> Self:
        """A client from the variables INTOUCH_*; an argument replaces its variable.

        Raises:
            ConfigurationError: naming each variable that is missing.
        """
        variables, environ, base_url = Environment(environ), None, wrap_userinfo(base_url)
        api_key = sealed(api_key)
        return cls._from_env(
            pool,
            variables,
            api_key=api_key,
            base_url=base_url,
            quotas=quotas,
            max_in_flight=max_in_flight,
        )

    def _add_resources(self, dispatcher: Dispatcher) -> None:
        self.tags = Tags(dispatcher.send)
        self.hierarchies = Hierarchies(dispatcher.send)
        self.contacts = Contacts(dispatcher.send)
        self.external_programs = ExternalPrograms(dispatcher.send)
