"""The simulator's world once more, over real sockets: a pool and a client of ours, and a server.

Client and server live in one event loop, whose time is virtual; between them is
a TCP connection on 127.0.0.1. The client is all of it: pool, calls,
transport, scheduler, limiter, and aiohttp. The server is aiohttp's, with a model of
`simulator/servers.py` in front, which counts a request when its head arrives.

Latencies are those of the simulator. The bytes of a request leave once it has travelled
there, and its answer is handed on once it has travelled back: on the client's side, in
the classes of request and response that aiohttp's session takes. The server works as
long as is drawn. The kernel takes no virtual time; `late` counts what it did take.

Chance is drawn in the order of the simulator, so that a seed means the same luck.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Any, Literal

import aiohttp
from aiohttp import web

from asyncclients import IntouchClient, Priority, Quota, RateLimitedError, SessionPool
from asyncclients.simulator import LATENCIES, SERVERS, SimulationReport
from asyncclients.simulator.report import Record

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

NUMBER = "X-Number"
PUNCTUAL = 1e-6
"""Tolerance in seconds of an arrival's time, for rounding by the clock."""


class SocketSimulation:
    """One pool before one server, for one run; `report` is what came of it.

    Attributes:
        late: requests and answers that the kernel handed over at another instant than theirs.
    """

    def __init__(
        self,
        quota: Quota,
        *,
        server: str,
        latency: str,
        seed: int = 0,
        interactive: float = 0.0,
        admission: Literal["adaptive", "exact"] = "adaptive",
    ) -> None:
        self.quota, self.names, self.seed = quota, (server, latency), seed
        self.random = random = Random(f"{server} {latency} {seed}")
        self.server = SERVERS[server](quota, random)
        self.latency, self.split = LATENCIES[latency], random.random()
        self.interactive = interactive
        self.admission: Literal["adaptive", "exact"] = admission
        self.record = Record()
        self.late = 0
        self._began = 0.0
        self._numbers = itertools.count()
        self._journeys: dict[str, tuple[float, float]] = {}
        self._asked_at: dict[str, float] = {}

    def now(self) -> float:
        """Seconds since the run began."""
        return asyncio.get_running_loop().time() - self._began

    # --- The client's side --------------------------------------------------------

    async def run(self, seconds: float, workers: int = 50) -> SimulationReport:
        """Let *seconds* pass, in a loop whose time is virtual."""
        self._began = asyncio.get_running_loop().time()
        runner = web.ServerRunner(web.Server(self._answer, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            await self._live(f"http://127.0.0.1:{runner.addresses[0][1]}/", seconds, workers)
        finally:
            await runner.cleanup()
        server, latency = self.names
        return self.record.report(
            self.quota, server, latency, workers=workers, seconds=seconds, seed=self.seed
        )

    async def _live(self, url: str, seconds: float, workers: int) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        request, response = _travellers(self)
        async with (
            aiohttp.ClientSession(
                connector=connector, request_class=request, response_class=response
            ) as session,
            SessionPool(session=session, admission=self.admission) as pool,
        ):
            client = IntouchClient(pool, api_key="ii_key", base_url=url, quotas=[self.quota])
            tasks = [self._work(client) for _ in range(workers)]
            if self.interactive:
                tasks.append(self._users(client))
            await _for(seconds, tasks)

    async def _work(self, client: IntouchClient) -> None:
        backlog = client.with_options(priority=Priority.BACKGROUND)
        while True:
            with suppress(RateLimitedError):  # rejected ten times: the next call is equivalent
                await backlog.request("GET", "backlog")

    async def _users(self, client: IntouchClient) -> None:
        await asyncio.sleep(PUNCTUAL)  # the backlog's first calls draw first
        async with asyncio.TaskGroup() as calls:
            for number in itertools.count():
                await asyncio.sleep((0.5 + self.random.random()) / self.interactive)
                path = f"/users/{number}"
                self._asked_at[path] = self.now()
                calls.create_task(client.request("GET", path))

    def departs(self, path: str) -> tuple[str, float, float]:
        """A request has its permit: its number, its way there and its way back."""
        asked_at = self._asked_at.pop(path, None)
        if asked_at is not None:
            self.record.waits.append(self.now() - asked_at)
        up, work, down = self.latency.draw(self.random, self.split)
        number = str(next(self._numbers))
        self._journeys[number] = (self.now() + up, work)
        return number, up, down

    # --- The server's side --------------------------------------------------------

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        now = self.now()
        due, work = self._journeys.pop(request.headers[NUMBER])
        self.expect(due)
        if self.server.admit(now):
            self.record.accepted_at.append(now)
            await asyncio.sleep(work)
            headers, status = {"X-Sent": repr(self.now())}, 200
        else:
            self.record.rejected_at.append(now)
            wait = math.ceil(self.server.reset_after(now))
            headers, status = {"X-Sent": repr(now), "Retry-After": str(wait)}, 429
        return web.Response(status=status, headers=headers, text="{}")

    def expect(self, instant: float) -> None:
        """Now should be *instant*."""
        self.late += abs(self.now() - instant) > PUNCTUAL


def _travellers(
    world: SocketSimulation,
) -> tuple[type[aiohttp.ClientRequest], type[aiohttp.ClientResponse]]:
    """Requests and responses of one session that take their time on the way."""

    class Response(aiohttp.ClientResponse):
        down = 0.0

        async def start(self, connection: Any) -> aiohttp.ClientResponse:
            await super().start(connection)
            world.expect(float(self.headers["X-Sent"]))
            await asyncio.sleep(self.down)
            return self

    class Request(aiohttp.ClientRequest):
        async def send(self, conn: Any) -> aiohttp.ClientResponse:
            self.headers[NUMBER], up, down = world.departs(self.url.path)
            await asyncio.sleep(up)
            response = await super().send(conn)
            assert isinstance(response, Response)
            response.down = down
            return response

    return Request, Response


async def _for(seconds: float, work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Do all of *work* for *seconds*."""
    tasks = [asyncio.create_task(one) for one in work]
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
