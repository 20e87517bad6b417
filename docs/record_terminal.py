"""Record `_static/terminal-*.svg`: what `asyncclients` shows on a terminal, from real runs.

`python docs/record_terminal.py [--to FOLDER] [NAME ...]` runs the commands of each recording on a
terminal of 80 columns (pyte), against mock vendors, and draws the screen with rich. It takes most
of a minute. `nox -s docs` does this for the pages that it builds. The drawings are committed as
well, for the README and for builds without it; `tests/docs/test_recordings.py` fails if a command
of a recording no longer exists, or if the words on the screen have changed.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import os
import pty
import re
import struct
import sys
import termios
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from io import StringIO
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import pyte
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from asyncclients.sandbox import Sandbox

STATIC = Path(__file__).parent / "_static"
WIDTH, _HEIGHT = 80, 60
_THEME = TerminalTheme(
    (23, 28, 36),
    (201, 209, 217),
    [
        (110, 118, 129),
        (248, 113, 113),
        (74, 194, 107),
        (224, 175, 104),
        (88, 166, 255),
        (188, 140, 255),
        (86, 194, 214),
        (201, 209, 217),
    ],
)
_COLORS = {"default": None, "brown": "yellow", "brightblack": "bright_black"}
"""Colours that pyte and rich call by different names."""
_FORMAT = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font: {char_height}px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }}
.{unique_id}-title {{ font: 14px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


class Terminal:
    """A terminal in which commands run one after the other, with mock vendors in their environment.

    Attributes:
        folder: the working directory.
        lines: the screens that were kept, line by line.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.folder = folder
        self._environ = {**os.environ, **environ, "TERM": "xterm", "COLUMNS": str(WIDTH)}
        self._environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.lines: list[Text] = []

    async def run(self, command: str, *, at: str = "", kill: bool = False, code: int = 0) -> None:
        """Run *command*, which ends with the exit code *code*, and keep the screen at its end.

        With *at*, also keep the screen as soon as it matches this pattern; with *kill*, kill the
        command then.

        Raises:
            RuntimeError: the screen did not match *at*, or the command failed.
        """
        pattern = at
        screen = pyte.Screen(WIDTH, _HEIGHT)
        stream = pyte.ByteStream(screen)
        self.lines.append(Text(f"$ {command}", style="bold"))
        async with self._started(command) as (process, output):
            async for chunk in output:
                stream.feed(chunk)
                if at and re.search(at, "\n".join(screen.display)):
                    at = ""
                    self._keep(screen)
                    self.lines.append(Text())
                    if kill:
                        process.kill()
                        self.lines[-1] = Text("Killed")  # as bash prints
                        break
            else:
                await process.wait()
                self._keep(screen)
        self.lines.append(Text())
        shown = "\n".join(screen.display).strip()
        if at:
            raise RuntimeError(f"{command}: the screen did not match {pattern!r}:\n{shown}")
        if not kill and process.returncode != code:
            raise RuntimeError(f"{command}: exit code {process.returncode}:\n{shown}")

    def _keep(self, screen: pyte.Screen) -> None:
        shown = [_line(screen, row) for row in range(screen.cursor.y + 1)]
        while shown and not shown[-1].plain:
            shown.pop()
        self.lines += shown

    @asynccontextmanager
    async def _started(self, command: str) -> AsyncIterator[tuple[Process, AsyncIterator[bytes]]]:
        """Run *command* on a terminal; it does not outlive the block."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", _HEIGHT, WIDTH, 0, 0))
        process = await asyncio.create_subprocess_exec(
            *command.split(),
            cwd=self.folder,
            env=self._environ,
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        try:
            yield process, _output(master)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
            os.close(master)

    def save(self, name: str, folder: Path) -> None:
        """Draw the lines as `terminal-NAME.svg` in *folder*."""
        console = Console(width=WIDTH, record=True, file=StringIO(), force_terminal=True)
        console.print(Text("\n").join(self.lines))
        drawing = console.export_svg(
            title="", theme=_THEME, code_format=_FORMAT, unique_id=f"terminal-{name}"
        )
        (folder / f"terminal-{name}.svg").write_text(drawing)


async def _output(master: int) -> AsyncIterator[bytes]:
    """Yield what is written to the terminal *master* until its other side is closed."""
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes] = asyncio.Queue()

    def read() -> None:
        try:
            chunk = os.read(master, 2**16)
        except OSError:  # closed, as Linux reports it
            chunk = b""
        chunks.put_nowait(chunk)
        if not chunk:
            loop.remove_reader(master)

    loop.add_reader(master, read)
    try:
        while chunk := await chunks.get():
            yield chunk
    finally:
        loop.remove_reader(master)


def _line(screen: pyte.Screen, row: int) -> Text:
    """Return one line of *screen* with its colours."""
    chars = [screen.buffer[row][column] for column in range(WIDTH)]
    parts = [
        ("".join(char.data for char in same), Style(color=_COLORS.get(color, color), bold=bold))
        for (color, bold), same in groupby(chars, lambda char: (char.fg, char.bold))
    ]
    text = Text.assemble(*parts)
    text.rstrip()
    return text


async def demo(terminal: Terminal, _: Sandbox) -> None:
    """The demo, half a minute after its start and at its end."""
    await terminal.run("asyncclients demo", at="2[5-9] s, mock")


async def pull(terminal: Terminal, sandbox: Sandbox) -> None:
    """A pull of 500 contacts, half done and done."""
    sandbox.state("intouch").grow(contacts=500)
    await terminal.run("asyncclients pull intouch.contacts --to contacts.csv", at="2[5-9][05]")


async def push(terminal: Terminal, _: Sandbox) -> None:
    """A push that is killed and resumed, and its status in between."""
    people = "".join(f"person{n}@example.com,Person {n}\n" for n in range(60))
    (terminal.folder / "people.csv").write_text(f"email,first_name\n{people}")
    command = "asyncclients push intouch.contacts people.csv"
    await terminal.run(command, at="2[0-9]/60", kill=True)
    await terminal.run("asyncclients status people.csv.state")
    await terminal.run(command)


async def dry_run(terminal: Terminal, _: Sandbox) -> None:
    """A dry run of a file with an invalid row."""
    people = "".join(f"person{n}@example.com,Person {n}\n" for n in range(59))
    (terminal.folder / "people.csv").write_text(f"email,first_name\n{people},Bob\n")
    await terminal.run("asyncclients push intouch.contacts people.csv --dry-run", code=3)


RECORDINGS: dict[str, Callable[[Terminal, Sandbox], Awaitable[None]]] = {
    recording.__name__: recording for recording in (demo, pull, push, dry_run)
}


async def record(name: str, to: Path) -> None:
    """Draw the recording *name* in the folder *to*."""
    with TemporaryDirectory() as folder:
        async with Sandbox(latency=(0.02, 0.005)) as sandbox:
            terminal = Terminal(Path(folder), sandbox.environ)
            await RECORDINGS[name](terminal, sandbox)
    terminal.save(name, to)


async def main() -> None:
    """Draw the recordings that the command line names, by default all, at the same time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--to", type=Path, default=STATIC, metavar="FOLDER")
    parser.add_argument("names", nargs="*", metavar="NAME", default=[*RECORDINGS])
    given = parser.parse_args()
    async with asyncio.TaskGroup() as group:
        for name in given.names:
            group.create_task(record(name, given.to))


if __name__ == "__main__":
    asyncio.run(main())
