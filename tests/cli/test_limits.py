"""`asyncclients limits`: an operator's commands beside processes at work."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asyncclients import IntouchClient, Quota, SessionPool
from asyncclients.backfill import Progress, push
from asyncclients.cli import run
from asyncclients.sandbox import Sandbox
from asyncclients.stores import FileLimits
from asyncclients.stores.control import ScopeLimits
from asyncclients.vendors.intouch import NewContact
from tests.support.command import start


async def shell(*arguments: str) -> str:
    """Run `asyncclients limits` in a process of its own; return what it printed."""
    process = await start("limits", *arguments, environ=os.environ)
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    return out.decode()


async def test_shell_pauses_and_resumes_a_running_push(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A push sends nothing from a shell's `limits pause` to its `limits resume`, and loses no row."""
    path, states = tmp_path / "limits.db", list[Progress]()
    monkeypatch.setenv("ASYNCCLIENTS_LIMITS", str(path))
    monkeypatch.setenv("LOGNAME", "ann")
    async with (
        Sandbox(quotas={"intouch": (40, 1.0)}) as sandbox,
        SessionPool(limits=FileLimits(path)) as pool,
    ):
        intouch = IntouchClient.from_env(pool, sandbox.environ, quotas=[Quota(5, 1.0)])
        rows = [NewContact(email=f"{number}@example.com") for number in range(60)]
        pushing = asyncio.create_task(
            push(rows, intouch.contacts.create, state=tmp_path / "state", progress=states.append)
        )
        while not sandbox.requests("intouch"):  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.01)
        assert "1 process; paused by ann@" in await shell("pause", "intouch", "--seconds", "600")
        async with asyncio.timeout(2):
            while not intouch.stats().paused_for:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
        assert await asyncio.to_thread(run, ["limits", "show", "--json"]) == 0
        (shown,) = msgspec.json.decode(capsys.readouterr().out, type=list[ScopeLimits])
        assert (shown.vendor, shown.quotas) == ("intouch", (Quota(5, 1.0),))
        sent = len(sandbox.requests("intouch"))
        quotas = ("--quota", "30/1", "--quota", "900/60")
        assert await asyncio.to_thread(run, ["limits", "set", "intouch", *quotas]) == 0
        assert "30 per 1 s and 900 per 60 s; 1 process; quotas set" in capsys.readouterr().out
        assert len(sandbox.requests("intouch")) == sent
        while not (states and states[-1].paused > 500):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
        assert "paused" not in await shell("resume", shown.scope[:4])
        report = await pushing
    assert sent < 60
    assert (report.done, report.failed, report.unknown, report.rejected) == (60, 0, 0, 0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("show",), "Set ASYNCCLIENTS_LIMITS or give --limits"),
        (("show", "--limits", "none.db"), "none.db does not exist"),
        (("show", "--limits", "none/limits.db"), "is in a directory that does not exist"),
        (("pause",), "Write it as in: asyncclients limits pause intouch --seconds 600"),
        (("pause", "intouch", "--seconds", "-1", "--limits", "empty.db"), "--seconds must be"),
        (("pause", "intouch", "--seconds", "0", "--limits", "empty.db"), "as in --seconds 600"),
        (("pause", "intouch", "--seconds", "nan", "--limits", "empty.db"), "as in --seconds 600"),
        (("pause", "intouch", "--seconds", "10m", "--limits", "empty.db"), "as in: --seconds 600"),
        (
            ("set", "intouch", "5/1", "--limits", "empty.db"),
            "asyncclients limits set intouch --quota",
        ),
        (("set", "intouch", "--quota", "100/day", "--limits", "empty.db"), "LIMIT/SECONDS"),
        (("pause", "intouch", "--limits", "empty.db"), "no vendor or scope 'intouch'; it has none"),
        (("resume", "--limits", "empty.db"), "asyncclients limits resume intouch"),
        (("set", "intouch", "--quota", "2", "--limits", "empty.db"), "LIMIT/SECONDS"),
    ],
)
def test_mistake_is_one_sentence(
    arguments: tuple[str, ...],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A mistake is reported in one line, with the next step and exit code 2."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASYNCCLIENTS_LIMITS", raising=False)
    (tmp_path / "empty.db").touch()
    assert run(["limits", *arguments]) == 2
    printed: Any = capsys.readouterr()
    assert says in " ".join(printed.err.split())
    assert (printed.out, printed.err.count("\n")) == ("", 1)


def test_show_reports_a_store_without_scopes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`limits show` of an empty store prints a sentence, and with `--json` an empty list."""
    (tmp_path / "empty.db").touch()
    for options, text in ((), "The store has no scopes"), (("--json",), "[]"):
        assert run(["limits", "show", "--limits", str(tmp_path / "empty.db"), *options]) == 0
        assert capsys.readouterr().out.startswith(text)
