"""Emma: the endpoint table, the resources, the client.

Manual: https://api.myemma.com/api/external/touchpoints.html. All ids are integers. An id that
is a word of a path is a `ValueError`: the path of a touchpoint type `members` would be that of
another list, `touchpoints/members`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterable, Sequence
from itertools import islice
from types import NoneType
from typing import Any, TypeVar

from asyncclients.arguments import shown
from asyncclients.base_url import wrap_userinfo
from asyncclients.core.auth import basic
from asyncclients.core.client import FromEnvironment, VendorClient, check_pool, read_credential
from asyncclients.core.endpoint import Endpoint, Request, Resource, Send, encode_segment, operation
from asyncclients.core.pool import SessionPool
from asyncclients.errors import ConfigurationError, DecodeError
from asyncclients.ratelimit.quota import Quota
from asyncclients.secret import CredentialSource, FilePath, Secret, sealed
from asyncclients.vendors.emma.models import (
    NewTouchpoint,
    NewTouchpoints,
    NewType,
    Touchpoint,
    TouchpointType,
    read_created,
)
from asyncclients.vendors.emma.vendor import EMMA

T = TypeVar("T")

MOST_AT_ONCE = 10
"""Touchpoints in one create: "Create up to 10 touchpoints"."""

_KEYED = "type_name is unique, so a second request fails with 400, although the first succeeded"
_DUPLICATE = "a second request creates duplicates"
_PATH_WORDS = ("members", "touchpoints")

_TYPES = "{account_id}/touchpoints"
_TYPE = _TYPES + "/{touchpoint_type_id}"
_MEMBERS = _TYPES + "/members"
_TOUCHPOINT = _MEMBERS + "/touchpoints/{touchpoint_id}"


CREATE_TYPE = Endpoint(
    "touchpoint_types.create", "POST", _TYPES, TouchpointType, idempotency_note=_KEYED
)
LIST_TYPES = Endpoint("touchpoint_types.list", "GET", _TYPES, list[TouchpointType])
GET_TYPE = Endpoint("touchpoint_types.get", "GET", _TYPE, TouchpointType)
UPDATE_TYPE = Endpoint("touchpoint_types.update", "PUT", _TYPE, TouchpointType)
DELETE_TYPE = Endpoint("touchpoint_types.delete", "DELETE", _TYPE, NoneType)

CREATE_TOUCHPOINTS = Endpoint(
    "touchpoints.create",
    "POST",
    _MEMBERS,
    list[Touchpoint],
    idempotency_note=_DUPLICATE,
    reader=read_created,
    max_batch_size=MOST_AT_ONCE,
)
LIST_TOUCHPOINTS = Endpoint("touchpoints.list", "GET", _MEMBERS + "/{member_id}", list[Touchpoint])
GET_TOUCHPOINT = Endpoint("touchpoints.get", "GET", _TOUCHPOINT, Touchpoint)
DELETE_TOUCHPOINT = Endpoint("touchpoints.delete", "DELETE", _TOUCHPOINT, NoneType)


class AccountResource(Resource):
    """A resource of one account; each path begins with the account's id."""

    def __init__(self, send: Send, account_id: str) -> None:
        super().__init__(send)
        self._account_id = account_id

    def _request(self, endpoint: Endpoint[T], body: Any = None, **ids: int) -> Request[T]:
        segments: dict[str, Any] = {name: _segment(name, value) for name, value in ids.items()}
        return endpoint.request(account_id=self._account_id, body=body, **segments)


class TouchpointTypes(AccountResource):
    """The kinds of touchpoints of the account."""

    @operation(CREATE_TYPE)
    async def create(self, type_name: str, display_name: str) -> TouchpointType:
        """Create a type.

        Raises `BadRequestError` if a name is empty or, possibly, the type exists already.
        """
        body = NewType(type_name=type_name, display_name=display_name)
        return await self._send(self._request(CREATE_TYPE, body))

    @operation(LIST_TYPES)
    async def list(self) -> list[TouchpointType]:
        """Return all types of the account; they are not paged."""
        return await self._send(self._request(LIST_TYPES))

    @operation(GET_TYPE)
    async def get(self, id: int) -> TouchpointType:
        """Return one type. Raises `NotFoundError` if it does not exist."""
        return await self._send(self._request(GET_TYPE, touchpoint_type_id=id))

    @operation(UPDATE_TYPE)
    async def update(self, id: int, type_name: str, display_name: str) -> TouchpointType:
        """Rename a type; both names are required.

        Raises `NotFoundError` if it does not exist, `BadRequestError` if another type has the
        name.
        """
        body = NewType(type_name=type_name, display_name=display_name)
        request = self._request(UPDATE_TYPE, body, touchpoint_type_id=id)
        return await self._send(request)

    @operation(DELETE_TYPE)
    async def delete(self, id: int) -> None:
        """Delete a type and all its touchpoints. This cannot be undone."""
        await self._send(self._request(DELETE_TYPE, touchpoint_type_id=id))


class Touchpoints(AccountResource):
    """Touchpoints: actions of members, with time and value."""

    @operation(CREATE_TOUCHPOINTS)
    async def create(self, touchpoints: Sequence[NewTouchpoint]) -> list[Touchpoint]:
        """Create up to ten touchpoints and return them in the same order.

        Only this response contains their `touchpoint_id`. Raises `ValueError` for more than ten
        (see `create_many`), `BadRequestError` for none, and `DecodeError` if the number in the
        response differs; its `received` has the touchpoints of the response, with their ids.
        """
        given = CREATE_TOUCHPOINTS.as_structs("touchpoints", touchpoints, NewTouchpoint)
        if len(given) > MOST_AT_ONCE:
            raise ValueError(
                f"create accepts at most {MOST_AT_ONCE} touchpoints, not {len(given)}; "
                "create_many sends several batches"
            )
        body = NewTouchpoints(touchpoints=given)
        created = await self._send(self._request(CREATE_TOUCHPOINTS, body))
        if len(created) != len(given):
            ids = ", ".join(str(each.touchpoint_id) for each in created)
            raise DecodeError(
                f"answered with {len(created)} touchpoints where {len(given)} were sent"
                f" (touchpoint_id: {ids or 'none'})",
                vendor=EMMA.name,
                operation=CREATE_TOUCHPOINTS.operation,
                advice="Some may not be stored: list the members' touchpoints",
                received=created,
            )
        return created

    def create_many(self, touchpoints: Iterable[NewTouchpoint]) -> Creation:
        """Create any number of touchpoints, ten a request, in order.

        `async for touchpoint in ...create_many(...)` yields them as they are created: if a
        request fails, the yielded ones are stored, and only the ten of that request may be.
        `await` collects them in a list; after an error the progress is unknown, except for the
        `received` of a `DecodeError`.
        """
        return Creation(self, touchpoints)

    @operation(LIST_TOUCHPOINTS)
    async def list(self, member_id: int) -> list[Touchpoint]:
        """Return the touchpoints of a member, without their ids.

        Raises `NotFoundError` if the member does not exist.
        """
        return await self._send(self._request(LIST_TOUCHPOINTS, member_id=member_id))

    @operation(GET_TOUCHPOINT)
    async def get(self, touchpoint_id: int) -> Touchpoint:
        """Return one touchpoint. Raises `NotFoundError` if it does not exist."""
        return await self._send(self._request(GET_TOUCHPOINT, touchpoint_id=touchpoint_id))

    @operation(DELETE_TOUCHPOINT)
    async def delete(self, touchpoint_id: int) -> None:
        """Delete a touchpoint. This cannot be undone."""
        await self._send(self._request(DELETE_TOUCHPOINT, touchpoint_id=touchpoint_id))


class Creation:
    """The result of `Touchpoints.create_many`: creates the touchpoints when awaited or iterated."""

    def __init__(self, resource: Touchpoints, touchpoints: Iterable[NewTouchpoint]) -> None:
        self._resource = resource
        self._touchpoints = iter(touchpoints)

    async def __aiter__(self) -> AsyncIterator[Touchpoint]:
        while batch := [*islice(self._touchpoints, MOST_AT_ONCE)]:
            for touchpoint in await self._resource.create(batch):
                yield touchpoint

    def __await__(self) -> Generator[Any, None, list[Touchpoint]]:
        return self._all().__await__()

    async def _all(self) -> list[Touchpoint]:
        created: list[Touchpoint] = []
        try:
            async for touchpoint in self:
                created.append(touchpoint)  # noqa: PERF401 - the error needs what came before it
        except DecodeError as error:
            if error.received is not None:
                error.received = [*created, *error.received]
            raise
        return created


def _segment(name: str, value: Any) -> str:
    """Return the id *value*, an integer or its digits, as a segment of a path."""
    if isinstance(value, bool) or not isinstance(value, str | int) or value in _PATH_WORDS:
        raise ValueError(f"{name} must be an id, an integer, not {value!r}")
    return str(value)


class EmmaClient(VendorClient):
    """Client of Emma (MyEmma); *public_key* and *private_key* are the halves of an API key.

    *account_id* is the number of the account (of the subaccount for HQ customers).
    """

    vendor = EMMA

    def __init__(
        self,
        pool: SessionPool,
        *,
        account_id: str | int | Secret | None = None,
        public_key: CredentialSource | None = None,
        public_key_file: FilePath | None = None,
        private_key: CredentialSource | None = None,
        private_key_file: FilePath | None = None,
        base_url: str | Secret | None = None,
        quotas: Sequence[Quota] | None = None,
        max_in_flight: int | None = None,
        quota_key: str | None = None,
    ) -> None:
        public_key, private_key = sealed(public_key), sealed(private_key)
        base_url = wrap_userinfo(base_url)
        check_pool(pool)
        public_key = read_credential(EMMA, "public_key", public_key, public_key_file)
        private_key = read_credential(EMMA, "private_key", private_key, private_key_file)
        self._account_id = _account(account_id)
        super().__init__(
            pool,
            basic(public_key, private_key),
            base_url=base_url,
            quotas=quotas,
            max_in_flight=max_in_flight,
            quota_key=quota_key,
        )

    from_env = FromEnvironment(__init__)

    def _account_name(self) -> str:
        return self._account_id

    def _add_resources(self, send: Send) -> None:
        self.touchpoint_types = TouchpointTypes(send, self._account_id)
        self.touchpoints = Touchpoints(send, self._account_id)


def _account(account_id: str | int | Secret | None) -> str:
    """Return the account's id, one segment of each path."""
    value: Any = account_id.reveal() if isinstance(account_id, Secret) else account_id
    problem = f"must be a number or text, not {shown(value)}"
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            encode_segment(str(value) if str(value).strip() else "", "account_id")
        except ValueError:
            problem = "is empty or contains characters that a path segment cannot have"
        else:
            return str(value)
    raise ConfigurationError(
        f"account_id {problem}",
        vendor=EMMA.name,
        advice="Set account_id= or EMMA_ACCOUNT_ID to the number in the account's settings",
    )
