"""Intouch: the endpoint table, the resources, the client.

Manual: https://docs.api.intouchinsight.com. It shows path and method of `tags.list`,
`hierarchies.list` and `external_programs.add_record` only; the others follow their pattern.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import Any, Generic, TypeVar, get_args

import msgspec
from msgspec import UNSET

from asyncclients.base_url import wrap_userinfo
from asyncclients.core import codec
from asyncclients.core.auth import api_key as api_key_login
from asyncclients.core.call import check_argument
from asyncclients.core.client import FromEnvironment, VendorClient, check_pool, read_credential
from asyncclients.core.endpoint import Endpoint, Resource, Send, operation
from asyncclients.core.pool import SessionPool
from asyncclients.errors import ConfigurationError, DecodeError
from asyncclients.paging import InvalidItem, Page, Paginator
from asyncclients.ratelimit.quota import Quota
from asyncclients.secret import CredentialSource, FilePath, Secret, sealed
from asyncclients.vendors.intouch.models import (
    Contact,
    ContactQuery,
    ContactUpdate,
    Envelope,
    Hierarchy,
    HierarchyQuery,
    HierarchyUpdate,
    ListQuery,
    NewContact,
    NewHierarchy,
    NewRecord,
    NewTag,
    Order,
    Record,
    Tag,
    TagQuery,
)
from asyncclients.vendors.intouch.vendor import INTOUCH

T = TypeVar("T")

_DUPLICATE = "a second request creates a duplicate"
_KEYED = "email is unique, so a second request fails with 422, although the first succeeded"
_STATE = "sets the same state"
_TIMES = ("created_at", "updated_at")
"""The times that every list can be sorted by ("Sorting" in the manual)."""
_FILTERS = ("sort_by", "order", "search", "limit")
"""The parameters of a list besides the number of its page."""

LIST_TAGS = Endpoint("tags.list", "GET", "tags", Envelope[Tag])
CREATE_TAG = Endpoint("tags.create", "POST", "tags", Tag, idempotency_note=_DUPLICATE)
GET_TAG = Endpoint("tags.get", "GET", "tags/{uuid}", Tag)
UPDATE_TAG = Endpoint("tags.update", "PUT", "tags/{uuid}", Tag)
DELETE_TAG = Endpoint("tags.delete", "DELETE", "tags/{uuid}", NoneType)

LIST_HIERARCHIES = Endpoint("hierarchies.list", "GET", "hierarchies", Envelope[Hierarchy])
CREATE_HIERARCHY = Endpoint(
    "hierarchies.create",
    "POST",
    "hierarchies",
    Hierarchy,
    idempotency_note=_DUPLICATE,
    takes=NewHierarchy,
)
GET_HIERARCHY = Endpoint("hierarchies.get", "GET", "hierarchies/{uuid}", Hierarchy)
UPDATE_HIERARCHY = Endpoint(
    "hierarchies.update", "PUT", "hierarchies/{uuid}", Hierarchy, takes=HierarchyUpdate
)
DELETE_HIERARCHY = Endpoint("hierarchies.delete", "DELETE", "hierarchies/{uuid}", NoneType)

LIST_CONTACTS = Endpoint("contacts.list", "GET", "contacts", Envelope[Contact])
CREATE_CONTACT = Endpoint(
    "contacts.create", "POST", "contacts", Contact, idempotency_note=_KEYED, takes=NewContact
)
GET_CONTACT = Endpoint("contacts.get", "GET", "contacts/{uuid}", Contact)
UPDATE_CONTACT = Endpoint("contacts.update", "PUT", "contacts/{uuid}", Contact, takes=ContactUpdate)
DELETE_CONTACT = Endpoint("contacts.delete", "DELETE", "contacts/{uuid}", NoneType)
SUBSCRIBE_CONTACT = Endpoint(
    "contacts.subscribe", "PUT", "contacts/{uuid}/subscribe", Contact, idempotency_note=_STATE
)
UNSUBSCRIBE_CONTACT = Endpoint(
    "contacts.unsubscribe", "PUT", "contacts/{uuid}/unsubscribe", Contact, idempotency_note=_STATE
)

ADD_RECORD = Endpoint(
    "external_programs.add_record",
    "POST",
    "external-programs/{program_uuid}/records",
    Record,
    idempotency_note=_DUPLICATE,
)
UPDATE_RECORD = Endpoint(
    "external_programs.update_record",
    "PUT",
    "external-programs/{program_uuid}/records/{document_id}",
    Record,
)


class PagedResource(Resource):
    """A resource with a paged list, at most 25 items a page ("Pagination" in the manual)."""

    def _pages(self, endpoint: Endpoint[Envelope[T]], given: ListQuery) -> Paginator[T]:
        query: dict[str, Any] = {}
        # A list of everything needs neither: both would cost its only page a few percent.
        if given != type(given)():
            check_argument(self, endpoint, given)
            values = {name: getattr(given, name) for name in _FILTERS}
            query = {name: value for name, value in values.items() if value is not None}
        listed = _List(self._send, self._pages, endpoint, given, query)
        return Paginator(
            listed.fetch,
            1 if given.page is None else given.page,
            vendor=INTOUCH.name,
            operation=endpoint.operation,
            lenient_parser=listed.parse_leniently,
            query=query,
            owner=self,
            newest_first=listed.newest_first,
        )


class _List(msgspec.Struct, Generic[T], frozen=True, gc=False):
    """The functions of one `Paginator`. As closures they would be more objects for the collector."""

    send: Send
    pages: Callable[[Endpoint[Envelope[T]], ListQuery], Paginator[T]]
    endpoint: Endpoint[Envelope[T]]
    given: ListQuery
    query: dict[str, Any]

    async def fetch(self, number: int) -> Page[T]:
        request = self.endpoint.request(params={**self.query, "page": number})
        return _page(await self.send(request))

    def parse_leniently(self, body: bytes) -> Page[T]:
        return parse_leniently(body, *get_args(self.endpoint.returns))

    def newest_first(self, field: str) -> Paginator[T]:
        if field not in _TIMES:
            raise ConfigurationError(
                f"Intouch sorts {self.endpoint.operation} by no time {field!r}",
                advice=f"Give one of {', '.join(_TIMES)}",
            )
        newest = msgspec.structs.replace(self.given, sort_by=field, order="desc", page=None)
        return self.pages(self.endpoint, newest)


def _page(reply: Envelope[Any]) -> Page[Any]:
    return Page(
        items=reply.data,
        number=reply.current_page,
        total=reply.total if type(reply.total) is int else _count(reply.total),
        last=reply.current_page >= reply.last_page,
    )


def _count(total: Any) -> int | None:
    try:
        count: int | None = codec.from_reply(total, int | None)
    except ValueError:
        return None
    return count


def parse_leniently(body: bytes, cls: type[T]) -> Page[T]:
    """Return the page in *body*; items that are not a valid *cls* are listed as invalid.

    Raises:
        DecodeError: *body* is not a page.
    """
    found = codec.split_list(body, "data")
    if found is None:
        raise DecodeError("the response is not a page of a list")
    page = _page(codec.decode(found[0], Envelope[Any]))
    items: list[T] = []
    invalid: list[InvalidItem] = []
    for raw in found[1]:
        try:
            items.append(codec.decode(raw, cls))
        except DecodeError as bad:
            invalid.append(InvalidItem(raw=raw, reason=bad.message))
    return msgspec.structs.replace(page, items=items, invalid_items=invalid)


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
        """Return all tags from page *page* on, *limit* (1 to 25, by default 25) a page.

        *sort_by* is name, created_at or updated_at.
        """
        query = TagQuery(sort_by=sort_by, order=order, search=search, page=page, limit=limit)
        return self._pages(LIST_TAGS, query)

    @operation(CREATE_TAG)
    async def create(self, name: str) -> Tag:
        """Create a tag with a *name* of at most 255 characters."""
        return await self._send(CREATE_TAG.request(body=NewTag(name=name)))

    @operation(GET_TAG)
    async def get(self, uuid: str) -> Tag:
        """Return one tag. Raises `NotFoundError` if it does not exist."""
        return await self._send(GET_TAG.request(uuid=uuid))

    @operation(UPDATE_TAG)
    async def update(self, uuid: str, name: str) -> Tag:
        """Rename a tag."""
        return await self._send(UPDATE_TAG.request(uuid=uuid, body=NewTag(name=name)))

    @operation(DELETE_TAG)
    async def delete(self, uuid: str) -> None:
        """Delete a tag. Data and hierarchies that have it keep it."""
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
        """Return all nodes; *sort_by* is name, created_at, updated_at or client_code."""
        query = HierarchyQuery(sort_by=sort_by, order=order, search=search, page=page, limit=limit)
        return self._pages(LIST_HIERARCHIES, query)

    @operation(CREATE_HIERARCHY)
    async def create(self, hierarchy: NewHierarchy) -> Hierarchy:
        """Create a node.

        Raises `UnprocessableEntityError` if the parent does not exist.
        """
        return await self._send(CREATE_HIERARCHY.request(body=hierarchy))

    @operation(GET_HIERARCHY)
    async def get(self, uuid: str) -> Hierarchy:
        """Return one node. Raises `NotFoundError` if it does not exist."""
        return await self._send(GET_HIERARCHY.request(uuid=uuid))

    @operation(UPDATE_HIERARCHY)
    async def update(self, uuid: str, hierarchy: HierarchyUpdate) -> Hierarchy:
        """Change a node.

        The manual does not say whether omitted fields are kept; to be sure, `get` the node
        and send all its fields.
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
        """Return all contacts.

        *sort_by* is email, first_name, last_name, phone_number, language, status, created_at
        or updated_at.
        """
        query = ContactQuery(sort_by=sort_by, order=order, search=search, page=page, limit=limit)
        return self._pages(LIST_CONTACTS, query)

    @operation(CREATE_CONTACT)
    async def create(self, contact: NewContact) -> Contact:
        """Create *contact* and return it as Intouch stored it.

        Raises `UnprocessableEntityError` if the email is taken or undeliverable.
        """
        return await self._send(CREATE_CONTACT.request(body=contact))

    @operation(GET_CONTACT)
    async def get(self, uuid: str) -> Contact:
        """Return one contact. Raises `NotFoundError` if it does not exist."""
        return await self._send(GET_CONTACT.request(uuid=uuid))

    @operation(UPDATE_CONTACT)
    async def update(self, uuid: str, contact: ContactUpdate) -> Contact:
        """Change a contact; see `hierarchies.update` about omitted fields."""
        return await self._send(UPDATE_CONTACT.request(uuid=uuid, body=contact))

    @operation(DELETE_CONTACT)
    async def delete(self, uuid: str) -> None:
        """Delete a contact."""
        await self._send(DELETE_CONTACT.request(uuid=uuid))

    @operation(SUBSCRIBE_CONTACT)
    async def subscribe(self, uuid: str) -> Contact:
        """Resume surveys to an unsubscribed contact."""
        return await self._send(SUBSCRIBE_CONTACT.request(uuid=uuid))

    @operation(UNSUBSCRIBE_CONTACT)
    async def unsubscribe(self, uuid: str) -> Contact:
        """Stop all surveys to a contact."""
        return await self._send(UNSUBSCRIBE_CONTACT.request(uuid=uuid))


class ExternalPrograms(Resource):
    """External programs: your own records, in the structure that an admin defined."""

    @operation(ADD_RECORD)
    async def add_record(self, program_uuid: str, data: Mapping[str, Any]) -> Record:
        """Add a record; the keys of *data* are the program's field names."""
        body = NewRecord(data=ADD_RECORD.as_object("data", data))
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
        body = NewRecord(
            data=UPDATE_RECORD.as_object("data", data),
            meta=UNSET if meta is None else UPDATE_RECORD.as_object("meta", meta),
        )
        request = UPDATE_RECORD.request(
            program_uuid=program_uuid, document_id=document_id, body=body
        )
        return await self._send(request)


class IntouchClient(VendorClient):
    """Client of Intouch Insight; *api_key* is an admin's key (`ii_...`)."""

    vendor = INTOUCH

    def __init__(
        self,
        pool: SessionPool,
        *,
        api_key: CredentialSource | None = None,
        api_key_file: FilePath | None = None,
        base_url: str | Secret | None = None,
        quotas: Sequence[Quota] | None = None,
        max_in_flight: int | None = None,
        quota_key: str | None = None,
    ) -> None:
        api_key, base_url = sealed(api_key), wrap_userinfo(base_url)
        check_pool(pool)
        api_key = read_credential(INTOUCH, "api_key", api_key, api_key_file)
        super().__init__(
            pool,
            api_key_login("x-api-key", api_key),
            base_url=base_url,
            quotas=quotas,
            max_in_flight=max_in_flight,
            quota_key=quota_key,
        )

    from_env = FromEnvironment(__init__)

    def _add_resources(self, send: Send) -> None:
        self.tags = Tags(send)
        self.hierarchies = Hierarchies(send)
        self.contacts = Contacts(send)
        self.external_programs = ExternalPrograms(send)
