"""Uploads to where a vendor's link leads: another host, none of our credentials.

The link is the whole login there, so it is treated as one: it stands in no error,
log or event, and what the storage echoes of it is cut. The request takes no quota of
the vendor's; else it goes the way of all requests, with the same retries and errors.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import msgspec
from yarl import URL

from asyncclients.base_url import is_encodable, is_loopback
from asyncclients.core.call import Call
from asyncclients.core.dispatch import run
from asyncclients.core.endpoint import Endpoint, Request, Response
from asyncclients.core.error_mapping import safe_location
from asyncclients.core.prepare import PreparedRequest
from asyncclients.errors import UnexpectedRedirectError
from asyncclients.secret import Secret

if TYPE_CHECKING:
    from asyncclients.core.pool import SessionPool
    from asyncclients.core.settings import ClientConfig
    from asyncclients.core.vendor import Vendor
    from asyncclients.uploads.content import UploadBody

_PUBLIC = frozenset(
    {"x-amz-algorithm", "x-amz-date", "x-amz-expires", "x-amz-signedheaders", "x-id"}
)
"""Query fields of a presigned address that give nothing away."""


class UploadReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """A file was taken: by which host, and how many bytes."""

    host: str
    bytes_sent: int


class PresignedUrl:
    """A presigned address; shows its host and path alone."""

    def __init__(self, location: Secret) -> None:
        self._location = location
        self.shown = safe_location(location.reveal())
        self.origin = ""
        self.path = "/"
        if (url := self._url()) is not None:
            self.origin, self.path = str(url.origin()), url.raw_path

    @property
    def usable(self) -> bool:
        """May a file go there? Only by https, or to this very machine."""
        return bool(self.origin)

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """What must not be shown: signature and whatever else stands in the query."""
        fields = parse_qsl(self._location.reveal().partition("?")[2])
        return tuple(Secret(value) for name, value in fields if name.lower() not in _PUBLIC)

    def _url(self) -> URL | None:
        try:
            url = URL(self._location.reveal(), encoded=True)
            host, _ = url.host, url.port
        except ValueError:
            return None
        if not host or not is_encodable(host) or url.user is not None or url.password is not None:
            return None
        trusted = url.scheme == "https" or (url.scheme == "http" and is_loopback(host))
        return url if trusted else None

    def wire(self, content: UploadBody) -> PreparedRequest:
        """The request that puts *content* there, with no header that was not signed.

        A content type is sent where the signature covers one, and only there.
        """
        url = URL(self._location.reveal(), encoded=True)
        signed = url.query.get("X-Amz-SignedHeaders", "").lower().split(";")
        headers = {"Content-Length": str(content.length)}
        if "content-type" in signed:
            headers["Content-Type"] = "text/csv"
        return PreparedRequest("PUT", url, headers, content)

    def __repr__(self) -> str:
        return f"<Link {self.shown}>"


class UploadCall(Call[Response]):
    """One file on its way to a link; *secrets* are what was sent to get there."""

    __slots__ = ("_content", "_link", "_sent")

    def __init__(
        self,
        terms: ClientConfig,
        request: Request[Response],
        link: PresignedUrl,
        content: UploadBody,
        secrets: tuple[Secret, ...],
    ) -> None:
        super().__init__(terms, request)
        self._link, self._content, self._sent = link, content, secrets

    def open(self) -> None:
        """Find the scope and put the request together; nothing is sent."""
        self._scope = self._terms.scope()
        self._wire = self._link.wire(self._content)
        if self._narrator is not None:
            self._narrator.started(self._terms.base_url, self._request)

    async def exchange(self) -> Any:
        """One request on the wire; what the source raises meanwhile is raised here."""
        outcome = await super().exchange()
        if self._content.failure is not None:
            raise self._content.failure
        return outcome

    def _secrets(self) -> tuple[Secret, ...]:
        return (*self._link.secrets, *self._sent)


class Uploader:
    """Puts files where the links of *vendor* lead.

    Args:
        pool: lends the connections; no credential and no quota.
        vendor: reads the storage's answers.
        terms: of the client that asked for the link.
    """

    def __init__(self, pool: SessionPool, vendor: Vendor, terms: ClientConfig) -> None:
        self._pool, self._vendor, self._terms = pool, vendor, terms

    async def put(
        self, endpoint: Endpoint[Response], reply: Response, content: UploadBody, began: float
    ) -> UploadReceipt:
        """Send *content* to the `Location` in *reply*, to a call that began at *began*.

        Raises:
            UnexpectedRedirectError: the location is none that a file may be sent to.
            UploadError: the source is not as long as was announced.
        """
        link = PresignedUrl(Secret(reply.headers.get("Location", "")))
        if not link.usable:
            raise UnexpectedRedirectError(
                f"answered with an upload link to {link.shown or 'nowhere'}, to which no file may be sent",
                vendor=self._vendor.name,
                operation=endpoint.operation,
                method=endpoint.method,
                status=reply.status,
                location=link.shown,
                advice="The file was not sent: a link must be https, to a host name that exists. "
                "Check base_url, and ask the vendor",
            )
        request: Request[Response] = Request(
            endpoint=endpoint, path=link.path, idempotent=content.replayable
        )
        login = self._terms.login
        secrets = () if login is None else login.secrets
        await run(UploadCall(self._terms_at(link, began), request, link, content, secrets))
        return UploadReceipt(host=URL(link.origin).host or "", bytes_sent=content.sent)

    def _terms_at(self, link: PresignedUrl, began: float) -> ClientConfig:
        """The client's terms without its credential and headers, and with what time is left."""
        pool, vendor, options = self._pool, self._vendor, self._terms.options
        deadline = options.deadline
        if deadline is not None:
            passed = asyncio.get_running_loop().time() - began
            deadline = max(deadline - passed, 1e-6)
        return msgspec.structs.replace(
            self._terms,
            scope=pool.handle(vendor, link.origin, None, (), None),
            vendor=vendor,
            login=None,
            base_url=link.origin + "/",
            options=msgspec.structs.replace(options, headers=None, deadline=deadline),
        )
