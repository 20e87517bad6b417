"""A page of 25 contacts, and a server that writes it several times faster than any client reads."""

from __future__ import annotations

import asyncio
import json
import multiprocessing

CONTACT = {
    "uuid": "56b01b44-ba2e-11e5-875c-0a5a4bfb150c",
    "first_name": "John",
    "last_name": "Doe",
    "email": "john.doe@example.com",
    "phone_number": "5555555555",
    "language": "en_US",
    "status": "subscribed",
    "deliverable": True,
    "created_at": "2021-05-11T11:52:47+00:00",
    "updated_at": "2021-08-11T11:52:47+00:00",
    "contact_lists": [],
    "custom_fields": {"member_since": "2020-02-02"},
}
PAGE = json.dumps(
    {
        "ok": True,  # Slack's client wants it
        "sort_by": "created_at",
        "order": "asc",
        "per_page": 25,
        "current_page": 1,
        "last_page": 1,
        "total": 25,
        "from": 1,
        "to": 25,
        "data": [CONTACT] * 25,
    }
).encode()
REPLY = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(PAGE)
    + PAGE
)


class Server(asyncio.Protocol):
    """Answers every request head with the page."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.pending = b""

    def data_received(self, data: bytes) -> None:
        self.pending += data
        answers = self.pending.count(b"\r\n\r\n")
        if answers:
            self.pending = self.pending[self.pending.rfind(b"\r\n\r\n") + 4 :]
            self.transport.write(REPLY * answers)  # type: ignore[attr-defined]


def serve(port: multiprocessing.Queue) -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())
