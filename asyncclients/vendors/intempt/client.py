"""Intempt: the endpoint table, the resources, the client.

Manual: https://dev.intempt.com. The organization stands in every path but the root's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Self

from asyncclients.base_url import wrap_userinfo
from asyncclients.core import codec
from asyncclients.core.auth import api_key as api_key_login
from asyncclients.core.client import VendorClient, check_credentials
from asyncclients.core.dispatch import Dispatcher
from asyncclients.core.endpoint import Endpoint, Resource, Response, Send, operation
from asyncclients.core.path_template import encode_segment
from asyncclients.core.pool import SessionPool
from asyncclients.errors import ConfigurationError
from asyncclients.ratelimit.quota import Quota
from asyncclients.secret import Environment, Secret, sealed
from asyncclients.uploads.content import Progress, Source, open_content
from asyncclients.uploads.upload import Uploader, UploadReceipt
from asyncclients.vendors.intempt.models import (
    DataItem,
    DataItemList,
    EventMatches,
    OneDataItem,
    Segmentation,
    SegmentationList,
    ServiceInfo,
    shown_items,
)
from asyncclients.vendors.intempt.vendor import INTEMPT, STORAGE

_ROW = "a row with its primary key overwrites itself; a row without it may be stored twice"
_LINK = "only creates a link"
_SAME_FILE = "the link identifies one object; a source that cannot be read twice is not sent again"

_DATA = "v1/{org}/collections/{collection_id}/data"

INFO = Endpoint("info", "GET", "", ServiceInfo, idempotent=True)
GET_ITEM = Endpoint(
    "collections.get_item", "GET", _DATA + "/{item_id}", OneDataItem, idempotent=True
)
DELETE_ITEM = Endpoint(
    "collections.delete_item",
    "DELETE",
    _DATA + "/{item_id}",
    Response,
    idempotent=True,
    result_fields=DataItemList.wire_fields,
)
LIST_ITEMS = Endpoint("collections.list_items", "GET", _DATA, DataItemList, idempotent=True)
INSERT = Endpoint(
    "collections.insert",
    "POST",
    _DATA,
    Response,
    idempotent=False,
    idempotency_note=_ROW,
    result_fields=DataItemList.wire_fields,
)
UPLOAD_CSV = Endpoint(
    "collections.upload_csv",
    "POST",
    _DATA,
    Response,
    idempotent=True,
    idempotency_note=_LINK,
    expects=307,
)
PUT_CSV = Endpoint(
    "collections.upload_csv",
    "PUT",
    "{link}",
    Response,
    idempotent=True,
    idempotency_note=_SAME_FILE,
)
INSERT_MANY = Endpoint(
    "sources.insert",
    "POST",
    "v1/{org}/sources/{source_id}/data",
    Response,
    idempotent=False,
    idempotency_note=_ROW,
    result_fields=DataItemList.wire_fields,
)
MATCHES = Endpoint(
    "events.matches", "GET", "v1/{org}/events/matches", EventMatches, idempotent=True
)
LATEST = Endpoint(
    "segmentations.latest",
    "GET",
    "v1/{org}/segmentations/latest",
    SegmentationList,
    idempotent=True,
)


class OrgResource(Resource):
    """A resource of one organization."""

    def __init__(self, send: Send, org: str) -> None:
        super().__init__(send)
        self._org = org


class Collections(OrgResource):
    """Rows of collections. A collection and its primary key are made in the console."""

    def __init__(self, send: Send, org: str, uploader: Uploader) -> None:
        super().__init__(send, org)
        self._uploader = uploader

    @operation(GET_ITEM)
    async def get_item(self, collection_id: str, item_id: str) -> DataItem:
        """One row. Raises `NotFoundError` if there is none."""
        request = GET_ITEM.request(org=self._org, collection_id=collection_id, item_id=item_id)
        return (await self._send(request))[0]

    @operation(DELETE_ITEM)
    async def delete_item(self, collection_id: str, item_id: str) -> DataItem | None:
        """Delete a row; returns it where the vendor's reply shows it."""
        request = DELETE_ITEM.request(org=self._org, collection_id=collection_id, item_id=item_id)
        items = shown_items(await self._send(request))
        return items[0] if items else None

    @operation(LIST_ITEMS)
    async def list_items(self, collection_id: str) -> list[DataItem]:
        """All rows of a collection; the vendor sends them in one reply."""
        return await self._send(LIST_ITEMS.request(org=self._org, collection_id=collection_id))

    @operation(INSERT)
    async def insert(self, collection_id: str, data: Mapping[str, Any]) -> DataItem | None:
        """Insert a row, or overwrite the one with its primary key.

        *data* is field -> value. Fields that the collection's schema lacks are
        dropped by the vendor in silence; where a field's type is a union of several, the
        value is wrapped in its type's name, as in `{"price": {"double": 3.14}}`.

        The client does not know the primary key, so a call whose response was lost is not
        retried. If *data* carries it, use `with_options(retry_unsafe=True)`.

        Returns the row where the vendor's reply shows it, which it need not do.
        """
        request = INSERT.request(org=self._org, collection_id=collection_id, body=dict(data))
        items = shown_items(await self._send(request))
        return items[0] if items else None

    @operation(UPLOAD_CSV)
    async def upload_csv(
        self,
        collection_id: str,
        source: Source,
        *,
        length: int | None = None,
        progress: Progress | None = None,
    ) -> UploadReceipt:
        """Insert the lines of a CSV file, whose first line names the fields.

        The vendor gives a link to its storage, and the file is put there, without any of
        our credentials. What becomes of the rows is not told: the storage has no opinion.

        Args:
            collection_id: the collection to insert into.
            source: a path, bytes, or an async iterable of bytes. The latter cannot be read
                twice, so its upload is not repeated once some of it was sent.
            length: bytes in *source*; an async iterable needs it.
            progress: called with the number of bytes handed to the connection so far.

        Raises:
            ValueError: no *length* for an async iterable.
            UploadError: *source* is shorter or longer than *length*; nothing was stored.
            UnexpectedRedirectError: the link is none that a file may be sent to.
        """
        began = asyncio.get_running_loop().time()
        request = UPLOAD_CSV.request(
            org=self._org,
            collection_id=collection_id,
            # The manual: "should not have body"; the type is what tells it from an insert.
            headers={"Content-Type": "text/csv", "Content-Length": "0"},
        )
        async with open_content(source, length, progress) as content:
            reply = await self._send(request)
            return await self._uploader.put(PUT_CSV, reply, content, began)


class Sources(OrgResource):
    """Where rows come from; one source has several collections."""

    @operation(INSERT_MANY)
    async def insert(
        self, source_id: str, rows: Mapping[str, Sequence[Mapping[str, Any]]]
    ) -> list[DataItem]:
        """Insert many rows: collection name -> rows, each as in `collections.insert`.

        As there, a call whose response was lost is not retried.

        Returns the rows that the vendor's reply shows, which may be none of them.

        Raises:
            ValueError: for a collection whose rows are not a list.
        """
        for name, some in rows.items():
            if isinstance(some, (str, bytes, Mapping)):
                raise ValueError(f"the rows of {name!r} must be a list of objects")
        body = {name: list(some) for name, some in rows.items()}
        request = INSERT_MANY.request(org=self._org, source_id=source_id, body=body)
        return shown_items(await self._send(request))


class Events(OrgResource):
    """What users did."""

    @operation(MATCHES)
    async def matches(
        self, *, profile_id: str | None = None, master_id: str | None = None
    ) -> EventMatches:
        """The events that a user matched, by the id of a profile or of the user.

        Raises:
            ValueError: unless exactly one id is given.
        """
        params = _user(profile_id, master_id)
        if len(params) != 1:
            raise ValueError("give profile_id or master_id, one of them")
        return await self._send(MATCHES.request(org=self._org, params=params))


class Segmentations(OrgResource):
    """How users were sorted into segments."""

    @operation(LATEST)
    async def latest(
        self,
        *,
        profile_id: str | None = None,
        master_id: str | None = None,
        source_id: str | None = None,
        profile: Mapping[str, Any] | None = None,
    ) -> list[Segmentation]:
        """The latest segmentation of a user.

        The user is named by *profile_id*, by *master_id*, or by *source_id* and
        *profile*: identifier -> value, as in `{"visitorId": "194jso4nfja"}`.

        Raises:
            ValueError: unless exactly one of these ways is used.
        """
        params = _user(profile_id, master_id)
        if source_id == "":
            raise ValueError("an id must not be empty")
        if source_id is not None and isinstance(profile, Mapping):
            params |= {"sourceId": source_id, "profile": codec.encode(dict(profile)).decode()}
        elif source_id is not None or profile is not None:
            raise ValueError("source_id and profile, an object, go together")
        if params.keys() not in ({"profileId"}, {"masterId"}, {"sourceId", "profile"}):
            raise ValueError("give profile_id, or master_id, or source_id with profile")
        return await self._send(LATEST.request(org=self._org, params=params))


def _user(profile_id: str | None, master_id: str | None) -> dict[str, str]:
    """The query that names a user.

    Raises:
        ValueError: for an empty id.
    """
    given = {"profileId": profile_id, "masterId": master_id}
    if "" in given.values():
        raise ValueError("an id must not be empty")
    return {name: str(value) for name, value in given.items() if value is not None}


class IntemptClient(VendorClient):
    """Intempt. *api_key* is the key of one source, *org* the name of the organization."""

    vendor = INTEMPT

    def __init__(
        self,
        pool: SessionPool,
        *,
        api_key: str | Secret,
        org: str | Secret,
        base_url: str | Secret | None = None,
        quotas: Sequence[Quota] | None = None,
        max_in_flight: int | None = None,
    ) -> None:
        api_key, base_url = Secret(api_key), wrap_userinfo(base_url)
        check_credentials(INTEMPT, api_key=api_key)
        self.org = _check_org(org)
        super().__init__(
            pool,
            api_key_login("Authorization", api_key, prefix="ApiKey "),
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
        org: str | Secret | None = None,
        base_url: str | Secret | None = None,
        quotas: Sequence[Quota] | None = None,
        max_in_flight: int | None = None,
    ) -> Self:
        """A client from the variables INTEMPT_*; an argument replaces its variable.

        Raises:
            ConfigurationError: naming each variable that is missing.
        """
        variables, environ, base_url = Environment(environ), None, wrap_userinfo(base_url)
        api_key = sealed(api_key)
        return cls._from_env(
            pool,
            variables,
            api_key=api_key,
            org=org,
            base_url=base_url,
            quotas=quotas,
            max_in_flight=max_in_flight,
        )

    def _account_name(self) -> str:
        return self.org

    def _add_resources(self, dispatcher: Dispatcher) -> None:
        send, org = dispatcher.send, self.org
        self._send = send
        self.collections = Collections(send, org, Uploader(self._pool, STORAGE, dispatcher.terms))
        self.sources = Sources(send, org)
        self.events = Events(send, org)
        self.segmentations = Segmentations(send, org)

    @operation(INFO)
    async def info(self) -> ServiceInfo:
        """What the API says of itself; a quick check that it answers."""
        return await self._send(INFO.request())


def _check_org(org: str | Secret) -> str:
    check_credentials(INTEMPT, org=Secret(org))
    org = Secret(org).reveal()
    try:
        encode_segment(org, "org")
    except ValueError as bad:
        problem = str(bad)
    else:
        return org
    raise ConfigurationError(problem, advice="Set org (INTEMPT_ORG) to your organization's name")
