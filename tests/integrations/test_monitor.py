"""The live page: its content, access to it, and its display in a browser."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import pytest

from asyncclients import (
    ClientClosedError,
    IntouchClient,
    Priority,
    Quota,
    SessionPool,
    quota_middleware,
)
from asyncclients.backfill.report import Progress
from asyncclients.integrations.monitor import TICK, Monitor
from asyncclients.sandbox import Sandbox
from tests.support.byte_server import answers, byte_server, http

from .browser import CHROMIUM, browser

if TYPE_CHECKING:
    from pathlib import Path

HALFWAY = Progress(
    done=1200,
    failed=3,
    unknown=1,
    skipped=2,
    total=5000,
    remaining=3794,
    rate=19.94,
    quota_use=0.993,
    eta=3700.0,
    limited_by_quota=True,
)

PAUSED = Progress(done=1, failed=0, unknown=0, skipped=0, rate=1.0, quota_use=0.9, eta=None)
PAUSES: list[tuple[dict[str, Any], str]] = [
    ({"paused": 2.3, "cause": "429"}, "paused by the vendor for 3 s (429 or 503)"),
    ({"paused": 599.2, "paused_by": "ann"}, "paused by ann for 10 min"),
    ({"waiting": 8.0, "cause": "refused"}, "vendor unavailable for 8 s: refused"),
    ({"cause": "HTTP 500"}, "last call failed: HTTP 500"),
]
"""Changes of `PAUSED`, and the note of the job on the page."""


async def events(response: aiohttp.ClientResponse) -> list[dict[str, Any]]:
    """The samples of the next message of a stream."""
    data = await response.content.readuntil(b"\n\n")
    assert data.startswith(b"data: ")
    samples: list[dict[str, Any]] = json.loads(data.removeprefix(b"data: "))
    return samples


async def test_cancelled_aclose_can_be_repeated() -> None:
    """Cancelled in any of its turns, `aclose` can be called again, and frees the port."""
    for turns in range(6):
        async with SessionPool() as pool:
            monitor = Monitor(pool)
            await monitor.start()
            async with aiohttp.ClientSession() as session, session.get(monitor.url):
                closing = asyncio.create_task(monitor.aclose())
                for _ in range(turns):
                    await asyncio.sleep(0)
                closing.cancel()
                await asyncio.gather(closing, return_exceptions=True)
            await monitor.aclose()
            port = int(monitor.url.rstrip("/").rpartition(":")[2])
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)


async def test_monitor_shows_a_quota_middleware() -> None:
    """The page has a row for the requests of a session with `quota_middleware`."""
    async with (
        byte_server(answers(http())) as server,
        quota_middleware(Quota(5, 1.0)) as limited,
        aiohttp.ClientSession(middlewares=(limited,)) as session,
        Monitor(limited) as monitor,
    ):
        await session.get(server.url)
        (row,) = monitor.sample(0.0).scopes
    assert (row["vendor"], row["sent"]) == ("127.0.0.1", 1)


async def test_import_loads_no_monitor() -> None:
    """`import asyncclients` loads neither the monitor nor aiohttp's server."""
    script = (
        "import sys, asyncclients;"
        "print([m for m in ('aiohttp.web', 'asyncclients.integrations') if m in sys.modules])"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=PIPE)
    said, _ = await process.communicate()
    assert said.strip() == b"[]"


async def test_request_for_another_host_is_rejected() -> None:
    """A request for another host name is rejected, as a defence against DNS rebinding."""
    async with (
        SessionPool() as pool,
        Monitor(pool) as monitor,
        aiohttp.ClientSession() as session,
    ):
        for path in ("", "events"):
            stranger = {"Host": "evil.example"}
            async with session.get(monitor.url + path, headers=stranger) as refused:
                assert refused.status == 403
        async with session.get(monitor.url) as page:
            assert page.status == 200
            assert page.headers["Content-Type"] == "text/html"
            assert "default-src 'none'" in page.headers["Content-Security-Policy"]
            assert page.headers["Cache-Control"] == "no-store"
            assert "src=" not in await page.text()


async def test_monitor_takes_a_port() -> None:
    """The page is at the port that is given, on loopback, after another monitor has left it."""
    async with SessionPool() as pool, aiohttp.ClientSession() as session:
        async with Monitor(pool) as monitor:
            port = int(monitor.url.rsplit(":", 1)[1].rstrip("/"))
        async with Monitor(pool, port=port) as monitor:
            assert monitor.url == f"http://127.0.0.1:{port}/"
            async with session.get(monitor.url) as page:
                assert page.status == 200


async def test_closed_pool_serves_no_page() -> None:
    """After `aclose` there is nothing to show."""
    async with SessionPool() as pool:
        pass
    with pytest.raises(ClientClosedError):
        await Monitor(pool).start()


@pytest.mark.virtual_time
async def test_samples_match_the_stats_of_the_pool() -> None:
    """Each sample has the numbers of `pool.stats()` at that instant, and the jobs'."""
    async with Sandbox() as sandbox, SessionPool() as pool:
        intouch = IntouchClient.from_env(pool, sandbox.environ)
        patient = intouch.with_options(priority=Priority.BACKGROUND)
        async with Monitor(pool) as monitor, aiohttp.ClientSession() as session:
            calls = [asyncio.create_task(intouch.tags.create(f"tag {n}")) for n in range(4)]
            calls.append(asyncio.create_task(patient.tags.create("last")))
            await asyncio.sleep(0.2)
            monitor.job("tags")(HALFWAY)
            async with session.get(monitor.url + "events") as stream:
                await events(stream)
                (sample,) = await events(stream)
                (stats,) = pool.stats()
            await asyncio.gather(*calls)
    (scope,) = sample["scopes"]
    assert scope["name"] == "intouch"
    assert scope["gauges"] == [{"quota": "2 per 1 s", "limit": 2, "held": stats.held}]
    assert (scope["sent"], stats.held) == (stats.sent, 2)
    assert scope["queued"] == stats.queued == {"interactive": 2, "background": 1}
    assert (scope["vendor"], scope["sent_background"]) == ("intouch", 0)
    (job,) = sample["jobs"]
    assert job == {
        "name": "tags",
        **{field: getattr(HALFWAY, field) for field in job if field != "name"},
    }
    assert job["eta"] == 3700.0


@pytest.mark.virtual_time
async def test_late_page_gets_the_last_minute() -> None:
    """The first message holds the samples so far, a minute's at most; then one at a time."""
    async with SessionPool() as pool, Monitor(pool) as monitor:
        await asyncio.sleep(100)
        async with (
            aiohttp.ClientSession() as session,
            session.get(monitor.url + "events") as stream,
        ):
            first = await events(stream)
            second = await events(stream)
    assert len(first) == 240
    assert first[-1]["at"] - first[0]["at"] == pytest.approx(239 * TICK)
    assert len(second) == 1
    assert second[0]["at"] == pytest.approx(first[-1]["at"] + TICK)


@pytest.mark.virtual_time
async def test_closing_ends_the_streams() -> None:
    """`aclose` ends open streams at once, and may be called twice."""
    async with SessionPool() as pool, aiohttp.ClientSession() as session:
        monitor = Monitor(pool)
        await monitor.start()
        async with session.get(monitor.url + "events") as stream:
            await events(stream)
            began = asyncio.get_running_loop().time()
            await monitor.aclose()
            await monitor.aclose()
            assert asyncio.get_running_loop().time() - began < 0.5
            assert await stream.content.read() == b""
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(monitor.url)


@pytest.mark.virtual_time
async def test_monitor_continues_after_a_failed_sample(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample that cannot be taken is logged once and left out; the next ones are streamed."""
    async with (
        SessionPool() as pool,
        Monitor(pool) as monitor,
        aiohttp.ClientSession() as session,
        session.get(monitor.url + "events") as stream,
    ):
        await events(stream)
        with monkeypatch.context() as patch:
            patch.setattr("asyncclients.integrations.monitor._scope_rows", None)
            await asyncio.sleep(10 * TICK)
        await events(stream)
    assert caplog.text.count("TypeError: 'NoneType'") == 1


@pytest.mark.virtual_time
async def test_monitor_whose_sampler_is_cancelled_ends_its_streams() -> None:
    """Where every task of the loop is cancelled, no stream waits for samples that never come."""
    async with (
        SessionPool() as pool,
        Monitor(pool) as monitor,
        aiohttp.ClientSession() as session,
        session.get(monitor.url + "events") as stream,
    ):
        await events(stream)
        for task in asyncio.all_tasks():
            if task.get_name() == "asyncclients monitor":
                task.cancel()
        assert await stream.content.read() == b""


@pytest.mark.virtual_time
async def test_credentials_of_one_vendor_are_numbered() -> None:
    """Scopes are numbered; neither a credential nor the scope's own name is served."""
    async with Sandbox() as sandbox, SessionPool() as pool:
        environments = [sandbox.environ, sandbox.issue("intouch")]
        for environ in environments:
            await IntouchClient.from_env(pool, environ).tags.create("one")
        async with (
            Monitor(pool) as monitor,
            aiohttp.ClientSession() as session,
            session.get(monitor.url + "events") as stream,
        ):
            served = json.dumps(await events(stream))
        scopes = [stats.scope for stats in pool.stats()]
    assert '"intouch"' in served
    assert '"intouch 2"' in served
    canaries = [environ["INTOUCH_API_KEY"] for environ in environments] + scopes
    assert [canary for canary in canaries if canary in served] == []


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")
async def test_browser_shows_the_numbers(tmp_path: Path) -> None:
    """In Chromium: the counts on the page become the pool's, the picture moves, dark differs."""
    quotas = [Quota(200, 1.0)]
    async with Sandbox(quotas={"intouch": (200, 1.0)}) as sandbox, SessionPool() as pool:
        url, key = sandbox.environ["INTOUCH_BASE_URL"], sandbox.environ["INTOUCH_API_KEY"]
        intouch = IntouchClient(pool, api_key=key, base_url=url, quotas=quotas)
        await asyncio.gather(*[intouch.tags.create(f"tag {n}") for n in range(25)])
        async with Monitor(pool) as monitor, browser(tmp_path) as tab:
            await tab.open(monitor.url)
            fact = "document.querySelector('[data-scope=intouch] [data-fact=%s]')?.textContent"
            assert await tab.when(f"{fact % 'sent'} === '25'", "true") is True
            assert await tab.value("document.getElementById('state').textContent") == "live"
            assert (await tab.value(fact % "held")).endswith(" of 200 slots in use")
            assert await tab.value("document.getElementById('jobs').hidden") is True

            monitor.job("tags")(HALFWAY)
            job = "[...document.querySelectorAll('[data-job=tags] [data-fact]')].map(e => e.textContent)"
            shown = await tab.when(f"{job}.length", job)
            notes = "3 failed, 1 unknown, 2 skipped, limited by quota"
            assert shown == ["1,200 of 5,000", "19.9/s", "62 min left", notes]
            bar = "document.querySelector('[data-job=tags] .bar i').style.width"
            assert await tab.value(bar) == "24.12%"

            note = "document.querySelector('[data-job=tags] [data-fact=note]').textContent"
            for changes, words in PAUSES:
                monitor.job("tags")(msgspec.structs.replace(PAUSED, **changes))
                assert await tab.when(f"{note} === {json.dumps(words)}") is True

            opened = "document.querySelector('[data-vendor=intouch]')"
            assert await tab.value(f"{opened}.open") is False
            await tab.value(f"{opened}.querySelector('summary').click()")
            picture = "document.querySelector('canvas').toDataURL()"
            before = await tab.value(picture)
            quiet = intouch.with_options(priority=Priority.BACKGROUND)
            await asyncio.gather(*[quiet.tags.create(f"more {n}") for n in range(5)])
            assert await tab.when(f"{fact % 'sent'} === '30'", picture) != before
            rate = "document.querySelector('[data-vendor=intouch] [data-fact=rate]').textContent"
            assert await tab.when(f"!{rate}.endsWith(' / 0.0')", rate)

            shades = [await background(tab, scheme) for scheme in ("light", "dark")]
            assert shades == ["rgb(251, 250, 247)", "rgb(22, 24, 28)"]
            page = await tab.value("document.documentElement.outerHTML")
            assert "<canvas" in page
            assert key not in page


async def background(tab: Any, scheme: str) -> str:
    """The page's background for a reader who prefers *scheme*."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    await tab.command("Emulation.setEmulatedMedia", features=[feature])
    return str(await tab.value("getComputedStyle(document.body).backgroundColor"))


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")
async def test_browser_shows_that_the_program_has_ended(tmp_path: Path) -> None:
    """When the monitor ends, the open page shows that its numbers are no longer current."""
    async with browser(tmp_path) as tab:
        async with SessionPool() as pool, Monitor(pool) as monitor:
            await tab.open(monitor.url)
            assert await tab.when("document.getElementById('state').textContent === 'live'")
        said = "document.getElementById('state').textContent"
        assert await tab.when(f"{said} !== 'live'", said) == "the program is gone or not answering"


async def test_monitor_is_silent_when_a_tab_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    """A stream whose reader is gone ends without a traceback, and other streams go on."""
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    async with SessionPool() as pool, Monitor(pool) as monitor:
        host = monitor.url.removeprefix("http://").rstrip("/")
        port = int(host.rpartition(":")[2])
        for abrupt in (True, False):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET /events HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            await reader.readuntil(b"data: ")
            if abrupt:
                writer.transport.abort()
            else:
                writer.close()
        async with (
            aiohttp.ClientSession() as session,
            session.get(monitor.url + "events") as stream,
        ):
            for _ in range(4):
                await events(stream)
    assert reported == []
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []
