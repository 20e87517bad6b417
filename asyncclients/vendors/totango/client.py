"""Totango: the endpoint table, the resources, the client.

Manual: https://support.totango.com/hc/en-us/articles/115000597266-Touchpoints-API.
Paths have a trailing slash if the manual prints one. Bodies are forms, as in its
samples. Lists, objects and nulls have no documented form encoding; a body with one of them is
sent as JSON, which "is supported".
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, Literal, TypeVar

import msgspec

from asyncclients.arguments import shown
from asyncclients.base_url import wrap_userinfo
from asyncclients.core.auth import api_key as api_key_login
from asyncclients.core.client import FromEnvironment, VendorClient, check_pool, read_credential
from asyncclients.core.codec import ExactId, to_plain
from asyncclients.core.endpoint import Endpoint, Resource, Send, encode_segment, operation
from asyncclients.core.pool import SessionPool
from asyncclients.errors import ConfigurationError, NotFoundError
from asyncclients.ratelimit.quota import Quota
from asyncclients.secret import CredentialSource, FilePath, Secret, sealed
from asyncclients.vendors.totango.models import (
    CREATED_FIELDS,
    LONGEST_CONTENT,
    Event,
    NamedItem,
    NewTouchpoint,
    Touchpoint,
    TouchpointUpdate,
    read_created,
    read_events,
    read_names,
)
from asyncclients.vendors.totango.vendor import REGIONS, TOTANGO

T = TypeVar("T")

CREATE_TOUCHPOINT = Endpoint(
    "touchpoints.create",
    "POST",
    "api/v3/touchpoints/",
    Touchpoint,
    idempotency_note="a second request creates a duplicate",
    encoding="form",
    reader=read_created,
    result_fields=CREATED_FIELDS,
    takes=NewTouchpoint,
)
UPDATE_TOUCHPOINT = Endpoint(
    "touchpoints.update",
    "PUT",
    "api/v3/touchpoints/{note_id}",
    NoneType,
    encoding="form",
    takes=TouchpointUpdate,
)
DELETE_TOUCHPOINT = Endpoint(
    "touchpoints.delete", "DELETE", "api/v3/touchpoints/{note_id}", NoneType, encoding="form"
)
LIST_TOUCHPOINTS = Endpoint(
    "touchpoints.list", "GET", "api/v2/events/", list[Event], reader=read_events
)
LIST_EVENTS = Endpoint("events.list", "GET", "api/v2/events/", list[Event], reader=read_events)


LIST_TOUCHPOINT_TYPES = Endpoint(
    "touchpoint_types.list", "GET", "api/v3/touchpoint-types/", list[NamedItem], reader=read_names
)
LIST_TOUCHPOINT_TAGS = Endpoint(
    "touchpoint_tags.list", "GET", "api/v3/touchpoint-tags/", list[NamedItem], reader=read_names
)
LIST_ACTIVITY_TYPES = Endpoint(
    "activity_types.list", "GET", "api/v3/activity-types/", list[NamedItem], reader=read_names
)


class Touchpoints(Resource):
    """Notes on accounts."""

    @operation(CREATE_TOUCHPOINT)
    async def create(self, touchpoint: NewTouchpoint) -> Touchpoint:
        """Create *touchpoint* and return its `note_id`.

        The manual shows no response: an empty one, or one without a note id, is a success with
        `note_id=None`, and `touchpoints.list` has the id.

        Content of 12,001 to 12,288 characters is sent, with a `UserWarning`: the manual's "12K"
        may mean either number. Longer content is an `InvalidValueError`.
        Raises `BadRequestError` if the account does not exist.
        """
        CREATE_TOUCHPOINT.check_argument_type(touchpoint)
        _warn_of_length(touchpoint.content)
        body = to_plain(touchpoint)
        request = _encodable(CREATE_TOUCHPOINT, body).request(body=body, argument=touchpoint)
        return await self._send(request)

    @operation(UPDATE_TOUCHPOINT)
    async def update(self, note_id: str | int, touchpoint: TouchpointUpdate) -> Touchpoint:
        """Change the touchpoint *note_id* and return the ids that were given.

        The request has *note_id* and exactly the fields of *touchpoint*. The manual's list of
        fields has `event_id` and `account_id` as well, its samples only the latter. The effect
        of omitted fields is not documented.
        """
        UPDATE_TOUCHPOINT.check_argument_type(touchpoint)
        _warn_of_length(touchpoint.content)
        note = _checked_id(note_id)
        body = {"note_id": note, **to_plain(touchpoint)}
        endpoint = _encodable(UPDATE_TOUCHPOINT, body)
        await self._send(endpoint.request(note_id=note, body=body, argument=touchpoint))
        event_id = touchpoint.event_id
        return Touchpoint(note_id=ExactId(note), event_id=ExactId(event_id) if event_id else None)

    @operation(DELETE_TOUCHPOINT)
    async def delete(
        self, note_id: str | int, event_id: str | None = None, account_id: str | None = None
    ) -> None:
        """Delete the touchpoint *note_id*.

        Without *event_id*, one more call finds it among the events of *account_id*. Raises
        `ValueError` without either, and `NotFoundError` if the touchpoint does not exist.
        """
        note = _checked_id(note_id)
        event_id = event_id or await self._event_id(note, account_id)
        await self._send(DELETE_TOUCHPOINT.request(note_id=note, body={"event_id": event_id}))

    @operation(LIST_TOUCHPOINTS)
    async def list(self, account_id: str) -> list[Event]:
        """Return the touchpoints of an account (events of type `note`), in the vendor's order."""
        events = await self._send(LIST_TOUCHPOINTS.request(params=_account(account_id)))
        return [event for event in events if event.type == "note"]

    async def _event_id(self, note_id: str, account_id: str | None) -> str:
        if not account_id:
            raise ValueError("touchpoints.delete needs event_id, or account_id to look it up")
        for event in await self.list(account_id):
            if event.note_content is not None and event.note_content.note_id == note_id:
                return event.id
        raise NotFoundError(
            f"found no touchpoint {note_id} among the events of account {account_id}",
            vendor=TOTANGO.name,
            operation=DELETE_TOUCHPOINT.operation,
            method=DELETE_TOUCHPOINT.method,
            status=404,
            advice="It may be deleted already, or belong to another account",
        )


class Events(Resource):
    """Timelines of accounts."""

    @operation(LIST_EVENTS)
    async def list(self, account_id: str) -> list[Event]:
        """Return all events of an account (`note`, `task`, `alert`, ...); they are not paged."""
        return await self._send(LIST_EVENTS.request(params=_account(account_id)))


class TouchpointTypes(Resource):
    """The values of `touchpoint_type`."""

    @operation(LIST_TOUCHPOINT_TYPES)
    async def list(self) -> list[NamedItem]:
        """Return all touchpoint types."""
        return await self._send(LIST_TOUCHPOINT_TYPES.request())


class TouchpointTags(Resource):
    """The values of `touchpoint_tags`; Totango also calls them reasons."""

    @operation(LIST_TOUCHPOINT_TAGS)
    async def list(self) -> list[NamedItem]:
        """Return all touchpoint tags."""
        return await self._send(LIST_TOUCHPOINT_TAGS.request())


class ActivityTypes(Resource):
    """The values of `activity_type_id`; Totango also calls them flows."""

    @operation(LIST_ACTIVITY_TYPES)
    async def list(self) -> list[NamedItem]:
        """Return all activity types, including those with `fields["disabled"]`."""
        return await self._send(LIST_ACTIVITY_TYPES.request())


def _encodable(endpoint: Endpoint[T], body: Mapping[str, Any]) -> Endpoint[T]:
    """Return *endpoint*, sending JSON if *body* has values without a form encoding."""
    if all(isinstance(value, str | int | float) for value in body.values()):
        return endpoint
    return msgspec.structs.replace(endpoint, encoding="json")


def _warn_of_length(content: object) -> None:
    if isinstance(content, str) and 12_000 < len(content) <= LONGEST_CONTENT:
        warnings.warn(
            f"Totango accepts touchpoints of up to 12K characters; this one has {len(content):,}",
            stacklevel=3,
        )


def _checked_id(note_id: str | int) -> str:
    """Return *note_id* as text.

    Raises:
        ValueError: it cannot be part of a path, such as None.
    """
    encode_segment(note_id, "note_id")
    return str(note_id)


def _account(account_id: str) -> dict[str, str]:
    if not account_id:
        raise ValueError("account_id must not be empty")
    return {"account_id": account_id}


class TotangoClient(VendorClient):
    """Client of Totango; *app_token* is a personal or service token.

    *base_url* overrides *region*.

    Raises:
        ConfigurationError: *region* is neither `us` nor `eu`.
    """

    vendor = TOTANGO

    def __init__(
        self,
        pool: SessionPool,
        *,
        app_token: CredentialSource | None = None,
        app_token_file: FilePath | None = None,
        region: Literal["us", "eu"] = "us",
        base_url: str | Secret | None = None,
        quotas: Sequence[Quota] | None = None,
        max_in_flight: int | None = None,
        quota_key: str | None = None,
    ) -> None:
        app_token, base_url = sealed(app_token), wrap_userinfo(base_url)
        check_pool(pool)
        app_token = read_credential(TOTANGO, "app_token", app_token, app_token_file)
        region_url = _region_url(region)
        super().__init__(
            pool,
            api_key_login("app-token", app_token),
            base_url=region_url if base_url is None else base_url,
            quotas=quotas,
            max_in_flight=max_in_flight,
            quota_key=quota_key,
        )

    from_env = FromEnvironment(__init__)

    def _add_resources(self, send: Send) -> None:
        self.touchpoints = Touchpoints(send)
        self.events = Events(send)
        self.touchpoint_types = TouchpointTypes(send)
        self.touchpoint_tags = TouchpointTags(send)
        self.activity_types = ActivityTypes(send)


def _region_url(region: str) -> str:
    if region not in tuple(REGIONS):  # a tuple: *region* may be unhashable
        raise ConfigurationError(
            f"region must be one of {', '.join(REGIONS)}, not {shown(region)}",
            vendor=TOTANGO.name,
            advice="Set region= or TOTANGO_REGION to the region of the account",
        )
    return REGIONS[region]
