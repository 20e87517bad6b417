"""`asyncclients doctor`: problems of the configuration with advice, and no request."""

from __future__ import annotations

import os
import re
import socket
import tomllib
from importlib.metadata import version
from pathlib import Path

import msgspec
import pytest

from asyncclients.cli import run
from asyncclients.cli.doctor import doctor
from asyncclients.cli.output import Finding
from asyncclients.sandbox import Sandbox

KEY = "ii_canary_4711"
_PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
_EXTRAS = _PROJECT["project"]["optional-dependencies"]


@pytest.fixture(autouse=True)
def _no_vendor_is_set_up(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction] - autouse
    monkeypatch.setenv("COLUMNS", "200")
    for name in os.environ:
        if name.startswith(("INTOUCH_", "TOTANGO_", "INTEMPT_", "EMMA_", "DIGITAL_ONBOARDING_")):
            monkeypatch.delenv(name)
        if name.startswith("ASYNCCLIENTS_"):
            monkeypatch.delenv(name)


def lines(printed: str) -> dict[str, str]:
    """The report's marks, by what they are about."""
    found: dict[str, str] = {}
    for line in printed.splitlines()[1:]:
        mark, _, rest = line.strip().partition(" ")
        found[re.split(r"\s{2,}", rest.strip())[0]] = mark
    return found


def test_doctor_of_a_working_machine(capsys: pytest.CaptureFixture[str]) -> None:
    """Versions, extras, parser and CA store are named; vendors that are not set up are no fault."""
    assert run(["doctor"]) == 0
    printed = capsys.readouterr().out
    report = lines(printed)
    for good in ("asyncclients", "Python", "aiohttp", "msgspec", "aiohttp's C parser", "CA store"):
        assert report[good] == "ok", printed
    for extra in _EXTRAS:
        assert f"extra [{extra}]" in printed
    assert version("aiohttp") in printed
    for vendor in ("intouch", "totango", "intempt", "emma", "digital_onboarding"):
        assert report[vendor] == "--"
    assert "Set INTEMPT_API_KEY, INTEMPT_ORG to use it" in printed


def test_doctor_prints_its_findings_as_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `--json` the findings are a list of objects, and the exit code is the same."""
    monkeypatch.setenv("EMMA_PRIVATE_KEY", KEY)
    assert run(["doctor", "--no-connect", "--json"]) == 1
    printed = capsys.readouterr().out
    findings = msgspec.json.decode(printed, type=list[Finding])
    (wrong,) = [finding for finding in findings if finding.good is False]
    assert wrong.what == "emma"
    assert wrong.advice == "Set EMMA_ACCOUNT_ID, EMMA_PUBLIC_KEY in the environment"
    assert KEY not in printed


def test_half_a_credential_is_a_fault(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The missing variables are named, the exit code is 1, and no value is shown."""
    monkeypatch.setenv("EMMA_PRIVATE_KEY", KEY)
    assert run(["doctor", "--no-connect"]) == 1
    printed = capsys.readouterr().out
    assert lines(printed)["emma"] == "no"
    assert "EMMA_ACCOUNT_ID and EMMA_PUBLIC_KEY are not set" in printed
    assert KEY not in printed


@pytest.mark.parametrize("address", ["http://example.com/", f"https://u:{KEY}@example.com/"])
def test_doctor_reports_an_invalid_address(
    address: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same words as a client's, naming the variable and not its value."""
    monkeypatch.setenv("INTOUCH_API_KEY", KEY)
    monkeypatch.setenv("INTOUCH_BASE_URL", address)
    assert run(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert lines(printed)["intouch"] == "no"
    assert "INTOUCH_BASE_URL" in printed
    assert KEY not in printed


async def test_addresses_are_connected_to_and_asked_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All five vendors are reachable, and none has got a request: no quota was spent."""
    async with Sandbox() as sandbox:
        for name, value in sandbox.environ.items():
            monkeypatch.setenv(name, value)
        assert await doctor() == 0
        report = lines(capsys.readouterr().out)
        for vendor in ("intouch", "totango", "intempt", "emma", "digital_onboarding"):
            assert report[vendor] == "ok"
            assert report[f"{vendor} at 127.0.0.1"] == "ok"
            assert sandbox.requests(vendor) == ()


async def test_doctor_reports_an_unreachable_address(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named with its host and the kind of failure; `--no-connect` leaves it out."""
    with socket.create_server(("127.0.0.1", 0)) as closed_again:
        port = closed_again.getsockname()[1]
    monkeypatch.setenv("INTOUCH_API_KEY", KEY)
    monkeypatch.setenv("INTOUCH_BASE_URL", f"http://127.0.0.1:{port}/")
    assert await doctor() == 1
    printed = capsys.readouterr().out
    assert lines(printed)["intouch at 127.0.0.1"] == "no"
    assert "ConnectionRefusedError" in printed
    assert await doctor(connect=False) == 0


def test_limits_file_needs_its_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that processes share is fine if its directory exists."""
    monkeypatch.setenv("ASYNCCLIENTS_LIMITS", str(tmp_path / "limits.db"))
    assert run(["doctor"]) == 0
    monkeypatch.setenv("ASYNCCLIENTS_LIMITS", str(tmp_path / "none" / "limits.db"))
    assert run(["doctor"]) == 1
    assert "directory" in capsys.readouterr().out
