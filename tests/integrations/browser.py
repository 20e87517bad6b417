"""A headless Chromium, spoken to by the DevTools protocol over a websocket."""

from __future__ import annotations

import asyncio
import itertools
import re
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # containers run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--window-size=1100,900",
    "--remote-debugging-port=0",
)
_WHEN = """
new Promise(resolve => {
  const look = () => { if (%s) { watch.disconnect(); resolve(%s); } };
  const watch = new MutationObserver(look);
  watch.observe(document, {subtree: true, childList: true, characterData: true, attributes: true});
  look();
})
"""


class Tab:
    """One page that is open."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)

    async def command(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and return its result; events in between are dropped."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while True:
            message: dict[str, Any] = await self._socket.receive_json()
            if message.get("id") == number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result

    async def value(self, script: str) -> Any:
        """What *script* evaluates to in the page, once its promise is kept."""
        answer = await self.command(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def when(self, condition: str, then: str = "true") -> Any:
        """The value of *then*, as soon as the page changes so that *condition* holds."""
        return await self.value(_WHEN % (condition, then))

    async def open(self, url: str) -> None:
        """Go to *url*; returns when its scripts have run."""
        await self.command("Page.enable")
        await self.command("Page.navigate", url=url)
        await self.value(
            "new Promise(r => document.readyState === 'complete' ? r() : addEventListener('load', r))"
        )


@asynccontextmanager
async def browser(profile: Path) -> AsyncGenerator[Tab]:
    """A new browser with one empty tab; it is gone after the block."""
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        CHROMIUM,
        *_FLAGS,
        f"--user-data-dir={profile}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        port = await _port(process.stderr)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                targets: list[dict[str, str]] = await answer.json()
            page = next(t for t in targets if t["type"] == "page")
            async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Tab(socket)
    finally:
        process.terminate()
        await process.communicate()


async def _port(stderr: asyncio.StreamReader) -> int:
    said = b""
    async for line in stderr:
        said += line
        if found := re.search(rb"ws://[^:]+:(\d+)/", line):
            return int(found[1])
    raise AssertionError(f"Chromium did not start: {said.decode(errors='replace')}")
