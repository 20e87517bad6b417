"""Features that these five vendors lack: idempotency keys, and jobs to poll."""

from __future__ import annotations

from typing import Final

import pytest

from asyncclients import DecodeError, Quota, SessionPool
from asyncclients.sandbox import Sandbox
from tests.conftest import FAST
from tests.hardening.simulation.scenarios import TRADES
from tests.hardening.vendor_cases import SUBJECTS
from tests.support.byte_server import Connection, byte_server, http
from tests.support.vendor_operations import CALLS

from .simulation.plan import VENDORS, VendorName

JOB: Final = b'{"job": "/jobs/1", "status": "accepted"}'


@pytest.mark.parametrize(
    ("vendor", "operation"),
    [(vendor, operation) for vendor in VENDORS for operation in CALLS[vendor]],
)
async def test_requests_have_no_idempotency_key(
    sandbox: Sandbox, pool: SessionPool, vendor: VendorName, operation: str
) -> None:
    """No header or field of any operation is one, so no key can be used for two bodies."""
    client = TRADES[vendor].client.from_env(pool, sandbox.environ, quotas=[Quota(*FAST)])
    await CALLS[vendor][operation](client, sandbox.state(vendor))
    sent = sandbox.requests(vendor)
    assert sent
    for request in sent:
        names = " ".join((*request.headers, *request.query))
        assert "idempot" not in f"{names} {request.body!r}".lower()


@pytest.mark.parametrize("vendor", SUBJECTS)
async def test_202_with_a_job_is_reported_after_one_request(pool: SessionPool, vendor: str) -> None:
    """It is neither done, nor polled, nor retried."""
    subject = SUBJECTS[vendor]

    async def accepts(connection: Connection) -> None:
        while True:
            request = await connection.request()
            if request.target == "/oauth2/token":
                await connection.send(http(body=subject.reply(request)))
            else:
                await connection.send(http(202, JOB, {"Location": "/jobs/1"}))

    async with byte_server(accepts) as server:
        with pytest.raises(DecodeError, match="its document does not describe"):
            await subject.write(subject.client(pool, server.url))
        calls = [request for request in server.arrived if request.target != "/oauth2/token"]
        assert [call.method for call in calls] == ["POST"]
        await pool.aclose()
