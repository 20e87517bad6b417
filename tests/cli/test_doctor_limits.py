"""`asyncclients doctor --limits`: one line for each property of a limit store, with a hint."""

from __future__ import annotations

import itertools
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from asyncclients.cli import doctor, run
from asyncclients.cli.doctor import check_limits, probes
from asyncclients.cli.output import Finding
from asyncclients.stores.redis_client import ACL_RIGHTS, COMMANDS
from asyncclients.stores.sqlite import SqliteBackend
from tests.support.valkey_server import Server, command, connect

KEY = "canary-4711"


@pytest.fixture(scope="module")
def valkey() -> Iterator[Server]:
    with Server() as started:
        yield started


async def found(address: str) -> dict[str, Finding]:
    """Return the findings about the store at *address*, without its name."""
    findings = await check_limits(address, connect=True)
    assert KEY not in str(findings)
    return {finding.what.removeprefix("limit store").strip(" :"): finding for finding in findings}


def faults(findings: dict[str, Finding]) -> list[str]:
    """Return the names of the findings that are faults, each of which must have advice."""
    bad = {name: finding for name, finding in findings.items() if finding.good is False}
    assert all(finding.advice for finding in bad.values())
    return list(bad)


# --- A server -----------------------------------------------------------------------------


async def test_doctor_finds_no_fault_in_a_server(valkey: Server) -> None:
    """Rights, version, eviction, clock and latency have a line each, and nothing is left behind."""
    findings = await found(valkey.url)
    assert faults(findings) == []
    address, *names = findings
    assert address == f"at {valkey.url}"
    assert names == ["rights", "version", "eviction", "clock", "latency"]
    assert findings["version"].found.startswith("Valkey ")
    with connect(valkey.url) as client:
        assert client.keys() == []


async def test_doctor_names_missing_rights(valkey: Server) -> None:
    """Denied commands are named, with the rights to give; with these there is no fault."""
    command(valkey.url, "ACL", "SETUSER", "app", "reset", "on", f">{KEY}", "~asyncclients:*")
    rights = [word for word in ACL_RIGHTS.split() if word.startswith("+")]
    lacking = {"+zadd", "+evalsha", "+time"}
    command(valkey.url, "ACL", "SETUSER", "app", *(word for word in rights if word not in lacking))
    url = f"redis://app:{KEY}@127.0.0.1:{valkey.port}/0"
    findings = await found(url)
    assert faults(findings) == ["rights"]
    assert "may not run ZADD, EVALSHA, TIME" in findings["rights"].found
    assert ACL_RIGHTS in findings["rights"].advice
    command(valkey.url, "ACL", "SETUSER", "app", *lacking)
    assert faults(await found(url)) == []


async def test_doctor_works_without_info(valkey: Server) -> None:
    """INFO is optional: without it the version is not known, which is no fault."""
    rights = [word for word in ACL_RIGHTS.split() if word.startswith("+") and word != "+info"]
    command(valkey.url, "ACL", "SETUSER", "blind", "reset", "on", f">{KEY}", "~asyncclients:*")
    command(valkey.url, "ACL", "SETUSER", "blind", *rights)
    findings = await found(f"redis://blind:{KEY}@127.0.0.1:{valkey.port}/0")
    assert faults(findings) == []
    assert findings["version"].good is None
    assert "+info" in findings["version"].advice


async def test_doctor_names_an_eviction_policy(valkey: Server) -> None:
    """A server that may evict a log is a fault; a policy without a maximum is none."""
    command(valkey.url, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    assert faults(await found(valkey.url)) == []
    command(valkey.url, "CONFIG", "SET", "maxmemory", "100mb")
    try:
        findings = await found(valkey.url)
    finally:
        command(valkey.url, "CONFIG", "SET", "maxmemory", "0")
    assert faults(findings) == ["eviction"]
    assert "allkeys-lru, maxmemory 104,857,600 bytes" in findings["eviction"].found
    assert "noeviction" in findings["eviction"].advice


async def test_doctor_names_a_wrong_clock_and_a_slow_network(
    valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock five seconds away and a round trip of 200 ms are faults, with their numbers."""
    ticks = itertools.count(step=0.2)
    slow = SimpleNamespace(time=lambda: time.time() + 5, perf_counter=lambda: next(ticks))
    monkeypatch.setattr(doctor, "time", slow)
    findings = await found(valkey.url)
    assert faults(findings) == ["clock", "latency"]
    assert findings["clock"].found.startswith("5.1")
    assert findings["clock"].found.endswith(" s behind this machine's")
    assert findings["latency"].found == "200.0 ms per request"


@pytest.mark.parametrize(
    ("login", "words", "advice"),
    [
        (f"nobody:{KEY}@", "rejects the login", "user and password"),
        ("", "ConnectionError", "Start it or correct its address"),
    ],
)
async def test_doctor_names_an_unusable_server(
    valkey: Server, login: str, words: str, advice: str, absent_port: int
) -> None:
    """A wrong password and an address without a server are one finding each."""
    port = valkey.port if login else absent_port
    findings = await check_limits(f"redis://{login}127.0.0.1:{port}/0", connect=True)
    (finding,) = findings
    assert finding.good is False
    assert words in finding.found
    assert advice in finding.advice
    assert KEY not in str(findings)


@pytest.mark.parametrize("kind", ["redis+cluster", "rediss+cluster", "rediss"])
async def test_doctor_names_an_unreachable_server_of_any_kind(kind: str, absent_port: int) -> None:
    """A cluster without any node that responds is one finding, like a single server."""
    url = f"{kind}://:{KEY}@127.0.0.1:{absent_port}?socket_timeout=10"
    (finding,) = await check_limits(url, connect=True)
    assert finding.good is False
    assert "ConnectionError" in finding.found
    tls = f"a port with TLS needs {kind.replace('redis+', 'rediss+')}://"
    assert f"Start it or correct its address; {tls}" in finding.advice
    assert KEY not in str(finding)


async def test_doctor_names_unreachable_sentinels_and_their_primary(absent_port: int) -> None:
    """The finding has all hosts and the name, and advises what to check, the scheme as well."""
    hosts = f"127.0.0.1:{absent_port},localhost:{absent_port}"
    (finding,) = await check_limits(f"redis+sentinel://:{KEY}@{hosts}/main", connect=True)
    assert finding.found == f"no Sentinel of {hosts} knows the primary main and reaches it"
    assert "rediss+sentinel://" in finding.advice
    assert KEY not in str(finding)


def test_probes_try_every_command_of_the_stores() -> None:
    """Each right that a user needs is tried, apart from INFO, which is read."""
    assert {words[0] for words in probes()} == {*COMMANDS} - {"INFO"}


# --- A file -------------------------------------------------------------------------------


async def test_doctor_checks_a_file(tmp_path: Path) -> None:
    """A new file is not created by the check; one in use is opened, and its latency measured."""
    path = tmp_path / "limits.db"
    findings = await found(str(path))
    assert "will be created" in findings[""].found
    assert not path.exists()
    backend = SqliteBackend(path)
    backend.open()
    findings = await found(str(path))
    assert list(findings) == [str(path), "version", "latency"]
    assert faults(findings) == []
    with sqlite3.connect(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        (locked,) = await check_limits(str(path), connect=True)
    connection.close()
    backend.close()
    assert "SQLITE_BUSY" in locked.found
    assert locked.advice == "End the program that keeps it locked"


async def test_doctor_names_an_unusable_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of another kind, and a directory that cannot be written, are faults."""
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but longer than the header of one" * 20)
    (foreign,) = await check_limits(str(path), connect=True)
    assert foreign.good is False
    assert "is not an SQLite file" in foreign.found
    monkeypatch.setattr(os, "access", _denies)
    (forbidden,) = await check_limits(str(tmp_path / "limits.db"), connect=True)
    assert forbidden.good is False
    assert forbidden.advice


def _denies(path: object, mode: int) -> bool:
    return False


# --- The command --------------------------------------------------------------------------


def test_doctor_takes_the_store_as_option_or_variable(
    valkey: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    absent_port: int,
) -> None:
    """`--limits` goes before ASYNCCLIENTS_LIMITS; a fault exits with 1, an unusable address with 2."""
    nobody = f"redis://127.0.0.1:{absent_port}"
    monkeypatch.setenv("ASYNCCLIENTS_LIMITS", nobody)
    assert run(["doctor", "--no-connect"]) == 0
    assert run(["doctor"]) == 1
    capsys.readouterr()
    monkeypatch.setattr(doctor, "_SLOW", 10.0)  # however busy this machine is
    assert run(["doctor", "--limits", valkey.url, "--json"]) == 0
    findings = msgspec.json.decode(capsys.readouterr().out, type=list[Finding])
    assert sum("limit store" in finding.what for finding in findings) == 6
    assert run(["doctor", "--limits", "http://127.0.0.1"]) == 2
    assert "redis://host" in capsys.readouterr().err
