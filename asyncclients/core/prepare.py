"""One request, down to its bytes, without its credential."""

from __future__ import annotations

import io
from collections.abc import AsyncIterable, Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import msgspec
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from asyncclients.arguments import check_headers
from asyncclients.core import codec

if TYPE_CHECKING:
    from asyncclients.core.endpoint import Request

_LARGE_BODY = 2**20
JSON = "application/json"
GET_HEADERS = CIMultiDictProxy(CIMultiDict({"Accept": JSON}))
"""The headers of a request that has no body and none of its own."""
NO_HEADERS = CIMultiDictProxy(CIMultiDict[str]())
_WITH_JSON = CIMultiDictProxy(CIMultiDict({"Accept": JSON, "Content-Type": JSON}))
_WITH_FORM = CIMultiDictProxy(
    CIMultiDict({"Accept": JSON, "Content-Type": "application/x-www-form-urlencoded"})
)

Body = bytes | AsyncIterable[bytes] | None


class PreparedRequest(msgspec.Struct, frozen=True, gc=False):
    """What goes on the wire; the credential is added there."""

    method: str
    url: URL
    headers: Mapping[str, str]
    body: Body = None
    has_content_type: bool = False
    """aiohttp adds no content type: the headers have one, or the method has no body."""

    def __repr__(self) -> str:
        return f"<Wire {self.method} {self.url.origin()}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []

    def payload(self, moved: Callable[[], None]) -> Any:
        """The body as aiohttp likes it: large ones as a file, written piece by piece.

        *moved* is called for each piece of a body that comes in pieces.
        """
        if isinstance(self.body, bytes) and len(self.body) > _LARGE_BODY:
            return io.BytesIO(self.body)
        return ChunkedBody(self.body, moved) if isinstance(self.body, AsyncIterable) else self.body


class ChunkedBody:
    """A body in pieces, one pass; not a generator, which would need to be closed."""

    def __init__(self, body: AsyncIterable[bytes], moved: Callable[[], None]) -> None:
        self._pieces, self._moved = aiter(body), moved

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        piece = await anext(self._pieces)
        self._moved()
        return piece


def prepare(
    base_url: str, request: Request[Any], headers: Mapping[str, str] | None
) -> PreparedRequest:
    """*request* under *base_url*; *headers* are the client's own.

    Raises:
        ConfigurationError: for a header that HTTP cannot carry.
        ValueError: for a parameter or body that has no form on the wire.
    """
    endpoint = request.endpoint
    query = codec.encode_query(request.params) if request.params else ""
    address = _address(base_url + request.path.lstrip("/"), query)
    body, fields = (None, GET_HEADERS) if request.body is None else _body_of(request)
    if headers or request.headers:
        fields = CIMultiDict(fields)
        for extra in (headers, request.headers):
            if extra:
                check_headers(extra)
                fields.update(extra)
    typed = body is not None or endpoint.method in ("GET", "DELETE")
    return PreparedRequest(endpoint.method, address, fields, body, has_content_type=typed)


@lru_cache(maxsize=128)  # all creates of a push go to one address
def _address(place: str, query: str = "") -> URL:
    """*place*, with *query*. Pages differ in their queries alone: the rest is parsed once."""
    if not query:
        return URL(place, encoded=True)
    url = _address(place)
    return URL.build(
        scheme=url.scheme,
        authority=url.raw_authority,
        path=url.raw_path,
        query_string=query,
        encoded=True,
    )


def _body_of(request: Request[Any]) -> tuple[bytes | None, Mapping[str, str]]:
    """The body of *request*, and the headers that go with it."""
    if request.endpoint.encoding == "json":
        return codec.encode(request.body), _WITH_JSON
    return codec.encode_form(request.body), _WITH_FORM
