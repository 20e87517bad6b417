"""The Redis user of the page about many processes has the rights that the stores need."""

from __future__ import annotations

import shlex
import sys

import pytest

from asyncclients.cli import run
from asyncclients.stores.redis_client import COMMANDS
from tests.support.valkey_server import Server, command

from .commands import fences
from .pages import ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Valkey has no wheel for Windows")


def test_redis_user_of_the_page_passes_the_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    """Valkey accepts the page's command, and `doctor --limits` finds no fault in its user."""
    (acl,) = (f.text for f in fences(ROOT / "docs" / "many-processes.md") if "ACL" in f.text)
    words = shlex.split(acl)
    rights = [word for word in words if word.startswith("+")]
    assert sorted(rights) == sorted({f"+{each.lower()}" for each in COMMANDS} | {"+info"})
    with Server() as server:
        assert command(server.url, *words) == "OK"
        url = server.url.replace("redis://", "redis://asyncclients:PASSWORD@")
        code = run(["doctor", "--limits", url])
    assert code == 0, capsys.readouterr().out
