"""Our scheduler with limiters of other authors: the `limits` package, and nginx.

Both read the machine's own clock, so these tests run in real time, a few
seconds each. Time that a busy machine adds changes no outcome that is asserted.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import aiohttp
import pytest
from aiohttp import web
from limits import RateLimitItemPerSecond, storage, strategies

from asyncclients import Quota, quota_middleware

LIMIT = 20
STRATEGIES: dict[str, Any] = {
    "fixed window": strategies.FixedWindowRateLimiter,
    "moving window": strategies.MovingWindowRateLimiter,
    "sliding counter": strategies.SlidingWindowCounterRateLimiter,
}


@asynccontextmanager
async def web_app(strategy: str) -> AsyncGenerator[str]:
    """A small web app behind a strategy of `limits`, 20 requests a second."""
    limiter = STRATEGIES[strategy](storage.MemoryStorage())
    item = RateLimitItemPerSecond(LIMIT)

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=200 if limiter.hit(item, "key") else 429)

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


async def statuses(
    url: str, calls: int, quota: Quota, admission: Literal["adaptive", "exact"]
) -> Counter[int]:
    """How often each status came back from *calls* calls, fifty at a time."""
    seen: Counter[int] = Counter()
    left = iter(range(calls))
    limited = quota_middleware(quota, admission=admission)
    async with aiohttp.ClientSession(middlewares=(limited,)) as session:

        async def work() -> None:
            for _ in left:
                async with session.get(url) as response:
                    seen[response.status] += 1

        await asyncio.gather(*(work() for _ in range(50)))
    return seen


@pytest.mark.parametrize("strategy", ["fixed window", "moving window"])
async def test_exact_is_never_rejected_by_windows_of_limits(strategy: str) -> None:
    """`exact` is not rejected by a window limiter of another author."""
    async with web_app(strategy) as url:
        seen = await statuses(url, 3 * LIMIT, Quota(LIMIT, 1.0), "exact")
    assert seen == {200: 3 * LIMIT}


async def test_sliding_counter_of_limits_is_learned() -> None:
    """It accepts less than its quota; few calls are rejected, because rejections slow us down."""
    async with web_app("sliding counter") as url:
        seen = await statuses(url, 5 * LIMIT, Quota(LIMIT, 1.0), "adaptive")
    assert seen[200] + seen[429] == 5 * LIMIT
    assert seen[429] <= LIMIT


NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  limit_req_zone $server_name zone=key:1m rate=20r/s;
  server {{
    listen 127.0.0.1:{port};
    location / {{ limit_req zone=key burst=4 nodelay; limit_req_status 429; return 204; }}
  }}
}}
"""


@asynccontextmanager
async def nginx(folder: Path) -> AsyncGenerator[str]:
    """A server with `limit_req`: 20 a second, and a burst of four."""
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = folder / "nginx.conf"
    configuration.write_text(NGINX.format(folder=folder, port=port))
    process = await asyncio.create_subprocess_exec(
        program, "-p", str(folder), "-c", str(configuration)
    )
    try:
        await listening(port)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        await process.wait()


async def listening(port: int) -> None:
    """Return once somebody answers at *port*."""
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            writer.close()
            return


@pytest.mark.skipif(
    not (shutil.which("nginx") or Path("/usr/sbin/nginx").exists()), reason="nginx is not installed"
)
async def test_limit_req_of_nginx_is_learned(tmp_path: Path) -> None:
    """A leaky bucket of five for a client that assumes a window of twenty.

    It spaces requests by the millisecond; less than a tenth of the calls is rejected.
    """
    async with nginx(tmp_path) as url:
        seen = await statuses(url, 100, Quota(20, 1.0), "adaptive")
    assert seen[204] + seen[429] == 100
    assert seen[429] <= 10
