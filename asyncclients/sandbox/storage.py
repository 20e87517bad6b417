"""A mock of S3 that accepts one file at a presigned URL, as strictly as S3.

The URL is the only credential: an additional `Authorization` header is an error, and so is a
body without `Content-Length`. Errors are XML.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

from .vendor import RejectedError, Reply, Route, SandboxRequest, Vendor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random


@dataclass(frozen=True, slots=True)
class Slot:
    """One presigned upload: good until *expires_at* of the loop's time."""

    signature: str
    expires_at: float
    receive: Callable[[bytes], None]


@dataclass(slots=True)
class StorageState:
    """`objects` has the uploaded bytes by name; a presigned URL is valid `lifetime` seconds."""

    slots: dict[str, Slot] = field(default_factory=dict[str, Slot])
    objects: dict[str, bytes] = field(default_factory=dict[str, bytes])
    lifetime: float = 900.0
    url: str = ""

    def presign(self, name: str, now: float, receive: Callable[[bytes], None]) -> str:
        """The URL at which *receive* gets the bytes of the object *name*."""
        signature = sha256(name.encode()).hexdigest()
        self.slots[name] = Slot(signature, now + self.lifetime, receive)
        query = f"X-Amz-Expires={self.lifetime:.0f}&X-Amz-Signature={signature}"
        return f"{self.url}uploads/{name}?{query}"


def _rejection(status: int, code: str, message: str) -> RejectedError:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    )
    return RejectedError(Reply(status, body.encode(), {"Content-Type": "application/xml"}))


def _check_headers(call: SandboxRequest) -> None:
    if "Authorization" in call.headers:
        message = "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter"
        raise _rejection(400, "InvalidArgument", message)
    if "Transfer-Encoding" in call.headers:
        message = "A header you provided implies functionality that is not implemented"
        raise _rejection(501, "NotImplemented", message)
    if "Content-Length" not in call.headers:
        message = "You must provide the Content-Length HTTP header."
        raise _rejection(411, "MissingContentLength", message)


def _upload(state: StorageState, call: SandboxRequest) -> Reply:
    _check_headers(call)
    name = call.ids[0]
    slot = state.slots.get(name)
    if slot is None or call.query.get("X-Amz-Signature") != slot.signature:
        raise _rejection(403, "SignatureDoesNotMatch", "The request signature does not match.")
    if call.at >= slot.expires_at:
        raise _rejection(403, "AccessDenied", "Request has expired")
    state.objects[name] = call.body
    slot.receive(call.body)
    return Reply(200, headers={"ETag": f'"{name}"'})


class Storage(Vendor[StorageState]):
    """The bucket behind Intempt's CSV upload; no limit, no login of its own."""

    name = "storage"
    quota = None
    over_limit = _rejection(503, "SlowDown", "Please reduce your request rate.").reply

    def __init__(self) -> None:
        super().__init__(StorageState(), [Route("PUT", "/uploads/{name}", _upload)])

    def listens_at(self, urls: Mapping[str, str]) -> None:
        self.state.url = urls[self.name]

    def issue(self, random: Random) -> dict[str, str]:
        del random
        return {}

    def credential(self, call: SandboxRequest) -> str:
        del call
        return ""

    def error(self, status: int, message: str) -> Reply:
        code = "NoSuchKey" if status == 404 else "MethodNotAllowed"
        return _rejection(status, code, message).reply
