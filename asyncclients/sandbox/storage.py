"""A mock of S3 that accepts one file at a presigned URL, as strictly as S3.

The URL is the only credential: an additional `Authorization` header is an error, and so is a
body without `Content-Length`. Errors are XML.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from random import Random

from .vendor import RejectedError, Reply, Route, SandboxRequest, Vendor


@dataclass(frozen=True, slots=True)
class Slot:
    """One presigned upload: good until *expires_at* of the loop's time."""

    signature: str
    expires_at: float
    receive: Callable[[bytes], None]


class Storage(Vendor):
    """The bucket behind Intempt's CSV upload; no limit, no login of its own.

    `objects` has the uploaded bytes by name; a presigned URL is valid `lifetime` seconds.
    """

    name = "storage"
    quota = None

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self.objects: dict[str, bytes] = {}
        self.lifetime = 900.0
        self._slots: dict[str, Slot] = {}

    def presign(self, name: str, now: float, receive: Callable[[bytes], None]) -> str:
        """Return the URL at which *receive* gets the bytes of the object *name*."""
        signature = sha256(name.encode()).hexdigest()
        self._slots[name] = Slot(signature, now + self.lifetime, receive)
        query = f"X-Amz-Expires={self.lifetime:.0f}&X-Amz-Signature={signature}"
        return f"{self.url}uploads/{name}?{query}"

    @Route("PUT", "/uploads/{name}")
    def upload(self, call: SandboxRequest) -> Reply:
        if "Authorization" in call.headers:
            message = "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter"
            raise _rejection(400, "InvalidArgument", message)
        if "Transfer-Encoding" in call.headers:
            message = "A header you provided implies functionality that is not implemented"
            raise _rejection(501, "NotImplemented", message)
        if "Content-Length" not in call.headers:
            message = "You must provide the Content-Length HTTP header."
            raise _rejection(411, "MissingContentLength", message)
        name = call.ids[0]
        slot = self._slots.get(name)
        if slot is None or call.query.get("X-Amz-Signature") != slot.signature:
            raise _rejection(403, "SignatureDoesNotMatch", "The request signature does not match.")
        if call.at >= slot.expires_at:
            raise _rejection(403, "AccessDenied", "Request has expired")
        self.objects[name] = call.body
        slot.receive(call.body)
        return Reply(200, headers={"ETag": f'"{name}"'})

    def error(self, status: int, message: str) -> Reply:
        code = {404: "NoSuchKey", 429: "SlowDown"}.get(status, "MethodNotAllowed")
        return _rejection(503 if status == 429 else status, code, message).reply


def _rejection(status: int, code: str, message: str) -> RejectedError:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    )
    return RejectedError(Reply(status, body.encode(), {"Content-Type": "application/xml"}))
