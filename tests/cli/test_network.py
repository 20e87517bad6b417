"""Commands in a corporate network: a proxy and a private authority in the environment."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme

from asyncclients.cli.doctor import doctor
from tests.support.byte_server import answers, byte_server, http
from tests.support.forward_proxy import forward_proxy

PAGE = b'{"data": [{"uuid": "a", "name": "one"}], "current_page": 1, "last_page": 1, "total": 1}'
PASSWORD = "word-4711"


async def ended(environ: Mapping[str, str], *arguments: str) -> tuple[int | None, str]:
    """Run a command; return its exit code and all that it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "asyncclients", *arguments),
        env={**os.environ, **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await process.communicate()
    return process.returncode, printed.decode()


async def test_pull_uses_the_proxy_of_its_variable(tmp_path: Path) -> None:
    """The vendor is reached through the tunnel only; the proxy gets its login and no key."""
    authority: Any = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("vendor.test").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    async with byte_server(answers(http(body=PAGE)), tls=context) as server:
        port = int(server.url.rstrip("/").rpartition(":")[2])
        async with forward_proxy({"vendor.test": port}) as proxy:
            environ = {
                "INTOUCH_API_KEY": "key-4711",
                "INTOUCH_BASE_URL": "https://vendor.test/",
                "SSL_CERT_FILE": str(tmp_path / "authority.pem"),
                "ASYNCCLIENTS_PROXY": proxy.url.replace("://", f"://user:{PASSWORD}@"),
            }
            file = tmp_path / "tags.jsonl"
            code, said = await ended(environ, "pull", "intouch.tags", "--to", str(file))
            assert code == 0, said
            assert b"one" in file.read_bytes()
            assert "Proxy-Authorization: Basic " in proxy.heads[0]
            assert b"key-4711" not in "".join(proxy.heads).encode() + proxy.relayed
            assert PASSWORD not in said


async def test_wrong_proxy_variable_is_one_sentence(tmp_path: Path) -> None:
    """The error names the variable, and shows no password."""
    environ = {"INTOUCH_API_KEY": "k", "ASYNCCLIENTS_PROXY": f"socks5://user:{PASSWORD}@host"}
    file = str(tmp_path / "tags.jsonl")
    code, said = await ended(environ, "pull", "intouch.tags", "--to", file)
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith("ASYNCCLIENTS_PROXY: proxy is not an http:// or https:// URL")
    assert PASSWORD not in said


async def test_doctor_checks_the_proxy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It connects to the proxy and not to the vendors; a wrong address is a fault."""
    for name in list(os.environ):
        if name.startswith("ASYNCCLIENTS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("INTOUCH_API_KEY", "key-4711")
    monkeypatch.setenv("INTOUCH_BASE_URL", "https://vendor.test/")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://user:{PASSWORD}@127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("ASYNCCLIENTS_PROXY", address)
        assert await doctor() == 0
    assert await doctor() == 1
    monkeypatch.setenv("ASYNCCLIENTS_PROXY", f"user:{PASSWORD}@host")
    assert await doctor() == 1
    assert PASSWORD not in capsys.readouterr().out
