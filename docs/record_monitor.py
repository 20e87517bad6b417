"""Record `_static/live-page.png`: the live page of a running `asyncclients demo --web`.

`python docs/record_monitor.py [--to FOLDER]` takes half a minute. `nox -s docs` does this for the
pages that it builds. The picture is committed as well, for builds without Chromium, where this
script says so and does nothing. `tests/integrations/test_monitor.py` tests the page in the same
browser.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from asyncio.subprocess import PIPE, STDOUT
from base64 import b64decode
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.integrations.browser import CHROMIUM, Tab, browser

STATIC = Path(__file__).parent / "_static"
NAME = "live-page.png"
_WIDTH, _VENDOR, _SECONDS = 1100, "emma", 25


async def record(folder: Path) -> None:
    """Draw the page after 25 seconds of the demo, with the details of Emma opened, in *folder*."""
    demo = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "asyncclients", "demo", "--web"), stdout=PIPE, stderr=STDOUT
    )
    assert demo.stdout is not None
    try:
        printed = await demo.stdout.readuntil(b"/\n")
        url = re.findall(rb"http://\S+/", printed)[-1].decode()
        with TemporaryDirectory() as profile:
            async with browser(Path(profile)) as tab:
                await tab.open(url)
                await asyncio.sleep(_SECONDS)
                (folder / NAME).write_bytes(await _screenshot(tab))
    finally:
        demo.terminate()
        await demo.communicate()


async def _screenshot(tab: Tab) -> bytes:
    size = {"width": _WIDTH, "height": 600, "deviceScaleFactor": 1, "mobile": False}
    await tab.command("Emulation.setDeviceMetricsOverride", **size)
    await tab.value(f"document.querySelector('[data-vendor={_VENDOR}] summary').click()")
    await asyncio.sleep(1)  # until the chart is drawn
    size["height"] = await tab.value("Math.ceil(document.body.getBoundingClientRect().height)")
    await tab.command("Emulation.setDeviceMetricsOverride", **size)
    picture = await tab.command("Page.captureScreenshot", captureBeyondViewport=True)
    return b64decode(picture["data"])


def main() -> None:
    """Draw the page, if there is a browser."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--to", type=Path, default=STATIC, metavar="FOLDER")
    folder = parser.parse_args().to
    if CHROMIUM is None:
        sys.stderr.write(f"Chromium is not installed: the committed {NAME} is kept\n")
        return
    asyncio.run(record(folder))


if __name__ == "__main__":
    main()
