"""Intempt: the endpoint table, the resources, the client.

Manual: https://dev.intempt.com. All paths except the root contain the organization.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from asyncclients.arguments import shown
from asyncclients.base_url import wrap_userinfo
from asyncclients.core import codec
from asyncclients.core.auth import api_key as api_key_login
from asyncclients.core.client import FromEnvironment, VendorClient, check_pool, read_credential
from asyncclients.core.endpoint import Endpoint, Resource, Response, Send, encode_segment, operation
from asyncclients.core.pool import SessionPool
from asyncclients.errors import ConfigurationError
from asyncclients.ratelimit.quota import Quota
from asyncclients.secret import CredentialSource, FilePath, Secret, sealed
from asyncclients.uploads import Progress, Source, Uploader, UploadReceipt, open_content
from asyncclients.vendors.intempt.models import (
    DATA_FIELDS,
    DataItem,
    EventMatches,
    Segmentation,
    ServiceInfo,
    read_item,
    read_items,
    read_segmentations,
    readable_items,
)
from asyncclients.vendors.intempt.vendor import INTEMPT, STORAGE

_ROW = "a row with its primary key overwrites itself; a row without it may be stored twice"
_LINK = "only creates a link"
_SAME_FILE = "the link identifies one object; a source that cannot be read twice is not sent again"

_DATA = "v1/{org}/collections/{collection_id}/data"

INFO = Endpoint("info", "GET", "", ServiceInfo)
GET_ITEM = Endpoint("collections.get_item", "GET", _DATA + "/{item_id}", DataItem, reader=read_item)
DELETE_ITEM = Endpoint(
    "collections.delete_item", "DELETE", _DATA + "/{item_id}", Response, result_fields=DATA_FIELDS
)
LIST_ITEMS = Endpoint("collections.list_items", "GET", _DATA, list[DataItem], reader=read_items)
INSERT = Endpoint(
    "collections.insert", "POST", _DATA, Response, idempotency_note=_ROW, result_fields=DATA_FIELDS
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
PUT_CSV = Endpoint("collections.upload_csv", "PUT", "{link}", Response, idempotency_note=_SAME_FILE)
INSERT_MANY = Endpoint(
    "sources.insert",
    "POST",
    "v1/{org}/sources/{source_id}/data",
    Response,
    idempotency_note=_ROW,
    result_fields=DATA_FIELDS,
)
MATCHES = Endpoint("events.matches", "GET", "v1/{org}/events/matches", EventMatches)
LATEST = Endpoint(
    "segmentations.latest",
    "GET",
    "v1/{org}/segmentations/latest",
    list[Segmentation],
    reader=read_segmentations,
)


class OrgResource(Resource):
    """A resource of one organization."""

    def __init__(self, send: Send, org: str) -> None:
        super().__init__(send)
        self._org = org


class Collections(OrgResource):
    """Rows of collections. Collections and their primary keys are defined in the console."""

    def __init__(self, send: Send, org: str, uploader: Uploader) -> None:
        super().__init__(send, org)
        self._uploader = uploader

    @operation(GET_ITEM)
    async def get_item(self, collection_id: str, item_id: str) -> DataItem:
        """Return one row. Raises `NotFoundError` if it does not exist."""
        request = GET_ITEM.request(org=self._org, collection_id=collection_id, item_id=item_id)
        return await self._send(request)

    @operation(DELETE_ITEM)
    async def delete_item(self, collection_id: str, item_id: str) -> DataItem | None:
        """Delete a row and return it, or None if the response does not contain it."""
        request = DELETE_ITEM.request(org=self._org, collection_id=collection_id, item_id=item_id)
        return next(iter(readable_items(await self._send(request))), None)

    @operation(LIST_ITEMS)
    async def list_items(self, collection_id: str) -> list[DataItem]:
        """Return all rows of a collection; they are not paged."""
        return await self._send(LIST_ITEMS.request(org=self._org, collection_id=collection_id))

    @operation(INSERT)
    async def insert(self, collection_id: str, data: Mapping[str, Any]) -> DataItem | None:
        """Insert a row, or overwrite the row with the same primary key.

        *data* is field -> value. The vendor silently drops fields that are not in the
        collection's schema. If the type of a field is a union, wrap the value in its type's
        name: `{"price": {"double": 3.14}}`.

        The client does not know the primary key, so a call whose response was lost is not
        retried. If *data* contains it, use `with_options(retry_unsafe=True)`.

        Returns the row, or None if the response does not contain it.
        """
        request = INSERT.request(
            org=self._org, collection_id=collection_id, body=INSERT.as_object("data", data)
        )
        return next(iter(readable_items(await self._send(request))), None)

    @operation(UPLOAD_CSV)
    async def upload_csv(
        self,
        collection_id: str,
        source: Source,
        *,
        length: int | None = None,
        progress: Progress | None = None,
    ) -> UploadReceipt:
        """Insert the lines of a CSV file; its first line has the field names.

        The vendor returns a link to its storage, and the file is uploaded there without our
        credentials. The storage does not report which rows were inserted.

        Args:
            collection_id: the collection to insert into.
            source: a path, bytes, or an async iterable of bytes. The latter cannot be read
                twice, so its upload is not retried after the first byte.
            length: bytes in *source*; required for an async iterable.
            progress: called with the number of bytes passed to the connection so far.

        Raises:
            ValueError: an async iterable without *length*.
            UploadError: *source* is shorter or longer than *length*; nothing was stored.
            UnexpectedRedirectError: the link is unsafe, see `PresignedUrl.usable`.
        """
        began = asyncio.get_running_loop().time()
        request = UPLOAD_CSV.request(
            org=self._org,
            collection_id=collection_id,
            # "should not have body" (manual); the content type distinguishes it from an insert.
            headers={"Content-Type": "text/csv", "Content-Length": "0"},
        )
        async with open_content(source, length, progress) as content:
            reply = await self._send(request)
            return await self._uploader.put(PUT_CSV, reply, content, began)


class Sources(OrgResource):
    """Sources of rows; a source has several collections."""

    @operation(INSERT_MANY)
    async def insert(
        self, source_id: str, rows: Mapping[str, Sequence[Mapping[str, Any]]]
    ) -> list[DataItem]:
        """Insert many rows: collection name -> rows, each as in `collections.insert`.

        As there, a call whose response was lost is not retried. Returns the rows that the
        response contains, which may be none.

        Raises:
            ValueError: the rows of a collection are not a list.
        """
        given = INSERT_MANY.as_object("rows", rows)
        for name, some in given.items():
            if isinstance(some, (str, bytes, Mapping)) or not isinstance(some, Iterable):
                raise ValueError(f"the rows of {name!r} must be a list of objects")
        body = {name: list(some) for name, some in given.items()}
        request = INSERT_MANY.request(org=self._org, source_id=source_id, body=body)
        return readable_items(await self._send(request))


class Events(OrgResource):
    """Events of users."""

    @operation(MATCHES)
    async def matches(
        self, *, profile_id: str | None = None, master_id: str | None = None
    ) -> EventMatches:
        """Return the events matched by the user with this profile id or master id.

        Raises:
            ValueError: not exactly one id is given.
        """
        params = _ids(profileId=profile_id, masterId=master_id)
        if len(params) != 1:
            raise ValueError("give either profile_id or master_id")
        return await self._send(MATCHES.request(org=self._org, params=params))


class Segmentations(OrgResource):
    """Segmentations of users."""

    @operation(LATEST)
    async def latest(
        self,
        *,
        profile_id: str | None = None,
        master_id: str | None = None,
        source_id: str | None = None,
        profile: Mapping[str, Any] | None = None,
    ) -> list[Segmentation]:
        """Return the latest segmentation of a user.

        The user is identified by *profile_id*, by *master_id*, or by *source_id* and
        *profile*: identifier -> value, as in `{"visitorId": "194jso4nfja"}`.

        Raises:
            ValueError: not exactly one of these is given.
        """
        params = _ids(profileId=profile_id, masterId=master_id, sourceId=source_id)
        if isinstance(profile, Mapping):
            params["profile"] = codec.encode(dict(profile)).decode()
        elif profile is not None:
            raise ValueError(f"profile must be an object, not {shown(profile)}")
        if params.keys() not in ({"profileId"}, {"masterId"}, {"sourceId", "profile"}):
            raise ValueError("give profile_id, or master_id, or source_id with profile")
        return await self._send(LATEST.request(org=self._org, params=params))


def _ids(**given: str | None) -> dict[str, str]:
    """Return the ids that are given.

    Raises:
        ValueError: an id is empty.
    """
    if "" in given.values():
        raise ValueError("an id must not be empty")
    return {name: str(value) for name, value in given.items() if value is not None}


class IntemptClient(VendorClient):
    """Client of Intempt; *api_key* is the key of one source, *org* the organization's name."""

    vendor = INTEMPT

    def __init__(
        self,
        pool: SessionPool,
        *,
        api_key: CredentialSource | None = None,
        api_key_file: FilePath | None = None,
        org: str | Secret | None = None,
        base_url: str | Secret | None = None,
        quotas: Sequence[Quota] | None = None,
        max_in_flight: int | None = None,
        quota_key: str | None = None,
    ) -> None:
        api_key, base_url = sealed(api_key), wrap_userinfo(base_url)
        check_pool(pool)
        api_key = read_credential(INTEMPT, "api_key", api_key, api_key_file)
        self.org = _check_org(org)
        super().__init__(
            pool,
            api_key_login("Authorization", api_key, prefix="ApiKey "),
            base_url=base_url,
            quotas=quotas,
            max_in_flight=max_in_flight,
            quota_key=quota_key,
        )

    from_env = FromEnvironment(__init__)

    def _account_name(self) -> str:
        return self.org

    def _add_resources(self, send: Send) -> None:
        org = self.org
        self._send = send
        self.collections = Collections(send, org, Uploader(self._pool, STORAGE, self._config))
        self.sources = Sources(send, org)
        self.events = Events(send, org)
        self.segmentations = Segmentations(send, org)

    @operation(INFO)
    async def info(self) -> ServiceInfo:
        """Return the service's name, version and status: a quick check that it is reachable."""
        return await self._send(INFO.request())


def _check_org(org: str | Secret | None) -> str:
    org = read_credential(INTEMPT, "org", sealed(org)).reveal()
    try:
        encode_segment(org, "org")
    except ValueError as bad:
        problem = str(bad)
    else:
        return org
    raise ConfigurationError(problem, advice="Set org (INTEMPT_ORG) to your organization's name")
